"""What is raised where data cannot be used, or an argument is none of its choices."""

from collections.abc import Collection, Iterable
from typing import Any


class DataError(ValueError):
    """Data that cannot be used; the message names the file or array, what was expected and what to do."""


class FileMissing(DataError):
    """A file or folder of a data set that is not there."""


class DataMissing(DataError):
    """Data that nobody named, that are not in `data/` and that could not be fetched: synthetic data may stand in."""


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Refuse an argument that is none of its choices.

    Raises:
        ValueError: it is none of them.
    """
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected {' or '.join(map(repr, choices))}.")


def require_modalities(chosen: Iterable[str], available: Collection[str], subject: str) -> None:
    """Refuse the choice of a modality that the data do not have.

    Raises:
        DataError: there is one; it names it, and those that there are.
    """
    if absent := [name for name in chosen if name not in available]:
        raise DataError(f"{subject} has no modality {absent[0]!r}; it has {', '.join(available)}.")
