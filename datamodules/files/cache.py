"""Files kept on disk between runs."""

import fcntl
import os
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile

import numpy as np
import pooch
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.files.sources import written_whole

# Raised where a reader or a network gives other values for the same files, so that nothing computed before is taken.
VERSION = 2


def cache_folder() -> Path:
    """The folder that CSD_CACHE names, else the user's cache folder of this suite, for this version of its content."""
    return Path(os.environ.get("CSD_CACHE") or pooch.os_cache("csd-retrieval")).expanduser() / f"v{VERSION}"


def keep(path: Path, write: Callable[[BinaryIO], object]) -> bool:
    """Write a file whole, and say whether that went well; where it fails, a warning says why and nothing is kept."""
    try:
        with written_whole(path) as file:
            write(file)
    except OSError as error:
        rank_zero_warn(f"{path.name} cannot be kept in {path.parent} ({error}); it is computed on each run.")
        return False
    return True


def kept_arrays(name: str, compute: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays from the cache, computed and kept where they are not there; of processes that want the same, one computes.

    Args:
        name: of the file, without its ending: a hash of all that the arrays depend on is part of it.
        compute: the arrays by name.
    """
    path = cache_folder() / f"{name}.npz"
    lock = path.with_suffix(".lock")
    with ExitStack() as held:
        with suppress(OSError):  # where the folder cannot be written, nobody waits
            path.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(held.enter_context(lock.open("w")), fcntl.LOCK_EX)
            held.callback(lock.unlink, missing_ok=True)
        if path.exists():
            try:
                with np.load(path, allow_pickle=False) as kept:
                    return dict(kept)
            except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error):
                rank_zero_warn(f"{path} is damaged: its content is computed again.")
        arrays = dict(compute())
        keep(path, lambda file: np.savez(file, **arrays))
        return arrays
