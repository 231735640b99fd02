"""The data root, paths as users type them, the sha256 of files, and files that are written whole or not at all."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

import pooch

from datamodules.errors import DataError


def root_is_named(named: str | Path | None) -> bool:
    """Whether the user says where the data are: by argument or by the environment variable CSD_DATA."""
    return named is not None or bool(os.environ.get("CSD_DATA"))


def data_root(named: str | Path | None = None) -> Path:
    """The folder that holds one folder per data set: `named`, else CSD_DATA, else `data/` of the current directory.

    Raises:
        DataError: the folder is named and does not exist, or the path is not a folder.
    """
    if named is not None:
        root, by = Path(named), "the data root"
    elif os.environ.get("CSD_DATA"):
        root, by = Path(os.environ["CSD_DATA"]), "the environment variable CSD_DATA"
    else:
        root, by = Path("data"), "the default data root"
    root = root.expanduser()
    if not root.is_dir() and (root.exists() or root_is_named(named)):
        what = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"{root}, {by}, {what}; expected a folder with one folder per data set in it.")
    return root


def user_path(text: str) -> Path:
    """A path as it is typed on a command line, where "~" is the home folder."""
    return Path(text).expanduser()


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, under a temporary name until it is whole: a reader never meets half of it.

    Raises:
        OSError: the folder cannot be made or written, or the disk is full; nothing is left of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with draft.open("wb") as file:
            yield file
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def sha256_of(path: Path | str) -> str:
    """sha256 of a file's bytes; a DataError where it cannot be read."""
    try:
        stat = os.stat(path)
        return _sha256(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); make it a file that you may read.") from error


@cache
def _sha256(path: str, size: int, changed: int, number: int) -> str:
    """Hashed once per process, as long as the file stays as it is."""
    return pooch.file_hash(path)
