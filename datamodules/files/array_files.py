"""Files of arrays as name -> array: .npz, .npy, .mat, HDF5, PyTorch, pickles, and folders of .npy files."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import scipy.io

from datamodules.errors import DataError
from datamodules.files.labels import OF_ITEMS, of_items, standard_name
from datamodules.files.layouts import Layout
from datamodules.files.matlab import read_hdf5, read_mat
from datamodules.files.pickles import load_pickle, unpickled_array
from datamodules.files.rows import as_matrix, converted, decoding, plain
from datamodules.files.text import broken, read_lines, require

CLASS_EMBEDDING_FILE = "train_attribute.pkl"
LISTS = ("label.txt", "labels.txt", "split.txt", "id.txt", "class_names.txt")  # beside .npy files


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a file, or in a folder of .npy files; matrices of features as float32, whatever they are stored as.

    Raises:
        DataError: a damaged file, or one that holds something other than numbers and texts.
    """
    if path.is_dir():
        others = [file for file in sorted(path.iterdir()) if file.suffix != ".npy" and file.name not in LISTS]
        if unread := [file.name for file in others if file.is_file() and standard_name(file.stem) in OF_ITEMS]:
            raise DataError(
                f"{path}: {unread[0]} beside .npy files is not read; write it as .npy, or as one of {', '.join(LISTS)} "
                "with a line per item, or remove it."
            )
        named = {file.stem: _read_npy(file) for file in sorted(path.glob("*.npy"))}
        return named | {Path(name).stem: np.array(read_lines(path / name)) for name in LISTS if (path / name).is_file()}
    found = READERS[path.suffix.lower()](path)
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds one {type(found).__name__}; expected a dictionary of arrays by name.")
    return found


def read_layout(folder: Path, layout: Layout) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """The arrays of a folder of other authors, and for each training item the embedding of its class, if it is there.

    Raises:
        DataError: a file is damaged, or is not one array.
    """
    found = {}
    for role, name in {"image": layout.image, "text": layout.text, "label": layout.label}.items():
        for part in ("train", "test"):
            file = folder / name.format(part)
            held = read_mat(file) if file.suffix == ".mat" else {file.stem: load_pickle(file)}
            if file.stem not in held or isinstance(held[file.stem], dict):
                names = ", ".join(held) or "no variable"
                raise DataError(f"{file}: holds {names}; expected the variable {file.stem}. Rename it and save again.")
            array = held[file.stem]
            found[f"{role}_{part}"] = array if role == "label" else as_matrix(array, file)
    file = folder / CLASS_EMBEDDING_FILE
    return found, as_matrix(load_pickle(file), file) if file.is_file() else None


def _read_npy(file: Path) -> np.ndarray:
    with decoding(file, "a .npy file"), file.open("rb") as stream:
        return _read_array(stream, file.stem, str(file))


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    found = {}
    with decoding(file, "an .npz file of arrays"), np.load(file, allow_pickle=False) as archive:
        for name in archive.files:
            with archive.zip.open(f"{name}.npy") as stream:
                found[name] = _read_array(stream, name, f"{file}, {name}")
    return found


def _read_array(stream: BinaryIO, name: str, subject: str) -> np.ndarray:
    """An array in NumPy's format; one of Python objects where all of them are texts or all numbers."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):  # later versions are for records of numbers
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        if dtype.hasobject:
            return unpickled_array(stream.read(), subject)
        if dtype.kind in "biuf" and len(shape) == 2 and not of_items(name) and (fortran or dtype != np.float32):
            width = shape[0] if fortran else shape[1]

            def lines(start: int, stop: int) -> np.ndarray:
                count = (stop - start) * width
                return np.frombuffer(stream.read(count * dtype.itemsize), dtype, count).reshape(-1, width)

            return converted(shape[::-1] if fortran else shape, lines, fortran)
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def _read_torch(file: Path) -> dict[str, np.ndarray] | object:
    import torch  # here: the other forms do without

    with decoding(file, "a PyTorch file of tensors, without code"):
        found = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(found, dict):
            return found
        floating = {name: x.float() if torch.is_tensor(x) and x.is_floating_point() else x for name, x in found.items()}
        return {str(name): plain(np.asarray(x), f"{file}, {name}") for name, x in floating.items()}


def _read_views(file: Path) -> dict[str, np.ndarray]:
    array = _read_npy(file)
    if array.ndim != 3:
        raise DataError(
            f"{file}: is one array of shape {array.shape}; expected one for each modality: name the folder of "
            "several .npy files, or stack them as (modalities, items, dimension)."
        )
    return {f"x{number}": rows for number, rows in enumerate(array, start=1)}


READERS = {".npz": _read_npz, ".npy": _read_views, ".mat": read_mat, ".h5": read_hdf5, ".hdf5": read_hdf5}
READERS |= {".pt": _read_torch, ".pth": _read_torch, ".pkl": load_pickle, ".pickle": load_pickle}


# Files of data sets, whose arrays are known ---------------------------------------------------------------------------


def load_matlab(path: Path, **options: Any) -> dict[str, Any]:
    """Variables of a MATLAB file by name, with options of `scipy.io.loadmat`; a DataError where it is damaged."""
    with decoding(require(path), "a MATLAB file"):
        return scipy.io.loadmat(path, **options)


def load_numpy(path: Path) -> Any:
    """The array of a .npy file, or the arrays of an .npz file by name; a DataError where it is damaged."""
    with decoding(require(path), f"an {path.suffix} file"):
        found = np.load(path, allow_pickle=False)
        return found if isinstance(found, np.ndarray) else dict(found)


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
