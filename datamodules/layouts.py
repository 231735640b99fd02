"""Where a data set's folder is, and what to say where it is missing, incomplete or broken."""

from __future__ import annotations

from pathlib import Path

# The mapping alone, no class: what a result depends on is the code that its data module's names lead to, and facts
# about other data sets are no part of that.
from datamodules.catalogue import CATALOGUE
from datamodules.features import DataError, DataMissing
from datamodules.sources import data_root, root_is_named


def layout_advice(dataset: str) -> str:
    """What the data set's folder should hold, where to get it and how to check it: the second half of a message."""
    facts = CATALOGUE[dataset]
    return (
        f"Expected in {facts.folder}/: {facts.content}. Get it from {facts.url} ({facts.licence}) and check with "
        f"`python -m datamodules check {dataset}`."
    )


def find_folder(dataset: str, named: str | Path | None = None) -> Path:
    """The data set's folder below the data root.

    Args:
        dataset: a key of CATALOGUE.
        named: the data root, or None for CSD_DATA or `data/`.

    Raises:
        DataError: a root is named and has no such folder.
        DataMissing: no root is named, and `data/` has no such folder.
    """
    root = data_root(named)
    folder = root / CATALOGUE[dataset].folder
    if folder.is_dir():
        return folder
    hint = f" {root} looks like that folder itself: name the one above it." * (root.name == folder.name)
    error = DataError if root_is_named(named) else DataMissing
    raise error(f"{folder} is missing.{hint} {layout_advice(dataset)}")


def require(path: Path, dataset: str) -> Path:
    """The path, if there is a file or folder.

    Raises:
        DataError: there is none.
    """
    if not path.exists():
        raise DataError(f"{path} is missing. {layout_advice(dataset)}")
    return path


def broken(path: Path, what: str, dataset: str) -> DataError:
    """The error for a file that is not what it should be."""
    return DataError(f"{path}: {what}. {layout_advice(dataset)}")


def read_lines(path: Path, dataset: str) -> list[str]:
    """Lines of a UTF-8 text file.

    Raises:
        DataError: it is missing or not text.
    """
    try:
        return require(path, dataset).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise broken(path, f"cannot be read as text ({error})", dataset) from error
