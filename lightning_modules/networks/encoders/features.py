"""Features that were computed elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_modules.networks.encoders.base import Encoder, Standardise, pool


class Features(Encoder):
    """Precomputed features, standardised by the training items; a sequence becomes its mean and maximum.

    Args:
        source: of kind "vector" (d,) or "sequence" of vectors.

    Raises:
        ValueError: the steps of the sequence are no vectors.
    """

    kinds = ("vector", "sequence")

    def __init__(self, source: Mapping[str, Any]):
        super().__init__(source)
        if len(source["shape"]) != 1:
            raise ValueError(f"Features reads vectors, and the steps have shape {tuple(source['shape'])}")
        (width,) = source["shape"]
        self.dim = width if source["kind"] == "vector" else 2 * width
        self.standardise = Standardise(width)

    def fit(self, rows: Tensor, mask: Tensor | None) -> None:
        self.standardise.fit(rows, mask)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.standardise(x)
        return x if x.ndim == 2 else pool(x, mask)
