"""Flickr30K (Young et al., TACL 2014): images with captions, or with narratives that are spoken."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.datasets.feature_pairs import EXTRACTED, OR_EXTRACTED, pairs
from datamodules.declaration import Declaration, Form
from datamodules.files.media import image_of_each, most_common_rate, read_resampled
from datamodules.files.text import broken, read_json, read_lines, require, require_parts
from datamodules.items import Files, ItemSet, Modality
from datamodules.retrieval_data import RetrievalData

MODALITIES = ("image", "text", "audio")
# Our split -> the word in the names of files, and in Karpathy's file.
WORDS = {"train": "train", "validation": "val", "test": "test"}
SPLITS = {word: split for split, word in WORDS.items()}

FLICKR30K = Declaration(
    name="flickr30k",
    folder="flickr30k",
    content="flickr30k-images/<image>.jpg and dataset_flickr30k.json (Karpathy's split and the five captions), or "
    "flickr30k_{train,val,test}_localized_narratives.jsonl (or ..._captions.jsonl, which have no voice), "
    "flickr30k-images/<image_id>.jpg and voice-recordings/flickr30k_<split>/flickr30k_<split>_<image_id in 16 "
    "digits>_<annotator_id>.ogg" + OR_EXTRACTED,
    url="https://shannon.cs.illinois.edu/DenotationGraph (images, on request), "
    "https://cs.stanford.edu/people/karpathy/deepimagesent (dataset_flickr30k.json) and "
    "https://google.github.io/localized-narratives (narratives, recordings)",
    licence="narratives CC BY 4.0; images: research only",
    citation="P. Young et al., From Image Descriptions to Visual Denotations, TACL 2014; A. Karpathy and L. "
    "Fei-Fei, Deep Visual-Semantic Alignments for Generating Image Descriptions, CVPR 2015; J. Pont-Tuset et al., "
    "Connecting Vision and Language with Localized Narratives, ECCV 2020",
    items={"train": 29_000, "validation": 1_014, "test": 1_000},
    unit="images with five captions, or with spoken narratives",
    classes=None,
    forms={
        "raw": Form(
            "Flickr30kNarratives",
            [
                (
                    *(f"flickr30k_{word}_localized_narratives.jsonl" for word in WORDS.values()),
                    "flickr30k-images",
                    "voice-recordings",
                )
            ],
            items={"test": 1_000},
        ),
        "karpathy": Form("Flickr30kCaptions", [("dataset_flickr30k.json", "flickr30k-images")]),
        "transcripts": Form(
            "Flickr30kNarratives",
            [(*(f"flickr30k_{word}_captions.jsonl" for word in WORDS.values()), "flickr30k-images")],
            {"modalities": ("image", "text")},
            items={"test": 1_000},
        ),
        "pairs": pairs("flickr30k", EXTRACTED),
    },
)


# Captions, in the split of Karpathy and Fei-Fei (CVPR 2015) ---------------------------------------------------------


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

    declaration = FLICKR30K
    dataset = "flickr30k"
    features = "raw, captions"
    data_kind = "real"
    test_split = "karpathy"

    def __init__(self, data_root: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_root = data_root

    def read(self) -> ItemSet:
        """Read the captions and look which images there are."""
        folder = self.declaration.find(self.data_root)
        self.wanted(("image", "text"))  # what is asked for in vain is said before the files are read
        path = folder / "dataset_flickr30k.json"
        captioned = read_captioned(path)
        require_parts([image.split for image in captioned], path)
        return self.read_items(
            {
                "image": lambda: image_of_each(folder / "flickr30k-images", [image.filename for image in captioned]),
                "text": lambda: Modality.of_each([image.captions for image in captioned]),
            },
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
    content = read_json(path)
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise broken(path, 'has no list "images" with an entry')
    captioned: list[Captioned] = []
    numbers: dict[str, int] = {}
    for number, entry in enumerate(entries, start=1):
        image = _captioned(entry, number, path)
        first = numbers.setdefault(image.filename, number)
        if first != number:
            what = f"entry {number} ({image.split}) is {image.filename}, as entry {first} is"
            raise broken(path, f"{what} ({captioned[first - 1].split})")
        captioned.append(image)
    return captioned


def _captioned(entry: Any, number: int, path: Path) -> Captioned:
    fields = entry if isinstance(entry, dict) else {}
    filename, split, sentences = (fields.get(name) for name in ("filename", "split", "sentences"))
    captions = [s.get("raw") if isinstance(s, dict) else None for s in sentences] if isinstance(sentences, list) else []
    fits = isinstance(filename, str) and filename.endswith(".jpg") and captions
    if not fits or not all(isinstance(caption, str) and caption.strip() for caption in captions):
        expected = 'a "filename" <name>.jpg and "sentences" with a "raw" text each'
        raise broken(path, f"entry {number} is {json.dumps(entry)[:160]}; expected {expected}")
    if split not in tuple(SPLITS):
        what = f"entry {number} ({filename}) has the split {split!r}; expected {', '.join(SPLITS)}"
        raise broken(path, what)
    return Captioned(filename, SPLITS[split], tuple(caption.strip() for caption in captions))


# Localized Narratives (Pont-Tuset et al., ECCV 2020) ----------------------------------------------------------------


@dataclass(frozen=True)
class Narrative:
    """One description of one image: transcript and, if there is a recording, its possible paths below
    `voice-recordings/`."""

    image_id: str
    caption: str
    recordings: tuple[str, ...]


class Flickr30kNarratives(RetrievalData):
    """Images, narratives and voice recordings in the published splits.

    An item is an image and matches only itself; several narratives of one image are several texts and several sounds
    of one item, and so match each other. In training a text and a sound of an image are drawn independently. The
    folder, as its authors give it::

        flickr30k/
            flickr30k_val_localized_narratives.jsonl  one {"image_id": "219843859", "annotator_id": <number>,
                "caption": "...", "voice_recording": "flickr30k_val/flickr30k_val_219843859_180.ogg", ...} per line;
                the same with train and test in place of val. A file ..._captions.jsonl has no voice recordings.
            flickr30k-images/219843859.jpg
            voice-recordings/flickr30k_val/flickr30k_val_0000000219843859_<annotator_id>.ogg

    The field voice_recording is not the name of the file: that has the number of the image in 16 digits and the
    annotator_id, as in `voice_recording_url` of the authors' loader (google/localized-narratives). A recording that is
    called as the field says is found too, and either name may end in .wav. The audio has the sampling rate of most
    recordings; those of another rate are resampled to it.

    There are 30,546 narratives for training, 1,009 for validation, and 1,023 of 1,000 images for test.

    Args:
        data_root: folder that holds `flickr30k/`; by default the environment variable CSD_DATA, else `data/`. Of each
            split whichever of the two files is there is read.
        **kwargs: see RetrievalData.

    Raises:
        DataError: on first use, if a file is missing or is not what it should be, or a split has no narrative.
    """

    declaration = FLICKR30K
    dataset = "flickr30k"
    features = "raw, Localized Narratives"
    data_kind = "real"
    test_split = "standard"

    def __init__(self, data_root: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_root = data_root

    def read(self) -> ItemSet:
        """Read the narratives of every split there is, and look which images and recordings there are."""
        folder = self.declaration.find(self.data_root)
        narratives, split = read_splits(folder, voice="audio" in self.wanted(MODALITIES))
        names = list(split)
        item = {name: number for number, name in enumerate(names)}
        narratives.sort(key=lambda narrative: item[narrative.image_id])  # stable: in the order of the files
        owner = np.array([item[narrative.image_id] for narrative in narratives])
        _require_splits(folder, set(split.values()))
        return self.read_items(
            {
                "image": lambda: image_of_each(folder / "flickr30k-images", [f"{name}.jpg" for name in names]),
                "text": lambda: Modality([narrative.caption for narrative in narratives], owner),
                "audio": lambda: _recordings(folder, narratives, item),
            },
            label=np.arange(len(names)),
            split=np.array(list(split.values())),
            names=names,
            origin=str(folder),
        )


def read_splits(folder: Path, voice: bool) -> tuple[list[Narrative], dict[str, str]]:
    """Narratives of all splits, and image id -> split.

    Args:
        folder: with the .jsonl files.
        voice: whether voice recordings are needed; where not, the far smaller captions files are preferred.

    Raises:
        DataError: no file at all, a file without voice recordings where they are needed, or an image in two splits.
    """
    narratives: list[Narrative] = []
    split: dict[str, str] = {}
    contents = ("localized_narratives", "captions") if voice else ("captions", "localized_narratives")
    for name, word in WORDS.items():
        paths = [folder / f"flickr30k_{word}_{content}.jsonl" for content in contents]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            continue
        found = read_narratives(path)
        if voice and found and not any(narrative.recordings for narrative in found):
            what = "has no voice_recording; expected flickr30k_<split>_localized_narratives.jsonl, or modalities"
            raise broken(path, f"{what} without audio")
        for narrative in found:
            other = split.setdefault(narrative.image_id, name)
            if other != name:
                raise broken(path, f"image {narrative.image_id} is in the {other} part too")
        narratives += found
    if not narratives:
        raise broken(folder, "has no narratives flickr30k_<split>_*.jsonl")
    return narratives, split


def _require_splits(folder: Path, found: set[str]) -> None:
    for part, word in WORDS.items():
        if part not in found:
            path = folder / f"flickr30k_{word}_localized_narratives.jsonl"
            raise broken(path, f"is missing or empty; expected the narratives of the {part} part")


def read_narratives(path: Path) -> list[Narrative]:
    """Narratives of one .jsonl file.

    Raises:
        DataError: a line that is not a JSON object with image_id and caption.
    """
    narratives = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError:
            fields = None
        fields = fields if isinstance(fields, dict) else {}
        image_id, caption, voice = (fields.get(name) for name in ("image_id", "caption", "voice_recording"))
        if not (isinstance(image_id, str) and image_id and isinstance(caption, str) and caption.strip()) or not (
            voice is None or isinstance(voice, str)
        ):
            what = f"line {number} is {line[:80]!r}; expected a JSON object with image_id and caption, both text"
            raise broken(path, what)
        narratives.append(Narrative(image_id, caption.strip(), _names(voice, fields.get("annotator_id"))))
    return narratives


def _names(voice: str | None, annotator: Any) -> tuple[str, ...]:
    """Names of a recording, the authors' before that of the field."""
    names = [voice] if voice else []
    found = re.search(r"(\w+)/\w+_([0-9]+)_[0-9]+\.", voice or "")
    if found and isinstance(annotator, int):
        names.insert(0, f"{found[1]}/{found[1]}_{found[2].zfill(16)}_{annotator}.ogg")
    return tuple(dict.fromkeys(name for given in names for name in (given, f"{os.path.splitext(given)[0]}.wav")))


def _recordings(folder: Path, narratives: list[Narrative], item: dict[str, int]) -> Modality:
    """Recordings that are there, at the rate that most of them have."""
    recordings = require(folder / "voice-recordings")
    there = []
    for narrative in narratives:
        named = (recordings / name for name in narrative.recordings)
        path = next((path for path in named if path.is_file()), None)
        if path is not None:
            there.append((item[narrative.image_id], path))
    paths = tuple(path for _, path in there)
    rate, other = most_common_rate(paths)
    if other:
        what = f"{len(other)} of {len(paths)} recordings have another rate than {rate} Hz and are resampled to it"
        rank_zero_warn(f"{recordings}: {what}, first {other[0]}")
    decode = partial(read_resampled, rate=rate)
    return Modality(Files(paths, decode), np.array([owner for owner, _ in there], dtype=np.int64), rate)
