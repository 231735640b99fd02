"""Transformers over the steps of a sequence: poses, and the frames of a video."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from datamodules.features.timm_models import timm_model, timm_width
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


class Frames(Encoder):
    """Every frame through an image encoder, then a transformer over time.

    Args:
        source: of kind "sequence" of frames, (H, W) or (3, H, W).
        model: a timm model for the frames, one of ``timm.list_models()``.
        weights: path of its weights; without them it starts untrained.
        depth: layers of the temporal transformer.
        heads: attention heads.
        dropout: share of units dropped in training.

    Raises:
        ValueError: no such model, or it cannot take frames of that size.
        DataError: the weights are missing or of another model.

    Source: Yin et al., CVPR 2024 (LAVIMO), six layers over CLIP frames.
    """

    kinds = ("sequence",)

    def __init__(
        self,
        source: Mapping[str, Any],
        model: str = "resnet10t",
        weights: str | None = None,
        depth: int = 6,
        heads: int = 8,
        dropout: float = 0.1,
    ):
        super().__init__(source)
        shape = tuple(source["shape"])
        if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] != 3):
            raise ValueError(f"Frames reads frames of shape (H, W) or (3, H, W), and the modality holds {shape}")
        self.frame = timm_model(model, weights, shape[-2:])
        self.dim = self.token_dim = timm_width(self.frame)
        self.standardise = Standardise(1)
        self.transformer = TemporalTransformer(self.dim, depth, heads, dropout)

    def fit(self, rows: Tensor, mask: Tensor | None) -> None:
        self.standardise.fit(rows[..., None], mask)

    def with_tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        x = self.standardise(x[..., None])[..., 0]
        x = x if x.ndim == 5 else x[:, :, None].expand(-1, -1, 3, -1, -1)
        if mask is None:
            return *self.transformer(self.frame(x.flatten(0, 1)).unflatten(0, x.shape[:2]), mask), mask
        embedded = self.frame(x[mask])  # padding would enter the statistics of a batch normalisation
        steps = embedded.new_zeros(*mask.shape, self.dim)
        steps[mask] = embedded
        return *self.transformer(steps, mask), mask
