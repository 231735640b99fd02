"""Which items of a batch match: the target that matching distributions are compared with, whole or in blocks."""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from losses.matching import label_match

ROWS = 256


class Target(Protocol):
    """Weights w_ij >= 0 of B rows and N columns; the target of row i is q_ij = w_ij / sum_j w_ij.

    ``is_mask`` says that the weights are 0 or 1, and that rows and columns are the same where both are asked for.
    """

    is_mask: bool

    def block(self, start: int, stop: int) -> Tensor:
        """(stop - start, N) weights of some rows, bool where they are a mask."""

    def totals(self) -> tuple[Tensor, Tensor]:
        """sum_j w_ij (B,) and sum_i w_ij (N,)."""

    def constants(self, order: int) -> tuple[Tensor, Tensor]:
        """(1/K) LSE_j(K log w_ij) for K = ``order`` >= 2, sum_j q_ij log q_ij for K = 1: rows (B,), columns (N,)."""

    def log(self) -> Tensor:
        """(B, N) log q, -inf where items do not match."""


class LabelTarget:
    """Items match where they share a class, and an item always matches its own pair: q_ij = [i matches j] / row sum.

    Args:
        row_labels: (B,) integers, or (B, C) multi-hot integers.
        column_labels: (N,) or (N, C), of the same kind.
        offset: column of the first row's own pair, which always matches, even for an item without any class.
        dtype: floating type of what is computed.
    """

    is_mask = True

    def __init__(self, row_labels: Tensor, column_labels: Tensor, offset: int, dtype: torch.dtype):
        self.row_labels, self.column_labels, self.offset, self.dtype = row_labels, column_labels, offset, dtype

    def block(self, start: int, stop: int) -> Tensor:
        return self._whole if stop - start == len(self.row_labels) else self._match(start, stop)

    def totals(self) -> tuple[Tensor, Tensor]:
        return self._counts, self._counts

    def constants(self, order: int) -> tuple[Tensor, Tensor]:
        logs = self._counts.log() * (-1 if order == 1 else 1 / order)
        return logs, logs

    def log(self) -> Tensor:
        return torch.log(self._whole.to(self.dtype)) - self._counts.log()[:, None]

    @cached_property
    def _whole(self) -> Tensor:
        return self._match(0, len(self.row_labels))

    @cached_property
    def _counts(self) -> Tensor:
        count = len(self.row_labels)
        sums = [self._match(start, min(start + ROWS, count)).sum(dim=1) for start in range(0, count, ROWS)]
        return torch.cat(sums).to(self.dtype)

    def _match(self, start: int, stop: int) -> Tensor:
        match = label_match(self.row_labels[start:stop], self.column_labels)
        match.diagonal(offset=self.offset + start).fill_(True)
        return match


class WeightTarget:
    """Target weights as they are given.

    Args:
        weights: (B, N) floating, non-negative, with a positive one in every row.
    """

    is_mask = False

    def __init__(self, weights: Tensor):
        self.weights = weights

    def block(self, start: int, stop: int) -> Tensor:
        return self.weights[start:stop]

    def totals(self) -> tuple[Tensor, Tensor]:
        return self.weights.sum(dim=1), self.weights.sum(dim=0)

    def constants(self, order: int) -> tuple[Tensor, Tensor]:
        if order == 1:
            shares = [self.weights / self.weights.sum(dim=dim, keepdim=True) for dim in (1, 0)]
            rows, columns = (torch.xlogy(q, q).sum(dim=dim) for q, dim in zip(shares, (1, 0), strict=True))
            return rows, columns
        logs = order * self.weights.log()
        return torch.logsumexp(logs, dim=1) / order, torch.logsumexp(logs, dim=0) / order

    def log(self) -> Tensor:
        return torch.log(self.weights) - torch.log(self.weights.sum(dim=1, keepdim=True))
