"""NUS-WIDE (Chua et al., CIVR 2009): photographs of Flickr with tags, labelled with several concepts each."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from datamodules.datasets.feature_pairs import OR_PAIRS, pairs
from datamodules.declaration import Declaration, Form
from datamodules.files.text import broken, read_lines
from datamodules.files.text_matrix import Part, read_bits, read_parts
from datamodules.items import ItemSet
from datamodules.paired_features import FeatureDataModule

# Split -> the word in the file names.
PARTS = {"train": "Train", "test": "Test"}
# Features -> files that are set side by side: colour histogram 64-d, colour correlogram 144-d,
# edge direction histogram 73-d, wavelet texture 128-d, block-wise colour moments 225-d; or SIFT bag of words 500-d.
IMAGE_FILES = {
    "low-level": tuple(
        f"Low_Level_Features/{{}}_Normalized_{name}.dat" for name in ("CH", "CORR", "EDH", "WT", "CM55")
    ),
    "bow": ("Low_Level_Features/BoW_{}_int.dat",),
}
TEXT_FILE = "NUS_WID_Tags/{}_Tags1k.dat"
CONCEPTS = 10


LISTS = {
    "train": "ImageList/TrainImagelist.txt",
    "test": "ImageList/TestImagelist.txt",
    "classes": "ConceptsList/Concepts81.txt",
}
LABELS_AND_TAGS = (
    *LISTS.values(),
    *(f"Groundtruth/TrainTestLabels/Labels_*_{part}.txt" for part in ("Train", "Test")),
    *(f"NUS_WID_Tags/{part}_Tags1k.dat" for part in ("Train", "Test")),
)

NUS_WIDE = Declaration(
    name="nus_wide",
    folder="nus_wide",
    content="ConceptsList/Concepts81.txt, ImageList/{Train,Test}Imagelist.txt, "
    "Groundtruth/TrainTestLabels/Labels_<concept>_{Train,Test}.txt, NUS_WID_Tags/{Train,Test}_Tags1k.dat (1,000 "
    "numbers per line), and Low_Level_Features/{Train,Test}_Normalized_{CH,CORR,EDH,WT,CM55}.dat (64, 144, 73, 128 "
    "and 225) or Low_Level_Features/BoW_{Train,Test}_int.dat (500)" + OR_PAIRS,
    url="https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html",
    licence="none stated for features, tags and labels",
    citation="T.-S. Chua et al., NUS-WIDE: A Real-World Web Image Database from National University of Singapore, "
    "CIVR 2009",
    items={"train": 161_789, "test": 107_859},
    unit="images with tags",
    classes=81,
    forms={
        name: Form(
            "NUSWIDE",
            [(*LABELS_AND_TAGS, *(file.format(part) for file in files for part in PARTS.values()))],
            {"features": name, "subset": None},
            lists=LISTS,
            widths={"image": width, "text": 1000},
        )
        for (name, files), width in zip(IMAGE_FILES.items(), (634, 500), strict=True)
    }
    | {"pairs": pairs("nus_wide")},
)


class NUSWIDE(FeatureDataModule):
    """Low-level image features (634-d or 500-d) and 1,000 tags, with the ten largest concepts as labels.

    The folder, as its authors give it::

        nus_wide/
            ConceptsList/Concepts81.txt       one concept per line
            ImageList/TrainImagelist.txt      one image per line, in the order of all files of the part; so Test...
            Groundtruth/TrainTestLabels/Labels_<concept>_Train.txt   0 or 1 per line; so ..._Test.txt
            Low_Level_Features/Train_Normalized_CH.dat               numbers of one image per line; so CORR, EDH, WT,
                                                                     CM55, and Test_...
            Low_Level_Features/BoW_Train_int.dat                     so BoW_Test_int.dat
            NUS_WID_Tags/Train_Tags1k.dat                            1,000 zeros and ones per line; so Test_...

    Imagelist.txt, AllLabels/, AllTags1k.txt and the lists of tags are not read: they hold the same again.

    There are 269,648 images, 161,789 for training and 107,859 for test, and 81 concepts. The ten concepts with the most
    training images are kept (of equal ones the first of the list), in that order, with the images that have one of them
    or more: labels are multi-hot, and images match that share a concept. Images without a tag are kept. Of these images
    ``subset`` are drawn, each staying in its part. What other papers call NUS-WIDE-10k is not this subset: there every
    image has one concept and every concept 1,000 images, and which they are is not published by the authors.

    Cite T.-S. Chua et al., NUS-WIDE: A Real-World Web Image Database from National University of Singapore, CIVR 2009.

    Args:
        data_root: folder that holds `nus_wide/`; by default the environment variable CSD_DATA, else `data/`.
        features: "low-level": the five normalised ones, 634-d. "bow": SIFT bag of words, 500-d.
        subset: at most so many images, drawn by ``split_seed``; None: all, for which the features take more than a
            gigabyte.
        **kwargs: see FeatureDataModule.

    Raises:
        ValueError: an argument outside its range.
        DataError: on first use, if a file is missing or is not what it should be, or an image is listed twice.
    """

    declaration = NUS_WIDE
    dataset = "nus_wide"
    data_kind = "real"

    def __init__(
        self,
        data_root: str | Path | None = None,
        features: Literal["low-level", "bow"] = "low-level",
        subset: int | None = 10_000,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if features not in IMAGE_FILES:
            raise ValueError(f"features is {features!r}; expected {' or '.join(map(repr, IMAGE_FILES))}.")
        if subset is not None and subset < 2:
            raise ValueError(f"subset is {subset}; expected at least 2 images, or None for all.")
        self.data_root = data_root
        self.features = features
        self.subset = subset

    def read(self) -> ItemSet:
        """Read the labels, choose concepts and images, and read the features of those images."""
        folder = self.declaration.find(self.data_root)
        concepts, label = largest_concepts(folder)
        check_lists(folder, {part: len(member) for part, member in label.items()})
        chosen = self._choose(label)
        for part, rows in chosen.items():
            if not len(rows):
                raise broken(folder, f"has no {part} image with one of {', '.join(concepts)}")
        features = {}
        for name, files in (("image", IMAGE_FILES[self.features]), ("text", (TEXT_FILE,))):
            parts = [
                Part([folder / file.format(PARTS[part]) for file in files], rows, len(label[part]))
                for part, rows in chosen.items()
            ]
            features[name] = read_parts(parts)
        return ItemSet.of_features(
            features=features,
            label=np.vstack([label[part][rows] for part, rows in chosen.items()]),
            split=np.repeat(list(chosen), [len(rows) for rows in chosen.values()]),
            class_names=tuple(concepts),
            origin=str(folder),
        )

    def _choose(self, label: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rows of each part that have one of the concepts and are drawn, ascending."""
        rows = {part: np.flatnonzero(member.any(axis=1)) for part, member in label.items()}
        order = np.random.default_rng(self.split_seed).permutation(sum(map(len, rows.values())))
        drawn = np.sort(order[: self.subset])
        first = len(rows["train"])
        return {"train": rows["train"][drawn[drawn < first]], "test": rows["test"][drawn[drawn >= first] - first]}


