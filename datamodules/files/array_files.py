"""Arrays in files of others: .npz, pickles of any Python, read without running code from them, and MATLAB files."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import BinaryIO

import numpy as np
import scipy.io
import scipy.sparse

from datamodules.errors import DataError

PIECE = 2**17  # numbers that are converted at a time


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


def as_matrix(array: np.ndarray, subject: object) -> np.ndarray:
    """The array as float32 in C order, which may be the same one.

    Raises:
        DataError: no matrix of numbers.
    """
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise DataError(
            f"{subject}: holds {array.dtype} of shape {array.shape}; expected numbers of shape (rows, dimension)."
        )
    with np.errstate(over="ignore"):  # ItemSet reports the infinite value
        return np.require(array, np.float32, "CW")


def load_npz_array(archive: np.lib.npyio.NpzFile, name: str, subject: str, as_float32: bool = False) -> np.ndarray:
    """Read one array of an .npz file; one of Python objects where all of them are texts or all numbers.

    Args:
        archive: the open file.
        name: of the array.
        subject: file and array, for messages.
        as_float32: convert a matrix of numbers while it is read, so that no copy of another type or order is held.

    Raises:
        DataError: an array of other Python objects.
    """
    with archive.zip.open(f"{name}.npy") as stream:
        if np.lib.format.read_magic(stream) == (1, 0):  # later versions are for records of numbers
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            if dtype.hasobject:
                return _plain(_unpickled(io.BytesIO(stream.read()), subject), subject)
            if as_float32 and dtype.kind in "biuf" and len(shape) == 2 and (fortran or dtype != np.float32):
                return _as_float32(stream, shape, fortran, dtype)
    return archive[name]


def _as_float32(stream: BinaryIO, shape: tuple[int, ...], fortran: bool, dtype: np.dtype) -> np.ndarray:
    array = np.empty(shape, np.float32)
    lines = array.T if fortran else array  # as they follow each other in the file
    step = max(1, PIECE // max(1, lines.shape[1]))
    for start in range(0, len(lines), step):
        piece = lines[start : start + step]
        read = np.frombuffer(stream.read(piece.size * dtype.itemsize), dtype, piece.size)
        with np.errstate(over="ignore"):  # ItemSet reports the infinite value
            piece[:] = read.reshape(piece.shape)
    return array


# Pickles. A pickle is a program: only arrays of numbers or text are rebuilt, by the stand-ins below, and no function
# that the file names is called. Numpy's own __setstate__ trusts its input and could be led to read foreign memory.


class _PickledDtype:
    """Element type of a pickled array: Boolean, integer, floating, text, or Python objects, of which these are read."""

    def __init__(self, name: str, *_: object) -> None:
        self.dtype = np.dtype(name)
        if self.dtype.kind not in "biufSUO":
            raise TypeError(f"element type {name!r} where numbers or text were expected")

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _PickledArray:
    """Array under reconstruction; state = (version, shape, dtype, Fortran order, bytes or a list of objects)."""

    def __init__(self, *_: object) -> None:
        self.array = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        *_, shape, dtype, fortran, raw = state
        self.array = _from_bytes(raw, dtype).reshape(shape, order="F" if fortran else "C")

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.array, dtype=dtype, copy=copy)


def _from_bytes(raw: str | bytes | bytearray | list, dtype: _PickledDtype) -> np.ndarray:
    if dtype.dtype.kind == "O":
        if not isinstance(raw, list):
            raise TypeError("an array of Python objects without a list of them")
        return np.fromiter(raw, dtype=object, count=len(raw))
    # Python 2 wrote bytes as str, which the latin1 encoding keeps byte for byte.
    return np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else bytes(raw), dtype.dtype)


def _scalar(dtype: _PickledDtype, raw: str | bytes) -> np.generic:
    return _from_bytes(raw, dtype)[0]


def _from_buffer(raw: bytes | bytearray, dtype: _PickledDtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return _from_bytes(raw, dtype).reshape(shape, order=order)


PLAIN_TYPES = "texts with .astype(str), numbers with .astype('float32')"
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

    def __init__(self, stream: BinaryIO, subject: object) -> None:
        super().__init__(stream, encoding="latin1")
        self.subject = subject

    def find_class(self, module: str, name: str) -> Callable:
        key = f"{module}.{name}"
        try:
            return PICKLE_GLOBALS[key.replace("numpy._core.", "numpy.core.")]
        except KeyError:
            raise DataError(
                f"{self.subject}: refused, because the pickle asks for {key} and only numpy arrays and lists of them "
                f"are read. If you trust the file, open it yourself and save its arrays by numpy.savez, {PLAIN_TYPES}."
            ) from None


def load_pickle(file: Path) -> np.ndarray:
    """Read a pickled array or list of arrays or numbers, written by Python 2 or 3, without running code from it.

    Raises:
        DataError: the pickle names anything but numpy arrays, or is damaged, ragged or holds other Python objects.
    """
    with decoding(file, "a pickled array of numbers"), file.open("rb") as stream:
        return _plain(_unpickled(stream, file), file)


def _unpickled(stream: BinaryIO, subject: object) -> np.ndarray:
    _check_opcodes(stream)
    return np.asarray(_ArrayUnpickler(stream, subject).load())


def _check_opcodes(stream: BinaryIO) -> None:
    """Parse the pickle without acting on it: a damaged length or memo index would claim memory without bound."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= argument <= count:
            raise pickle.UnpicklingError(f"memo index {argument} after {count} opcodes")
    stream.seek(0)


def load_mat(file: Path) -> np.ndarray:
    """Read the MATLAB variable that bears the file's own name (train_img.mat holds train_img).

    Texts lose the blanks at their ends, with which MATLAB makes the rows of a char matrix equally long.

    Raises:
        DataError: the variable is missing, or the file is damaged or of MATLAB version 7.3.
    """
    with decoding(file, "a MATLAB file of version 7 or older"):
        try:
            variables = scipy.io.loadmat(file)
        except NotImplementedError:
            raise DataError(
                f"{file}: a MATLAB file of version 7.3; expected version 7 or older. Save it again in MATLAB with "
                f"save('{file.name}', '{file.stem}', '-v7'), or read it with h5py, where matrices are transposed, and "
                "write an .npz file."
            ) from None
        if file.stem not in variables:
            found = ", ".join(sorted(name for name in variables if not name.startswith("__"))) or "no variable"
            raise DataError(f"{file}: holds {found}; expected the variable {file.stem}. Rename it and save again.")
        value = variables[file.stem]
        value = _plain(value.toarray() if scipy.sparse.issparse(value) else value, file)
        return np.char.rstrip(value) if value.dtype.kind == "U" else value


def _plain(array: np.ndarray, subject: object) -> np.ndarray:
    """The array; one of Python objects, or of MATLAB's cells, as one of texts or of numbers."""
    holds = f"{array.dtype} of shape {array.shape}"
    if array.dtype.kind == "O" and array.size:
        objects = [x.array if isinstance(x, _PickledArray) else x for x in array.flat]
        if array.ndim == 1 and all(isinstance(x, np.ndarray) and x.shape == objects[0].shape for x in objects):
            return _plain(np.stack(objects), subject)  # a column of pandas that holds vectors
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
