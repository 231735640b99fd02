"""Generated items of several modalities, so that everything runs without data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datamodules.items import ItemSet, Modality
from datamodules.retrieval_data import RetrievalData

CLASSES, PER_CLASS, TEST_SHARE = 12, 30, 3
LATENT, WIDTH = 8, 24


class SyntheticItems(RetrievalData):
    """Class-conditional vectors: item = centre of its class + noise, seen through another map in every modality.

    Args:
        names: names of the modalities.
        noise: standard deviation of an item around the centre of its class, whose own deviation is 1.
        seed: of the draws.
        **kwargs: see RetrievalData.
    """

    dataset = "synthetic"
    features = "synthetic"
    data_kind = "synthetic"
    test_split = "standard"

    def __init__(
        self, names: Sequence[str] = ("text", "video", "motion"), noise: float = 1.0, seed: int = 0, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.names, self.noise, self.seed = tuple(names), noise, seed

    def read(self) -> ItemSet:
        """Draw the items."""
        draw = np.random.default_rng(self.seed)
        label = np.repeat(np.arange(CLASSES), PER_CLASS)
        latent = draw.standard_normal((CLASSES, LATENT))[label]
        modalities = {}
        for name in self.names:
            item = latent + self.noise * draw.standard_normal(latent.shape)
            view = np.tanh(item @ draw.standard_normal((LATENT, WIDTH)) / np.sqrt(LATENT))
            modalities[name] = Modality((view + 0.1 * draw.standard_normal(view.shape)).astype(np.float32))
        number = np.arange(len(label)) % PER_CLASS
        return ItemSet(
            modalities,
            label,
            np.where(number % TEST_SHARE == 0, "test", "train"),
            [f"class {c}, item {n}" for c, n in zip(label, number, strict=True)],
            "generated data",
        )
