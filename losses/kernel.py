"""Cauchy-Schwarz divergences between whole samples by Gaussian kernel density estimates, in log space."""

import math
from collections.abc import Iterator, Sequence
from functools import reduce

import torch
from torch import Tensor

from losses import fused
from losses.common.base import AlignmentLoss, GatheredBatch, positive
from losses.divergence import exp_
from losses.registry import register_loss


@register_loss("kernel_cs")
class KernelCSLoss(AlignmentLoss):
    """Cauchy-Schwarz divergence between the kernel density estimates of two modalities.

    :func:`kernel_cs_divergence` of the L2-normalised embeddings (a zero vector stays zero). It compares
    distributions and not pairs: any order of the rows gives the same value, so by itself it does not align items.
    Labels are not used.

    Processes: every process computes the loss of the whole gathered batch, gradient through the gather.

    Args:
        sigma: bandwidth > 0 of the Gaussian kernel; unit vectors lie at most 2 apart.

    Raises:
        ValueError: sigma is not positive and finite.

    Source: Yin et al., arXiv 2502.17028 (CS-Aligner).
    """

    uses_labels = False

    def __init__(self, sigma: float = 1.0):
        super().__init__()
        self.sigma = positive("sigma", sigma)

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        samples = [batch.unit_columns(name) for name in batch.modalities]
        return {"<->".join(batch.modalities): self.divergence(samples)}

    def divergence(self, samples: Sequence[Tensor]) -> Tensor:
        """Scalar, of the unit vectors (n, D) of every modality."""
        return kernel_cs_divergence(*samples, self.sigma)


@register_loss("kernel_gcs")
class KernelGCSLoss(KernelCSLoss):
    """Generalised Cauchy-Schwarz divergence among the kernel density estimates of two modalities or more.

    :func:`kernel_gcs_divergence` of the L2-normalised embeddings (a zero vector stays zero); of two
    modalities it is half of `kernel_cs`. It compares distributions and not items. Labels are not used.

    Processes: every process computes the loss of the whole gathered batch, gradient through the gather.

    Args:
        sigma: bandwidth > 0 of the Gaussian kernel; unit vectors lie at most 2 apart.

    Raises:
        ValueError: sigma is not positive and finite.

    Source: as :func:`kernel_gcs_divergence`.
    """

    takes_two = False

    def divergence(self, samples: Sequence[Tensor]) -> Tensor:
        return kernel_gcs_divergence(samples, self.sigma)


def kernel_cs_divergence(
    x: Tensor, y: Tensor, sigma: float, x_mask: Tensor | None = None, y_mask: Tensor | None = None
) -> Tensor:
    r"""Cauchy-Schwarz divergence between the kernel density estimates of two samples.

    D(x, y) = log mean_ij k(x_i, x_j) + log mean_ij k(y_i, y_j) - 2 log mean_ij k(x_i, y_j) with
    k(a, b) = exp( -|a - b|^2 / (2 sigma^2) ). One bandwidth serves all three terms, which makes D the Cauchy-Schwarz
    inequality of the two mean embeddings: symmetric, non-negative up to rounding, zero for equal samples.

    Memory is linear in the number of rows, of which the samples may have different numbers; second derivatives alone
    take whole kernel matrices.

    Args:
        x: (..., n, D) samples.
        y: (..., m, D) samples, leading dimensions broadcast against those of ``x``: one divergence per entry.
        sigma: bandwidth > 0, in units of the samples.
        x_mask: (..., n) bool, True for the rows that count; all by default.
        y_mask: (..., m) bool.

    Returns:
        (...,) divergences, in float32 or wider. Squared distances come from inner products of the centred samples:
        their rounding error is that of the squared spread, divided by sigma^2.

    Raises:
        ValueError: sigma is not positive and finite, shapes do not fit, or a sample has no row that counts.

    Source: Yin et al., "Distributional Vision-Language Alignment by Cauchy-Schwarz Divergence", arXiv 2502.17028.
    """
    _check([x, y], [x_mask, y_mask], sigma)
    with torch.autocast(x.device.type, enabled=False):
        x, y = _prepared([x, y], [x_mask, y_mask], sigma)
        own = _log_mean(_log_density(x, x, x_mask), x_mask)
        other = _log_mean(_log_density(y, y, y_mask), y_mask)
        return own + other - 2 * _log_mean(_log_density(x, y, y_mask), x_mask)


