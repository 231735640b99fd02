"""Data sets: files in, batches out."""

from datamodules.base import FeatureDataModule
from datamodules.cuhk_pedes import CUHKPEDES
from datamodules.feature_pairs import FeaturePairs
from datamodules.features import DataError, DataMissing, FeatureSet
from datamodules.flickr8k import Flickr8kTriples
from datamodules.flickr30k_captions import Flickr30kCaptions
from datamodules.flickr30k_narratives import Flickr30kNarratives
from datamodules.motion_text import HumanML3D
from datamodules.multimodal import ItemDataModule
from datamodules.nus_wide import NUSWIDE
from datamodules.pascal_sentences import PascalSentences
from datamodules.pku_xmedianet import PKUXMediaNet
from datamodules.sources import data_root, root_is_named
from datamodules.synthetic import Synthetic
from datamodules.synthetic_items import SyntheticItems
from datamodules.utd_mhad import UTDMHAD
from datamodules.wikipedia import Wikipedia
from datamodules.wikipedia_raw import WikipediaRaw

__all__ = [
    "CUHKPEDES",
    "NUSWIDE",
    "UTDMHAD",
    "DataError",
    "DataMissing",
    "FeatureDataModule",
    "FeaturePairs",
    "FeatureSet",
    "Flickr8kTriples",
    "Flickr30kCaptions",
    "Flickr30kNarratives",
    "HumanML3D",
    "ItemDataModule",
    "PKUXMediaNet",
    "PascalSentences",
    "Synthetic",
    "SyntheticItems",
    "Wikipedia",
    "WikipediaRaw",
    "data_root",
    "root_is_named",
]
