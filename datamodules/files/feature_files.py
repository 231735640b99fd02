"""Readers of paired image-text features in the layouts in which they are published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.errors import DataError, DataMissing
from datamodules.files.array_files import as_matrix, decoding, load_mat, load_npz_array, load_pickle
from datamodules.files.extracted_features import read_extracted
from datamodules.files.layouts import LAYOUTS, Layout
from datamodules.items import SPLITS, ItemSet
from datamodules.labels import class_labels, rows_of_items, text_list
from datamodules.repeats import samples_of_rows
from datamodules.splits import carve_groups, carve_validation

NPZ_REQUIRED = ("image", "text", "label")
UNPAIRED = "unpaired_"
NPZ_OTHERS = ("label", "split", "class_names")  # than matrices of features
NPZ_OPTIONAL = ("split", "class_names", "class_embedding", f"{UNPAIRED}image", f"{UNPAIRED}text")
WITHOUT_PARTNER = f"; samples without a partner go into {UNPAIRED}image and {UNPAIRED}text of an .npz file"
CLASS_EMBEDDING_FILE = "train_attribute.pkl"
ACCEPTED = "Accepted: an .npz file with image, text and label; a .safetensors file of `extract`; folders: " + "; ".join(
    f"{layout.name} ({', '.join(layout.files())})" for layout in LAYOUTS
)


def read_feature_pairs(path: str | Path, test_fraction: float = 0.2, split_seed: int = 0) -> ItemSet:
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
    if source.suffix != ".npz":
        return True
    with decoding(source, "an .npz file of arrays"), np.load(source, allow_pickle=False) as archive:
        return "split" in archive.files


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


def read_folder(folder: Path, layout: Layout) -> ItemSet:
    """Read a folder of separate training and test files, and the class embeddings of JFSE where they lie beside them.

    `train_attribute.pkl` holds one class embedding per training item; it is reduced to one per class. Where a class
    has no training item, or items have several classes, the set has no class embedding.

    Raises:
        DataError: a damaged file, an array of the wrong shape, files of one split with different row counts, or
            different class embeddings within one class.
    """
    files = {
        role: [folder / getattr(layout, role).format(split) for split in ("train", "test")]
        for role in ("image", "text", "label")
    }
    load = load_mat if layout.label.endswith(".mat") else load_pickle
    parts = {role: [as_matrix(load(file), file) for file in files[role]] for role in ("image", "text")}
    rows = [len(part) for part in parts["image"]]
    parts["label"] = rows_of_items([load(file) for file in files["label"]], rows, str(folder))
    for role, advice in (("text", WITHOUT_PARTNER), ("label", "")):
        for array, name, image, images in zip(parts[role], files[role], parts["image"], files["image"], strict=True):
            _check_rows(array, name, image, images, advice)
    for role, (train, test) in parts.items():
        if train.shape[1:] != test.shape[1:] or (train.dtype.kind in "SU") != (test.dtype.kind in "SU"):
            raise DataError(
                f"{folder}: {role} is {train.dtype} of shape {train.shape} in training but {test.dtype} of shape "
                f"{test.shape} in test; only the number of rows may differ."
            )
    label, class_names = class_labels(np.concatenate(parts["label"]), str(folder))
    file = folder / CLASS_EMBEDDING_FILE
    return ItemSet.of_features(
        features={role: _joined(*parts[role]) for role in ("image", "text")},
        label=label,
        split=np.repeat(["train", "test"], rows),
        class_names=class_names,
        origin=str(folder),
        class_embedding=_class_embedding(file, label[: rows[0]], len(class_names)) if file.exists() else None,
    )


def _joined(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Training rows above test rows; the memory of the first is grown in place, for it may be gigabytes."""
    rows, train = len(train), np.require(train, requirements="O")
    train.resize((rows + len(test), train.shape[1]), refcheck=False)
    train[rows:] = test
    return train


