"""A two-modality loss summed over all pairs of modalities."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

from torch import Tensor

from losses.base import AlignmentLoss, GatheredBatch
from losses.gcs import GCSLoss
from losses.kernel_cs import KernelGCSLoss
from losses.registry import build_loss, register_loss


@register_loss("pairwise")
class PairwiseLoss(AlignmentLoss):
    """Sum of a two-modality loss over the M(M-1)/2 pairs of M modalities.

    Processes: as the summed loss; the batch is gathered once.

    Args:
        divergence: name of a registered two-modality loss: "kl", "cs", "cmpm_kl", "mmd", "coral", "infonce",
            "kernel_cs", ...
        temperature: of the summed loss, where it has one; None, here and below, for that loss's default.
        sigma: likewise, of "mmd" and "kernel_cs".
        direction: likewise, of "kl".
        ridge: likewise, of "log_coral".
        epsilon: likewise, of "cs_clamped".
        **kwargs: keywords of a loss that was registered elsewhere.

    Raises:
        ValueError: the named loss is unknown or not one of two modalities.
        TypeError: a keyword that loss does not have.

    Source: Yin et al., CVPR 2024 (LAVIMO), for KL.
    """

    def __init__(
        self,
        divergence: str = "kl",
        temperature: float | None = None,
        sigma: float | Sequence[float] | None = None,
        direction: Literal["forward", "reverse"] | None = None,
        ridge: float | None = None,
        epsilon: float | None = None,
        **kwargs: Any,
    ):
        super().__init__()
        # One by one, since the command line and its help know an argument by its name and type alone.
        named = {
            "temperature": temperature,
            "sigma": sigma,
            "direction": direction,
            "ridge": ridge,
            "epsilon": epsilon,
        }
        given = {name: value for name, value in named.items() if value is not None}
        self.divergence = build_loss(divergence, **given, **kwargs)
        if isinstance(self.divergence, GCSLoss | KernelGCSLoss | PairwiseLoss):
            raise ValueError(f"pairwise sums a loss of two modalities, which {divergence!r} is not")

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        terms = {}
        pairs = list(combinations(batch.modalities, 2))
        for pair in pairs:
            terms |= self.divergence.terms(batch.select(pair, shares=len(pairs)))
        return terms
