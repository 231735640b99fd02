"""Kullback-Leibler matching losses for two modalities."""

from typing import Literal

import torch
from torch import Tensor

from losses.common.base import AlignmentLoss, GatheredBatch, MatchingLoss
from losses.common.matching import product
from losses.divergence import kl_divergence
from losses.registry import register_loss


@register_loss("kl")
class KLLoss(MatchingLoss):
    """Kullback-Leibler divergence between matching and target distributions, both directions.

    sum over directions of mean_i KL(q_i || p_i) (forward, a soft cross-entropy less the target's entropy) or
    mean_i KL(p_i || q_i) (reverse), with p_i = softmax_j( cos(x_i, z_j) / temperature ).

    >>> KLLoss(temperature=1.0)({"image": torch.eye(3), "text": torch.eye(3)}, torch.arange(3)).total
    tensor(1.1029)

    Processes: rows of this process against the columns of all, gradient through the gather.

    Args:
        temperature: tau > 0.
        direction: "forward" or "reverse"; reverse is infinite wherever q is zero, so it takes positive targets only.

    Raises:
        ValueError: on call, a target with zero entries in the reverse direction.

    Source: Yin et al., CVPR 2024 (LAVIMO); the forward direction as in InfoNCE with several positives.
    """

    def __init__(self, temperature: float = 0.1, direction: Literal["forward", "reverse"] = "forward"):
        super().__init__(temperature)
        if direction not in ("forward", "reverse"):
            raise ValueError(f"direction must be 'forward' or 'reverse', got {direction!r}")
        self.direction = direction

    def of_direction(self, batch: GatheredBatch, x: str, z: str, reverse: bool) -> Tensor:
        log_p = batch.log_matching(x, z, self.temperature)
        if self.direction == "forward":
            # KL(q || p) = -sum_j q_j log p_j - H(q)
            return (-(batch.target(reverse) * log_p).sum(dim=1) - batch.target_entropy(reverse)).mean()
        if not batch.matches(reverse).all():
            raise ValueError(
                "reverse KL is infinite where the target is zero; give strictly positive target weights, use the "
                "forward direction, or `cmpm_kl`, whose 1e-8 bounds it"
            )
        return kl_divergence(log_p, batch.log_target(reverse)).mean()


@register_loss("cmpm_kl")
class CMPMKLLoss(AlignmentLoss):
    """Cross-modal projection matching, both directions.

    sum over directions of mean_i sum_j p_ij log( p_ij / (q_ij + 1e-8) ), with p_i = softmax_j( x_i . z_j / |z_j| ):
    only the second argument is normalised, there is no temperature, and the 1e-8 bounds a divergence that is infinite
    wherever the target is zero.

    Processes: rows of this process against the columns of all, gradient through the gather.

    Source: Zhang and Lu, "Deep Cross-Modal Projection Learning for Image-Text Matching", ECCV 2018.
    """

    over_rows = True
    power = 1
    epsilon = 1e-8

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        terms = {}
        for x, z, reverse in batch.directions():
            log_p = torch.log_softmax(product(batch.rows[x], batch.unit_columns(z)), dim=1)
            q = batch.target(reverse) + self.epsilon
            terms[f"{x}->{z}"] = kl_divergence(log_p, q.log()).mean()
        return terms

    def effective_factor(self, modalities: int) -> int:
        return 1