def read_npz(file: Path, test_fraction: float = 0.2, split_seed: int = 0) -> ItemSet:
    """Read one .npz file: image (N, d), text (N, e) and label, and what else of `NPZ_OPTIONAL` it holds.

    Args:
        file: label is (N,) integers, (N,) class names, or (N, C) Booleans or zeros and ones; split (N,) is train,
            validation or test; class_names (C,) text; class_embedding (C, E); unpaired_image (n, d) and unpaired_text
            (m, e), samples of one modality to train on, without partner, label or split.
        test_fraction: share of test items where the file has no split, between 0 and 1, drawn class by class; an image
            that stands beside several captions (`datamodules.repeats.repeated_rows`) goes to one part with all of them.
        split_seed: seed of that split.

    Raises:
        DataError: a damaged file, a missing or unknown array, an array of the wrong type or shape.
    """
    arrays = _npz_arrays(file)
    matrices = {name: as_matrix(array, f"{file}, {name}") for name, array in arrays.items() if name not in NPZ_OTHERS}
    _check_rows(matrices["text"], f"{file}: text", matrices["image"], "image", WITHOUT_PARTNER)
    names = text_list(arrays["class_names"], f"{file}, class_names") if "class_names" in arrays else None
    (label,) = rows_of_items([arrays["label"]], [len(matrices["image"])], f"{file}, label")
    label, class_names = class_labels(label, f"{file}, label", names)
    features = {name: matrices[name] for name in ("image", "text")}
    if "split" in arrays:
        split = _split(arrays["split"], file)
    else:
        split = _draw_split(features, label, test_fraction, split_seed, str(file))
    return ItemSet.of_features(
        features=features,
        label=label,
        split=split,
        class_names=class_names,
        origin=str(file),
        class_embedding=matrices.get("class_embedding"),
        unpaired={name.removeprefix(UNPAIRED): rows for name, rows in matrices.items() if name.startswith(UNPAIRED)},
    )


def _npz_arrays(file: Path) -> dict[str, np.ndarray]:
    with decoding(file, "an .npz file of arrays"), np.load(file, allow_pickle=False) as archive:
        missing = [name for name in NPZ_REQUIRED if name not in archive.files]
        if missing:
            raise DataError(f"{file}: holds {', '.join(archive.files) or 'no array'}; add {', '.join(missing)}.")
        unknown = [name for name in archive.files if name not in NPZ_REQUIRED + NPZ_OPTIONAL]
        if unknown:
            raise DataError(
                f"{file}: unknown array {', '.join(unknown)}; FeaturePairs takes two modalities, as "
                f"{', '.join(NPZ_REQUIRED)} and optionally {', '.join(NPZ_OPTIONAL)}. Rename or remove it; three "
                "modalities and more take a data module of your own, a subclass of datamodules.RetrievalData."
            )
        return {
            name: load_npz_array(archive, name, f"{file}, {name}", as_float32=name not in NPZ_OTHERS)
            for name in archive.files
        }


def _split(split: np.ndarray, file: Path) -> np.ndarray:
    if split.ndim == 1 and split.dtype.kind in "biuf":
        raise DataError(
            f"{file}, split: holds {split.dtype}; expected train, validation or test as the text of each item, for "
            "instance by np.where(split == 1, 'test', 'train')."
        )
    split = text_list(split, f"{file}, split")
    found = set(split.tolist())
    if found <= set(SPLITS) and ("test" not in found or found == {"test"}):
        counted = ", ".join(
            f"{count} {name}" for name, count in zip(*np.unique(split, return_counts=True), strict=True)
        )
        raise DataError(
            f"{file}, split: holds {counted or 'no item'}; expected items of test and others, of train or validation. "
            "Mark some, or leave the array out: test items are then drawn (test_fraction)."
        )
    return split


def _check_rows(
    array: np.ndarray, name: object, reference: np.ndarray, reference_name: object, advice: str = ""
) -> None:
    if array.ndim == 0 or len(array) != len(reference):
        rows = len(array) if array.ndim else "no"
        raise DataError(
            f"{name}: has {rows} rows but {reference_name} has {len(reference)}; row i of both must be the same "
            f"item{advice}."
        )


def _draw_split(
    features: Mapping[str, np.ndarray], label: np.ndarray, test_fraction: float, seed: int, origin: str
) -> np.ndarray:
    """Test items, class by class; of an image with several captions, all rows or none."""
    sample = samples_of_rows(features, label, np.arange(len(label)), f"{origin}: the {len(label)} rows")
    samples = np.unique(sample)
    lone = len(samples) < len(label) and label.ndim == 1 and len(np.unique(label[samples])) == len(samples)
    _, test = (carve_groups if lone else carve_validation)(label, samples, test_fraction, seed)
    return np.where(np.isin(sample, test), "test", "train")


def _class_embedding(file: Path, label: np.ndarray, classes: int) -> np.ndarray | None:
    rows = as_matrix(load_pickle(file), file)
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
