"""Bits of which the last modality is the exclusive or of the others: structure that no pair of modalities has."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from datamodules.items import ItemSet, Modality
from datamodules.retrieval_data import RetrievalData


class XOR(RetrievalData):
    """Vectors of B bits, written -1 and 1; the last modality is the exclusive or of the others, bit by bit.

    Any M - 1 of the M modalities are independent, so that every pair of them tells nothing, and all but one tell the
    other. An item's class is the value of its last modality, one of 2^B. Training, validation and test items are drawn
    alike.

    Args:
        names: names of the modalities, three or more.
        bits: B.
        items: training items; and test items, half as many.
        seed: draws the data.
        **kwargs: see RetrievalData.

    Raises:
        ValueError: fewer than three names, or a number below 1.

    Source: Saporta et al., NeurIPS 2024 (Symile), the example of section 3.
    """

    dataset = features = "xor"
    data_kind = "synthetic"

    def __init__(
        self, names: Sequence[str] = ("a", "b", "c"), bits: int = 5, items: int = 4000, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if len(names) < 3:
            raise ValueError(f"names is {list(names)}; expected three modalities or more.")
        for what, number in {"bits": bits, "items": items}.items():
            if number < 1:
                raise ValueError(f"{what} is {number}; expected 1 or more.")
        self.names, self.bits, self.items, self.seed = tuple(names), bits, items, seed

    def read(self) -> ItemSet:
        """Draw the items."""
        count = self.items + self.items // 2
        drawn = np.random.default_rng(self.seed).integers(2, size=(len(self.names) - 1, count, self.bits))
        bits = [*drawn, drawn.sum(axis=0) % 2]
        return ItemSet(
            {name: Modality((2 * rows - 1).astype(np.float32)) for name, rows in zip(self.names, bits, strict=True)},
            label=bits[-1] @ (1 << np.arange(self.bits)),
            split=np.repeat(["train", "test"], [self.items, count - self.items]),
            names=[f"item {number}" for number in range(count)],
            origin=f"generated bits of seed {self.seed}",
        )
