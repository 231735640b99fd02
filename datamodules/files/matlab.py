"""MATLAB files of any version, and other HDF5 files, as name -> array."""

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import scipy.sparse

from datamodules.errors import DataError
from datamodules.files.labels import of_items, part_of, standard_name
from datamodules.files.rows import converted, decoding, plain

# What another process does with a file first; -P: no module of the folder that it runs in is taken for another.
TRIAL = ("-P", "-c", "import sys, scipy.io; scipy.io.loadmat(sys.argv[1])")
HDF5 = b"\x89HDF\r\n\x1a\n"  # how a file of HDF5 begins that is none of MATLAB


def read_mat(file: Path) -> dict[str, np.ndarray]:
    """Variables of a MATLAB file of any version, in its order.

    The matrices in a cell array X are called X1, X2, ...; a struct stands for its fields. Texts lose the blanks at
    their ends, with which MATLAB makes the rows of a char matrix equally long. Scalars are left out. Of version 7.3,
    which is HDF5, the matrices of features are read as float32.

    Raises:
        DataError: the file is damaged, HDF5 that MATLAB did not write, or holds something other than numbers and texts.
    """
    with decoding(file, "a MATLAB file"):
        with file.open("rb") as stream:
            start = stream.read(10)
        if start.startswith(HDF5):
            raise DataError(
                f"{file}: is HDF5 that MATLAB did not write, so that the order of its axes is not known; name it "
                f"{file.stem}.h5 if the first axis of its matrices is that of the items, or write an .npz file."
            )
        if start == b"MATLAB 7.3":
            with h5py.File(file) as opened:
                named = [name for name in opened if not name.startswith("#")]
                values = {name: _new(opened, opened[name], f"{file}, {name}", not of_items(name)) for name in named}
        else:
            _try_first(file, file.stat().st_size, file.stat().st_mtime_ns)
            values = {name: _old(x) for name, x in scipy.io.loadmat(file).items() if not name.startswith("__")}
        flat = (pair for name, value in values.items() for pair in _flat(name, value, file))
        return {name: x for name, x in flat if x.size > 1}


@cache
def _try_first(file: Path, size: int, time: int) -> None:
    """Let another process read a file, which a damaged one can end; once for each state of the file."""
    trial = subprocess.run([sys.executable, *TRIAL, str(file)], stderr=subprocess.PIPE, check=False)
    if trial.returncode == 1:
        last = trial.stderr.decode(errors="replace").strip().rpartition("\n")[2]  # OSError: could not read bytes
        raise ValueError(last.split(": ", 1)[-1])
    if trial.returncode:
        raise ValueError(f"it ends the process that reads it with exit status {trial.returncode}")


def _old(value: Any) -> Any:
    """A value of scipy as a dictionary (struct), a list (cell array) or an array."""
    if scipy.sparse.issparse(value):
        return value.toarray()
    if isinstance(value, np.ndarray) and value.dtype.names and value.size == 1:
        return {name: _old(value[name].item()) for name in value.dtype.names}
    cells = isinstance(value, np.ndarray) and value.dtype.kind == "O"
    return [_old(x) for x in value.ravel(order="F")] if cells else value


def _flat(name: str, value: Any, file: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays in a value; a cell array of matrices holds one for each modality, any other a text or number a row."""
    if isinstance(value, dict):
        for field, x in value.items():
            yield from _flat(field, x, file)
    elif not isinstance(value, list):
        array = plain(np.asarray(value), f"{file}, {name}")
        yield name, np.char.rstrip(array) if array.dtype.kind == "U" else array
    elif of_items(name) or not all(isinstance(x, np.ndarray) and x.size > 1 for x in value):
        first, *others = value or [np.empty(0)]
        if others and np.size(first) > 1 and all(np.array_equal(first, x) for x in others):
            value = first  # the same labels, once for each modality
        objects = np.empty(len(value), dtype=object)
        objects[:] = [x.item() if isinstance(x, np.ndarray) and x.size == 1 else x for x in value]
        yield from _flat(name, plain(objects, f"{file}, {name}"), file)
    else:
        for number, x in enumerate(value, start=1):
            yield from _flat(f"{name}{number}", x, file)


def _new(opened: Any, node: Any, subject: str, features: bool) -> Any:
    """A value as `_old` gives it."""
    kind = node.attrs.get("MATLAB_class", b"").decode()
    if "MATLAB_sparse" in node.attrs:
        data, rows, columns = (node[key][()] if key in node else np.empty(0) for key in ("data", "ir", "jc"))
        shape = int(node.attrs["MATLAB_sparse"]), len(columns) - 1
        return scipy.sparse.csc_array((data, rows, columns), shape=shape).toarray()
    if kind == "struct":
        return {name: _new(opened, node[name], subject, features) for name in node}
    if node.attrs.get("MATLAB_empty"):
        return np.empty((0, 0))
    if kind == "cell":
        return [_new(opened, opened[reference], subject, features) for reference in node[()].ravel()]
    if kind == "char":
        texts = np.array(["".join(map(chr, row)) for row in node[()].T])
        return texts[0] if len(texts) == 1 else texts
    if kind not in ("double", "single", "logical") and kind.lstrip("u")[:3] != "int":
        raise DataError(
            f"{subject}: is of MATLAB's class {kind or 'unknown'!r}; expected numbers, cells or chars: convert strings "
            "and categories with cellstr, tables with table2array, and save again."
        )
    return converted(node.shape, lambda start, stop: node[start:stop], True) if features else node[()].T


def read_hdf5(file: Path) -> dict[str, np.ndarray]:
    """Data sets of an HDF5 file; the first axis is that of the items.

    One of a group is called by its own name, where no other is, or as "train/image" where the group is a part.

    Raises:
        DataError: the file is damaged, or holds something other than numbers and texts.
    """
    found: dict[str, np.ndarray] = {}

    def visit(name: str, node: Any) -> None:
        if not isinstance(node, h5py.Dataset):
            return
        if node.dtype.kind in "biuf" and node.ndim == 2 and not of_items(name):
            found[name] = converted(node.shape, lambda start, stop: node[start:stop])
        else:
            array = node.asstr()[()] if h5py.check_string_dtype(node.dtype) else node[()]
            found[name] = plain(np.asarray(array), f"{file}, {name}")

    with decoding(file, "an HDF5 file"), h5py.File(file) as opened:
        opened.visititems(visit)
    said = {name for name in found if part_of(name)[1] or standard_name(name) != name}  # whose group tells something
    short = {name: name if name in said else name.rpartition("/")[2] for name in found}
    return {short[name]: x for name, x in found.items()} if len(set(short.values())) == len(found) else found
