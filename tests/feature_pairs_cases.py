"""Small image-text pairs and their writers in every published layout: what the tests of feature files share."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import scipy.io

CLASSES, TRAIN, TEST = 3, 9, 6
ROWS = {"train": TRAIN, "test": TEST}


def make_parts(seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Image, text and label of each split; every class occurs in both."""
    rng = np.random.default_rng(seed)
    return {
        split: {
            "image": rng.standard_normal((rows, 5)).astype(np.float32),
            "text": rng.standard_normal((rows, 4)).astype(np.float32),
            "label": rng.permutation(np.arange(rows) % CLASSES),
        }
        for split, rows in ROWS.items()
    }


def dump(folder: Path, name: str, value: object, protocol: int = 2) -> Path:
    file = folder / name
    file.write_bytes(pickle.dumps(value, protocol))
    return file


def write_pickles(folder: Path, parts: dict, image: str, text: str, label=lambda x: x) -> None:
    for split, part in parts.items():
        dump(folder, f"{split}_{image}.pkl", part["image"])
        dump(folder, f"{split}_{text}.pkl", list(part["text"]))
        dump(folder, f"{split}_labels.pkl", label(part["label"]))


def write_jfse(folder: Path, parts: dict) -> None:
    write_pickles(folder, parts, "img_files", "txt_files", lambda label: np.eye(CLASSES)[label])


def write_acmr(folder: Path, parts: dict) -> None:
    write_pickles(folder, parts, "img_feats", "txt_vecs", lambda label: (label + 1).tolist())
    for split, part in parts.items():  # the authors' folder holds lists of file names under the names of JFSE
        for modality in ("img", "txt"):
            dump(folder, f"{split}_{modality}_files.pkl", [f"{i}.jpg" for i in range(len(part["label"]))])


def write_dscmr(folder: Path, parts: dict) -> None:
    for split, part in parts.items():
        for name, array in (("img", part["image"]), ("txt", part["text"]), ("img_lab", part["label"][:, None] + 1.0)):
            scipy.io.savemat(folder / f"{split}_{name}.mat", {f"{split}_{name}": array})


def joined(parts: dict) -> dict[str, np.ndarray]:
    arrays = {name: np.concatenate([part[name] for part in parts.values()]) for name in ("image", "text", "label")}
    return arrays | {"split": np.repeat(list(parts), [len(part["label"]) for part in parts.values()])}


def write_npz(folder: Path, parts: dict) -> None:
    np.savez(folder / "pairs.npz", **joined(parts))


def save(tmp_path: Path, drop: tuple[str, ...] = (), **changes: np.ndarray) -> Path:
    """An .npz file of the parts above with some arrays left out, changed or added."""
    arrays = {name: array for name, array in (joined(make_parts()) | changes).items() if name not in drop}
    np.savez(tmp_path / "pairs.npz", **arrays)
    return tmp_path / "pairs.npz"


WRITERS = {"jfse": write_jfse, "acmr": write_acmr, "dscmr": write_dscmr, "npz": write_npz}
