"""Work on parts of an array in the threads that PyTorch may use; NumPy lets them run at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


class Threads:
    """As many threads as ``torch.get_num_threads`` says, as a context."""

    def __enter__(self) -> Threads:
        self.count = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self.count)
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()

    def run(self, work: Callable[[slice], T], rows: int, step: int | None = None) -> list[T]:
        """What ``work`` returns for consecutive slices of ``rows`` rows, of ``step`` each, by default four a thread."""
        step = step or max(1, -(-rows // (4 * self.count)))
        slices = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
        return list(self._pool.map(work, slices)) if min(self.count, len(slices)) > 1 else [work(s) for s in slices]
