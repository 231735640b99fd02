"""Cauchy-Schwarz matching loss for two modalities."""

from __future__ import annotations

from torch import Tensor

from losses.base import AlignmentLoss, GatheredBatch, check_temperature
from losses.divergence import cs_divergence
from losses.registry import register_loss


@register_loss("cs")
class CSLoss(AlignmentLoss):
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

    over_rows = True

    def __init__(self, temperature: float = 0.1):
        super().__init__()
        self.temperature = check_temperature(temperature)

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        # The divergence does not depend on the scale of p: no softmax is needed.
        return {
            f"{x}->{z}": cs_divergence(batch.logits(x, z, self.temperature), batch.log_target(reverse)).mean()
            for x, z, reverse in batch.directions()
        }

    def effective_factor(self, modalities: int) -> int:
        return 2
