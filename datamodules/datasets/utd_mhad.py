"""UTD-MHAD (Chen et al., ICIP 2015): 27 actions by 8 subjects as text, depth video, skeleton motion, inertial data."""

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.datasets import DATASETS
from datamodules.datasets.on_disk import OnDisk
from datamodules.errors import check_choice
from datamodules.files.array_files import load_matlab, load_numpy, numbers
from datamodules.files.text import broken, names_in, require
from datamodules.items import ItemSet, Modality

MODALITIES = ("text", "video", "motion", "inertial")
# Further modalities that are parts of one of these: the modality, and which of its joints or channels. Of the joints
# (Skeleton_joint_order.txt) 0 to 2 are head, shoulder centre and spine, 3 the hip centre, 4 to 11 arms, 12 to 19 legs.
PARTS = {
    "upper_body": ("motion", (0, 1, 2, *range(4, 12))),
    "lower_body": ("motion", (3, *range(12, 20))),
    "accelerometer": ("inertial", (0, 1, 2)),
    "gyroscope": ("inertial", (3, 4, 5)),
}
CLASSES = 27
REDUCED = "utd_mhad_depth_skeleton_inertial_16f.npz"
CLIP = re.compile(r"a(\d+)_s(\d+)_t\d+")
# Third joint of a skeleton ("spine" in Skeleton_joint_order.txt), the origin of every frame in the reduced file.
ORIGIN_JOINT = 2
# Depth is in millimetres; the reduced file has blocks of 8 x 8 pixels in units of four metres.
BLOCK, DEPTH_UNIT = 8, 4000.0


