"""Cauchy-Schwarz matching loss for two modalities."""

from torch import Tensor

from losses.common.base import GatheredBatch, MatchingLoss
from losses.divergence import cs_divergence
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
