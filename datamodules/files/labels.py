"""Class labels in the forms in which files hold them, and which axis of theirs is that of the items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from datamodules.errors import DataError


def rows_of_items(labels: Sequence[np.ndarray], items: Sequence[int], origin: str) -> list[np.ndarray]:
    """Labels with a row per item, also where MATLAB or SciPy wrote a list as one row, or a class per row.

    Args:
        labels: those of each part of a data set, all of one form.
        items: number of items of each part.
        origin: for messages.

    Raises:
        DataError: square matrices, of which either axis may be that of the items.
    """
    parts = list(zip(labels, items, strict=True))
    if any(label.ndim != 2 or label.shape[1] != count for label, count in parts):
        return list(labels)
    square = all(len(label) == count for label, count in parts)
    if square and any((label != label.T).any() for label in labels):
        raise DataError(
            f"{origin}: the label matrix has as many classes as items, so that its rows may be either; give a class "
            "number or name per item, of shape (N,)."
        )
    return list(labels) if square else [label.T for label in labels]


def text_list(array: np.ndarray, subject: str) -> np.ndarray:
    """(n,) texts, decoded where they are bytes.

    Raises:
        DataError: anything else.
    """
    if array.ndim != 1 or array.dtype.kind not in "SU":
        raise DataError(f"{subject}: holds {array.dtype} of shape {array.shape}; expected a list of texts.")
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


def class_labels(raw: np.ndarray, origin: str, names: np.ndarray | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Integers in 0..C-1 or a Boolean (N, C) matrix, and the class names, from any label form.

    Args:
        raw: (N,) or (N, 1) class numbers or names, or (N, C) zeros and ones.
        origin: for messages.
        names: (C,) class names, where the data have them.

    Raises:
        DataError: anything else.
    """
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if raw.ndim not in (1, 2) or 0 in raw.shape or raw.dtype.kind not in "biufSU":
        raise _bad_labels(raw, origin)
    if raw.dtype.kind in "SU":
        label, found = _named_labels(text_list(raw, origin), origin, names)
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
