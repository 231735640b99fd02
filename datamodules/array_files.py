"""Arrays in files of others: pickles of any Python, read without running code from them, and MATLAB files."""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import scipy.io
import scipy.sparse

from datamodules.features import DataError


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


# Pickles. A pickle is a program: only arrays of numbers or text are rebuilt, by the stand-ins below, and no function
# that the file names is called. Numpy's own __setstate__ trusts its input and could be led to read foreign memory.


class _PickledDtype:
    """Element type of a pickled array: Boolean, integer, floating or text."""

    def __init__(self, name: str, *_: object) -> None:
        self.dtype = np.dtype(name)
        if self.dtype.kind not in "biufSU":
            raise TypeError(f"element type {name!r} where numbers or text were expected")

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _PickledArray:
    """Array under reconstruction; state = (version, shape, dtype, Fortran order, bytes)."""

    def __init__(self, *_: object) -> None:
        self.array = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        *_, shape, dtype, fortran, raw = state
        self.array = _from_bytes(raw, dtype).reshape(shape, order="F" if fortran else "C")

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.array, dtype=dtype, copy=copy)


def _from_bytes(raw: str | bytes | bytearray, dtype: _PickledDtype) -> np.ndarray:
    # Python 2 wrote bytes as str, which the latin1 encoding keeps byte for byte.
    return np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else bytes(raw), dtype.dtype)


def _scalar(dtype: _PickledDtype, raw: str | bytes) -> np.generic:
    return _from_bytes(raw, dtype)[0]


def _from_buffer(raw: bytes | bytearray, dtype: _PickledDtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return _from_bytes(raw, dtype).reshape(shape, order=order)


PICKLE_GLOBALS: dict[str, Callable] = {
    "numpy.core.multiarray._reconstruct": _PickledArray,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy.ndarray": _PickledArray,
    "numpy.dtype": _PickledDtype,
    "_codecs.encode": str.encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler of numbers, text, lists, tuples, dictionaries and numpy arrays; anything else is refused."""

    def __init__(self, file: Path, stream: BinaryIO) -> None:
        super().__init__(stream, encoding="latin1")
        self.file = file

    def find_class(self, module: str, name: str) -> Callable:
        key = f"{module}.{name}"
        try:
            return PICKLE_GLOBALS[key.replace("numpy._core.", "numpy.core.")]
        except KeyError:
            raise DataError(
                f"{self.file}: refused, because the pickle asks for {key} and only numpy arrays and lists of them are "
                "read. If you trust the file, open it yourself and save its arrays with numpy.savez."
            ) from None


def load_pickle(file: Path) -> np.ndarray:
    """Read a pickled array or list of arrays or numbers, written by Python 2 or 3, without running code from it.

    Raises:
        DataError: the pickle names anything but numpy arrays, or is damaged, ragged or holds Python objects.
    """
    with decoding(file, "a pickled array of numbers"), file.open("rb") as stream:
        _check_opcodes(stream)
        return _plain(np.asarray(_ArrayUnpickler(file, stream).load()), file)


def _check_opcodes(stream: BinaryIO) -> None:
    """Parse the pickle without acting on it: a damaged length or memo index would claim memory without bound."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= argument <= count:
            raise pickle.UnpicklingError(f"memo index {argument} after {count} opcodes")
    stream.seek(0)


def load_mat(file: Path) -> np.ndarray:
    """Read the MATLAB variable that bears the file's own name (train_img.mat holds train_img).

    Raises:
        DataError: the variable is missing, or the file is damaged or of MATLAB version 7.3.
    """
    with decoding(file, "a MATLAB file of version 7 or older"):
        variables = scipy.io.loadmat(file)
        if file.stem not in variables:
            found = ", ".join(sorted(name for name in variables if not name.startswith("__"))) or "no variable"
            raise DataError(f"{file}: holds {found}; expected the variable {file.stem}. Rename it and save again.")
        value = variables[file.stem]
        return _plain(value.toarray() if scipy.sparse.issparse(value) else value, file)


def _plain(array: np.ndarray, file: Path) -> np.ndarray:
    if array.dtype.kind not in "biufSU":
        raise DataError(
            f"{file}: holds {array.dtype} of shape {array.shape}; expected numbers or text, as one array or as "
            "a list of equally long arrays."
        )
    return array
