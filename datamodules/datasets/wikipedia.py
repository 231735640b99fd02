"""Wikipedia (Rasiwasia et al., ACM Multimedia 2010): 2,866 image-text pairs of ten classes, or their features."""

import html
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.datasets import DATASETS
from datamodules.datasets.on_disk import OnDisk
from datamodules.errors import check_choice
from datamodules.files.array_files import load_matlab, numbers
from datamodules.files.media import image_of_each
from datamodules.files.rows import decoding
from datamodules.files.text import broken, parse_lines, refuse_repeated, require, require_parts
from datamodules.items import ItemSet, Modality
from datamodules.paired_features import FeatureDataModule

# Class numbers 1..10 of the lists, in order.
CLASS_NAMES = ("art", "biology", "geography", "history", "literature", "media", "music", "royalty", "sport", "warfare")
LISTS = {"train": "trainset_txt_img_cat.list", "test": "testset_txt_img_cat.list"}
FEATURE_FILES = {"roph": "wiki_roph.mat", "sift-lda": "raw_features.mat"}
# Not read as XML: not all of the files are well-formed.
TEXT = re.compile(r"<text>(.*?)</text>", re.DOTALL)


class Wikipedia(OnDisk, FeatureDataModule):
    """The Wikipedia benchmark: 2,173 training pairs, then 693 test pairs, in the order of the published lists.

    Args:
        data_root: see OnDisk; the files are fetched into `data/` if nobody named a root and they are not there.
        features: "roph": image 128-d, text 100-d (`wiki_roph.mat`; how the images were encoded is not stated). They are
            transductive: the image part is a PCA fitted on all items, test items included.
            "sift-lda": image SIFT bag of words 128-d, text LDA 10-d (`raw_features.mat`, the original features).
        offline: never fetch.
        **kwargs: see FeatureDataModule.
    """

    declaration = DATASETS["wikipedia"]

    def __init__(
        self,
        data_root: str | Path | None = None,
        features: Literal["roph", "sift-lda"] = "roph",
        offline: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_root, **kwargs)
        check_choice("features", features, FEATURE_FILES)
        self.features = features
        self.offline = offline

    def read(self) -> ItemSet:
        """Read the lists and one feature file; both must describe the same rows."""
        file, counts = FEATURE_FILES[self.features], self.declaration.items
        folder = self.declaration.find(self.data_root, (file, *LISTS.values()), self.offline)
        label = []
        for part, name in LISTS.items():
            pairs = read_list(folder / name)
            if len(pairs) != counts[part]:
                raise broken(folder / name, f"has {len(pairs)} lines instead of {counts[part]}")
            label += [category for _, _, category in pairs]
        read, label = _roph if self.features == "roph" else _sift_lda, np.array(label)
        features = {name: array.astype(np.float64) for name, array in read(folder / file, label).items()}
        split = np.repeat(list(LISTS), [counts[part] for part in LISTS])
        return ItemSet.of_features(features, label, split, CLASS_NAMES, str(folder / file))


def read_list(path: Path) -> list[tuple[str, str, int]]:
    """Text id, image id and class 0..9 of each line of a list; blank lines at its end count for nothing."""
    return parse_lines(path, _pair, "a text id, an image id and a class 1..10")


def _pair(line: str) -> tuple[str, str, int]:
    text, image, category = line.split()
    return text, image, [str(c + 1) for c in range(len(CLASS_NAMES))].index(category)


def _sift_lda(path: Path, label: np.ndarray) -> dict[str, np.ndarray]:
    values, items = load_matlab(path), Wikipedia.declaration.items

    def stacked(letter: str, width: int) -> np.ndarray:
        shapes = {f"{letter}_{part[:2]}": (items[part], width) for part in LISTS}  # I_tr, I_te and T_tr, T_te
        return np.concatenate([numbers(path, name, values.get(name), shape) for name, shape in shapes.items()])

    return {"image": stacked("I", 128), "text": stacked("T", 10)}


def _roph(path: Path, label: np.ndarray) -> dict[str, np.ndarray]:
    """The file holds items as columns; its own split is of another protocol and is not used."""
    values = load_matlab(path, simplify_cells=True).get("data")
    if not isinstance(values, dict):
        raise broken(path, "holds no structure named data")
    image, text = (numbers(path, x, values.get(x), (d, len(label))) for x, d in (("X1", 128), ("X2", 100)))
    classes = values.get("Y")
    classes = classes.toarray() if hasattr(classes, "toarray") else classes
    expected = np.eye(len(CLASS_NAMES), dtype=bool)[label].T
    classes = numbers(path, "Y", classes, expected.shape, kinds="fiub")
    other = np.flatnonzero((classes.astype(bool) != expected).any(axis=0))
    if other.size:
        lists = " and ".join(LISTS.values())
        what = f"Y gives {other.size} item(s) another class than {lists} do, first row {other[0]}"
        raise broken(path, f"{what}: its rows do not follow the lists")
    return {"image": np.ascontiguousarray(image.T), "text": np.ascontiguousarray(text.T)}


# The images and texts themselves ------------------------------------------------------------------------------------


class WikipediaRaw(OnDisk):
    """Images and the article sections that they stand in; an item is such a pair, and matches those of its class.

    Three test images have the published features of a training image of another name, and so may be the same
    photographs; they are kept.
    """

    declaration = DATASETS["wikipedia"]

    def read(self) -> ItemSet:
        """Read the lists and the texts, and look which images there are."""
        folder = self.folder
        pairs, split = read_lists(folder)
        names, ids, label = zip(*pairs, strict=True)
        images = [f"{CLASS_NAMES[category]}/{image}.jpg" for image, category in zip(ids, label, strict=True)]

        def text() -> Modality:
            paths = {name: require(folder / "texts") / f"{name}.xml" for name in names}
            texts = [self.attempt(name, read_section, path) if path.is_file() else None for name, path in paths.items()]
            return Modality.of_each([None if text is None else [text] for text in texts])

        readers = {"image": lambda: image_of_each(folder / "images", images), "text": text}
        return self.items(readers, names, split, label, class_names=CLASS_NAMES)


def read_lists(folder: Path) -> tuple[list[tuple[str, str, int]], list[str]]:
    """Text id, image id and class 0..9 of every pair, and its split; a text stands once, an image in one list."""
    entries = {folder / name: read_list(folder / name) for name in LISTS.values()}
    refuse_repeated({path: [text for text, _, _ in pairs] for path, pairs in entries.items()}, "the text ")
    # An image may have several texts.
    refuse_repeated({path: sorted({image for _, image, _ in pairs}) for path, pairs in entries.items()}, "the image ")
    split = np.repeat(list(LISTS), [len(pairs) for pairs in entries.values()]).tolist()
    require_parts(split, folder)
    return [pair for pairs in entries.values() for pair in pairs], split


def read_section(path: Path) -> str:
    """The section in one file, its character references resolved and its white space made single blanks."""
    with decoding(path, "text"):
        content = path.read_text(encoding="utf-8-sig")
    text = " ".join(html.unescape(" ".join(TEXT.findall(content))).split())
    if not text:
        raise broken(path, "has no words between <text> and </text>")
    return text
