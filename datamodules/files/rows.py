"""Large arrays, some rows at a time: what is made of one of many gigabytes should not be as large again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from datamodules.errors import DataError


def hash_rows(sha: Any, array: np.ndarray, rows: np.ndarray) -> None:
    """Add some rows of an array to a hash, with their type and shape."""
    sha.update(f"{array.dtype}{len(rows)}{array.shape[1:]}".encode())
    for piece in _pieces(rows):
        sha.update(np.ascontiguousarray(array[piece]))


def _pieces(array: np.ndarray, rows: int = 512) -> Iterator[np.ndarray]:
    return (array[start : start + rows] for start in range(0, len(array), rows))


def check_matrix(array: np.ndarray, subject: str) -> None:
    """Refuse with a DataError what is no matrix of floating numbers."""
    if array.ndim != 2 or array.shape[1] == 0 or not np.issubdtype(array.dtype, np.floating):
        raise DataError(
            f"{subject} has shape {array.shape} and type {array.dtype}; expected (rows, feature dimension) of floating "
            "point."
        )


def not_finite(array: np.ndarray) -> np.ndarray:
    """Rows with a value that is not finite in float32, the type of a batch."""
    with np.errstate(over="ignore"):
        finite = [np.isfinite(rows.astype(np.float32, copy=False)).all(axis=1) for rows in _pieces(array)]
    return np.flatnonzero(~np.concatenate(finite)) if finite else np.arange(0)
