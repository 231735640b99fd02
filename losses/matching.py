"""Matching distributions between two modalities, and the target they are compared with."""

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


def log_target_from_labels(row_labels: Tensor, column_labels: Tensor, offset: int, dtype: torch.dtype) -> Tensor:
    """Logarithm of the true matching distribution, q_ij = [i matches j] / row sum; -inf where items do not match.

    Args:
        row_labels: (R,) or (R, C), as in :func:`label_match`.
        column_labels: (N,) or (N, C).
        offset: column of the first row's own pair, which always matches, even for an item without any class.
        dtype: floating type of the result.

    Returns:
        (R, N) log-probabilities.
    """
    match = label_match(row_labels, column_labels)
    match.diagonal(offset=offset).fill_(True)
    return log_target_from_weights(match.to(dtype))


def log_target_from_weights(weights: Tensor) -> Tensor:
    """Logarithm of target weights with every row normalised to sum one; -inf where a weight is zero.

    Args:
        weights: (R, N) floating, non-negative.

    Returns:
        (R, N) log-probabilities.

    Raises:
        ValueError: a weight is negative or not finite, or a row has no positive weight.
    """
    if not bool((weights.isfinite() & (weights >= 0)).all()):
        raise ValueError("target weights must be finite and non-negative")
    total = weights.sum(dim=1, keepdim=True)
    if not bool((total > 0).all()):
        row = int((total.squeeze(1) <= 0).nonzero()[0])
        raise ValueError(f"target row {row} has no positive weight, so it names no match; give every item at least one")
    return torch.log(weights) - torch.log(total)
