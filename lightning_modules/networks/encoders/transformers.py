"""A transformer over the steps of a sequence of poses."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lightning_modules.networks.encoders.base import Encoder, Standardise, TemporalTransformer


class PoseTransformer(Encoder):
    """A transformer over poses: every step, flattened and standardised, is projected to a token.

    Args:
        source: of kind "sequence" of poses, (joints, 3) or pose vectors.
        dim: width.
        depth: layers.
        heads: attention heads.
        dropout: share of units dropped in training.

    Source: Yin et al., CVPR 2024 (LAVIMO), six layers.
    """

    kinds = ("sequence",)

    def __init__(self, source: Mapping[str, Any], dim: int = 256, depth: int = 6, heads: int = 8, dropout: float = 0.1):
        super().__init__(source)
        width = math.prod(source["shape"])
        self.dim = self.token_dim = dim
        self.standardise = Standardise(width)
        self.project = nn.Linear(width, dim)
        self.transformer = TemporalTransformer(dim, depth, heads, dropout)

    def fit(self, rows: Tensor, mask: Tensor | None) -> None:
        self.standardise.fit(rows.flatten(2), mask)

    def with_tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        return *self.transformer(self.project(self.standardise(x.flatten(2))), mask), mask
