"""Maximum mean discrepancy between the embeddings of two modalities."""

from collections.abc import Sequence

import torch
from torch import Tensor

from losses.common.base import AlignmentLoss, GatheredBatch
from losses.registry import register_loss

JFSE_SIGMAS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6)


@register_loss("mmd")
class MMDLoss(AlignmentLoss):
    """Squared maximum mean discrepancy under a sum of Gaussian kernels.

    mean_ij k(x_i, x_j) + mean_ij k(z_i, z_j) - 2 mean_ij k(x_i, z_j), k(x, z) = sum_s exp( -|x - z|^2 / (2 s) ), over
    the raw embeddings: the biased estimate, never negative. Labels are not used.

    Processes: every process computes the loss of the whole gathered batch, gradient through the gather.

    Args:
        sigma: bandwidths s > 0, in squared units of the embedding; one number for a single kernel.

    Raises:
        ValueError: a bandwidth is not positive, or none is given.

    Source: Gretton et al., JMLR 2012; bandwidths of the public JFSE code.
    """

    uses_labels = False
    power = 2

    def __init__(self, sigma: float | Sequence[float] = JFSE_SIGMAS):
        super().__init__()
        self.sigma = tuple(sigma) if isinstance(sigma, Sequence) else (sigma,)
        if not self.sigma or not all(0 < s < float("inf") for s in self.sigma):
            raise ValueError(f"sigma must be one or more positive, finite bandwidths, got {sigma}")

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        a, b = batch.modalities
        x, z = batch.columns[a], batch.columns[b]
        both = torch.cat([x, z])
        # Differences, not the Gram expansion: at sigma = 1e-6 its cancellation error is as large as the kernel.
        squared = torch.cdist(both, both, compute_mode="donot_use_mm_for_euclid_dist").square()
        kernel = sum(torch.exp(squared / (-2 * s)) for s in self.sigma)
        # The three means at once, as the quadratic form of weights 1/B for one sample and -1/B for the other.
        weight = torch.cat([x.new_full((len(x),), 1 / len(x)), z.new_full((len(z),), -1 / len(z))])
        return {f"{a}<->{b}": weight @ kernel @ weight}
