"""Data sets: files in, batches out."""

from datamodules.base import FeatureDataModule
from datamodules.feature_pairs import FeaturePairs
from datamodules.features import DataError, DataMissing, FeatureSet
from datamodules.synthetic import Synthetic
from datamodules.wikipedia import Wikipedia

__all__ = ["DataError", "DataMissing", "FeatureDataModule", "FeaturePairs", "FeatureSet", "Synthetic", "Wikipedia"]
