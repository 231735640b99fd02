"""What is raised where data cannot be used."""

from __future__ import annotations


class DataError(ValueError):
    """Data that cannot be used; the message names the file or array, what was expected and what to do."""


class FileMissing(DataError):
    """A file or folder of a data set that is not there."""


class DataMissing(DataError):
    """Data that nobody named, that are not in `data/` and that could not be fetched: synthetic data may stand in."""
