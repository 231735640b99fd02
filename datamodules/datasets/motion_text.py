"""HumanML3D (Guo et al., CVPR 2022) and KIT-ML in its layout: motions of people with captions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.datasets import DATASETS
from datamodules.datasets.lists import refuse_repeated
from datamodules.errors import check_choice
from datamodules.files.text import broken, read_json, read_lines, require
from datamodules.items import ItemSet, Modality
from datamodules.on_disk import OnDisk

SPLIT_FILES = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}
# What the id of a mirrored motion begins with.
MIRRORED = "M"
# Data set -> numbers per frame, and frames per second of the caption times.
WIDTH = {"humanml3d": 263, "kit_ml": 251}
RATE = {"humanml3d": 20.0, "kit_ml": 12.5}
# In TMR's form motions of both data sets are described as those of HumanML3D are.
FEATURES = {"official": "new_joint_vecs", "tmr": "guoh3dfeats"}


@dataclass(frozen=True)
class Caption:
    """A caption and the part of the motion that it describes, in seconds; (0, 0) is the whole motion."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Described:
    """One motion: its file, the file that has its captions, these, and the times that mean the whole motion.

    The captions are None where they are missing or cannot be read.
    """

    motion: Path
    source: Path
    captions: list[Caption] | None
    whole: tuple[float, float] = (0.0, 0.0)


class HumanML3D(OnDisk):
    """Captions and motions in the published splits; mirrored motions (M...) are items of their own, as published.

    An item is a motion with its captions. A caption with times describes a part of the motion; that part is an item of
    its own, called <id>_<start>_<end>. Motions are neither cut nor padded, none is left out by its length, and none
    is standardised: Mean.npy and Std.npy are not read. The folder, as its authors give it::

        HumanML3D/ or KIT-ML/
            train.txt, val.txt, test.txt   one id per line
            texts/<id>.txt                 caption#tokens#start#end per line, in seconds; 0.0 and 0.0: the whole motion
            new_joint_vecs/<id>.npy        (T, 263) or (T, 251) floating

    HumanML3D has 23,384 motions for training, 1,460 for validation and 4,384 for test, KIT-ML 4,888, 300 and 830,
    mirrored ones counted; a motion and its mirror image are in one split. Made with its authors' scripts, HumanML3D is
    known to have NaN in 007975 and M007975: `on_broken="drop"` leaves such items out. TMR's form of both, with the two
    folders of its repository side by side::

        HumanML3D/ or KIT-ML/
            splits/train.txt, val.txt, test.txt   one id per line
            annotations.json   {"000000": {"path": "KIT/3/kick_high_left02_poses", "duration": 5.82, "annotations":
                               [{"seg_id": "000000_0", "text": "...", "start": 0.0, "end": 5.82}, ...]}, ...}
            guoh3dfeats/<path>.npy                (T, 263) floating, 20 frames per second

    There the motions of KIT-ML are 4,688, 292 and 786. TMR itself leaves annotations shorter than 2 s or longer than
    10 s out of training and validation, and takes the first annotation of a motion in test, as test_captions "first".

    Cite C. Guo et al., Generating Diverse and Natural 3D Human Motions from Text, CVPR 2022; M. Plappert, C. Mandery
    and T. Asfour, The KIT Motion-Language Dataset, Big Data 2016; and for TMR's form M. Petrovich, M. J. Black and G.
    Varol, TMR: Text-to-Motion Retrieval, ICCV 2023.

    Args:
        data_root: folder that holds `HumanML3D/` or `KIT-ML/`; by default the environment variable CSD_DATA, else
            `data/`.
        dataset: "humanml3d" (263 numbers per frame, 20 frames per second) or "kit_ml" (251, 12.5).
        annotations: "official": the authors' form. "tmr": TMR's.
        test_captions: "all", or "first": of a validation or test motion the first caption alone, as TMR takes it, so
            that every gallery of its protocols is defined.
        **kwargs: see RetrievalData.

    Raises:
        ValueError: an argument outside its range.
        DataError: on first use, if a file is missing or is not what it should be, or a motion is in two splits, as it
            is or mirrored.
    """

    def __init__(
        self,
        data_root: str | Path | None = None,
        dataset: Literal["humanml3d", "kit_ml"] = "humanml3d",
        annotations: Literal["official", "tmr"] = "official",
        test_captions: Literal["all", "first"] = "all",
        **kwargs: Any,
    ) -> None:
        super().__init__(data_root, **kwargs)
        check_choice("dataset", dataset, WIDTH)
        check_choice("annotations", annotations, FEATURES)
        check_choice("test_captions", test_captions, ("all", "first"))
        self.declaration = DATASETS[dataset]
        self.annotations, self.test_captions = annotations, test_captions
        self.features = FEATURES[annotations]
        described = dataset if annotations == "official" else "humanml3d"
        self.width, self.rate = WIDTH[described], RATE[described]

    def read(self) -> ItemSet:
        """Read every motion and its captions that the split files list."""
        folder = self.folder
        require(folder / self.features)
        described, splits = self._official(folder) if self.annotations == "official" else self._tmr(folder)
        names: list[str] = []
        split: list[str] = []
        texts, motions = [], []  # of each item
        for name, part in splits.items():
            motion_captions = described[name].captions or []
            if self.test_captions == "first" and part != "train":
                motion_captions = motion_captions[:1]
            for item, captions, frames in self._items(name, described[name], motion_captions):
                texts.append(captions)
                motions.append(None if frames is None else [frames])
                names.append(item)
                split.append(part)
        return self.read_items(
            {"text": lambda: Modality.of_each(texts), "motion": lambda: Modality.of_each(motions)},
            label=np.arange(len(names)),
            split=np.array(split),
            names=names,
            origin=str(folder),
        )

    def _official(self, folder: Path) -> tuple[dict[str, Described], dict[str, str]]:
        """Motions of the authors' form, and id -> split."""
        texts = require(folder / "texts")
        splits = read_splits(folder)
        described = {}
        for name in splits:
            source = texts / f"{name}.txt"
            captions = self.attempt(name, read_captions, source) if source.is_file() else None
            described[name] = Described(folder / self.features / f"{name}.npy", source, captions)
        return described, splits

    def _tmr(self, folder: Path) -> tuple[dict[str, Described], dict[str, str]]:
        """Motions of TMR's form, and id -> split."""
        source, motions = folder / "annotations.json", folder / self.features
        annotated = read_annotations(source, motions)
        splits = read_splits(folder / "splits")
        return {name: annotated.get(name, Described(motions / f"{name}.npy", source, [])) for name in splits}, splits

    def _items(
        self, name: str, described: Described, captions: list[Caption]
    ) -> list[tuple[str, list[str], np.ndarray | None]]:
        """The items that captions of a motion make: name, texts and frames, None where those are missing or broken."""
        parts: dict[tuple[float, float], list[str]] = {}
        for caption in captions:
            parts.setdefault((caption.start, caption.end), []).append(caption.text)
        items = []
        for (start, end), texts in parts.items() or [(described.whole, [])]:
            item = name if (start, end) == described.whole else f"{name}_{start:g}_{end:g}"
            frames = None
            if described.motion.is_file():
                frames = self.attempt(item, self._frames, described, start, end)
            items.append((item, texts, frames))
        return items

    def _frames(self, described: Described, start: float, end: float) -> np.ndarray:
        frames = read_motion(described.motion, self.width)
        if (start, end) == (0, 0):
            return frames
        part = frames[int(start * self.rate) : int(end * self.rate)]
        if not len(part):
            what = f"describes {start:g} s to {end:g} s of a motion of {len(frames) / self.rate:g} s"
            raise broken(described.source, f"{what}, {described.motion.stem}")
        return part


