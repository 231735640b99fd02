"""Wikipedia (Rasiwasia et al., ACM Multimedia 2010): 2,866 image-text pairs of ten classes, or their features."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.io

from datamodules.datasets import DATASETS
from datamodules.datasets.lists import refuse_repeated
from datamodules.errors import check_choice
from datamodules.files.media import image_of_each
from datamodules.files.text import broken, read_lines, require
from datamodules.items import ItemSet, Modality
from datamodules.on_disk import OnDisk
from datamodules.paired_features import FeatureDataModule

# Class numbers 1..10 of the lists, in order.
CLASS_NAMES = ("art", "biology", "geography", "history", "literature", "media", "music", "royalty", "sport", "warfare")
LISTS = {"train": "trainset_txt_img_cat.list", "test": "testset_txt_img_cat.list"}
FEATURE_FILES = {"roph": "wiki_roph.mat", "sift-lda": "raw_features.mat"}
# Not read as XML: not all of the files are well-formed.
TEXT = re.compile(r"<text>(.*?)</text>", re.DOTALL)


class Wikipedia(OnDisk, FeatureDataModule):
    """The Wikipedia benchmark: 2,173 training pairs, then 693 test pairs, in the order of the published lists.

    The folder::

        wikipedia/
            trainset_txt_img_cat.list  <text id> <image id> <class 1..10>, one pair per line
            testset_txt_img_cat.list
            wiki_roph.mat              data.X1 (128 x 2866), data.X2 (100 x 2866), data.Y (10 x 2866)
            raw_features.mat           I_tr, I_te (128 numbers per row), T_tr, T_te (10 numbers per row)

    Args:
        data_root: folder that holds `wikipedia/`; by default the environment variable CSD_DATA, else `data/`, into
            which the files are fetched if they are not there.
        features: "roph": image 128-d, text 100-d (`wiki_roph.mat`; how the images were encoded is not stated).
            "sift-lda": image SIFT bag of words 128-d, text LDA 10-d (`raw_features.mat`, the original features).
        offline: never fetch.
        **kwargs: see FeatureDataModule.

    Raises:
        DataError: on first use, if a file is missing or is not what it should be.
    """

    declaration = DATASETS["wikipedia"]

    def __init__(
        self,
        data_root: str | Path | None = None,
        features: Literal["roph", "sift-lda"] = "roph",
        offline: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(data_root, **kwargs)
        check_choice("features", features, FEATURE_FILES)
        self.features = features
        self.offline = offline

    def read(self) -> ItemSet:
        """Read the lists and one feature file; both must describe the same rows."""
        file = FEATURE_FILES[self.features]
        folder = self.declaration.find(self.data_root, (file, *LISTS.values()), self.offline)
        label = np.concatenate([read_list(folder / name, self.declaration.items[part]) for part, name in LISTS.items()])
        image, text = _read_roph(folder / file, label) if self.features == "roph" else _read_sift_lda(folder / file)
        return ItemSet.of_features(
            features={"image": image, "text": text},
            label=label,
            split=np.repeat(list(LISTS), [self.declaration.items[part] for part in LISTS]),
            class_names=CLASS_NAMES,
            origin=str(folder / file),
        )


def read_entries(path: Path) -> list[tuple[str, str, int]]:
    """Text id, image id and class 0..9 of each line of a list; blank lines at its end count for nothing.

    Raises:
        DataError: not text, a line without three fields, or a class outside 1..10.
    """
    entries = []
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split()
        if len(fields) != 3 or fields[2] not in map(str, range(1, len(CLASS_NAMES) + 1)):
            raise broken(path, f"line {number} is {line[:80]!r}")
        entries.append((fields[0], fields[1], int(fields[2]) - 1))
    return entries


def read_list(path: Path, count: int) -> np.ndarray:
    """Class of each line of a list, 0..9.

    Args:
        path: the list.
        count: lines that were published.

    Raises:
        DataError: as `read_entries`, or another number of lines than published.
    """
    label = [category for _, _, category in read_entries(path)]
    if len(label) != count:
        raise broken(path, f"has {len(label)} lines instead of {count}")
    return np.array(label, dtype=np.int64)


def _load(path: Path) -> dict:
    try:
        return scipy.io.loadmat(path, simplify_cells=True)
    except Exception as error:  # a truncated file surfaces as errors of many kinds, from zlib's to MemoryError
        raise broken(path, f"is not a readable MATLAB file ({type(error).__name__}: {error})") from error


def _array(path: Path, values: dict, name: str, shape: tuple[int, int]) -> np.ndarray:
    """A numeric array of the given shape, float64."""
    found = values.get(name)
    if not isinstance(found, np.ndarray) or found.shape != shape or found.dtype.kind not in "fiu":
        what = f"has shape {np.shape(found)} and type {getattr(found, 'dtype', type(found).__name__)}"
        raise broken(path, f"{name} {'is missing' if found is None else what}; expected numbers of shape {shape}")
    return found.astype(np.float64)


def _read_sift_lda(path: Path) -> tuple[np.ndarray, np.ndarray]:
    values = _load(path)
    train, test = Wikipedia.declaration.items.values()
    image, text = (
        np.concatenate([_array(path, values, f"{m}_tr", (train, d)), _array(path, values, f"{m}_te", (test, d))])
        for m, d in (("I", 128), ("T", 10))
    )
    return image, text


def _read_roph(path: Path, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The file holds items as columns; its own split is of another protocol and is not used."""
    values = _load(path).get("data")
    if not isinstance(values, dict):
        raise broken(path, "holds no structure named data")
    image = _array(path, values, "X1", (128, len(label))).T
    text = _array(path, values, "X2", (100, len(label))).T
    classes = values.get("Y")
    if hasattr(classes, "toarray"):
        classes = classes.toarray()
    expected = np.eye(len(CLASS_NAMES), dtype=bool)[label].T
    if np.shape(classes) != expected.shape:
        raise broken(path, f"Y has shape {np.shape(classes)}; expected {expected.shape}")
    other = np.flatnonzero((classes.astype(bool) != expected).any(axis=0))
    if other.size:
        raise broken(
            path,
            f"Y gives {other.size} item(s) another class than {' and '.join(LISTS.values())} do, first row {other[0]}: "
            "its rows do not follow the lists",
        )
    return np.ascontiguousarray(image), np.ascontiguousarray(text)


