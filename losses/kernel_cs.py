"""Cauchy-Schwarz divergences between the embeddings of whole modalities, by kernel density estimates."""

from __future__ import annotations

from torch import Tensor

from losses.base import AlignmentLoss, GatheredBatch
from losses.kernel import check_sigma, kernel_cs_divergence, kernel_gcs_divergence
from losses.registry import register_loss


@register_loss("kernel_cs")
class KernelCSLoss(AlignmentLoss):
    """Cauchy-Schwarz divergence between the kernel density estimates of two modalities.

    :func:`losses.kernel.kernel_cs_divergence` of the L2-normalised embeddings (a zero vector stays zero). It compares
    distributions and not pairs: any order of the rows gives the same value, so by itself it does not align items.
    Labels are not used.

    Processes: every process computes the loss of the whole gathered batch, gradient through the gather.

    Args:
        sigma: bandwidth > 0 of the Gaussian kernel; unit vectors lie at most 2 apart.

    Raises:
        ValueError: sigma is not positive and finite.

    Source: Yin et al., arXiv 2502.17028 (CS-Aligner).
    """

    def __init__(self, sigma: float = 1.0):
        super().__init__()
        self.sigma = check_sigma(sigma)

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        if len(batch.modalities) > 2:
            raise ValueError(
                f"KernelCSLoss takes two modalities, got {len(batch.modalities)} ({', '.join(batch.modalities)}); "
                "`kernel_gcs` takes three and more at once, and `pairwise` applies this one to all pairs"
            )
        a, b = batch.modalities
        return {f"{a}<->{b}": kernel_cs_divergence(batch.unit_columns(a), batch.unit_columns(b), self.sigma)}


@register_loss("kernel_gcs")
class KernelGCSLoss(AlignmentLoss):
    """Generalised Cauchy-Schwarz divergence among the kernel density estimates of two modalities or more.

    :func:`losses.kernel.kernel_gcs_divergence` of the L2-normalised embeddings (a zero vector stays zero); of two
    modalities it is half of `kernel_cs`. It compares distributions and not items. Labels are not used.

    Processes: every process computes the loss of the whole gathered batch, gradient through the gather.

    Args:
        sigma: bandwidth > 0 of the Gaussian kernel; unit vectors lie at most 2 apart.

    Raises:
        ValueError: sigma is not positive and finite.

    Source: as :func:`losses.kernel.kernel_gcs_divergence`.
    """

    def __init__(self, sigma: float = 1.0):
        super().__init__()
        self.sigma = check_sigma(sigma)

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        samples = [batch.unit_columns(name) for name in batch.modalities]
        return {"<->".join(batch.modalities): kernel_gcs_divergence(samples, self.sigma)}
