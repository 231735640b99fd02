"""Small CMPM models and persons to train them on: what the tests of CMPM share."""

import lightning as L
import numpy as np
from tiny_items import Tiny, item_set

from datamodules import FeatureDataModule, RetrievalData, Synthetic
from lightning_modules import CMPM

WORDS = {"name": "words", "vocabulary": 60, "min_count": 1, "width": 8, "hidden": 8, "dropout": 0.0}
# Persons of the tiny items: any integers, in no order.
PERSONS = np.array([-7, 900, 3, 2**40, 0, 11_003])[np.arange(24) // 4]


def persons(**settings) -> Tiny:
    """Vectors and texts of 24 items of six persons, four of each; every third item is a test item."""
    return Tiny(item_set(label=PERSONS), **{"modalities": ["code", "text"], "batch_size": 6, **settings})


def pairs(**settings) -> Synthetic:
    """Paired features of ten classes."""
    return Synthetic(**{"class_encoder": "one-hot", "items": 400, **settings})


def model(data: RetrievalData | FeatureDataModule, seed: int = 0, **settings) -> CMPM:
    """A model of width 8 that reads texts by their words."""
    L.seed_everything(seed, verbose=False)
    encoders = {"text": WORDS} if isinstance(data, Tiny) else {}
    return CMPM(data.dims, **{"encoders": encoders, "dim": 8, "learning_rate": 3e-3, "ks": (1, 5), **settings})