# The images and texts themselves ------------------------------------------------------------------------------------


class WikipediaRaw(OnDisk):
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

    declaration = DATASETS["wikipedia"]

    def read(self) -> ItemSet:
        """Read the lists and the texts, and look which images there are."""
        folder = self.folder
        pairs, split = read_lists(folder)
        names = [text for text, _, _ in pairs]
        images = [f"{CLASS_NAMES[category]}/{image}.jpg" for _, image, category in pairs]
        return self.read_items(
            {
                "image": lambda: image_of_each(folder / "images", images),
                "text": lambda: self._texts(require(folder / "texts"), names),
            },
            label=np.array([category for _, _, category in pairs], dtype=np.int64),
            split=np.array(split),
            names=names,
            origin=str(folder),
            class_names=CLASS_NAMES,
        )

    def _texts(self, folder: Path, names: list[str]) -> Modality:
        paths = {name: folder / f"{name}.xml" for name in names}
        texts = [self.attempt(name, read_section, path) if path.is_file() else None for name, path in paths.items()]
        return Modality.of_each([None if text is None else [text] for text in texts])


def read_lists(folder: Path) -> tuple[list[tuple[str, str, int]], list[str]]:
    """Text id, image id and class 0..9 of every pair, and its split.

    Raises:
        DataError: a list is missing or is not what it should be, a text is listed twice, or an image in both lists.
    """
    lists = {part: folder / name for part, name in LISTS.items()}
    entries = {path: read_entries(path) for path in lists.values()}
    refuse_repeated({path: [text for text, _, _ in listed] for path, listed in entries.items()}, "the text ")
    # An image may have several texts, but in one list.
    refuse_repeated({path: sorted({image for _, image, _ in listed}) for path, listed in entries.items()}, "the image ")
    pairs = [pair for path in lists.values() for pair in entries[path]]
    if not pairs:
        raise broken(folder, "has lists without a pair")
    return pairs, np.repeat(list(lists), [len(entries[path]) for path in lists.values()]).tolist()


def read_section(path: Path) -> str:
    """The section in one file, its character references resolved and its white space made single blanks.

    Raises:
        DataError: the file is not text, or has nothing between <text> and </text>.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise broken(path, f"cannot be read as text ({error})") from error
    text = " ".join(html.unescape(" ".join(TEXT.findall(content))).split())
    if not text:
        raise broken(path, "has no words between <text> and </text>")
    return text
