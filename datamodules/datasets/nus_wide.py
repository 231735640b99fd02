"""NUS-WIDE (Chua et al., CIVR 2009): photographs of Flickr with tags, labelled with several concepts each."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.datasets import DATASETS
from datamodules.datasets.on_disk import OnDisk
from datamodules.files.text import broken, names_in, read_split
from datamodules.files.text_matrix import Part, read_bits, read_parts
from datamodules.items import ItemSet
from datamodules.paired_features import FeatureDataModule

# Split -> the word in the file names.
PARTS = {"train": "Train", "test": "Test"}
IMAGE_FILES = tuple(f"Low_Level_Features/{{}}_Normalized_{name}.dat" for name in ("CH", "CORR", "EDH", "WT", "CM55"))
TEXT_FILE = "NUS_WID_Tags/{}_Tags1k.dat"
CONCEPTS = 10


class NUSWIDE(OnDisk, FeatureDataModule):
    """Low-level image features (634-d) and 1,000 tags, with the ten largest concepts as labels.

    Imagelist.txt, AllLabels/, AllTags1k.txt and the lists of tags are not read: they hold the same again.

    The image features are, side by side, colour histogram (64 numbers), colour correlogram (144), edge direction
    histogram (73), wavelet texture (128) and block-wise colour moments (225).

    The ten concepts with the most training images are kept (of equal ones the first of the list), in that order, with
    the images that have one of them or more: labels are multi-hot, and images match that share a concept. Images
    without a tag are kept. Of these images ``subset`` are drawn, each staying in its part. What other papers call
    NUS-WIDE-10k is not this subset: there every image has one concept and every concept 1,000 images, and which they
    are is not published by the authors.

    Args:
        data_root: see OnDisk.
        subset: at most so many images, drawn by ``split_seed``; None: all, for which the features take more than a
            gigabyte.
        **kwargs: see FeatureDataModule.
    """

    declaration = DATASETS["nus_wide"]
    features = "low-level"

    def __init__(self, data_root: str | Path | None = None, subset: int | None = 10_000, **kwargs: Any) -> None:
        super().__init__(data_root, **kwargs)
        if subset is not None and subset < 2:
            raise ValueError(f"subset is {subset}; expected at least 2 images, or None for all.")
        self.subset = subset

    def read(self) -> ItemSet:
        """Read the labels, choose concepts and images, and read the features of those images."""
        folder = self.folder
        lists = {part: folder / "ImageList" / f"{word}Imagelist.txt" for part, word in PARTS.items()}
        counts = Counter(read_split(lists).values())
        concepts, label = largest_concepts(folder, counts)
        chosen = self._choose(label)
        for part, rows in chosen.items():
            if not len(rows):
                raise broken(folder, f"has no {part} image with one of {', '.join(concepts)}")

        def matrix(*files: str) -> np.ndarray:
            paths = {part: [folder / file.format(PARTS[part]) for file in files] for part in chosen}
            return read_parts([Part(paths[part], rows, counts[part]) for part, rows in chosen.items()])

        features = {"image": matrix(*IMAGE_FILES), "text": matrix(TEXT_FILE)}
        labels = np.vstack([label[part][rows] for part, rows in chosen.items()])
        split = np.repeat(list(chosen), [len(rows) for rows in chosen.values()])
        return ItemSet.of_features(features, labels, split, tuple(concepts), str(folder))

    def _choose(self, label: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rows of each part that have one of the concepts and are drawn, ascending."""
        rows = {part: np.flatnonzero(member.any(axis=1)) for part, member in label.items()}
        order = np.random.default_rng(self.split_seed).permutation(sum(map(len, rows.values())))
        drawn = np.sort(order[: self.subset])
        first = len(rows["train"])
        return {"train": rows["train"][drawn[drawn < first]], "test": rows["test"][drawn[drawn >= first] - first]}


def largest_concepts(folder: Path, counts: Mapping[str, int]) -> tuple[list[str], dict[str, np.ndarray]]:
    """The ten concepts with the most training images, largest first, and split -> (N, 10) bool, which images have them.

    Every file of labels must be of as many images as ``counts`` says of its split.
    """
    path = folder / "ConceptsList" / "Concepts81.txt"
    concepts = names_in(path)
    if len(set(concepts)) != len(concepts) or not concepts:
        raise broken(path, f"has {len(concepts)} concepts, {len(set(concepts))} different ones")
    label = {}
    for part, word in PARTS.items():
        paths = [folder / "Groundtruth" / "TrainTestLabels" / f"Labels_{concept}_{word}.txt" for concept in concepts]
        columns = {path: read_bits(path) for path in paths}
        for path, column in columns.items():
            if len(column) != counts[part]:
                what = f"has {len(column)} lines; expected {counts[part]}, one for each image of {word}Imagelist.txt"
                raise broken(path, what)
        label[part] = np.stack(list(columns.values()), axis=1)
    count = label["train"].sum(axis=0)
    largest = [c for c in np.argsort(-count, kind="stable")[:CONCEPTS] if count[c]]
    return [concepts[c] for c in largest], {part: member[:, largest] for part, member in label.items()}
