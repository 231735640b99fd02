"""Pickles of any Python, read without running code from them."""

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from datamodules.errors import DataError
from datamodules.files.rows import PLAIN_TYPES, decoding, plain

# A pickle is a program: only arrays of numbers or text are rebuilt, by the stand-ins below, and no function
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


def _from_bytes(raw: str | bytes | bytearray | list, dtype: _PickledDtype) -> np.ndarray:
    if dtype.dtype.kind == "O":
        if not isinstance(raw, list):
            raise TypeError("an array of Python objects without a list of them")
        return np.fromiter(raw, dtype=object, count=len(raw))
    # Python 2 wrote bytes as str, which the latin1 encoding keeps byte for byte.
    return np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else bytes(raw), dtype.dtype)


PICKLE_GLOBALS: dict[str, Callable] = {
    "numpy.core.multiarray._reconstruct": _PickledArray,
    "numpy.core.multiarray.scalar": lambda dtype, raw: _from_bytes(raw, dtype)[0],
    "numpy.core.numeric._frombuffer": lambda raw, dtype, shape, order: _from_bytes(raw, dtype).reshape(
        shape, order=order
    ),
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
        known = PICKLE_GLOBALS.get(key.replace("numpy._core.", "numpy.core."))
        if known is None:
            raise DataError(
                f"{self.subject}: refused, because the pickle asks for {key} and only numpy arrays and lists of them "
                f"are read. If you trust the file, open it yourself and save its arrays by numpy.savez, {PLAIN_TYPES}."
            )
        return known


def load_pickle(file: Path) -> np.ndarray | dict[str, np.ndarray]:
    """Read a pickled array, list of arrays or numbers, or dictionary of these, of Python 2 or 3, without running code.

    Raises:
        DataError: the pickle names anything but numpy arrays, or is damaged, ragged or holds other Python objects.
    """
    with decoding(file, "a pickled array of numbers"), file.open("rb") as stream:
        value = _unpickled(stream, file)
        if isinstance(value, dict):
            return {str(name): plain(np.asarray(x), f"{file}, {name}") for name, x in value.items()}
        return plain(np.asarray(value), file)


def unpickled_array(raw: bytes, subject: object) -> np.ndarray:
    """The array in a pickle that stands in another file; see `load_pickle`."""
    return plain(np.asarray(_unpickled(io.BytesIO(raw), subject)), subject)


def _unpickled(stream: BinaryIO, subject: object) -> Any:
    _check_opcodes(stream)
    return _rebuilt(_ArrayUnpickler(stream, subject).load())


def _rebuilt(value: Any) -> Any:
    """What was unpickled, with arrays in the place of those under reconstruction."""
    if isinstance(value, dict):
        return {key: _rebuilt(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_rebuilt(x) for x in value]
    if not isinstance(value, _PickledArray):
        return value
    if value.array.dtype.kind != "O":
        return value.array
    objects = np.empty(value.array.shape, dtype=object)
    for place, x in np.ndenumerate(value.array):
        objects[place] = _rebuilt(x)
    return objects


def _check_opcodes(stream: BinaryIO) -> None:
    """Parse the pickle without acting on it: a damaged length or memo index would claim memory without bound."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= argument <= count:
            raise pickle.UnpicklingError(f"memo index {argument} after {count} opcodes")
    stream.seek(0)
