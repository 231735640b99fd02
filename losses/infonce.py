"""InfoNCE for two modalities."""

from torch import Tensor

from losses.common.base import GatheredBatch, MatchingLoss
from losses.registry import register_loss


@register_loss("infonce")
class InfoNCELoss(MatchingLoss):
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

    uses_labels = False

    def of_direction(self, batch: GatheredBatch, x: str, z: str, reverse: bool) -> Tensor:
        return -batch.own_pair(batch.log_matching(x, z, self.temperature)).mean()
