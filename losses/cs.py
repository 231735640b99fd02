"""Cauchy-Schwarz matching loss for two modalities."""

from __future__ import annotations

from torch import Tensor

from losses.base import AlignmentLoss, GatheredBatch, check_temperature
from losses.registry import register_loss


@register_loss("cs")
class CSLoss(AlignmentLoss):
    """Cauchy-Schwarz divergence between matching and target distributions, both directions.

    sum over directions of mean_i D_CS(p_i, q_i), with p_i = softmax_j( cos(x_i, z_j) / temperature ). With one-hot
    targets it equals half the cross-entropy at temperature/2, so compare it with `kl` at half its temperature.

    Processes: rows of this process against the columns of all, gradient through the gather.

    Args:
        temperature: tau > 0.

    Source: Zhang, Yin and Yu, ACM MM 2025.
    """

    def __init__(self, temperature: float = 0.1):
        super().__init__()
        self.temperature = check_temperature(temperature)

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        a, b = batch.two(self)
        targets = [batch.target(), batch.target(reverse=True)]
        values = batch.divergences([(a, b)], self.temperature, "gcs", targets)
        return dict(zip((f"{a}->{b}", f"{b}->{a}"), values, strict=True))
