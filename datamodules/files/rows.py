"""Arrays as files hold them: checked, converted and hashed some rows at a time, for they may be of many gigabytes."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import DataError

PIECE = 2**17  # numbers that are converted at a time
PLAIN_TYPES = "texts with .astype(str), numbers with .astype('float32')"


@contextmanager
def decoding(file: Path, expected: str) -> Iterator[None]:
    """Turn whatever a damaged file makes its parser raise into one message about that file."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{file}: cannot be read as {expected} ({type(error).__name__}: {error}); "
            "the file is damaged or of another format: fetch it or write it again."
        ) from error


def plain(array: np.ndarray, subject: object) -> np.ndarray:
    """The array; one of Python objects, or of MATLAB's cells, as one of texts or of numbers.

    Raises:
        DataError: objects that are neither texts alone nor numbers alone, with the first row of each type.
    """
    holds = f"{array.dtype} of shape {array.shape}"
    if array.dtype.kind == "O" and array.size:
        objects = list(array.flat)
        if array.ndim == 1 and all(isinstance(x, np.ndarray) and x.shape == objects[0].shape for x in objects):
            return plain(np.stack(objects), subject)  # a column of pandas that holds vectors
        objects = [x.item() if isinstance(x, np.ndarray) and x.size == 1 else x for x in objects]
        if all(isinstance(x, str) for x in objects) or all(isinstance(x, Real) for x in objects):
            array = np.array(objects).reshape(array.shape)
        kinds, rows = [type(x).__name__ for x in objects], len(array) if array.ndim else 1
        first = [f"{kind} (first in row {kinds.index(kind) * rows // len(kinds)})" for kind in dict.fromkeys(kinds)]
        holds += f" with {', '.join(first)}"
    if array.dtype.kind not in "biufSU":
        raise DataError(
            f"{subject}: holds {holds}; expected numbers alone or texts alone, none missing, as one array or as a list "
            f"of equally long arrays: save {PLAIN_TYPES}."
        )
    return array


def as_matrix(array: np.ndarray, subject: object) -> np.ndarray:
    """The array as float32 in C order, which may be the same one; a DataError where it is no matrix of numbers."""
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise DataError(
            f"{subject}: holds {array.dtype} of shape {array.shape}; expected numbers of shape (rows, dimension)."
        )
    with np.errstate(over="ignore"):  # ItemSet reports the infinite value
        return np.require(array, np.float32, "CW")


def converted(shape: tuple[int, int], lines: Callable[[int, int], np.ndarray], transposed: bool = False) -> np.ndarray:
    """A matrix in float32, read some lines at a time, so that no copy of another type or order is held.

    Args:
        shape: of the lines as they follow each other in the file.
        lines: start, stop -> these lines, (stop - start, shape[1]) of any type of numbers.
        transposed: whether a line is a column of the matrix.
    """
    array = np.empty(shape[::-1] if transposed else shape, np.float32)
    into = array.T if transposed else array
    step = max(1, PIECE // max(1, shape[1]))
    for start in range(0, shape[0], step):
        with np.errstate(over="ignore"):  # ItemSet reports the infinite value
            into[start : start + step] = lines(start, min(start + step, shape[0]))
    return array


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


def row_names(count: int) -> list[str]:
    """What items without names are called."""
    return [f"row {number}" for number in range(count)]


def name_twice(names: Sequence[str]) -> str | None:
    """A name that stands several times; None where there is none."""
    return next((name for name, count in Counter(names).items() if count > 1), None)
