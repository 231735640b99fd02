"""Gathering a batch across processes, with the gradient that makes N processes equal to one."""

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) where no process group is running."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def refuse_together(refusal: str | None, what: str, tensor: Tensor | None) -> None:
    """Refuse a batch on every process where one refuses its own, or where they have different sizes.

    A process that raised alone would leave the others waiting for it; and of batches of different sizes the average
    over processes is not the average over rows.

    Args:
        refusal: what is wrong on this process; None where nothing is.
        what: may be refused, for the message of the other processes.
        tensor: with the items of this process as its rows; None where it has none to show.

    Raises:
        ValueError: on every process, with its own refusal, the number of the process that has one, or the sizes.
    """
    sizes = [-1 if refusal else len(tensor)]
    if world()[1] > 1:
        device = torch.device("cpu") if tensor is None else tensor.device
        found = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world()[1])]
        dist.all_gather(found, torch.tensor(sizes, device=device))
        sizes = [int(each) for each in found]
    if refusal:
        raise ValueError(refusal)
    if -1 in sizes:
        raise ValueError(f"process {sizes.index(-1)} refused its {what}; its own message says why")
    if len(set(sizes)) > 1:
        raise ValueError(
            f"processes hold batches of different sizes {sizes}; use a sampler that gives every process the same "
            "number of items, or drop_last=True"
        )


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
    # Not torch.distributed.nn's all_gather: its graph holds the process group, which then outlives its own end, and a
    # process that keeps a loss or an error until it exits is aborted then, in one of three runs with gloo.

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
