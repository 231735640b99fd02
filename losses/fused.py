"""Large batches in blocks of rows, whose gradient is computed at once: memory linear in the batch.

An optimisation of large batches, which `AlignmentLoss` calls: a small batch is computed from whole (B, N) matrices.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from losses.common.base import AlignmentLoss, GatheredBatch

# Entries of a block of one matrix: a smaller one adds up the gradient of all columns more often, a larger one does not
# fit into caches.
BLOCK_ENTRIES = {"cpu": 2**22, "cuda": 2**26}
# Up to this many bytes of matrices a loss is computed at once.
LIMIT_BYTES = 2**30


def is_large(loss: AlignmentLoss, batch: GatheredBatch) -> bool:
    """Whether the matrices of a batch of M modalities, 2 M of (B, width), exceed ``LIMIT_BYTES``."""
    entries = 2 * len(batch.modalities) * (batch.stop - batch.start) * loss.width(batch)
    return entries * batch.columns[batch.modalities[0]].element_size() > LIMIT_BYTES


def by_blocks(loss: AlignmentLoss, batch: GatheredBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Value of a loss that is a mean over rows, one block of rows after the other.

    Since a mean is the sum of those of its blocks, the gradient of a block can be added up as soon as its value is
    known, and no matrix outlives its block.

    Args:
        loss: its :attr:`~losses.common.base.AlignmentLoss.over_rows` is True.
        batch: the whole batch.

    Returns:
        The total, differentiable once, and the detached terms, equal to those of ``loss.terms(batch)`` up to rounding.
    """
    inputs = [*batch.columns.values(), *[batch.unit_columns(name) for name in batch.modalities], *loss.parameters()]
    parts: dict[str, Tensor] = {}
    with_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    return _ByBlocks.apply(loss, batch, parts, with_gradient, *inputs), parts


class _ByBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss: AlignmentLoss, batch: GatheredBatch, parts: dict, with_gradient: bool, *inputs: Tensor):
        names, rows, dense = batch.modalities, batch.stop - batch.start, 2 * len(batch.modalities)
        leaves = [x.detach().requires_grad_(with_gradient) for x in inputs[:dense]] + list(inputs[dense:])
        columns, units = (dict(zip(names, leaves[k:], strict=False)) for k in (0, len(names)))
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        slopes: list[Tensor | None] = [None] * len(wanted)
        for start, stop in row_blocks(rows, loss.width(batch), leaves[0].device):
            with torch.set_grad_enabled(with_gradient):
                terms = loss.terms(batch.block(batch.start + start, batch.start + stop, columns, units))
                terms = {name: term * ((stop - start) / rows) for name, term in terms.items()}
                if with_gradient:
                    found = torch.autograd.grad(sum(terms.values()), wanted, allow_unused=True)
                    slopes = [_added(one, other) for one, other in zip(slopes, found, strict=True)]
            for name, term in terms.items():
                parts[name] = parts.get(name, 0.0) + term.detach()
        of_leaves = iter(slopes)
        ctx.save_for_backward(*[next(of_leaves) if leaf.requires_grad else None for leaf in leaves])
        return sum(parts.values())

    @staticmethod
    def backward(ctx, gradient: Tensor):
        if torch.is_grad_enabled():  # create_graph=True: the second derivative would be silently wrong
            raise RuntimeError("a batch this large can be differentiated once; call backward without create_graph")
        return None, None, None, None, *[None if slope is None else slope * gradient for slope in ctx.saved_tensors]


def _added(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    return more if total is None else total if more is None else total + more


def row_blocks(rows: int, columns: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """(start, stop) of blocks of rows that together are all rows of a (rows, columns) matrix."""
    size = max(BLOCK_ENTRIES.get(device.type, BLOCK_ENTRIES["cuda"]) // max(columns, 1), 1)
    for start in range(0, rows, size):
        yield start, min(start + size, rows)