def kernel_gcs_divergence(samples: Sequence[Tensor], sigma: float) -> Tensor:
    r"""Generalised Cauchy-Schwarz divergence among the kernel density estimates of m samples.

    With f_k(a) = mean_i k(a, x_i^k) and k(a, b) = exp( -|a - b|^2 / (2 sigma^2) ):
    D = -log( (1/m) sum_t mean_j prod_{k != t} f_k(x_j^t) ) + (1/m) sum_t log mean_j f_t(x_j^t)^(m-1).
    Two samples give half of :func:`kernel_cs_divergence`. Invariant to the order of the samples and of their rows.
    The integrals of three and more densities are estimated by means over the samples, so that the value can then be
    slightly negative, which is not clamped.

    Memory is linear in the number of rows, except for second derivatives; time is that of the m^2 pairs of samples.

    Args:
        samples: m >= 2 tensors (n_k, D), of any numbers of rows.
        sigma: bandwidth > 0, in units of the samples.

    Returns:
        Scalar, in float32 or wider.

    Raises:
        ValueError: fewer than two samples, sigma is not positive and finite, shapes do not fit, or a sample is empty.

    Source: the generalised divergence of Zhang, Yin and Yu, ACM MM 2025, its integrals estimated by means over the
    samples as in Yin et al., arXiv 2502.17028.
    """
    order = len(samples)
    if order < 2:
        raise ValueError(f"a divergence needs at least two samples, got {order}")
    _check(samples, [None] * order, sigma)
    with torch.autocast(samples[0].device.type, enabled=False):
        samples = _prepared(samples, [None] * order, sigma)
        joint, own = [], []
        for t, points in enumerate(samples):
            others = sum(_log_density(points, sample) for k, sample in enumerate(samples) if k != t)
            joint.append(_log_mean(others))
            own.append(_log_mean((order - 1) * _log_density(points, points)))
        return torch.stack(own).mean(dim=0) - _log_mean(torch.stack(joint, dim=-1))


def _log_density(points: Tensor, sample: Tensor, mask: Tensor | None = None) -> Tensor:
    """log mean_i k(point_j, sample_i) of prepared samples: (..., n, D) and (..., m, D) -> (..., n)."""
    # -|p - s|^2 / 2 = p.s + a_p + a_s with a_x = -|x|^2 / 2
    of_points, of_sample = (x.square().sum(dim=-1) / -2 for x in (points, sample))
    if mask is None:
        count = math.log(sample.shape[-2])
    else:
        count = mask.sum(dim=-1).to(sample.dtype).log()[..., None]
        of_sample = of_sample.masked_fill(~mask, -math.inf)
    leading = torch.broadcast_shapes(points.shape[:-2], sample.shape[:-2])
    flat = [
        x.expand(*leading, *x.shape[-own:]).reshape(math.prod(leading), *x.shape[-own:])
        for x, own in ((points, 2), (sample, 2), (of_points, 1), (of_sample, 1))
    ]
    return _LogSums.apply(*flat).reshape(*leading, points.shape[-2]) - count


class _LogSums(torch.autograd.Function):
    """log sum_i exp(p_j . s_i + a_j + b_i), of p (B, n, D), s (B, m, D), a (B, n) and b (B, m): (B, n).

    The exponents are computed again in the backward pass, as in Dao et al., NeurIPS 2022 (attention).
    """

    @staticmethod
    def forward(ctx, *parts: Tensor) -> Tensor:
        found = torch.empty_like(parts[2])
        for rows, exponents in _blocks(*parts):
            largest = exponents.amax(dim=-1)
            sums = exp_(exponents.sub_(largest[..., None])).sum(dim=-1)
            torch.add(sums.log_(), largest, out=found[:, rows])
        ctx.save_for_backward(*parts, found)
        return found

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, ...]:
        *parts, found = ctx.saved_tensors
        # A backward pass inside an autocast region would compute the exponents again in its precision.
        with torch.autocast(gradient.device.type, enabled=False):
            if torch.is_grad_enabled():  # create_graph=True: operations that autograd can differentiate once more
                return _slopes_at_once(*parts, gradient)
            return _slopes(*parts, found, gradient)


