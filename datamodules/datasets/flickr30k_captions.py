"""Flickr30K (Young et al., TACL 2014) with its captions, in the split of Karpathy and Fei-Fei (CVPR 2015)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.files.layouts import broken, find_folder, require, require_parts
from datamodules.files.media import image_of_each
from datamodules.items import ItemSet, Modality
from datamodules.retrieval_data import RetrievalData

MODALITIES = ("image", "text")
# The words of the file -> our splits.
SPLITS = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Captioned:
    """One image: its file name, its split and its captions."""

    filename: str
    split: str
    captions: tuple[str, ...]


class Flickr30kCaptions(RetrievalData):
    """Images with five captions each; an item is an image and matches only itself and its captions.

    The folder, with the images as their authors give them and the split as its authors do::

        flickr30k/
            flickr30k-images/<filename>   1000092795.jpg, ...
            dataset_flickr30k.json        {"images": [{"filename": "1000092795.jpg", "imgid": 0, "split": "train",
                                          "sentences": [{"raw": "Two young guys ...", ...}, ...], ...}, ...]}

    There are 31,014 images: 29,000 for training, 1,014 for validation and 1,000 for test, with five captions each.
    Images that the file does not name are not used. Cite P. Young et al., From Image Descriptions to Visual
    Denotations, TACL 2014, and for the split A. Karpathy and L. Fei-Fei, Deep Visual-Semantic Alignments for Generating
    Image Descriptions, CVPR 2015.

    Args:
        data_root: folder that holds `flickr30k/`; by default the environment variable CSD_DATA, else `data/`.
        **kwargs: see RetrievalData.

    Raises:
        ValueError: an argument outside its range.
        DataError: on first use, if a file is missing or is not what it should be, or there is no image to train or to
            test on.
    """

    dataset = "flickr30k"
    features = "raw, captions"
    data_kind = "real"
    test_split = "karpathy"

    def __init__(self, data_root: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_root = data_root

    def read(self) -> ItemSet:
        """Read the captions and look which images there are."""
        folder = find_folder(self.dataset, self.data_root)
        wanted = self.wanted(MODALITIES)
        path = require(folder / "dataset_flickr30k.json", self.dataset)
        captioned = read_captioned(path)
        require_parts([image.split for image in captioned], path, self.dataset)
        modalities = {}
        if "image" in wanted:
            images = require(folder / "flickr30k-images", self.dataset)
            modalities["image"] = image_of_each([images / image.filename for image in captioned], self.dataset)
        if "text" in wanted:
            texts = [caption for image in captioned for caption in image.captions]
            counts = [len(image.captions) for image in captioned]
            modalities["text"] = Modality(texts, np.repeat(np.arange(len(captioned)), counts))
        return ItemSet(
            {name: modalities[name] for name in wanted},
            label=np.arange(len(captioned)),
            split=np.array([image.split for image in captioned]),
            names=[Path(image.filename).stem for image in captioned],
            origin=str(folder),
        )


def read_captioned(path: Path) -> list[Captioned]:
    """Images of the file, in its order.

    Raises:
        DataError: the file is not JSON, an entry has no filename, split or captions, or an image is listed twice.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise broken(path, f"cannot be read as JSON text ({error})", "flickr30k") from error
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise broken(path, 'has no list "images" with an entry', "flickr30k")
    captioned: list[Captioned] = []
    numbers: dict[str, int] = {}
    for number, entry in enumerate(entries, start=1):
        image = _captioned(entry, number, path)
        first = numbers.setdefault(image.filename, number)
        if first != number:
            what = f"entry {number} ({image.split}) is {image.filename}, as entry {first} is"
            raise broken(path, f"{what} ({captioned[first - 1].split})", "flickr30k")
        captioned.append(image)
    return captioned


def _captioned(entry: Any, number: int, path: Path) -> Captioned:
    fields = entry if isinstance(entry, dict) else {}
    filename, split, sentences = (fields.get(name) for name in ("filename", "split", "sentences"))
    captions = [s.get("raw") if isinstance(s, dict) else None for s in sentences] if isinstance(sentences, list) else []
    fits = isinstance(filename, str) and filename.endswith(".jpg") and captions
    if not fits or not all(isinstance(caption, str) and caption.strip() for caption in captions):
        expected = 'a "filename" <name>.jpg and "sentences" with a "raw" text each'
        raise broken(path, f"entry {number} is {json.dumps(entry)[:160]}; expected {expected}", "flickr30k")
    if split not in tuple(SPLITS):
        what = f"entry {number} ({filename}) has the split {split!r}; expected {', '.join(SPLITS)}"
        raise broken(path, what, "flickr30k")
    return Captioned(filename, SPLITS[split], tuple(caption.strip() for caption in captions))
