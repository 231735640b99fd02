"""The base of the data sets whose files are below the data root."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.declaration import Declaration
from datamodules.errors import DataError, DataMissing, FileMissing
from datamodules.items import ItemSet, Modality
from datamodules.retrieval_data import RetrievalData


class OnDisk(RetrievalData):
    """A data set whose files its `declaration` describes; its errors say where to get them and how to check them.

    The declaration (the YAML file beside the data set's) lists the files as its authors give them, and says how many
    items there are, the terms and whom to cite. A subclass sets `declaration` and implements `read`; it sets `features`
    and `test_split` where they are not "raw" and "standard".

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

    def items(
        self,
        readers: Mapping[str, Callable[[], Modality]],
        names: Sequence[str],
        split: Sequence[str],
        label: Sequence[int] | None = None,
        **others: Any,
    ) -> ItemSet:
        """The items with the chosen modalities, of which alone the files are read and need to be there.

        Args:
            readers: modality -> what reads it, of all that the data set has.
            names, split, label: of each item; by default an item has a label of its own and matches itself alone.
            **others: of `ItemSet`.

        Raises:
            DataError: a chosen modality that the data set does not have.
        """
        label = np.arange(len(names)) if label is None else np.asarray(label, dtype=np.int64)
        modalities = {name: readers[name]() for name in self.wanted(tuple(readers))}
        return ItemSet(modalities, label, np.asarray(split), names, **{"origin": str(self.folder)} | others)

    @cached_property
    def data(self) -> ItemSet:
        try:
            return super().data
        except DataError as error:
            expected = f" {self.declaration.layout}." * isinstance(error, FileMissing | DataMissing)
            advice = f"Get it from {self.declaration.source}, and check with {self.declaration.check}."
            raise type(error)(f"{error}{expected} {advice}") from error
