"""The standardisation that published scores of some systems apply to the evaluated embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def standardise(blocks: Sequence[Tensor]) -> list[Tensor]:
    """Z-score every column over all rows of the blocks: (x - mean) / standard deviation; a constant column becomes 0.

    It uses statistics of the evaluated set, as the public code of JFSE does, which an honest evaluation may not. The
    divisor of the variance (n here) scales all columns alike and cannot change a cosine. The means are sums of
    fixed-point numbers, hence exact: the order of the rows and their division into blocks do not change a bit.

    Args:
        blocks: consecutive (rows, D) floating blocks of one modality's embeddings, with at least one row.

    Returns:
        The blocks standardised, in float32.
    """
    low = torch.stack([block.amin(dim=0) for block in blocks]).amin(dim=0).to(torch.float64)
    high = torch.stack([block.amax(dim=0) for block in blocks]).amax(dim=0).to(torch.float64)
    mean = _column_mean(blocks, lambda block: block, torch.maximum(low.abs(), high.abs()))
    farthest = torch.maximum(high - mean, mean - low).abs()
    variance = _column_mean(blocks, lambda block: (block - mean).square(), farthest.square())
    scale = torch.where(high > low, variance.rsqrt(), 0.0)
    return [(block.to(torch.float64) - mean).mul_(scale).to(torch.float32) for block in blocks]


def _column_mean(blocks: Sequence[Tensor], term: Callable[[Tensor], Tensor], bound: Tensor) -> Tensor:
    """Mean over all rows of ``term``, whose absolute value is at most ``bound``, by an exact sum in int64."""
    rows = sum(len(block) for block in blocks)
    bits = 62 - rows.bit_length()
    exponent = np.frexp(bound.cpu().numpy())[1]
    scale = torch.from_numpy(np.ldexp(1.0, bits - exponent)).to(bound.device)
    total = sum((term(block.to(torch.float64)) * scale).round_().to(torch.int64).sum(dim=0) for block in blocks)
    return total.to(torch.float64) / scale / rows
