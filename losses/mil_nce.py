"""MIL-NCE for two modalities: several positives, of which one suffices."""

from torch import Tensor

from losses.common.base import GatheredBatch, MatchingLoss
from losses.registry import register_loss


@register_loss("mil_nce")
class MILNCELoss(MatchingLoss):
    """Cross-entropy of every item against the sum of its positives, both directions added.

    sum over directions of mean_i -log sum_{j in S_i} p_ij, with p_i = softmax_j( cos(x_i, z_j) / temperature ) and S_i
    the items that match i. One right positive among wrong ones suffices, where `kl` asks for all of them.

    Known weakness: once one positive has all the probability, the others get no gradient, however far they are.

    Processes: rows of this process against the columns of all, gradient through the gather.

    Args:
        temperature: tau > 0.

    Source: Miech et al., "End-to-End Learning of Visual Representations from Uncurated Videos", CVPR 2020.
    """

    def of_direction(self, batch: GatheredBatch, x: str, z: str, reverse: bool) -> Tensor:
        log_p = batch.log_matching(x, z, self.temperature).masked_fill(~batch.matches(reverse), float("-inf"))
        return -log_p.logsumexp(dim=1).mean()
