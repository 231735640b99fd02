"""Files that must be there, and lines of text files."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from datamodules.errors import DataError, FileMissing


def require(path: Path) -> Path:
    """The path, if there is a file or folder.

    Raises:
        FileMissing: there is none.
    """
    if not path.exists():
        raise FileMissing(f"{path} is missing.")
    return path


def require_parts(split: Collection[str], path: Path) -> None:
    """Refuse a split without items to train on or to test on.

    Args:
        split: of each item.
        path: the file that says it.

    Raises:
        DataError: there is no "train" or no "test".
    """
    for part in ("train", "test"):
        if part not in split:
            raise broken(path, f"has no entry of the {part} part; expected some of train and some of test")


def broken(path: Path, what: str) -> DataError:
    """The error for a file that is not what it should be."""
    return DataError(f"{path}: {what}.")


def read_json(path: Path) -> Any:
    """What a UTF-8 file of JSON holds.

    Raises:
        DataError: it is missing or not JSON.
    """
    try:
        return json.loads(require(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise broken(path, f"cannot be read as JSON text ({error})") from error


def read_lines(path: Path) -> list[str]:
    r"""Lines of a UTF-8 text file, also of .gz, which end in \n, \r\n or \r; blank lines at its end are left out.

    Raises:
        DataError: it is missing or not text.
    """
    try:
        # By the file itself: str.splitlines also cuts at characters that stand within a text, such as U+2028.
        with (gzip.open if path.suffix == ".gz" else open)(require(path), "rt", encoding="utf-8-sig") as file:
            lines = [line.removesuffix("\n") for line in file]
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise broken(path, f"cannot be read as text ({error})") from error
    while lines and not lines[-1].strip():
        lines.pop()
    return lines
