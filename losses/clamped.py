"""CS and GCS losses in the clamped form that public code has, so that tables can show what log space gains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from losses.base import GatheredBatch
from losses.cs import CSLoss
from losses.gcs import REVERSED, GCSLoss, edge_sets
from losses.registry import register_loss


@register_loss("cs_clamped")
class CSClampedLoss(CSLoss):
    """Cauchy-Schwarz matching loss with clamped probabilities, for comparison alone: train with `cs`.

    sum over directions of mean_i D(p_i, q_i), with p_ij = exp(s_ij) / sum_j exp(s_ij), s = cos / temperature, and D as
    in :func:`clamped_divergence`. The exponential is not shifted, so it overflows above s = 88 in float32; the value
    stops growing near -log epsilon; a probability below epsilon gets no gradient. Half-precision embeddings are raised
    to float32 first, as in every loss here, which is kinder to this form than code that computes it in half precision.

    Processes: as `cs`.

    Args:
        temperature: tau > 0.
        epsilon: least probability, in (0, 1).

    Raises:
        ValueError: a setting outside its range.

    Source: the form of the public code of Zhang, Yin and Yu, ACM MM 2025.
    """

    def __init__(self, temperature: float = 0.1, epsilon: float = 1e-8):
        super().__init__(temperature)
        self.epsilon = _check_epsilon(epsilon)

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        terms = {}
        for x, z, reverse in batch.directions():
            ps = [_matching(batch, x, z, self.temperature), batch.log_target(reverse).exp()]
            terms[f"{x}->{z}"] = clamped_divergence(ps, self.epsilon).mean()
        return terms


@register_loss("gcs_clamped")
class GCSClampedLoss(GCSLoss):
    """Generalised Cauchy-Schwarz loss over a ring with clamped probabilities, for comparison alone: train with `gcs`.

    As :class:`losses.GCSLoss`, with the matching distributions and the divergence of :class:`CSClampedLoss`, whose
    limits it shares; among K arguments its value stops growing near -(K - 1) log epsilon.

    Processes: as `gcs`.

    Args:
        temperature: tau > 0.
        scheme: as in `gcs`.
        use_target: whether the target is one of the arguments.
        epsilon: least probability, in (0, 1).

    Raises:
        ValueError: a setting outside its range.

    Source: the form of the public code of Zhang, Yin and Yu, ACM MM 2025.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        scheme: Literal["clockwise", "counterclockwise", "bidirectional", "mixed"] = "bidirectional",
        use_target: bool = True,
        epsilon: float = 1e-8,
    ):
        super().__init__(temperature, scheme, use_target)
        self.epsilon = _check_epsilon(epsilon)

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        terms = {}
        for name, edges in edge_sets(batch.modalities, self.scheme).items():
            ps = [_matching(batch, x, z, self.temperature) for x, z in edges]
            if self.use_target:
                ps.append(batch.log_target(reverse=name in REVERSED).exp())
            terms[name] = clamped_divergence(ps, self.epsilon).mean()
        return terms


def clamped_divergence(ps: Sequence[Tensor], epsilon: float) -> Tensor:
    """Generalised Cauchy-Schwarz divergence among K distributions whose entries are raised to at least epsilon.

    -log sum_j prod_k p_kj + (1/K) sum_k log sum_j p_kj^K of p_kj = max(p_kj, epsilon), products and powers in ordinary
    space. K = 2 is the Cauchy-Schwarz divergence.

    Args:
        ps: K tensors of shape (..., n), probabilities.
        epsilon: least probability.

    Returns:
        (...,) divergences.
    """
    ps = torch.stack(list(ps)).clamp_min(epsilon)
    norms = ps.pow(len(ps)).sum(dim=-1).log().mean(dim=0)
    return norms - ps.prod(dim=0).sum(dim=-1).log()


def _matching(batch: GatheredBatch, x: str, z: str, temperature: float) -> Tensor:
    """softmax_j( cos(x_i, z_j) / temperature ), without the shift that keeps the exponential from overflowing."""
    weights = torch.exp(batch.logits(x, z, temperature))
    return weights / weights.sum(dim=1, keepdim=True)


def _check_epsilon(epsilon: float) -> float:
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon is {epsilon}; expected a probability above 0 and below 1")
    return epsilon
