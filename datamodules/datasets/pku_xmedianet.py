"""PKU XMediaNet (Peng et al., IEEE TCSVT 2018): the image and text features of its authors' code, 200 classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.datasets import DATASETS
from datamodules.datasets.lists import refuse_repeated
from datamodules.files.text import broken, read_lines
from datamodules.files.text_matrix import Part, read_parts
from datamodules.items import ItemSet
from datamodules.on_disk import OnDisk
from datamodules.paired_features import FeatureDataModule

# Modality -> the word in the file names.
WORDS = {"image": "img", "text": "txt"}


class PKUXMediaNet(OnDisk, FeatureDataModule):
    """Image features (4096-d) and text features (300-d) of pairs, with an embedding (300-d) of each class.

    The folder, with the file names that the authors' code for zero-shot retrieval (DADN) reads::

        pku_xmedianet/
            img_train_fea.txt   numbers of one image per line
            img_train_list.txt  <file> <class 1..200>, one image per line
            txt_train_fea.txt, txt_train_list.txt: the same of the texts; line i of all four is one pair
            img_test_fea.txt, img_test_list.txt, txt_test_fea.txt, txt_test_list.txt
            cate_fea.txt        numbers of one class per line

    There are 40,000 pairs of 200 classes; public code that reads these files finds 32,000 for training and 8,000 for
    test in them. Of video, audio and 3D models the data set has features too, whose file names are not known here: they
    are not read. The lists have numbers and no names of classes, so by default the class embedding is that of the
    files. Cite Y. Peng, X. Huang and Y. Zhao, An Overview of Cross-media Retrieval, IEEE TCSVT 2018, and for the
    features J. Chi and Y. Peng, Zero-shot Cross-media Embedding Learning with Dual Adversarial Distribution Network,
    IEEE TCSVT 2019.

    Args:
        data_root: folder that holds `pku_xmedianet/`; by default the environment variable CSD_DATA, else `data/`.
        class_encoder: see FeatureDataModule.
        **kwargs: see FeatureDataModule.

    Raises:
        ValueError: an argument outside its range.
        DataError: on first use, if a file is missing or is not what it should be, the lists of images and texts
            differ in a class, or a file is listed twice.
    """

    declaration = DATASETS["pku_xmedianet"]
    features = "cnn4096-doc300"

    def __init__(self, data_root: str | Path | None = None, class_encoder: str = "from-data", **kwargs) -> None:
        super().__init__(data_root, class_encoder=class_encoder, **kwargs)

    def read(self) -> ItemSet:
        """Read the lists, then the features."""
        folder = self.folder
        classes = folder / "cate_fea.txt"
        count = sum(bool(line.strip()) for line in read_lines(classes))
        label = _labels(folder, count)
        embedding = read_parts([_whole(classes, count)])
        features = {
            name: read_parts([_whole(folder / f"{word}_{part}_fea.txt", len(label[part])) for part in label])
            for name, word in WORDS.items()
        }
        return ItemSet.of_features(
            features=features,
            label=np.concatenate(list(label.values())),
            split=np.repeat(list(label), [len(part) for part in label.values()]),
            class_names=tuple(f"class {number}" for number in range(1, len(embedding) + 1)),
            origin=str(folder),
            class_embedding=embedding,
        )


def _whole(path: Path, count: int) -> Part:
    return Part([path], np.arange(count), count)


def _labels(folder: Path, classes: int) -> dict[str, np.ndarray]:
    """Part -> class 0..C-1 of each of its pairs, which the lists of images and those of texts must agree on."""
    image, text = (_labels_of(folder, word, classes) for word in WORDS.values())
    for part, label in image.items():
        path, name = folder / f"{WORDS['text']}_{part}_list.txt", f"{WORDS['image']}_{part}_list.txt"
        other = text[part]
        if len(label) != len(other):
            what = f"has {len(other)} lines, and {name} has {len(label)}; line i of both must be one pair"
            raise broken(path, what)
        differ = np.flatnonzero(label != other)
        if differ.size:
            i = differ[0]
            what = f"line {i + 1} has the class {other[i] + 1}, and {name} {label[i] + 1}; they must be one pair"
            raise broken(path, what)
    return image


def _labels_of(folder: Path, word: str, classes: int) -> dict[str, np.ndarray]:
    """Part -> class 0..C-1 of each line of its list, of one modality."""
    paths = {part: folder / f"{word}_{part}_list.txt" for part in ("train", "test")}
    entries = {part: read_list(path, classes) for part, path in paths.items()}
    # By class too: files may be numbered anew in each.
    refuse_repeated({paths[part]: (f"{file} of class {c + 1}" for file, c in found) for part, found in entries.items()})
    return {part: np.array([category for _, category in found], dtype=np.int64) for part, found in entries.items()}


def read_list(path: Path, classes: int) -> list[tuple[str, int]]:
    """File and class 0..C-1 of each line of a list; blank lines at its end count for nothing.

    Raises:
        DataError: the list is missing or empty, or a line is not <file> <class 1..C>.
    """
    entries = []
    numbers = {str(number): number - 1 for number in range(1, classes + 1)}
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split()
        if len(fields) != 2 or fields[1] not in numbers:
            what = f"line {number} is {line[:80]!r}; expected a file and a class 1..{classes}"
            raise broken(path, what)
        entries.append((fields[0], numbers[fields[1]]))
    if not entries:
        raise broken(path, "has no line")
    return entries
