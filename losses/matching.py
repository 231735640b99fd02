"""Unit vectors and their products, which matching distributions are made of."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    r"""Rows of ``x`` scaled to length one; a zero row stays zero, with a finite gradient.

    x_i / |x_i|_2, computed on x_i / max_j |x_ij| so that squares neither overflow nor underflow. The inner scale is
    detached: the result does not depend on it, so neither does the gradient.

    Args:
        x: (..., D) embeddings.

    Returns:
        (..., D) tensor.
    """
    scale = x.detach().abs().amax(dim=-1, keepdim=True)
    scaled = x / scale.masked_fill(scale == 0, 1.0)
    norm = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return scaled / norm.masked_fill(norm == 0, 1.0)


def product(x: Tensor, z: Tensor) -> Tensor:
    """x z^T of (..., n, D) and (..., m, D), whose gradient too is computed in full precision.

    Manual optimisation calls backward inside the autocast region, which would compute the gradient in half precision.
    """
    return _Product.apply(x, z)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, z: Tensor) -> Tensor:
        ctx.save_for_backward(x, z)
        return x @ z.mT

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, z = ctx.saved_tensors
        with torch.autocast(gradient.device.type, enabled=False):
            return gradient @ z, gradient.mT @ x
