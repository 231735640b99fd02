"""Data sets: files in, batches out."""

from datamodules.base import FeatureDataModule
from datamodules.feature_pairs import FeaturePairs
from datamodules.features import DataError, DataMissing, FeatureSet
from datamodules.sources import data_root, root_is_named
from datamodules.synthetic import Synthetic
from datamodules.wikipedia import Wikipedia

__all__ = [
    "DataError",
    "DataMissing",
    "FeatureDataModule",
    "FeaturePairs",
    "FeatureSet",
    "Synthetic",
    "Wikipedia",
    "data_root",
    "root_is_named",
]