def largest_concepts(folder: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """The ten concepts with the most training images, largest first, and split -> (N, 10) bool, which images have them.

    Raises:
        DataError: a file is missing or is not what it should be, or the files of a part differ in length.
    """
    path = folder / "ConceptsList" / "Concepts81.txt"
    concepts = [line.strip() for line in read_lines(path) if line.strip()]
    if len(set(concepts)) != len(concepts) or not concepts:
        raise broken(path, f"has {len(concepts)} concepts, {len(set(concepts))} different ones")
    label = {part: _labels(folder, concepts, word) for part, word in PARTS.items()}
    count = label["train"].sum(axis=0)
    largest = [c for c in np.argsort(-count, kind="stable")[:CONCEPTS] if count[c]]
    return [concepts[c] for c in largest], {part: member[:, largest] for part, member in label.items()}


def _labels(folder: Path, concepts: list[str], word: str) -> np.ndarray:
    columns: list[np.ndarray] = []
    for concept in concepts:
        path = folder / "Groundtruth" / "TrainTestLabels" / f"Labels_{concept}_{word}.txt"
        columns.append(read_bits(path))
        if len(columns[-1]) != len(columns[0]):
            what = f"has {len(columns[-1])} lines; Labels_{concepts[0]}_{word}.txt has {len(columns[0])}"
            raise broken(path, f"{what}, and line i of both must be the same image")
    return np.stack(columns, axis=1)


def check_lists(folder: Path, counts: dict[str, int]) -> None:
    """Compare the lists of images with the labels, and with each other.

    Args:
        folder: of the data set.
        counts: split -> number of its images by the labels.

    Raises:
        DataError: a list is missing or has another number of images, or an image is listed twice.
    """
    seen: dict[str, str] = {}
    for part, word in PARTS.items():
        path = folder / "ImageList" / f"{word}Imagelist.txt"
        images = [line.strip() for line in read_lines(path) if line.strip()]
        if len(images) != counts[part]:
            raise broken(path, f"has {len(images)} images, and the labels are of {counts[part]}")
        for image in images:
            if image in seen:
                raise broken(path, f"lists {image}, which the {seen[image]} part has already")
            seen[image] = part
