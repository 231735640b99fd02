"""Data sets: files in, batches out."""

from datamodules.datasets.cuhk_pedes import CUHKPEDES
from datamodules.datasets.feature_pairs import FeaturePairs
from datamodules.datasets.flickr8k import Flickr8kTriples
from datamodules.datasets.flickr30k import Flickr30kCaptions, Flickr30kNarratives
from datamodules.datasets.motion_text import HumanML3D
from datamodules.datasets.nus_wide import NUSWIDE
from datamodules.datasets.pascal_sentences import PascalSentences
from datamodules.datasets.pku_xmedianet import PKUXMediaNet
from datamodules.datasets.synthetic import Synthetic, SyntheticItems
from datamodules.datasets.utd_mhad import UTDMHAD
from datamodules.datasets.wikipedia import Wikipedia, WikipediaRaw
from datamodules.errors import DataError, DataMissing
from datamodules.files.sources import data_root, root_is_named
from datamodules.items import ItemSet
from datamodules.paired_features import FeatureDataModule
from datamodules.retrieval_data import RetrievalData

__all__ = [
    "CUHKPEDES",
    "NUSWIDE",
    "UTDMHAD",
    "DataError",
    "DataMissing",
    "FeatureDataModule",
    "FeaturePairs",
    "Flickr8kTriples",
    "Flickr30kCaptions",
    "Flickr30kNarratives",
    "HumanML3D",
    "ItemSet",
    "PKUXMediaNet",
    "PascalSentences",
    "RetrievalData",
    "Synthetic",
    "SyntheticItems",
    "Wikipedia",
    "WikipediaRaw",
    "data_root",
    "root_is_named",
]
