"""HumanML3D (Guo et al., CVPR 2022) and KIT-ML in its layout: motions of people with captions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.items import ItemSet, Modality
from datamodules.layouts import broken, find_folder, read_lines, require
from datamodules.multimodal import ItemDataModule

MODALITIES = ("text", "motion")
SPLIT_FILES = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}


@dataclass(frozen=True)
class MotionSet:
    """What differs between the two data sets: numbers per frame, and frames per second of the caption times."""

    width: int
    rate: float


MOTION_SETS = {"humanml3d": MotionSet(263, 20.0), "kit_ml": MotionSet(251, 12.5)}


@dataclass(frozen=True)
class Caption:
    """A caption and the part of the motion that it describes, in seconds; (0, 0) is the whole motion."""

    text: str
    start: float
    end: float


class HumanML3D(ItemDataModule):
    """Captions and motions in the published splits; mirrored motions (M...) are items of their own, as published.

    An item is a motion with its captions. A caption with times describes a part of the motion; that part is an item of
    its own, called <id>_<start>_<end>. Motions are neither cut nor padded, none is left out by its length, and none
    is standardised: Mean.npy and Std.npy are not read.

    Args:
        data_root: folder that holds `HumanML3D/` or `KIT-ML/`; by default the environment variable CSD_DATA, else
            `data/`.
        dataset: "humanml3d" (263 numbers per frame, 20 frames per second) or "kit_ml" (251, 12.5).
        **kwargs: see ItemDataModule.

    Raises:
        ValueError: an argument outside its range.
        DataError: on first use, if a file is missing or is not what it should be.
    """

    features = "new_joint_vecs"
    data_kind = "real"
    test_split = "standard"

    def __init__(
        self,
        data_root: str | Path | None = None,
        dataset: Literal["humanml3d", "kit_ml"] = "humanml3d",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if dataset not in MOTION_SETS:
            raise ValueError(f"dataset is {dataset!r}; expected {' or '.join(map(repr, MOTION_SETS))}.")
        self.data_root = data_root
        self.dataset = dataset

    def read(self) -> ItemSet:
        """Read every motion and caption file that the split files list."""
        folder = find_folder(self.dataset, self.data_root)
        wanted = self.wanted(MODALITIES)
        for part in ("new_joint_vecs", "texts"):
            require(folder / part, self.dataset)
        names: list[str] = []
        split: list[str] = []
        text, motion = ([], []), ([], [])  # entries and their items
        for name, part in read_splits(folder, self.dataset).items():
            for item, captions, frames in self._items(folder, name):
                text[0].extend(captions)
                text[1].extend([len(names)] * len(captions))
                if frames is not None:
                    motion[0].append(frames)
                    motion[1].append(len(names))
                names.append(item)
                split.append(part)
        modalities = {
            name: Modality(entries, np.array(owner, dtype=np.int64))
            for name, (entries, owner) in zip(MODALITIES, (text, motion), strict=True)
        }
        return ItemSet(
            {name: modalities[name] for name in wanted},
            label=np.arange(len(names)),
            split=np.array(split),
            names=names,
            origin=str(folder),
        )

    def _items(self, folder: Path, name: str) -> list[tuple[str, list[str], np.ndarray | None]]:
        """The items that one motion makes: name, captions and frames, None where they are missing or broken."""
        text, motion = folder / "texts" / f"{name}.txt", folder / "new_joint_vecs" / f"{name}.npy"
        captions = self.attempt(name, read_captions, text, self.dataset) if text.is_file() else None
        parts: dict[tuple[float, float], list[str]] = {}
        for caption in captions or ():
            parts.setdefault((caption.start, caption.end), []).append(caption.text)
        items = []
        for (start, end), texts in parts.items() or [((0, 0), [])]:
            item = name if (start, end) == (0, 0) else f"{name}_{start:g}_{end:g}"
            frames = self.attempt(item, self._frames, motion, start, end, text) if motion.is_file() else None
            items.append((item, texts, frames))
        return items

    def _frames(self, motion: Path, start: float, end: float, text: Path) -> np.ndarray:
        frames = read_motion(motion, self.dataset)
        if (start, end) == (0, 0):
            return frames
        rate = MOTION_SETS[self.dataset].rate
        part = frames[int(start * rate) : int(end * rate)]
        if not len(part):
            what = f"describes {start:g} s to {end:g} s of a motion of {len(frames) / rate:g} s"
            raise broken(text, what, self.dataset)
        return part


def read_splits(folder: Path, dataset: str) -> dict[str, str]:
    """Motion id -> split, in the order of the split files.

    Raises:
        DataError: a split file is missing, or an id is listed twice.
    """
    split: dict[str, str] = {}
    for part, file in SPLIT_FILES.items():
        for line in read_lines(folder / file, dataset):
            name = line.strip()
            if name in split:
                raise broken(folder / file, f"lists {name}, which the {split[name]} part has already", dataset)
            if name:
                split[name] = part
    return split


def read_captions(path: Path, dataset: str) -> list[Caption]:
    """Captions of one motion.

    Raises:
        DataError: the file is not text, or a line is not caption#tokens#start#end.
    """
    captions = []
    for number, line in enumerate(read_lines(path, dataset), start=1):
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
            raise broken(path, what, dataset)
        captions.append(Caption(text.strip(), start, end))
    return captions


def read_motion(path: Path, dataset: str) -> np.ndarray:
    """Frames of one motion, (T, width) float32.

    Raises:
        DataError: the file is not a .npy file of finite numbers of that shape, at least a frame long.
    """
    width = MOTION_SETS[dataset].width
    try:
        frames = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise broken(path, f"is not a readable .npy file ({type(error).__name__}: {error})", dataset) from error
    if frames.ndim != 2 or frames.shape[1] != width or not len(frames) or frames.dtype.kind != "f":
        what = f"has shape {frames.shape} and type {frames.dtype}; expected floating (T, {width}), T at least 1"
        raise broken(path, what, dataset)
    if not np.isfinite(frames).all():
        raise broken(path, "is NaN or infinite somewhere", dataset)
    return frames.astype(np.float32, copy=False)
