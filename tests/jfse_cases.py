"""Small data of JFSE, its models and their trainer: what the tests of JFSE share."""

from __future__ import annotations

import lightning as L
import numpy as np
import pytest
import torch
from training import Trainer

from datamodules import FeatureDataModule, ItemSet, Synthetic
from datamodules.datasets.synthetic import synthetic_features
from lightning_modules.jfse import JFSE

# Warnings of small runs, which no test is about.
IGNORED = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks"),
]

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
    drawn = synthetic_features(4, 128, 8, 6)
    if change is not None:
        change(drawn)
    embedding = np.random.default_rng(0).standard_normal((4, width)) * np.arange(1, width + 1) + 7
    label = drawn.label if label is None else label
    return Prepared(
        ItemSet.of_features(drawn.vectors, label, drawn.split, drawn.class_names, "memory", embedding), **kwargs
    )


def trainer(folder, **kwargs) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "enable_checkpointing": False}
    return Trainer(**{**defaults, **quiet, "default_root_dir": folder, **kwargs})


def model(dm: FeatureDataModule, alignment="cs", seed: int = 0, **kwargs) -> JFSE:
    L.seed_everything(seed, verbose=False)
    return JFSE(dm.dims, alignment, **{"width": 16, "learning_rate": 1e-3, **kwargs})


def fit(folder, dm: FeatureDataModule, alignment="cs", epochs: int = 1, trainer_arguments=None, **kwargs) -> JFSE:
    module = model(dm, alignment, **kwargs)
    trainer(folder, max_epochs=epochs, **(trainer_arguments or {})).fit(module, dm)
    return module


def assert_same_weights(first: torch.nn.Module, second: torch.nn.Module) -> None:
    one, other = first.state_dict(), second.state_dict()
    assert list(one) == list(other)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def min_max(x, low=None, high=None):
    low, high = (x.min(0) if low is None else low), (x.max(0) if high is None else high)
    return (x - low) / np.where(high > low, high - low, 1)
