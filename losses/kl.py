"""Kullback-Leibler matching losses for two modalities."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from losses.base import AlignmentLoss, GatheredBatch, check_temperature
from losses.divergence import kl_divergence
from losses.registry import register_loss


@register_loss("kl")
class KLLoss(AlignmentLoss):
    """Kullback-Leibler divergence between matching and target distributions, both directions.

    sum over directions of mean_i KL(q_i || p_i) (forward, a soft cross-entropy less the target's entropy) or
    mean_i KL(p_i || q_i) (reverse), with p_i = softmax_j( cos(x_i, z_j) / temperature ).

    Processes: rows of this process against the columns of all, gradient through the gather.

    Args:
        temperature: tau > 0.
        direction: "forward" or "reverse"; reverse is infinite wherever q is zero, so it takes positive targets only.

    Raises:
        ValueError: on call, a target with zero entries in the reverse direction.

    Source: Yin et al., CVPR 2024 (LAVIMO); the forward direction as in InfoNCE with several positives.
    """

    def __init__(self, temperature: float = 0.1, direction: Literal["forward", "reverse"] = "forward"):
        super().__init__()
        if direction not in ("forward", "reverse"):
            raise ValueError(f"direction must be 'forward' or 'reverse', got {direction!r}")
        self.temperature = check_temperature(temperature)
        self.direction = direction

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        a, b = batch.two(self)
        names = (f"{a}->{b}", f"{b}->{a}")
        if self.direction == "forward":
            targets = [batch.target(), batch.target(reverse=True)]
            return dict(zip(names, batch.divergences([(a, b)], self.temperature, "kl", targets), strict=True))
        return {names[0]: self._reverse(batch, a, b, False), names[1]: self._reverse(batch, b, a, True)}

    def _reverse(self, batch: GatheredBatch, a: str, b: str, reverse: bool) -> Tensor:
        log_q = batch.log_target(reverse)
        if bool(torch.isneginf(log_q).any()):
            raise ValueError(
                "reverse KL is infinite where the target is zero; give strictly positive target weights, use the "
                "forward direction, or `cmpm_kl`, whose 1e-8 bounds it"
            )
        return kl_divergence(batch.log_matching(a, b, self.temperature), log_q).mean()


@register_loss("cmpm_kl")
class CMPMKLLoss(AlignmentLoss):
    """Cross-modal projection matching, both directions.

    sum over directions of mean_i sum_j p_ij log( p_ij / (q_ij + 1e-8) ), with p_i = softmax_j( x_i . z_j / |z_j| ):
    only the second argument is normalised, there is no temperature, and the 1e-8 bounds a divergence that is infinite
    wherever the target is zero.

    Processes: rows of this process against the columns of all, gradient through the gather.

    Source: Zhang and Lu, "Deep Cross-Modal Projection Learning for Image-Text Matching", ECCV 2018.
    """

    epsilon = 1e-8

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        a, b = batch.two(self)
        return {
            f"{a}->{b}": self._projection_matching(batch, a, b, batch.log_target()),
            f"{b}->{a}": self._projection_matching(batch, b, a, batch.log_target(reverse=True)),
        }

    def _projection_matching(self, batch: GatheredBatch, a: str, b: str, log_q: Tensor) -> Tensor:
        log_p = torch.log_softmax(batch.rows[a] @ batch.unit_columns(b).T, dim=1)
        return kl_divergence(log_p, torch.log(log_q.exp() + self.epsilon)).mean()
