"""Readers of paired image-text features in the layouts in which they are published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.array_files import decoding, load_mat, load_pickle
from datamodules.extracted_features import read_extracted
from datamodules.features import DataError, DataMissing, FeatureSet
from datamodules.splits import carve_validation

NPZ_REQUIRED = ("image", "text", "label")
UNPAIRED = "unpaired_"
NPZ_OPTIONAL = ("split", "class_names", "class_embedding", f"{UNPAIRED}image", f"{UNPAIRED}text")
WITHOUT_PARTNER = f"; samples without a partner go into {UNPAIRED}image and {UNPAIRED}text of an .npz file"
CLASS_EMBEDDING_FILE = "train_attribute.pkl"


class Layout(NamedTuple):
    """Folder of one image, text and label file per split; `{}` stands for train or test."""

    name: str
    image: str
    text: str
    label: str
    load: Callable[[Path], np.ndarray]

    def files(self) -> list[str]:
        return [name.format(split) for split in ("train", "test") for name in (self.image, self.text, self.label)]


# ACMR stands before JFSE: its folders also hold *_img_files.pkl, there lists of file names instead of features.
LAYOUTS = (
    Layout("ACMR pickles", "{}_img_feats.pkl", "{}_txt_vecs.pkl", "{}_labels.pkl", load_pickle),
    Layout("JFSE pickles", "{}_img_files.pkl", "{}_txt_files.pkl", "{}_labels.pkl", load_pickle),
    Layout("DSCMR .mat", "{}_img.mat", "{}_txt.mat", "{}_img_lab.mat", load_mat),
)
ACCEPTED = "Accepted: an .npz file with image, text and label; a .safetensors file of `extract`; folders: " + "; ".join(
    f"{layout.name} ({', '.join(layout.files())})" for layout in LAYOUTS
)


def read_feature_pairs(path: str | Path, test_fraction: float = 0.2, split_seed: int = 0) -> FeatureSet:
    """Read image-text features; what lies at `path` decides the layout.

    Accepted are an .npz file (`read_npz`), a file of `extract` (`read_extracted`), a folder with one of either, and
    folders in the layouts of ACMR, JFSE and DSCMR (`read_folder`). One-hot labels become integers; those from 1 on
    start at 0.

    Args:
        path: file or folder.
        test_fraction: share of test items, used where an .npz brings no split.
        split_seed: seed of that split.

    Raises:
        ValueError: test_fraction is not between 0 and 1.
        DataError: nothing readable at `path`, several layouts at once, a missing or damaged file, an unexpected array.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction is {test_fraction}; expected a share between 0 and 1.")
    source = find_source(path)
    if source.is_dir():
        return read_folder(source, _layout(source))
    if source.suffix == ".safetensors":
        return read_extracted(source)
    return read_npz(source, test_fraction, split_seed)


