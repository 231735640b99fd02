"""Small features of one's own and their writers in every form: what the tests of own data share."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse
import torch

from datamodules import ItemSet, OwnData

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


def joined(parts: dict | None = None) -> dict[str, np.ndarray]:
    parts = parts or make_parts()
    arrays = {name: np.concatenate([part[name] for part in parts.values()]) for name in ("image", "text", "label")}
    return arrays | {"split": np.repeat(list(parts), [len(part["label"]) for part in parts.values()])}


def dump(folder: Path, name: str, value: object, protocol: int = 2) -> Path:
    file = folder / name
    file.write_bytes(pickle.dumps(value, protocol))
    return file


def write_jfse(folder: Path, parts: dict) -> Path:
    for split, part in parts.items():
        values = {"img_files": part["image"], "txt_files": list(part["text"]), "labels": np.eye(CLASSES)[part["label"]]}
        for name, value in values.items():
            dump(folder, f"{split}_{name}.pkl", value)
    return folder


def write_acmr(folder: Path, parts: dict) -> Path:
    for split, part in parts.items():
        values = {"img_feats": part["image"], "txt_vecs": list(part["text"]), "labels": (part["label"] + 1).tolist()}
        # The authors' folder holds lists of file names under the names of JFSE.
        names = [f"{i}.jpg" for i in range(len(part["label"]))]
        for name, value in (values | {"img_files": names, "txt_files": names}).items():
            dump(folder, f"{split}_{name}.pkl", value)
    return folder


def write_dscmr(folder: Path, parts: dict, label=lambda y: y[:, None] + 1.0) -> Path:
    for split, part in parts.items():
        for name, array in (("img", part["image"]), ("txt", part["text"]), ("img_lab", label(part["label"]))):
            scipy.io.savemat(folder / f"{split}_{name}.mat", {f"{split}_{name}": array})
    return folder


def write_npz(folder: Path, parts: dict) -> Path:
    np.savez(folder / "pairs.npz", **joined(parts))
    return folder / "pairs.npz"


def write_npy(folder: Path, parts: dict) -> Path:
    arrays = joined(parts)
    for name in ("image", "text", "label"):
        np.save(folder / f"{name}.npy", np.asfortranarray(arrays[name]).astype("f8" if name == "image" else None))
    (folder / "split.txt").write_text("\n".join(arrays["split"]) + "\n", encoding="utf-8")
    return folder


def write_views(folder: Path, parts: dict) -> Path:
    """As the authors of TMC publish views: one variable for each view and part."""
    arrays = {f"{n}_{s}": part[n] for s, part in parts.items() for n in ("image", "text")}
    labels = {f"gt_{split}": part["label"][:, None] + 1 for split, part in parts.items()}
    scipy.io.savemat(folder / "views.mat", arrays | labels)
    return folder / "views.mat"


def write_h5(folder: Path, parts: dict) -> Path:
    with h5py.File(folder / "features.h5", "w") as file:
        for split, part in parts.items():
            for name, array in part.items():
                file[f"{split}/{name}"] = array
    return folder / "features.h5"


def write_h5_groups(folder: Path, parts: dict) -> Path:
    arrays = joined(parts)
    with h5py.File(folder / "groups.h5", "w") as file:
        for name in ("image", "text"):
            file[f"features/{name}"] = arrays[name]
        file["label"] = arrays["label"]
        file["meta/split"] = [split.encode() for split in arrays["split"]]
    return folder / "groups.h5"


def write_torch(folder: Path, parts: dict) -> Path:
    tensors = {n: torch.from_numpy(x) if x.dtype.kind != "U" else x.tolist() for n, x in joined(parts).items()}
    torch.save(tensors, folder / "features.pt")
    return folder / "features.pt"


def write_pickle(folder: Path, parts: dict) -> Path:
    return dump(folder, "features.pkl", {n: x if x.dtype.kind != "U" else x.tolist() for n, x in joined(parts).items()})


def write_table(file: Path, parts: dict) -> Path:
    """A column of vectors per modality; in a .csv these are texts, or columns of numbers in features.csv."""
    arrays = joined(parts)
    frame = pd.DataFrame({n: list(x.astype(np.float64)) if x.ndim == 2 else x for n, x in arrays.items()})
    columns = {f"{n}_{d}": x for n in ("image", "text") for d, x in enumerate(arrays[n].T)}
    numbered = pd.DataFrame(columns | {n: arrays[n] for n in ("label", "split")})
    if file.suffix == ".parquet":
        (numbered if file.stem == "columns" else frame).to_parquet(file)
    elif file.suffix == ".jsonl":
        frame.to_json(file, orient="records", lines=True, double_precision=15)
    elif file.name == "lists.csv":
        frame.map(lambda cell: json.dumps(list(cell)) if isinstance(cell, np.ndarray) else cell).to_csv(
            file, index=False
        )
    else:
        numbered.to_csv(file, index=False)
    return file


def matlab73(file: Path, variables: Mapping[str, np.ndarray | list | dict | scipy.sparse.csc_array]) -> Path:
    """A file as MATLAB writes version 7.3: HDF5 behind a header, matrices transposed, cells as references.

    Structs are groups; so are sparse matrices, without data and rows where all is zero. Of an empty matrix there is the
    shape in place of values.
    """
    with h5py.File(file, "w", userblock_size=512) as opened:

        def put(name: str, value: np.ndarray | list | dict | str | scipy.sparse.csc_array) -> object:
            if isinstance(value, str):
                node = opened.create_dataset(name, data=np.array([[ord(c)] for c in value], dtype="u2"))
                node.attrs["MATLAB_class"] = np.bytes_("char")
            elif isinstance(value, list):
                refs = [put(f"#refs#/{name}{i}", x).ref for i, x in enumerate(value)]
                node = opened.create_dataset(name, data=np.array([refs], dtype=h5py.ref_dtype))
                node.attrs["MATLAB_class"] = np.bytes_("cell")
            elif isinstance(value, dict):
                node = opened.create_group(name)
                node.attrs["MATLAB_class"] = np.bytes_("struct")
                for field, x in value.items():
                    put(f"{name}/{field}", x)
            elif scipy.sparse.issparse(value):
                node = opened.create_group(name)
                node.attrs["MATLAB_class"], node.attrs["MATLAB_sparse"] = np.bytes_("double"), value.shape[0]
                node["jc"] = value.indptr
                if value.nnz:
                    node["data"], node["ir"] = value.data, value.indices
            elif not value.size:
                node = opened.create_dataset(name, data=value.shape)
                node.attrs["MATLAB_class"], node.attrs["MATLAB_empty"] = np.bytes_("double"), 1
            else:
                node = opened.create_dataset(name, data=np.atleast_2d(value).T)
                node.attrs["MATLAB_class"] = np.bytes_(
                    {"f4": "single", "f8": "double"}.get(value.dtype.str[1:], "int64")
                )
            return node

        for name, value in variables.items():
            put(name, value.tolist() if isinstance(value, np.ndarray) and value.dtype.kind == "U" else value)
    with file.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return file


def save(tmp_path: Path, drop: tuple[str, ...] = (), **changes: np.ndarray) -> Path:
    """An .npz file of the parts above with some arrays left out, changed or added."""
    arrays = {name: array for name, array in (joined() | changes).items() if name not in drop}
    np.savez(tmp_path / "pairs.npz", **arrays)
    return tmp_path / "pairs.npz"


def read(path: Path, **settings) -> ItemSet:
    return OwnData(path, **settings).data


LAYOUTS = {"jfse": write_jfse, "acmr": write_acmr, "dscmr": write_dscmr}
WRITERS = LAYOUTS | {
    "npz": write_npz,
    "npy": write_npy,
    "mat": write_views,
    "mat 7.3": lambda folder, parts: matlab73(folder / "new.mat", joined(parts)),
    "h5": write_h5,
    "h5 of groups": write_h5_groups,
    "pt": write_torch,
    "pkl": write_pickle,
    "parquet": lambda folder, parts: write_table(folder / "features.parquet", parts),
    "csv": lambda folder, parts: write_table(folder / "features.csv", parts),
    "parquet of columns": lambda folder, parts: write_table(folder / "columns.parquet", parts),
    "csv of lists": lambda folder, parts: write_table(folder / "lists.csv", parts),
    "jsonl": lambda folder, parts: write_table(folder / "features.jsonl", parts),
}
