"""HumanML3D (Guo et al., CVPR 2022) and KIT-ML in its layout: motions of people with captions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from datamodules.datasets import DATASETS
from datamodules.datasets.on_disk import OnDisk
from datamodules.errors import check_choice
from datamodules.files.array_files import load_numpy, numbers
from datamodules.files.text import SPLITS, broken, parse_lines, parsed, read_json, read_split, require, text
from datamodules.items import ItemSet, Modality

# What the id of a mirrored motion begins with.
MIRRORED = "M"
# Data set -> numbers per frame, and frames per second of the caption times.
WIDTH = {"humanml3d": 263, "kit_ml": 251}
RATE = {"humanml3d": 20.0, "kit_ml": 12.5}
# In TMR's form motions of both data sets are described as those of HumanML3D are.
FEATURES = {"official": "new_joint_vecs", "tmr": "guoh3dfeats"}


class Caption(NamedTuple):
    """A caption and the part of the motion that it describes, in seconds; (0, 0) is the whole motion."""

    text: str
    start: float
    end: float


class Described(NamedTuple):
    """A motion: its file, the file that has its captions, these, and the times that mean the whole motion.

    There are no captions where they are missing or cannot be read.
    """

    motion: Path
    source: Path
    captions: Sequence[Caption] = ()
    whole: tuple[float, float] = (0.0, 0.0)


class HumanML3D(OnDisk):
    """Captions and motions in the published splits; mirrored motions (M...) are items of their own, as published.

    An item is a motion with its captions. A caption with times describes a part of the motion; that part is an item of
    its own, called <id>_<start>_<end>. Motions are neither cut nor padded, none is left out by its length, and none
    is standardised: Mean.npy and Std.npy are not read.

    A motion and its mirror image are in one split. Made with its authors' scripts, HumanML3D is known to have NaN in
    007975 and M007975: `on_broken="drop"` leaves such items out.

    TMR itself leaves annotations shorter than 2 s or longer than 10 s out of training and validation, and takes the
    first annotation of a motion in test, as test_captions "first".

    Args:
        data_root: see OnDisk.
        dataset: "humanml3d" (263 numbers per frame, 20 frames per second) or "kit_ml" (251, 12.5).
        annotations: "official": the authors' form. "tmr": TMR's.
        test_captions: "all", or "first": of a validation or test motion the first caption alone, as TMR takes it, so
            that every gallery of its protocols is defined.
        **kwargs: see RetrievalData.
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
        motions = require(folder / self.features)
        if self.annotations == "tmr":
            source = folder / "annotations.json"
            annotated, splits = read_annotations(source, motions), read_splits(folder / "splits")
            found = {name: annotated.get(name, Described(motions / f"{name}.npy", source)) for name in splits}
        else:
            texts, splits = require(folder / "texts"), read_splits(folder)
            found = {name: self._official(name, motions, texts) for name in splits}
        items = [(*item, part) for name, part in splits.items() for item in self._items(name, part, found[name])]
        names, captions, frames, split = zip(*items, strict=True)
        readers = {"text": lambda: Modality.of_each(captions), "motion": lambda: Modality.of_each(frames)}
        return self.items(readers, names, split)

    def _official(self, name: str, motions: Path, texts: Path) -> Described:
        source = texts / f"{name}.txt"
        captions = None
        if source.is_file():
            captions = self.attempt(name, parse_lines, source, _caption, "caption#tokens#start#end", True)
        return Described(motions / f"{name}.npy", source, captions or ())

    def _items(self, name: str, part: str, described: Described) -> list[tuple[str, list[str], list[np.ndarray]]]:
        """The items that captions of a motion make: name, texts and frames, none where those are missing or broken."""
        last = 1 if self.test_captions == "first" and part != "train" else None
        spans: dict[tuple[float, float], list[str]] = {}
        for caption, *span in described.captions[:last]:
            spans.setdefault(tuple(span), []).append(caption)
        items = []
        for span, texts in spans.items() or [(described.whole, [])]:
            item = name if span == described.whole else f"{name}_{span[0]:g}_{span[1]:g}"
            there = described.motion.is_file()
            frames = self.attempt(item, self._frames, described, *span) if there else None
            items.append((item, texts, [] if frames is None else [frames]))
        return items

    def _frames(self, described: Described, start: float, end: float) -> np.ndarray:
        found = load_numpy(described.motion)
        frames = numbers(described.motion, "the motion", found, (None, self.width), "f").astype(np.float32, copy=False)
        if (start, end) == (0, 0):
            return frames
        part = frames[int(start * self.rate) : int(end * self.rate)]
        if not len(part):
            what = f"describes {start:g} s to {end:g} s of a motion of {len(frames) / self.rate:g} s"
            raise broken(described.source, f"{what}, {described.motion.stem}")
        return part


def read_splits(folder: Path) -> dict[str, str]:
    """Motion id -> split, in the order of the split files; a motion and its mirror image must be in one."""
    lists = {part: folder / f"{word}.txt" for word, part in SPLITS.items()}
    split = read_split(lists)
    for name, part in split.items():
        other = MIRRORED + name
        if split.get(other, part) != part:
            what = f"lists {other}, the mirror image of {name}, which the {part} part has"
            raise broken(lists[split[other]], f"{what}; expected both in one part")
    return split


def read_annotations(path: Path, motions: Path) -> dict[str, Described]:
    """Motion id -> its file and captions, of TMR's annotations.json; paths in it are below the folder of motions."""
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise broken(path, "holds no JSON object with an entry")

    def described(entry: dict[str, Any]) -> Described:
        captions = [Caption(text(a["text"]), float(a["start"]), float(a["end"])) for a in entry["annotations"]]
        if not all(0 <= caption.start < caption.end < np.inf for caption in captions):
            raise ValueError("no part of a motion")
        return Described(motions / f"{Path(entry['path'])}.npy", path, captions, (0.0, float(entry["duration"])))

    expected = "path, duration and annotations with text, start and end in seconds"
    return {name: parsed(path, f"entry {name}", entry, described, expected) for name, entry in content.items()}


def _caption(line: str) -> Caption:
    caption, _, *times = line.strip().rsplit("#", 3)
    start, end = (0.0 if np.isnan(time) else time for time in map(float, times))  # as published: no time is said
    if not (0 <= start < np.inf and 0 <= end < np.inf):
        raise ValueError("no time")
    return Caption(text(caption), start, end)
