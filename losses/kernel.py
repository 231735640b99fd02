"""Divergences between samples by Gaussian kernel density estimates, in log space and block by block."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Rows of a block: of the kernel matrix only this many rows exist at a time, in the forward and in the backward pass.
ROWS = 256


def kernel_cs_divergence(
    x: Tensor, y: Tensor, sigma: float, x_mask: Tensor | None = None, y_mask: Tensor | None = None
) -> Tensor:
    r"""Cauchy-Schwarz divergence between the kernel density estimates of two samples.

    D(x, y) = log mean_ij k(x_i, x_j) + log mean_ij k(y_i, y_j) - 2 log mean_ij k(x_i, y_j) with
    k(a, b) = exp( -|a - b|^2 / (2 sigma^2) ). One bandwidth serves all three terms, which makes D the Cauchy-Schwarz
    inequality of the two mean embeddings: symmetric, non-negative up to rounding, zero for equal samples.

    Memory is linear in the number of rows, of which the samples may have different numbers.

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
        x, y = _prepared([x, y], [x_mask, y_mask])
        own = _log_mean(_log_density(x, x, sigma, x_mask), x_mask)
        other = _log_mean(_log_density(y, y, sigma, y_mask), y_mask)
        return own + other - 2 * _log_mean(_log_density(x, y, sigma, y_mask), x_mask)


def kernel_gcs_divergence(samples: Sequence[Tensor], sigma: float) -> Tensor:
    r"""Generalised Cauchy-Schwarz divergence among the kernel density estimates of m samples.

    With f_k(a) = mean_i k(a, x_i^k) and k(a, b) = exp( -|a - b|^2 / (2 sigma^2) ):
    D = -log( (1/m) sum_t mean_j prod_{k != t} f_k(x_j^t) ) + (1/m) sum_t log mean_j f_t(x_j^t)^(m-1).
    Two samples give half of :func:`kernel_cs_divergence`. Invariant to the order of the samples and of their rows.
    The integrals of three and more densities are estimated by means over the samples, so that the value can then be
    slightly negative, which is not clamped.

    Memory is linear in the number of rows; time is that of the m^2 pairs of samples.

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
        samples = _prepared(samples, [None] * order)
        joint, own = [], []
        for t, points in enumerate(samples):
            others = sum(_log_density(points, sample, sigma) for k, sample in enumerate(samples) if k != t)
            joint.append(_log_mean(others))
            own.append(_log_mean((order - 1) * _log_density(points, points, sigma)))
        return torch.stack(own).mean(dim=0) - _log_mean(torch.stack(joint, dim=-1))


def _log_density(points: Tensor, sample: Tensor, sigma: float, mask: Tensor | None = None) -> Tensor:
    """log mean_i k(point_j, sample_i): (..., n, D) and (..., m, D) -> (..., n)."""

    def block(rows: Tensor, sample: Tensor) -> Tensor:
        squares = rows.square().sum(dim=-1)[..., None] + sample.square().sum(dim=-1)[..., None, :]
        log_kernel = (rows @ sample.mT - squares / 2) / sigma**2
        return _log_mean(log_kernel, None if mask is None else mask[..., None, :])

    blocks = [
        checkpoint(block, rows, sample, use_reentrant=False, preserve_rng_state=False)
        for rows in points.split(ROWS, dim=-2)
    ]
    return torch.cat(blocks, dim=-1)


def _log_mean(log_values: Tensor, mask: Tensor | None = None) -> Tensor:
    """log mean_j exp(log_values_j) over the last dimension, where the mask is True: (..., n) -> (...,)."""
    if mask is None:
        return torch.logsumexp(log_values, dim=-1) - math.log(log_values.shape[-1])
    count = mask.sum(dim=-1).to(log_values.dtype)
    return torch.logsumexp(log_values.masked_fill(~mask, -math.inf), dim=-1) - count.log()


def _prepared(samples: Sequence[Tensor], masks: Sequence[Tensor | None]) -> list[Tensor]:
    """The samples in float32 or wider, less a point in their midst, with zeros where the masks are False."""
    dtype = torch.float32
    for sample in samples:
        dtype = torch.promote_types(dtype, sample.dtype)
    filled = [
        sample.to(dtype) if mask is None else sample.to(dtype).masked_fill(~mask[..., None], 0.0)
        for sample, mask in zip(samples, masks, strict=True)
    ]
    # Any point does: distances do not change. One near the samples keeps inner products, and their rounding, small.
    centre = filled[0].detach().mean(dim=-2, keepdim=True)
    return [sample - centre for sample in filled]


def _check(samples: Sequence[Tensor], masks: Sequence[Tensor | None], sigma: float) -> None:
    check_sigma(sigma)
    for sample, mask in zip(samples, masks, strict=True):
        if sample.ndim < 2 or not sample.is_floating_point() or 0 in sample.shape[-2:]:
            raise ValueError(f"a sample must be a floating (..., n, D) tensor with rows, got {tuple(sample.shape)}")
        if sample.shape[-1] != samples[0].shape[-1]:
            raise ValueError(f"samples differ in width: {[tuple(each.shape) for each in samples]}")
        if mask is not None and (mask.shape != sample.shape[:-1] or mask.dtype != torch.bool):
            raise ValueError(f"the mask of {tuple(sample.shape)} samples is {tuple(mask.shape)} {mask.dtype}")
        if mask is not None and not bool(mask.any(dim=-1).all()):
            raise ValueError("a sample has no row that counts: its mask is False everywhere")


def check_sigma(sigma: float) -> float:
    """Return ``sigma``, refusing what is not positive and finite with a ValueError."""
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be positive and finite, got {sigma}")
    return sigma
