"""Wikipedia (Rasiwasia et al., ACM Multimedia 2010): 2,866 image-text pairs of ten classes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import scipy.io

from datamodules.errors import DataError
from datamodules.files.layouts import read_lines
from datamodules.files.sources import SOURCES, advice, locate
from datamodules.items import ItemSet
from datamodules.paired_features import FeatureDataModule

# Class numbers 1..10 of the lists, in order.
CLASS_NAMES = ("art", "biology", "geography", "history", "literature", "media", "music", "royalty", "sport", "warfare")
TRAIN_LIST, TEST_LIST = "trainset_txt_img_cat.list", "testset_txt_img_cat.list"
ITEMS = {TRAIN_LIST: 2173, TEST_LIST: 693}
FEATURE_FILES = {"roph": "wiki_roph.mat", "sift-lda": "raw_features.mat"}


class Wikipedia(FeatureDataModule):
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

    dataset = "wikipedia"
    data_kind = "real"

    def __init__(
        self,
        data_root: str | Path | None = None,
        features: Literal["roph", "sift-lda"] = "roph",
        offline: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if features not in FEATURE_FILES:
            raise ValueError(f"features is {features!r}; expected {' or '.join(map(repr, FEATURE_FILES))}.")
        self.data_root = data_root
        self.features = features
        self.offline = offline

    def read(self) -> ItemSet:
        """Read the lists and one feature file; both must describe the same rows."""
        file = FEATURE_FILES[self.features]
        folder = locate(self.dataset, self.data_root, (file, TRAIN_LIST, TEST_LIST), self.offline)
        label = np.concatenate([read_list(folder / name) for name in ITEMS])
        image, text = _read_roph(folder / file, label) if self.features == "roph" else _read_sift_lda(folder / file)
        return ItemSet.of_features(
            features={"image": image, "text": text},
            label=label,
            split=np.repeat(["train", "test"], list(ITEMS.values())),
            class_names=CLASS_NAMES,
            origin=str(folder / file),
        )


def _broken(path: Path, what: str) -> DataError:
    return DataError(f"{path}: {what}. {advice('wikipedia', SOURCES['wikipedia'].file(path.name))}")


def read_entries(path: Path) -> list[tuple[str, str, int]]:
    """Text id, image id and class 0..9 of each line of a list; blank lines at its end count for nothing.

    Raises:
        DataError: not text, a line without three fields, or a class outside 1..10.
    """
    entries = []
    for number, line in enumerate(read_lines(path, "wikipedia"), start=1):
        fields = line.split()
        if len(fields) != 3 or fields[2] not in map(str, range(1, len(CLASS_NAMES) + 1)):
            raise _broken(path, f"line {number} is {line[:80]!r}")
        entries.append((fields[0], fields[1], int(fields[2]) - 1))
    return entries


def read_list(path: Path) -> np.ndarray:
    """Class of each line of a list, 0..9.

    Raises:
        DataError: as `read_entries`, or another number of lines than published.
    """
    label = [category for _, _, category in read_entries(path)]
    if len(label) != ITEMS[path.name]:
        raise _broken(path, f"has {len(label)} lines instead of {ITEMS[path.name]}")
    return np.array(label, dtype=np.int64)


def _load(path: Path) -> dict:
    try:
        return scipy.io.loadmat(path, simplify_cells=True)
    except Exception as error:  # a truncated file surfaces as errors of many kinds, from zlib's to MemoryError
        raise _broken(path, f"is not a readable MATLAB file ({type(error).__name__}: {error})") from error


def _array(path: Path, values: dict, name: str, shape: tuple[int, int]) -> np.ndarray:
    """A numeric array of the given shape, float64."""
    found = values.get(name)
    if not isinstance(found, np.ndarray) or found.shape != shape or found.dtype.kind not in "fiu":
        what = f"has shape {np.shape(found)} and type {getattr(found, 'dtype', type(found).__name__)}"
        raise _broken(path, f"{name} {'is missing' if found is None else what}; expected numbers of shape {shape}")
    return found.astype(np.float64)


def _read_sift_lda(path: Path) -> tuple[np.ndarray, np.ndarray]:
    values = _load(path)
    train, test = ITEMS.values()
    image, text = (
        np.concatenate([_array(path, values, f"{m}_tr", (train, d)), _array(path, values, f"{m}_te", (test, d))])
        for m, d in (("I", 128), ("T", 10))
    )
    return image, text


def _read_roph(path: Path, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The file holds items as columns; its own split is of another protocol and is not used."""
    values = _load(path).get("data")
    if not isinstance(values, dict):
        raise _broken(path, "holds no structure named data")
    image = _array(path, values, "X1", (128, len(label))).T
    text = _array(path, values, "X2", (100, len(label))).T
    classes = values.get("Y")
    if hasattr(classes, "toarray"):
        classes = classes.toarray()
    expected = np.eye(len(CLASS_NAMES), dtype=bool)[label].T
    if np.shape(classes) != expected.shape:
        raise _broken(path, f"Y has shape {np.shape(classes)}; expected {expected.shape}")
    other = np.flatnonzero((classes.astype(bool) != expected).any(axis=0))
    if other.size:
        raise _broken(
            path,
            f"Y gives {other.size} item(s) another class than {TRAIN_LIST} and {TEST_LIST} do, first row {other[0]}: "
            "its rows do not follow the lists",
        )
    return np.ascontiguousarray(image), np.ascontiguousarray(text)
