"""Several gloo processes of this machine: what the tests of distributed losses, metrics and training share."""

import os
import socket
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_processes(work: Callable[..., Any], folder: Path, processes: int) -> list[Any]:
    """What ``work(folder, processes, **settings)`` returns in each of several processes of one group.

    Args:
        work: a function of a module; the settings are those of a Trainer.
        folder: for its files, shared by the processes, and their cache.
        processes: how many.
    """
    mp.spawn(_start, args=(work, folder, free_port(), processes), nprocs=processes)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(processes)]


def _start(rank: int, work: Callable[..., Any], folder: Path, port: int, processes: int) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    os.environ["CSD_CACHE"] = str(folder)
    torch.save(work(folder, processes, strategy="ddp", devices=processes), folder / f"{rank}.pt")


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def in_group(work: Callable[[int, int], Any], folder: Path, processes: int) -> list[Any]:
    """What ``work(rank, processes)`` returns in each of several processes of one group, without a Trainer."""
    return on_processes(partial(_in_group, work), folder, processes)


def _in_group(work: Callable[[int, int], Any], folder: Path, processes: int, **settings: Any) -> Any:
    rank = int(os.environ["LOCAL_RANK"])
    dist.init_process_group("gloo", rank=rank, world_size=processes, timeout=timedelta(seconds=60))
    try:
        return work(rank, processes)
    finally:
        dist.destroy_process_group()


def assert_same_steps(found: list[dict[str, torch.Tensor]], expected: list[dict[str, torch.Tensor]]) -> None:
    """The gradients of float64 steps are equal, up to the order of summation."""
    scales = [max(float(gradient.abs().max()) for gradient in step.values()) for step in expected]
    assert sum(scales) > 0
    for step, (ours, theirs, scale) in enumerate(zip(found, expected, scales, strict=True)):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9 * scale, msg=lambda m, n=step: f"step {n}: {m}")
