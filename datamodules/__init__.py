"""Data sets: files in, batches out."""

from datamodules.base import FeatureDataModule
from datamodules.feature_pairs import FeaturePairs
from datamodules.features import DataError, DataMissing, FeatureSet
from datamodules.flickr8k import Flickr8kTriples
from datamodules.flickr30k_narratives import Flickr30kNarratives
from datamodules.motion_text import HumanML3D
from datamodules.multimodal import ItemDataModule
from datamodules.sources import data_root, root_is_named
from datamodules.synthetic import Synthetic
from datamodules.synthetic_items import SyntheticItems
from datamodules.utd_mhad import UTDMHAD
from datamodules.wikipedia import Wikipedia

__all__ = [
    "UTDMHAD",
    "DataError",
    "DataMissing",
    "FeatureDataModule",
    "FeaturePairs",
    "FeatureSet",
    "Flickr8kTriples",
    "Flickr30kNarratives",
    "HumanML3D",
    "ItemDataModule",
    "Synthetic",
    "SyntheticItems",
    "Wikipedia",
    "data_root",
    "root_is_named",
]
