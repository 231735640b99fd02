"""Where a data set's folder is, and what to say where it is missing, incomplete or broken."""

from __future__ import annotations

from collections.abc import Collection
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


def folder_below(root: Path, dataset: str) -> Path:
    """Where the data set's folder is below a data root, or should be.

    It has the authors' name. Where that is absent, one called as the data set's features are is taken, provided that it
    holds a file of the authors' and not features alone.

    Args:
        root: the data root.
        dataset: a key of CATALOGUE.
    """
    facts, other = CATALOGUE[dataset], root / dataset
    needs = {path for form in facts.forms.values() for variant in form.variants for path in variant}
    if not (root / facts.folder).is_dir() and any(any(other.glob(path)) for path in needs):
        return other
    return root / facts.folder


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
    folder = folder_below(root, dataset)
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


def require_parts(split: Collection[str], path: Path, dataset: str) -> None:
    """Refuse a split without items to train on or to test on.

    Args:
        split: of each item.
        path: the file that says it.
        dataset: a key of CATALOGUE.

    Raises:
        DataError: there is no "train" or no "test".
    """
    for part in ("train", "test"):
        if part not in split:
            raise broken(path, f"has no entry of the {part} part; expected some of train and some of test", dataset)


def broken(path: Path, what: str, dataset: str | None) -> DataError:
    """The error for a file that is not what it should be; ``dataset`` is None where it belongs to none."""
    return DataError(f"{path}: {what}." + (f" {layout_advice(dataset)}" if dataset else ""))


def read_lines(path: Path, dataset: str) -> list[str]:
    r"""Lines of a UTF-8 text file, which end in \n, \r\n or \r; blank lines at its end are left out.

    Raises:
        DataError: it is missing or not text.
    """
    try:
        # By the file itself: str.splitlines also cuts at characters that stand within a text, such as U+2028.
        with require(path, dataset).open(encoding="utf-8-sig") as file:
            lines = [line.removesuffix("\n") for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise broken(path, f"cannot be read as text ({error})", dataset) from error
    while lines and not lines[-1].strip():
        lines.pop()
    return lines
