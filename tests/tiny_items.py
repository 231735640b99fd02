"""A tiny item set of text, motion and vectors, and its data module: what the tests of raw modalities share."""

import numpy as np

from datamodules import RetrievalData
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


class Tiny(RetrievalData):
    dataset = "tiny"
    features = "noise"
    data_kind = "synthetic"
    test_split = "standard"

    def __init__(self, content: ItemSet | None = None, **kwargs) -> None:
        super().__init__(**({"batch_size": 5} | kwargs))
        self.content = content if content is not None else item_set()

    def read(self) -> ItemSet:
        return self.content


def epoch_of(module: RetrievalData, epoch: int) -> list[dict]:
    loader = module.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def drawn(module: RetrievalData, epoch: int, name: str = "text") -> list[tuple[int, str]]:
    return [row for batch in epoch_of(module, epoch) for row in zip(batch["id"].tolist(), batch[name], strict=True)]
