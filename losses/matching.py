"""Unit vectors and matching labels, which matching distributions and their target are made of."""

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


def label_match(row_labels: Tensor, column_labels: Tensor) -> Tensor:
    """Whether two items share a class: equal integers, or at least one common entry of multi-hot rows.

    Args:
        row_labels: (R,) integers, or (R, C) multi-hot integers or bool.
        column_labels: (N,) or (N, C), of the same kind.

    Returns:
        (R, N) bool.
    """
    if row_labels.ndim == 1:
        return row_labels[:, None] == column_labels[None, :]
    # Counts of shared classes are small integers, exact in float32 and far faster there than in integers.
    return (row_labels != 0).float() @ (column_labels != 0).float().T > 0
