"""A tiny item set of text, motion and vectors, one of paired features, and data modules that hand them out."""

import numpy as np

from datamodules import FeatureDataModule, RetrievalData
from datamodules.items import ItemSet, Modality

N = 24
CAPTION_OWNER = np.repeat(np.arange(N), np.arange(N) % 3 + 1)  # one, two or three captions


def modalities() -> dict[str, Modality]:
    rng = np.random.default_rng(0)
    return {
        "text": Modality([f"caption {i} of item {owner}" for i, owner in enumerate(CAPTION_OWNER)], CAPTION_OWNER),
        "motion": Modality([rng.normal(size=(2 + i % 5, 3)) for i in range(N)]),
        "code": Modality(rng.normal(size=(N, 4))),
    }


def item_set(**changed) -> ItemSet:
    """24 items of six groups; every third item is a test item, labels go by fours."""
    parts = {
        "modalities": modalities(),
        "label": np.arange(N) // 4,
        "split": np.where(np.arange(N) % 3 == 2, "test", "train"),
        "names": [f"item-{i}" for i in range(N)],
        "origin": "tiny",
        "group": np.arange(N) % 6,
    }
    return ItemSet(**(parts | changed))


def with_modality(name: str, modality: Modality) -> ItemSet:
    return item_set(modalities=modalities() | {name: modality})


def feature_set(multi_hot: bool = False, **changed) -> ItemSet:
    """210 pairs of features of seven classes; every third one is a test item."""
    rng = np.random.default_rng(0)
    label = np.arange(210) % 7
    if multi_hot:
        label = np.eye(7, dtype=bool)[label]
        label[::5, 0] = True
    parts = {
        "features": {"image": rng.normal(size=(210, 5)), "text": rng.normal(size=(210, 3)).astype(np.float32)},
        "label": label,
        "split": np.where(np.arange(210) % 3 == 2, "test", "train"),
        "class_names": tuple("abcdefg"),
        "origin": "tiny.npz",
    }
    return ItemSet.of_features(**(parts | changed))


class _Given:
    """A data module that reads what it is given."""

    dataset, features, data_kind = "tiny", "noise", "synthetic"

    def __init__(self, content: ItemSet | None = None, **kwargs) -> None:
        super().__init__(**(self.settings | kwargs))
        self.content, self.times_read = content or self.default(), 0

    def read(self) -> ItemSet:
        self.times_read += 1
        return self.content


class Tiny(_Given, RetrievalData):
    settings, default = {"batch_size": 5}, staticmethod(item_set)


class TinyPairs(_Given, FeatureDataModule):
    settings, default = {"batch_size": 16, "class_encoder": "one-hot"}, staticmethod(feature_set)


def epoch_of(module: RetrievalData, epoch: int) -> list[dict]:
    loader = module.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def drawn(module: RetrievalData, epoch: int, name: str = "text") -> list[tuple[int, str]]:
    return [row for batch in epoch_of(module, epoch) for row in zip(batch["id"].tolist(), batch[name], strict=True)]
