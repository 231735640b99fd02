"""The base of the data sets whose files are below the data root."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.declaration import Declaration
from datamodules.errors import DataError, DataMissing, FileMissing
from datamodules.items import ItemSet
from datamodules.retrieval_data import RetrievalData


class OnDisk(RetrievalData):
    """A data set whose files its `declaration` describes; its errors say where to get them and how to check them.

    A subclass sets `declaration` and implements `read`; it sets `features` and `test_split` where they are not "raw"
    and "standard".

    Args:
        data_root: folder that holds the data set's folder; by default the environment variable CSD_DATA, else `data/`.
        **kwargs: see RetrievalData.
    """

    declaration: Declaration
    data_kind = "real"
    features = "raw"

    def __init__(self, data_root: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_root = data_root

    @property
    def dataset(self) -> str:
        return self.declaration.name

    @property
    def folder(self) -> Path:
        """The data set's folder.

        Raises:
            DataError: it is missing.
        """
        return self.declaration.find(self.data_root)

    @cached_property
    def data(self) -> ItemSet:
        try:
            return super().data
        except DataError as error:
            expected = f" {self.declaration.layout}." * isinstance(error, FileMissing | DataMissing)
            advice = f"Get it from {self.declaration.source}, and check with {self.declaration.check}."
            raise type(error)(f"{error}{expected} {advice}") from error
