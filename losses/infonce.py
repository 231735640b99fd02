"""InfoNCE for two modalities."""

from __future__ import annotations

from torch import Tensor

from losses.common.base import AlignmentLoss, GatheredBatch, check_temperature
from losses.registry import register_loss


@register_loss("infonce")
class InfoNCELoss(AlignmentLoss):
    """Cross-entropy of every item against its own pair among the batch, both directions added.

    sum over directions of mean_i -log softmax_j( cos(x_i, z_j) / temperature )_i. Labels are not used: items of the
    same class count as negatives.

    >>> InfoNCELoss(temperature=1.0)({"image": torch.eye(3), "text": torch.eye(3)}).total
    tensor(1.1029)

    Processes: rows of this process against the columns of all, gradient through the gather.

    Args:
        temperature: tau > 0.

    Source: van den Oord, Li and Vinyals, 2018; the two-directional form of Radford et al., ICML 2021, as a sum.
    """

    over_rows = True

    def __init__(self, temperature: float = 0.1):
        super().__init__()
        self.temperature = check_temperature(temperature)

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        return {
            f"{x}->{z}": -batch.own_pair(batch.log_matching(x, z, self.temperature)).mean()
            for x, z, _ in batch.directions()
        }

    def effective_factor(self, modalities: int) -> int:
        return 1