def read_splits(folder: Path) -> dict[str, str]:
    """Motion id -> split, in the order of the split files.

    Raises:
        DataError: a split file is missing, an id is listed twice, or a motion and its mirror image are in two splits.
    """
    lists = {part: folder / file for part, file in SPLIT_FILES.items()}
    listed = {path: [line.strip() for line in read_lines(path) if line.strip()] for path in lists.values()}
    refuse_repeated(listed)
    split = {name: part for part, path in lists.items() for name in listed[path]}
    for name, part in split.items():
        other = MIRRORED + name
        if split.get(other, part) != part:
            what = f"lists {other}, the mirror image of {name}, which the {part} part has"
            raise broken(lists[split[other]], f"{what}; expected both in one part")
    return split


def read_annotations(path: Path, motions: Path) -> dict[str, Described]:
    """Motion id -> its file and captions, of TMR's annotations.json.

    Args:
        path: the file.
        motions: the folder below which the paths of the motions are.

    Raises:
        DataError: the file is not JSON, or an entry is not what it should be.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise broken(path, "holds no JSON object with an entry")
    annotated = {}
    for name, entry in content.items():
        try:
            captions = [Caption(a["text"].strip(), float(a["start"]), float(a["end"])) for a in entry["annotations"]]
            motion = Described(motions / f"{Path(entry['path'])}.npy", path, captions, (0.0, float(entry["duration"])))
            fits = all(caption.text and 0 <= caption.start < caption.end < np.inf for caption in captions)
        except (AttributeError, KeyError, TypeError, ValueError):
            fits = False
        if not fits:
            expected = "path, duration and annotations with text, start and end in seconds"
            raise broken(path, f"entry {name} is {json.dumps(entry)[:160]}; expected {expected}")
        annotated[name] = motion
    return annotated


def read_captions(path: Path) -> list[Caption]:
    """Captions of one motion.

    Raises:
        DataError: the file is not text, or a line is not caption#tokens#start#end.
    """
    captions = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        text, *times = line.strip().rsplit("#", 3)
        try:
            start, end = (float(time) for time in times[1:])
        except ValueError:
            start = end = -1.0
        start, end = (0.0 if np.isnan(time) else time for time in (start, end))  # as published: no time is said
        if not text.strip() or not 0 <= start < np.inf or not 0 <= end < np.inf:
            what = f"line {number} is {line[:80]!r}; expected caption#tokens#start#end"
            raise broken(path, what)
        captions.append(Caption(text.strip(), start, end))
    return captions


def read_motion(path: Path, width: int) -> np.ndarray:
    """Frames of one motion, (T, width) float32.

    Raises:
        DataError: the file is not a .npy file of finite numbers of that shape, at least a frame long.
    """
    try:
        frames = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise broken(path, f"is not a readable .npy file ({type(error).__name__}: {error})") from error
    if frames.ndim != 2 or frames.shape[1] != width or not len(frames) or frames.dtype.kind != "f":
        what = f"has shape {frames.shape} and type {frames.dtype}; expected floating (T, {width}), T at least 1"
        raise broken(path, what)
    if not np.isfinite(frames).all():
        raise broken(path, "is NaN or infinite somewhere")
    return frames.astype(np.float32, copy=False)
