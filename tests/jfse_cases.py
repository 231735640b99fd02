"""Small data of JFSE and its models: what the tests of JFSE share."""

import lightning as L
import numpy as np
from training import trainer

from datamodules import FeatureDataModule, ItemSet, Synthetic
from lightning_modules.jfse import JFSE

MODALITIES = ("image", "text")
SMALL = {"classes": 4, "items": 128, "image_dim": 8, "text_dim": 6, "batch_size": 16, "class_encoder": "one-hot"}


def data(**changes) -> Synthetic:
    return Synthetic(**{**SMALL, **changes})


class Prepared(FeatureDataModule):
    """A data module over a ItemSet in memory."""

    dataset, features, data_kind = "prepared", "prepared", "synthetic"

    def __init__(self, content: ItemSet, **kwargs) -> None:
        super().__init__(**{"batch_size": 16, "class_encoder": "from-data", **kwargs})
        self.content = content

    def read(self) -> ItemSet:
        return self.content


def prepared(label: np.ndarray | None = None, change=None, width: int = 5, **kwargs) -> Prepared:
    """The small synthetic data with a class embedding of its own, other labels, or features changed in place."""
    drawn = Synthetic(4, 128, 8, 6).read()
    if change is not None:
        change(drawn)
    embedding = np.random.default_rng(0).standard_normal((4, width)) * np.arange(1, width + 1) + 7
    label = drawn.label if label is None else label
    given = drawn.vectors, label, drawn.split, drawn.class_names, "memory"
    return Prepared(ItemSet.of_features(*given, class_embedding=embedding), **kwargs)


def model(dm: FeatureDataModule, alignment="cs", seed: int = 0, **kwargs) -> JFSE:
    L.seed_everything(seed, verbose=False)
    return JFSE(dm.dims, alignment, **{"width": 16, "learning_rate": 1e-3, **kwargs})


def fit(folder, dm: FeatureDataModule, alignment="cs", epochs: int = 1, trainer_arguments=None, **kwargs) -> JFSE:
    module = model(dm, alignment, **kwargs)
    trainer(folder, max_epochs=epochs, **(trainer_arguments or {})).fit(module, dm)
    return module


def min_max(x, low=None, high=None):
    low, high = (x.min(0) if low is None else low), (x.max(0) if high is None else high)
    return (x - low) / np.where(high > low, high - low, 1)
