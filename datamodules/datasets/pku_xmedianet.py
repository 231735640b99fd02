"""PKU XMediaNet (Peng et al., IEEE TCSVT 2018): the image and text features of its authors' code, 200 classes."""

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.datasets import DATASETS
from datamodules.datasets.on_disk import OnDisk
from datamodules.files.text import broken, names_in, parse_lines, refuse_repeated
from datamodules.files.text_matrix import Part, read_parts
from datamodules.items import ItemSet
from datamodules.paired_features import FeatureDataModule

# Modality -> the word in the file names.
WORDS = {"image": "img", "text": "txt"}
PARTS = ("train", "test")


class PKUXMediaNet(OnDisk, FeatureDataModule):
    """Image features (4096-d) and text features (300-d) of pairs, with an embedding (300-d) of each class.

    The file names are those that the authors' code for zero-shot retrieval (DADN) reads. Of video, audio and 3D models
    the data set has features too, whose file names are not known here: they are not read. The lists have numbers and no
    names of classes, so by default the class embedding is that of the files.

    Args:
        data_root: see OnDisk.
        class_encoder: see FeatureDataModule.
        **kwargs: see FeatureDataModule.
    """

    declaration = DATASETS["pku_xmedianet"]
    features = "cnn4096-doc300"

    def __init__(self, data_root: str | Path | None = None, class_encoder: str = "from-data", **kwargs: Any) -> None:
        super().__init__(data_root, class_encoder=class_encoder, **kwargs)

    def read(self) -> ItemSet:
        """Read the lists, then the features."""
        folder = self.folder
        classes = len(names_in(folder / "cate_fea.txt"))
        image, text = (read_labels(folder, word, classes) for word in WORDS.values())
        for part in PARTS:
            _check_pairs(folder / f"txt_{part}_list.txt", text[part], f"img_{part}_list.txt", image[part])

        def matrix(counts: dict[str, int]) -> np.ndarray:
            return read_parts([Part([folder / file], np.arange(count), count) for file, count in counts.items()])

        counts = {part: len(label) for part, label in image.items()}
        features = {
            name: matrix({f"{word}_{part}_fea.txt": count for part, count in counts.items()})
            for name, word in WORDS.items()
        }
        label, split = np.concatenate(list(image.values())), np.repeat(PARTS, list(counts.values()))
        names = tuple(f"class {number}" for number in range(1, classes + 1))
        return ItemSet.of_features(
            features, label, split, names, str(folder), class_embedding=matrix({"cate_fea.txt": classes})
        )


def _check_pairs(path: Path, label: np.ndarray, other: str, expected: np.ndarray) -> None:
    """Refuse a list that differs in a line's class from another one, or in length."""
    if len(label) != len(expected):
        what = f"has {len(label)} lines, and {other} has {len(expected)}; line i of both must be one pair"
        raise broken(path, what)
    for i in np.flatnonzero(label != expected):
        what = f"line {i + 1} has the class {label[i] + 1}, and {other} {expected[i] + 1}; they must be one pair"
        raise broken(path, what)


def read_labels(folder: Path, word: str, classes: int) -> dict[str, np.ndarray]:
    """Part -> class 0..C-1 of each line of its list, of one modality; blank lines at its end count for nothing."""
    number = {str(c + 1): c for c in range(classes)}

    def entry(line: str) -> tuple[str, int]:
        file, category = line.split()
        return file, number[category]

    paths = [folder / f"{word}_{part}_list.txt" for part in PARTS]
    entries = {path: parse_lines(path, entry, f"a file and a class 1..{classes}") for path in paths}
    # By class too: files may be numbered anew in each.
    refuse_repeated({path: [f"{file} of class {c + 1}" for file, c in listed] for path, listed in entries.items()})
    for path in paths:
        if not entries[path]:
            raise broken(path, "has no line")
    return {part: np.array([c for _, c in entries[path]]) for part, path in zip(PARTS, paths, strict=True)}
