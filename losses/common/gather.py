"""Gathering a batch across processes, with the gradient that makes N processes equal to one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) where no process group is running."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def require_equal_batches(refusal: str | None, embeddings: Mapping[str, Tensor]) -> None:
    """Refuse the batch on every process where one refuses its own, or where they have different sizes.

    Of batches of different sizes the average over processes is not the average over rows; and a process that raised
    alone would leave the others waiting for it.

    Args:
        refusal: what is wrong with the embeddings of this process; None where nothing is.
        embeddings: modality -> (B, D).

    Raises:
        ValueError: on every process, naming the sizes or the process that refused.
    """
    tensors = [x for x in embeddings.values() if isinstance(x, Tensor)] if isinstance(embeddings, Mapping) else []
    device = tensors[0].device if tensors else torch.device("cpu")
    sizes = _exchanged(-1 if refusal else len(tensors[0]), device)
    if refusal:
        raise ValueError(refusal)
    if -1 in sizes:
        raise ValueError(f"process {sizes.index(-1)} refused its embeddings; its own message says why")
    if len(set(sizes)) > 1:
        raise ValueError(
            f"processes hold batches of different sizes {sizes}; use a sampler that gives every process the same "
            "number of items, or drop_last=True"
        )


def refuse_together(refusal: str | None, device: torch.device) -> None:
    """Raise on every process where one has a refusal, so that none waits for it.

    Args:
        refusal: what is wrong on this process; None where nothing is.
        device: of what is exchanged.

    Raises:
        ValueError: on every process, with its own refusal or the number of the process that has one.
    """
    refused = _exchanged(int(bool(refusal)), device)
    if refusal:
        raise ValueError(refusal)
    if any(refused):
        raise ValueError(f"process {refused.index(1)} refused its labels; its own message says why")


def _exchanged(number: int, device: torch.device) -> list[int]:
    """The number that each process holds, in rank order."""
    if world()[1] == 1:
        return [number]
    found = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world()[1])]
    dist.all_gather(found, torch.tensor([number], device=device))
    return [int(each) for each in found]


def gather(tensor: Tensor) -> Tensor:
    """Concatenate the rows of all processes, in rank order; gradients flow back to the process that owns each row.

    The backward pass sums over processes what each of them contributes to a row, so that the average of parameter
    gradients over processes is the gradient of the average loss.

    Args:
        tensor: (B_local, ...) with the same shape on every process.

    Returns:
        (B_global, ...) tensor.
    """
    return _Gather.apply(tensor) if world()[1] > 1 else tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        ctx.rank, processes = world()
        ctx.rows = tensor.shape[0]
        received = [torch.empty_like(tensor) for _ in range(processes)]
        dist.all_gather(received, tensor.contiguous())
        return torch.cat(received)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.narrow(0, ctx.rank * ctx.rows, ctx.rows)