def find_source(path: str | Path) -> Path:
    """The one file of features that lies at a path, or the folder itself where it has a layout of separate files.

    Raises:
        DataMissing: a folder without features.
        DataError: nothing is there, or another kind of file, several data sets or a part of one.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        source = _layout(path)
        return path if isinstance(source, Layout) else source
    if not path.is_file():
        raise DataError(f"{path}: does not exist. {ACCEPTED}.")
    if path.suffix not in (".npz", ".safetensors"):
        raise DataError(f"{path}: not an .npz file. {ACCEPTED}.")
    return path


def brings_split(source: Path) -> bool:
    """Whether the data say which items are for test: all do but an .npz file without split."""
    return source.suffix != ".npz" or "split" in _npz_arrays(source)


def _layout(folder: Path) -> Layout | Path:
    present = {file.name for file in folder.iterdir()}
    complete = {layout.label: layout for layout in reversed(LAYOUTS) if present.issuperset(layout.files())}
    sources = [*complete.values(), *sorted(folder.glob("*.npz")), *sorted(folder.glob("*.safetensors"))]
    if len(sources) == 1:
        return sources[0]
    if sources:
        names = ", ".join(source.name for source in sources)
        raise DataError(f"{folder}: holds several data sets ({names}); name one file or keep one layout.")
    nearest = max(LAYOUTS, key=lambda layout: len(present.intersection(layout.files())))
    missing = [name for name in nearest.files() if name not in present]
    if len(missing) == len(nearest.files()):
        raise DataMissing(f"{folder}: holds no features in a known layout. {ACCEPTED}.")
    raise DataError(f"{folder}: looks like {nearest.name} but lacks {', '.join(missing)}; add them. {ACCEPTED}.")


def read_folder(folder: Path, layout: Layout) -> FeatureSet:
    """Read a folder of separate training and test files, and the class embeddings of JFSE where they lie beside them.

    `train_attribute.pkl` holds one class embedding per training item; it is reduced to one per class. Where a class
    has no training item, or items have several classes, the set has no class embedding.

    Raises:
        DataError: a damaged file, an array of the wrong shape, files of one split with different row counts, or
            different class embeddings within one class.
    """
    parts: dict[str, list[np.ndarray]] = {"image": [], "text": [], "label": []}
    for split in ("train", "test"):
        files = {role: folder / getattr(layout, role).format(split) for role in parts}
        for role, file in files.items():
            array = layout.load(file)
            parts[role].append(array if role == "label" else _matrix(array, file))
            _check_rows(array, file, parts["image"][-1], files["image"], WITHOUT_PARTNER)
    for role, (train, test) in parts.items():
        if train.shape[1:] != test.shape[1:] or (train.dtype.kind in "SU") != (test.dtype.kind in "SU"):
            raise DataError(
                f"{folder}: {role} is {train.dtype} of shape {train.shape} in training but {test.dtype} of shape "
                f"{test.shape} in test; only the number of rows may differ."
            )
    label, class_names = _class_labels(np.concatenate(parts["label"]), str(folder))
    rows = [len(part) for part in parts["label"]]
    file = folder / CLASS_EMBEDDING_FILE
    return FeatureSet(
        features={role: np.concatenate(parts[role]) for role in ("image", "text")},
        label=label,
        split=np.repeat(["train", "test"], rows),
        class_names=class_names,
        origin=str(folder),
        class_embedding=_class_embedding(file, label[: rows[0]], len(class_names)) if file.exists() else None,
    )


def read_npz(file: Path, test_fraction: float = 0.2, split_seed: int = 0) -> FeatureSet:
    """Read one .npz file: image (N, d), text (N, e) and label, and what else of `NPZ_OPTIONAL` it holds.

    Args:
        file: label is (N,) integers, (N,) class names, or (N, C) Booleans or zeros and ones; split (N,) is train,
            validation or test; class_names (C,) text; class_embedding (C, E); unpaired_image (n, d) and unpaired_text
            (m, e), samples of one modality to train on, without partner, label or split.
        test_fraction: share of test items where the file has no split, between 0 and 1, drawn class by class.
        split_seed: seed of that split.

    Raises:
        DataError: a damaged file, a missing or unknown array, an array of the wrong type or shape.
    """
    arrays = _npz_arrays(file)
    others = ("label", "split", "class_names")
    matrices = {name: _matrix(array, f"{file}, {name}") for name, array in arrays.items() if name not in others}
    _check_rows(matrices["text"], f"{file}: text", matrices["image"], "image", WITHOUT_PARTNER)
    names = _text(arrays["class_names"], file, "class_names") if "class_names" in arrays else None
    label, class_names = _class_labels(arrays["label"], f"{file}, label", names)
    split = arrays.get("split")
    return FeatureSet(
        features={name: matrices[name] for name in ("image", "text")},
        label=label,
        split=_draw_split(label, test_fraction, split_seed) if split is None else _text(split, file, "split"),
        class_names=class_names,
        origin=str(file),
        class_embedding=matrices.get("class_embedding"),
        unpaired={name.removeprefix(UNPAIRED): rows for name, rows in matrices.items() if name.startswith(UNPAIRED)},
    )


def _npz_arrays(file: Path) -> dict[str, np.ndarray]:
    with decoding(file, "an .npz file of plain arrays"), np.load(file, allow_pickle=False) as archive:
        missing = [name for name in NPZ_REQUIRED if name not in archive.files]
        if missing:
            raise DataError(f"{file}: holds {', '.join(archive.files) or 'no array'}; add {', '.join(missing)}.")
        unknown = [name for name in archive.files if name not in NPZ_REQUIRED + NPZ_OPTIONAL]
        if unknown:
            raise DataError(
                f"{file}: unknown array {', '.join(unknown)}; FeaturePairs takes two modalities, as "
                f"{', '.join(NPZ_REQUIRED)} and optionally {', '.join(NPZ_OPTIONAL)}. Rename or remove it; three "
                "modalities and more take a data module of your own, a subclass of datamodules.ItemDataModule."
            )
        return {name: archive[name] for name in archive.files}


def _matrix(array: np.ndarray, subject: object) -> np.ndarray:
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise DataError(
            f"{subject}: holds {array.dtype} of shape {array.shape}; expected numbers of shape (rows, dimension)."
        )
    with np.errstate(over="ignore"):  # FeatureSet reports the infinite value
        return array.astype(np.float32)


def _text(array: np.ndarray, file: object, name: str) -> np.ndarray:
    if array.ndim != 1 or array.dtype.kind not in "SU":
        raise DataError(f"{file}: {name} holds {array.dtype} of shape {array.shape}; expected a list of texts.")
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


def _check_rows(
    array: np.ndarray, name: object, reference: np.ndarray, reference_name: object, advice: str = ""
) -> None:
    if array.ndim == 0 or len(array) != len(reference):
        rows = len(array) if array.ndim else "no"
        raise DataError(
            f"{name}: has {rows} rows but {reference_name} has {len(reference)}; row i of both must be the same "
            f"item{advice}."
        )


def _class_labels(raw: np.ndarray, origin: str, names: np.ndarray | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Integers in 0..C-1 or a Boolean (N, C) matrix, and the class names, from any label form."""
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if raw.ndim not in (1, 2) or 0 in raw.shape or raw.dtype.kind not in "biufSU":
        raise _bad_labels(raw, origin)
    if raw.dtype.kind in "SU":
        label, found = _named_labels(_text(raw, origin, "label"), origin, names)
    elif raw.ndim == 2:
        label, found = _matrix_labels(raw, origin, names), [f"class {c}" for c in range(raw.shape[1])]
    else:
        label, found = _integer_labels(raw, origin, names)
    return label, tuple(found if names is None else names.tolist())


