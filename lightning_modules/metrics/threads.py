"""Work on parts of an array in the threads that PyTorch may use; NumPy lets them run at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

T = TypeVar("T")


class Threads(ExitStack):
    """As many threads as ``torch.get_num_threads`` says, as a context, in which a matrix product has one of them.

    The threads of BLAS wait for one another at every product, and spin meanwhile, which ours need not do.

    Args:
        several: whether the work is worth more than the thread that is there.
    """

    def __init__(self, several: bool):
        super().__init__()
        self.count = torch.get_num_threads() if several else 1

    def __enter__(self) -> Threads:
        super().__enter__()
        if self.count > 1:
            self.enter_context(threadpool_limits(1, user_api="blas"))
            self.pool = self.enter_context(ThreadPoolExecutor(self.count))
        return self

    def run(self, work: Callable[[slice], T], rows: int, step: int) -> list[T]:
        """What ``work`` returns for consecutive slices of ``rows`` rows, of ``step`` each."""
        slices = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
        return list((self.pool.map if self.count > 1 else map)(work, slices))