def _slopes(p: Tensor, s: Tensor, a: Tensor, b: Tensor, log_sums: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    """Gradients of log-sums with respect to p, s, a and b, block by block."""
    weights = gradient[..., None]
    weighted = p * weights
    to_p, to_s, to_a, to_b = torch.empty_like(p), torch.zeros_like(s), torch.empty_like(a), torch.zeros_like(b)
    for rows, exponents in _blocks(p, s, a, b):
        shares = exp_(exponents.sub_(log_sums[:, rows, None]))  # softmax over s
        # Their sum is one but for rounding, the same rounding as in the products below: what p gets by way of a is
        # nearly the opposite of what it gets by way of the products, so that the rounding cancels too.
        torch.sum(shares, dim=-1, out=to_a[:, rows])
        torch.bmm(shares, s, out=to_p[:, rows])
        to_s.baddbmm_(shares.mT, weighted[:, rows])
        to_b[..., None].baddbmm_(shares.mT, weights[:, rows])
    return to_p.mul_(weights), to_s, to_a.mul_(gradient), to_b


def _slopes_at_once(p: Tensor, s: Tensor, a: Tensor, b: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    """The same by whole matrices, which a second derivative needs."""
    shares = torch.softmax(p @ s.mT + a[..., None] + b[:, None], dim=-1) * gradient[..., None]
    return shares @ s, shares.mT @ p, shares.sum(dim=2), shares.sum(dim=1)


def _blocks(p: Tensor, s: Tensor, a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The exponents, some rows of p at a time: (B, rows, m), to be overwritten at will.

    All blocks lie in memory that was there before: large tensors that come and go, between small ones that stay,
    would leave the heap in pieces, each too small for the next block.
    """
    count, columns, work = len(p), s.shape[1], None
    for start, stop in fused.row_blocks(p.shape[1], count * columns, p.device):
        if work is None:
            work = p.new_empty(count * (stop - start) * columns)
        block = work[: count * (stop - start) * columns].view(count, stop - start, columns)
        torch.add(a[:, start:stop, None], b[:, None], out=block)
        yield slice(start, stop), block.baddbmm_(p[:, start:stop], s.mT)


def _log_mean(log_values: Tensor, mask: Tensor | None = None) -> Tensor:
    """log mean_j exp(log_values_j) over the last dimension, where the mask is True: (..., n) -> (...,)."""
    if mask is None:
        return torch.logsumexp(log_values, dim=-1) - math.log(log_values.shape[-1])
    count = mask.sum(dim=-1).to(log_values.dtype)
    return torch.logsumexp(log_values.masked_fill(~mask, -math.inf), dim=-1) - count.log()


def _prepared(samples: Sequence[Tensor], masks: Sequence[Tensor | None], sigma: float) -> list[Tensor]:
    """The samples in float32 or wider, zero where masked, less a point in their midst, in units of sigma."""
    dtype = reduce(torch.promote_types, (sample.dtype for sample in samples), torch.float32)
    filled = [
        sample.to(dtype) if mask is None else sample.to(dtype).masked_fill(~mask[..., None], 0.0)
        for sample, mask in zip(samples, masks, strict=True)
    ]
    # Any point does: distances do not change. One near the samples keeps inner products, and their rounding, small.
    centre = filled[0].detach().mean(dim=-2, keepdim=True)
    return [(sample - centre) / sigma for sample in filled]


def _check(samples: Sequence[Tensor], masks: Sequence[Tensor | None], sigma: float) -> None:
    positive("sigma", sigma)
    for sample, mask in zip(samples, masks, strict=True):
        if sample.ndim < 2 or not sample.is_floating_point() or 0 in sample.shape[-2:]:
            raise ValueError(f"a sample must be a floating (..., n, D) tensor with rows, got {tuple(sample.shape)}")
        if sample.shape[-1] != samples[0].shape[-1]:
            raise ValueError(f"samples differ in width: {[tuple(each.shape) for each in samples]}")
        if mask is not None and (mask.shape != sample.shape[:-1] or mask.dtype != torch.bool):
            raise ValueError(f"the mask of {tuple(sample.shape)} samples is {tuple(mask.shape)} {mask.dtype}")
        if mask is not None and not bool(mask.any(dim=-1).all()):
            raise ValueError("a sample has no row that counts: its mask is False everywhere")
