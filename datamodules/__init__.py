"""Data sets: files in, batches out."""

from importlib import import_module
from typing import Any

# Imported when they are asked for: a help text or a list of data sets needs no torch.
_WHERE = {
    "CUHKPEDES": "datasets.cuhk_pedes",
    "OwnData": "datasets.own_data",
    "Flickr30kCaptions": "datasets.flickr30k",
    "Flickr30kNarratives": "datasets.flickr30k",
    "Flickr8k": "datasets.flickr8k",
    "Flickr8kTriples": "datasets.flickr8k",
    "HumanML3D": "datasets.motion_text",
    "NUSWIDE": "datasets.nus_wide",
    "PascalSentences": "datasets.pascal_sentences",
    "PKUXMediaNet": "datasets.pku_xmedianet",
    "Synthetic": "datasets.synthetic",
    "SyntheticItems": "datasets.synthetic",
    "UTDMHAD": "datasets.utd_mhad",
    "Wikipedia": "datasets.wikipedia",
    "WikipediaRaw": "datasets.wikipedia",
    "XOR": "datasets.synthetic",
    "DataError": "errors",
    "DataMissing": "errors",
    "data_root": "files.sources",
    "root_is_named": "files.sources",
    "ItemSet": "items",
    "FeatureDataModule": "paired_features",
    "RetrievalData": "retrieval_data",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
