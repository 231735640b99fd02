"""Any paired image-text features that the user brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.base import FeatureDataModule
from datamodules.feature_files import read_feature_pairs
from datamodules.features import FeatureSet


class FeaturePairs(FeatureDataModule):
    """Image and text features with class labels from an .npz file or a folder in the ACMR, JFSE or DSCMR layout.

    Args:
        path: file or folder; `datamodules.feature_files.read_feature_pairs` says which layouts it knows.
        dataset: name of the data set in results.
        features: name of the features in results.
        test_fraction: share of test items where the data bring no split, 0 < test_fraction < 1; drawn by `split_seed`.
        **kwargs: arguments of `FeatureDataModule`.

    Raises:
        ValueError: an argument outside its range.
        DataError: on first use of data that cannot be read.
    """

    data_kind = "real"

    def __init__(
        self,
        path: str | Path,
        dataset: str = "feature-pairs",
        features: str = "own",
        test_fraction: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.dataset = dataset
        self.features = features
        self.test_fraction = test_fraction

    def read(self) -> FeatureSet:
        return read_feature_pairs(self.path, self.test_fraction, self.split_seed)