def reduce_depth(depth: np.ndarray) -> np.ndarray:
    """(240, 320, T) millimetres to (T, 30, 40): means over blocks of pixels, in units of four metres."""
    rows, columns, steps = depth.shape
    blocks = np.moveaxis(depth, 2, 0).reshape(steps, rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    return blocks.mean(axis=(2, 4), dtype=np.float64) / DEPTH_UNIT


def centre_skeleton(skeleton: np.ndarray) -> np.ndarray:
    """(20, 3, T) metres to (T, 20, 3), relative to the spine joint of each frame."""
    frames = np.moveaxis(skeleton, 2, 0)
    return frames - frames[:, ORIGIN_JOINT : ORIGIN_JOINT + 1]


# Modality -> its array in the reduced file, and the shape of a clip in it.
REDUCED_ARRAYS = {
    "video": ("depth30x40", (16, 30, 40)),
    "motion": ("skeleton", (16, 20, 3)),
    "inertial": ("inertial", (32, 6)),
}
# Modality -> folder, ending of the file name, variable, its shape (None: any length), and what is made of it.
RAW: dict[str, tuple[str, str, str, tuple[int | None, ...], Callable[[np.ndarray], np.ndarray]]] = {
    "video": ("Depth", "_depth.mat", "d_depth", (240, 320, None), reduce_depth),
    "motion": ("Skeleton", "_skeleton.mat", "d_skel", (20, 3, None), centre_skeleton),
    "inertial": ("Inertial", "_inertial.mat", "d_iner", (None, 6), np.asarray),
}


class UTDMHAD(OnDisk):
    """UTD-MHAD: 861 clips of 27 actions; odd subjects train and validate (431 clips), even subjects test (430).

    An item is a clip; clips of one action match each other. Skeletons are relative to the spine joint of their frame,
    in metres; depth frames are means over 8 x 8 pixels (missing depth counts as 0) in units of 4 m; inertial data are
    acceleration (g) and angular velocity (degrees per second).

    For more than four modalities a recording may be taken in parts: `upper_body` (11 joints) and `lower_body` (9) of
    the motion, `accelerometer` and `gyroscope` (3 channels each) of the inertial data. They are read only where
    ``modalities`` names them.

    Args:
        data_root: see OnDisk.
        features: "16f": clips reduced to 16 frames, motion (16, 20, 3), video (16, 30, 40), inertial (32, 6), from
            one .npz file. "raw": every frame of the published files, motion (T, 20, 3), video (T, 30, 40), inertial
            (T', 6); of a clip without a file that modality is missing.
        validation_fraction: share of the four training subjects held out for validation, in whole subjects.
        **kwargs: see RetrievalData.
    """

    declaration = DATASETS["utd_mhad"]
    test_split = "cross-subject"

    def __init__(
        self,
        data_root: str | Path | None = None,
        features: Literal["16f", "raw"] = "16f",
        validation_fraction: float = 0.25,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_root, validation_fraction=validation_fraction, **kwargs)
        check_choice("features", features, ("16f", "raw"))
        self.features = features

    def read(self) -> ItemSet:
        """Read the class names and either the reduced file or the published ones."""
        folder = self.folder
        wanted = MODALITIES if self.chosen is None else self.wanted((*MODALITIES, *PARTS))
        phrases = names_in(folder / "class_names.txt")
        if len(phrases) != CLASSES:
            raise broken(folder / "class_names.txt", f"has {len(phrases)} phrases; expected {CLASSES}, one per line")
        origin = folder / REDUCED if self.features == "16f" else folder
        sources = [PARTS[name][0] if name in PARTS else name for name in wanted]
        names, modalities = read_reduced(origin) if self.features == "16f" else self._read_raw(folder, sources)
        action, subject = np.array([_clip(name, origin) for name in names]).reshape(-1, 2).T
        modalities["text"] = Modality([phrases[a - 1] for a in action])
        for name in set(wanted) & set(PARTS):
            source, columns = PARTS[name]
            whole = modalities[source]
            taken = [entry[:, columns] for entry in whole.entries]
            stacked = isinstance(whole.entries, np.ndarray)
            modalities[name] = Modality(np.stack(taken) if stacked else taken, whole.owner, whole.rate)
        readers = {name: partial(modalities.get, name) for name in (*MODALITIES, *PARTS) if name in modalities}
        split, others = np.where(subject % 2 == 1, "train", "test"), {"group": subject, "class_names": phrases}
        return self.items(readers, names, split, action - 1, origin=str(origin), **others)

    def _read_raw(self, folder: Path, wanted: Iterable[str]) -> tuple[list[str], dict[str, Modality]]:
        files = {}
        for name, (where, ending, *_) in RAW.items():
            if name in wanted:
                found = require(folder / where).glob(f"*{ending}")
                files[name] = {path.name.removesuffix(ending): path for path in found}
                if not files[name]:
                    raise broken(folder / where, f"holds no file *{ending}")
        names = sorted(set().union(*files.values()))
        modalities = {}
        for name, paths in files.items():
            clips = [self.attempt(clip, read_clip, paths[clip], name) if clip in paths else None for clip in names]
            modalities[name] = Modality.of_each([None if clip is None else [clip] for clip in clips])
        return names, modalities


def _clip(name: str, origin: Path) -> tuple[int, int]:
    """Action 1..27 and subject 1..8 that a clip's name says."""
    match = CLIP.fullmatch(name)
    action, subject = map(int, match.groups()) if match else (0, 0)
    if not (1 <= action <= CLASSES and 1 <= subject <= 8):
        raise broken(origin, f"has a clip called {name!r}; expected a1_s1_t1 to a27_s8_t4")
    return action, subject


def read_reduced(path: Path) -> tuple[list[str], dict[str, Modality]]:
    """Clip names and the three recorded modalities of the reduced file, whose labels must be those its names say."""
    arrays = load_numpy(path)
    named = arrays.get("name", np.arange(0))
    if named.ndim != 1 or named.dtype.kind != "U":
        raise broken(path, f"name has shape {named.shape} and type {named.dtype}; expected the names of the clips")
    names = named.tolist()
    label, subject = (numbers(path, name, arrays.get(name), (len(names),)) for name in ("label", "subject"))
    for name, *found in zip(names, label.tolist(), subject.tolist(), strict=True):
        if tuple(found) != _clip(name, path):
            raise broken(path, f"gives clip {name} label and subject {tuple(found)}")
    modalities = {}
    for modality, (array, shape) in REDUCED_ARRAYS.items():
        values = numbers(path, array, arrays.get(array), (len(names), *shape), kinds="f")
        modalities[modality] = Modality(values.astype(np.float32))
    return names, modalities


def read_clip(path: Path, modality: str) -> np.ndarray:
    """One published file as a sequence of float32, at least a step long."""
    *_, variable, shape, convert = RAW[modality]
    found = load_matlab(path, variable_names=[variable]).get(variable)
    if np.ndim(found) == 2 and len(shape) == 3:
        found = found[..., None]  # MATLAB writes one frame without the last axis
    return convert(numbers(path, variable, found, shape)).astype(np.float32)
