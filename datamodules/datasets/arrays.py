"""Arrays of numbers in the files of data sets, refused by file and name where they are not what they should be."""

from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from datamodules.files.rows import decoding
from datamodules.files.text import broken, require


def load_matlab(path: Path, **options: Any) -> dict[str, Any]:
    """Variables of a MATLAB file, by name.

    Args:
        path: the file.
        **options: of `scipy.io.loadmat`.

    Raises:
        DataError: the file is missing or damaged.
    """
    with decoding(require(path), "a MATLAB file"):
        return scipy.io.loadmat(path, **options)


def load_numpy(path: Path) -> Any:
    """The array of a .npy file, or the arrays of an .npz file by name.

    Raises:
        DataError: the file is missing or damaged.
    """
    with decoding(require(path), f"an {path.suffix} file"):
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            return dict(found)


def numbers(path: Path, name: str, array: Any, shape: tuple[int | None, ...], kinds: str = "fiu") -> np.ndarray:
    """An array of finite numbers.

    Args:
        path: its file.
        name: of the array.
        array: what was found under that name, or None.
        shape: that it should have; None is any length of 1 or more.
        kinds: of NumPy's types that are accepted.

    Raises:
        DataError: it is something else.
    """
    fits = isinstance(array, np.ndarray) and array.dtype.kind in kinds and array.ndim == len(shape) and array.size
    if not fits or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
        what = f"has shape {np.shape(array)} and type {getattr(array, 'dtype', type(array).__name__)}"
        expected = " x ".join("T" if n is None else str(n) for n in shape)
        kind = "floating" if kinds == "f" else "numbers of shape"
        expected += ", T at least 1" * (None in shape)
        raise broken(path, f"{name} {'is missing' if array is None else what}; expected {kind} {expected}")
    if not np.isfinite(array).all():
        raise broken(path, f"{name} is NaN or infinite somewhere")
    return array
