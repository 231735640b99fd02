"""Wikipedia (Rasiwasia et al., ACM Multimedia 2010): the images and sections of articles themselves."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.datasets.wikipedia import CLASS_NAMES, TEST_LIST, TRAIN_LIST, read_entries
from datamodules.files.layouts import broken, find_folder, require
from datamodules.files.media import image_of_each
from datamodules.items import ItemSet, Modality
from datamodules.retrieval_data import RetrievalData

MODALITIES = ("image", "text")
LISTS = {"train": TRAIN_LIST, "test": TEST_LIST}
# Not read as XML: not all of the files are well-formed.
TEXT = re.compile(r"<text>(.*?)</text>", re.DOTALL)


class WikipediaRaw(RetrievalData):
    """Images and the article sections that they stand in; an item is such a pair, and matches those of its class.

    The folder, as its authors give it (their archive calls it wikipedia_dataset)::

        wikipedia/
            trainset_txt_img_cat.list      <text id> <image id> <class 1..10>, one pair per line
            testset_txt_img_cat.list
            images/<class>/<image id>.jpg  <class> is art, biology, geography, history, literature, media, music,
                                           royalty, sport or warfare, in the order of their numbers
            texts/<text id>.xml            the section stands between <text> and </text>

    Published are 2,866 pairs of ten classes, 2,173 for training and 693 for test. Three test images have the published
    features of a training image of another name, and so may be the same photographs; they are kept. Cite N. Rasiwasia
    et al., A New Approach to Cross-Modal Multimedia Retrieval, ACM Multimedia 2010.

    Args:
        data_root: folder that holds `wikipedia/`; by default the environment variable CSD_DATA, else `data/`.
        **kwargs: see RetrievalData.

    Raises:
        ValueError: an argument outside its range.
        DataError: on first use, if a file is missing or is not what it should be, a text is listed twice, or an image
            in both lists.
    """

    dataset = "wikipedia"
    features = "raw"
    data_kind = "real"
    test_split = "standard"

    def __init__(self, data_root: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_root = data_root

    def read(self) -> ItemSet:
        """Read the lists and the texts, and look which images there are."""
        folder = find_folder(self.dataset, self.data_root)
        wanted = self.wanted(MODALITIES)
        pairs, split = read_lists(folder)
        names = [text for text, _, _ in pairs]
        modalities = {}
        if "image" in wanted:
            images = require(folder / "images", self.dataset)
            paths = [images / CLASS_NAMES[category] / f"{image}.jpg" for _, image, category in pairs]
            modalities["image"] = image_of_each(paths, self.dataset)
        if "text" in wanted:
            modalities["text"] = self._texts(require(folder / "texts", self.dataset), names)
        return ItemSet(
            {name: modalities[name] for name in wanted},
            label=np.array([category for _, _, category in pairs], dtype=np.int64),
            split=np.array(split),
            names=names,
            origin=str(folder),
            class_names=CLASS_NAMES,
        )

    def _texts(self, folder: Path, names: list[str]) -> Modality:
        paths = [folder / f"{name}.xml" for name in names]
        found = {
            item: self.attempt(name, read_section, path)
            for item, (name, path) in enumerate(zip(names, paths, strict=True))
            if path.is_file()
        }
        read = {item: text for item, text in found.items() if text is not None}
        return Modality(list(read.values()), np.array(list(read), dtype=np.int64))


def read_lists(folder: Path) -> tuple[list[tuple[str, str, int]], list[str]]:
    """Text id, image id and class 0..9 of every pair, and its split.

    Raises:
        DataError: a list is missing or is not what it should be, a text is listed twice, or an image in both lists.
    """
    pairs: list[tuple[str, str, int]] = []
    split: list[str] = []
    texts: dict[str, str] = {}
    images: dict[str, str] = {}
    for part, name in LISTS.items():
        path = require(folder / name, "wikipedia")
        for text, image, category in read_entries(path):
            if text in texts:
                raise broken(path, f"lists the text {text}, which {texts[text]} lists already", "wikipedia")
            if images.setdefault(image, name) != name:
                raise broken(path, f"lists the image {image}, which {images[image]} lists already", "wikipedia")
            texts[text] = name
            pairs.append((text, image, category))
            split.append(part)
    if not pairs:
        raise broken(folder, "has lists without a pair", "wikipedia")
    return pairs, split


def read_section(path: Path) -> str:
    """The section in one file, its character references resolved and its white space made single blanks.

    Raises:
        DataError: the file is not text, or has nothing between <text> and </text>.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise broken(path, f"cannot be read as text ({error})", "wikipedia") from error
    text = " ".join(html.unescape(" ".join(TEXT.findall(content))).split())
    if not text:
        raise broken(path, "has no words between <text> and </text>", "wikipedia")
    return text
