"""A two-modality loss summed over all pairs of modalities."""

from __future__ import annotations

from itertools import combinations

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
        **kwargs: its keywords, e.g. ``temperature``.

    Raises:
        ValueError: the named loss is unknown or not one of two modalities.
        TypeError: a keyword that loss does not have.

    Source: Yin et al., CVPR 2024 (LAVIMO), for KL.
    """

    def __init__(self, divergence: str = "kl", **kwargs):
        super().__init__()
        self.divergence = build_loss(divergence, **kwargs)
        if isinstance(self.divergence, GCSLoss | KernelGCSLoss | PairwiseLoss):
            raise ValueError(f"pairwise sums a loss of two modalities, which {divergence!r} is not")

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        terms = {}
        pairs = list(combinations(batch.modalities, 2))
        for pair in pairs:
            terms |= self.divergence.terms(batch.select(pair, shares=len(pairs)))
        return terms
