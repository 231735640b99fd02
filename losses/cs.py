"""Cauchy-Schwarz matching losses for two modalities: in log space, and in the clamped form of public code."""

import torch
from torch import Tensor

from losses.common.base import GatheredBatch, MatchingLoss
from losses.divergence import clamped_divergence, cs_divergence
from losses.registry import register_loss


@register_loss("cs")
class CSLoss(MatchingLoss):
    """Cauchy-Schwarz divergence between matching and target distributions, both directions.

    sum over directions of mean_i D_CS(p_i, q_i), with p_i = softmax_j( cos(x_i, z_j) / temperature ). With one-hot
    targets it equals half the cross-entropy at temperature/2, so compare it with `kl` at half its temperature.

    >>> CSLoss(temperature=1.0)({"image": torch.eye(3), "text": torch.eye(3)}, torch.arange(3)).total
    tensor(0.2395)

    Processes: rows of this process against the columns of all, gradient through the gather.

    Args:
        temperature: tau > 0.

    Source: Zhang, Yin and Yu, ACM MM 2025.
    """

    def of_direction(self, batch: GatheredBatch, x: str, z: str, reverse: bool) -> Tensor:
        # The divergence does not depend on the scale of p: no softmax is needed.
        return self.divergence(batch.logits(x, z, self.temperature), batch.log_target(reverse)).mean()

    def divergence(self, logits: Tensor, log_target: Tensor) -> Tensor:
        """(B,) D_CS(p_i, q_i), from logits and the log target (B, B_global)."""
        return cs_divergence(logits, log_target)

    def effective_factor(self, modalities: int) -> int:
        return 2


@register_loss("cs_clamped")
class CSClampedLoss(CSLoss):
    """Cauchy-Schwarz matching loss with clamped probabilities, for comparison alone: train with `cs`.

    sum over directions of mean_i D(p_i, q_i), with p_ij = exp(s_ij) / sum_j exp(s_ij), s = cos / temperature, and D as
    in :func:`losses.divergence.clamped_divergence`. The exponential is not shifted, so it overflows above s = 88 in
    float32; the value stops growing near -log epsilon; a probability below epsilon gets no gradient. Half-precision
    embeddings are raised to float32 first, as in every loss here, which is kinder to this form than code that computes
    it in half precision.

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
        self.epsilon = check_epsilon(epsilon)

    def divergence(self, logits: Tensor, log_target: Tensor) -> Tensor:
        return clamped_divergence([unshifted_softmax(logits), log_target.exp()], self.epsilon)


def unshifted_softmax(logits: Tensor) -> Tensor:
    """exp(s_ij) / sum_j exp(s_ij), without the shift that keeps the exponential from overflowing."""
    weights = torch.exp(logits)
    return weights / weights.sum(dim=1, keepdim=True)


def check_epsilon(epsilon: float) -> float:
    """Return ``epsilon``, refusing what is no probability above 0 and below 1 with a ValueError."""
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon is {epsilon}; expected a probability above 0 and below 1")
    return epsilon