def _bad_labels(raw: np.ndarray, origin: str) -> DataError:
    return DataError(
        f"{origin}: labels are {raw.dtype} of shape {raw.shape}; expected class numbers 0..C-1 or names "
        "of shape (N,), or zeros and ones of shape (N, C). Write them in one of these forms."
    )


def _integer_labels(raw: np.ndarray, origin: str, names: np.ndarray | None) -> tuple[np.ndarray, list[str]]:
    if not np.isfinite(raw).all() or (raw != np.round(raw)).any():
        raise _bad_labels(raw, origin)
    low, high = int(raw.min()), int(raw.max())
    if low < 0 or high > len(raw):
        raise DataError(f"{origin}: labels of {len(raw)} items run from {low} to {high}; number the classes 0..C-1.")
    first = int(low == 1 and (names is None or high == len(names)))
    if first:
        rank_zero_info(f"{origin}: labels start at 1; shifted to start at 0.")
    return raw.astype(np.int64) - first, [f"class {c}" for c in range(first, high + 1)]


def _matrix_labels(raw: np.ndarray, origin: str, names: np.ndarray | None) -> np.ndarray:
    if not np.isin(raw, (0, 1)).all() or (names is not None and len(names) != raw.shape[1]):
        classes = "one column per class" if names is None else f"one column for each of {len(names)} class_names"
        raise DataError(f"{origin}: the matrix of shape {raw.shape} may hold zeros and ones only, {classes}.")
    member = raw.astype(bool)
    return np.nonzero(member)[1] if (member.sum(axis=1) == 1).all() else member


def _named_labels(raw: np.ndarray, origin: str, names: np.ndarray | None) -> tuple[np.ndarray, list[str]]:
    found = (np.unique(raw) if names is None else names).tolist()
    index = {name: c for c, name in enumerate(found)}
    unknown = sorted(set(raw.tolist()) - set(index))
    if unknown:
        raise DataError(f"{origin}: label {unknown[0]!r} is not among class_names; add it there or correct the label.")
    return np.array([index[name] for name in raw.tolist()]), found


def _draw_split(label: np.ndarray, test_fraction: float, seed: int) -> np.ndarray:
    _, test = carve_validation(label, np.arange(len(label)), test_fraction, seed)
    split = np.full(len(label), "train")
    split[test] = "test"
    return split


def _class_embedding(file: Path, label: np.ndarray, classes: int) -> np.ndarray | None:
    rows = _matrix(load_pickle(file), file)
    _check_rows(rows, file, label, "the training labels")
    if label.ndim == 2:
        rank_zero_warn(f"{file}: items have several classes, so it gives no class embedding.")
        return None
    present, first = np.unique(label, return_index=True)
    if len(present) < classes:
        rank_zero_warn(f"{file}: covers {len(present)} of {classes} classes, so it gives no class embedding.")
        return None
    bad = np.flatnonzero(~np.isclose(rows, rows[first][label]).all(axis=1))
    if bad.size:
        raise DataError(
            f"{file}: row {bad[0]} differs from an earlier row of the same class ({label[bad[0]]}); "
            "expected one embedding per class."
        )
    return rows[first]
