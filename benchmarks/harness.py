"""What the benchmarks share: rows, what is asked of them, contestants that take turns and may fail, processes."""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from reproduce.measurements.measures import measured, timer
from reproduce.results.schema import Row

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux; elsewhere a peak has failed
T = TypeVar("T")
Numbers = Sequence[float | Tensor]


class Benchmark(NamedTuple):
    """A benchmark: its name, what is compared (Markdown), its settings, what measures it, and columns of its rows."""

    name: str
    about: str
    settings: Mapping[str, Any]
    measure: Callable[[Record], None]
    columns: Mapping[str, str] = {}


class Record:
    """The rows of a benchmark as they are measured, what is asked of its numbers, and what differs from ours.

    A row's method is the contestant, its split the benchmark, its condition the size.

    Args:
        benchmark: its name.
        columns: those that all rows have alike.
    """

    def __init__(self, benchmark: str, columns: Mapping[str, Any]):
        self.benchmark, self.columns = benchmark, columns
        self.rows: list[Row] = []
        self.asked: list[list[str]] = []
        self.faults: list[str] = []

    def add(self, contestant: str, size: str, metric: str, value: float | None, note: str = "") -> None:
        """Add a number; where there is None, the contestant failed, and the note says why."""
        columns = {"dataset": "random embeddings", "features": "generated", "split": self.benchmark, **self.columns}
        self.rows.append(measured(metric, value, method=contestant, condition=size, note=note, **columns))

    def value(self, contestant: str, size: str, metric: str) -> float | None:
        """A number measured before; None where there is none."""
        sought = (contestant, size, metric)
        return next((row.value for row in self.rows if (row.method, row.condition, row.metric) == sought), None)

    def take_turns(
        self, size: str, runs: Mapping[str, Callable[[], T]], rounds: int, metrics: Collection[str]
    ) -> list[T | None]:
        """Run contestants in turn; add the medians of what they return, or why one of their runs returned nothing.

        Args:
            size: of the problem.
            runs: contestant -> returns metric -> a number, or several.
            rounds: how often each runs.
            metrics: those that are added.

        Returns:
            What each contestant returned first; None where all its runs failed.
        """
        outcomes = [(who, *attempt(run)) for _ in range(rounds) for who, run in runs.items()]
        firsts = []
        for who in runs:
            found = [result for name, result, _ in outcomes if name == who and result is not None]
            reason = next((reason for name, _, reason in outcomes if name == who and reason), "")
            for metric in metrics:
                value = None if reason else statistics.median(np.ravel([result[metric] for result in found]).tolist())
                self.add(who, size, metric, value, reason)
            firsts.append(next(iter(found), None))
        return firsts

    def ratio(self, peer: str, ours: str, size: str, metric: str) -> float | None:
        """Add, and return, what a peer's number is as a multiple of ours; None where one was not measured."""
        theirs, own = (self.value(who, size, metric) for who in (peer, ours))
        if not (theirs and own):
            return None
        name = "memory ratio" if metric == "peak MiB" else "time ratio"
        self.add(peer, size, name, theirs / own, f"its {metric} over those of {ours}")
        return theirs / own

    def ask(self, what: str, value: float | None, bound: float, at_least: bool = True) -> None:
        """Ask something of a number, which is None where it was not measured."""
        met = value is not None and (value >= bound if at_least else value <= bound)
        said = ["–", "not measured"] if value is None else [f"{value:.3g}", "met" if met else "missed"]
        self.asked.append([self.benchmark, f"{what}: {'at least' if at_least else 'at most'} {bound:g}", *said])

    def ask_memory(self, what: str, contestant: str, size: str, gigabytes: float) -> None:
        """Ask that a peak of memory is at most so many GB."""
        peak = self.value(contestant, size, "peak MiB")
        self.ask(f"{what}: peak above imports in GB", peak and peak * 2**20 / 1e9, gigabytes, at_least=False)

    def compare(
        self, contestant: str, size: str, numbers: Callable[[], tuple[Numbers, Numbers]], tolerance: float
    ) -> str:
        """Add the largest relative error of a contestant's numbers; one beyond the tolerance is a fault of the run.

        Args:
            contestant: that is compared.
            size: of the problem.
            numbers: returns ours and those of the contestant.
            tolerance: of the error.

        Returns:
            Why there is no error; empty where there is one.
        """
        error, reason = attempt(lambda: _largest_relative_error(*numbers()))
        if error is not None and not error <= tolerance:
            error, reason = None, f"its numbers differ by {error:.3g} from ours, more than {tolerance:g}"
            self.faults.append(f"{self.benchmark}, {contestant}, {size}: {reason}")
        self.add(contestant, size, "largest relative error", error, reason)
        print(f"  {contestant}, {size}: {reason or f'{error:.1e}'}", flush=True)
        return reason


def _largest_relative_error(ours: Numbers, theirs: Numbers) -> float:
    pairs = [[torch.as_tensor(x).detach().cpu().double() for x in pair] for pair in zip(ours, theirs, strict=True)]
    tiny = torch.finfo(torch.float32).tiny
    return float(torch.stack([(b - a).norm() / a.norm().clamp_min(tiny) for a, b in pairs]).max())


def attempt(work: Callable[[], T]) -> tuple[T | None, str]:
    """What a contestant returns, and in one line why it returns nothing; that is empty where it does."""
    try:
        return work(), ""
    except Exception as error:  # each fails in its own way, and the others are still measured
        return None, f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"


def timed(step: Callable[[], Any]) -> dict[str, float]:
    """How long a step takes, as a run that takes turns returns it."""
    start = timer()  # which waits for the GPU where there is one
    step()
    return {"seconds/step": timer() - start}


def tensor_peak(work: Callable[[], Any]) -> dict[str, float]:
    """The most memory that tensors take at once while some work runs, above what they took before, as "peak MiB".

    Unlike the size of a process it leaves out the buffers of libraries, which are most of a small peak.
    """
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return {"peak MiB": (torch.cuda.max_memory_allocated() - before) / 2**20}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as trace:
        work()
    moved = (event.nbytes() for event in trace.profiler.kineto_results.events() if event.name() == "[memory]")
    return {"peak MiB": max(accumulate(moved)) / 2**20}


def fresh(work: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Call a function of a module in a process of its own, whose peak memory is then that of the call.

    Returns:
        What the function returned, and "peak MiB": the largest resident size of the process while it ran, less what
        was resident before. On a GPU it is the most that the allocator had handed out.

    Raises:
        Exception: what the function raised, or that its process was killed.
    """
    # A fork would be there at once, but maps the pages of its libraries again, which would count as its memory.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_with_peak, work, arguments).result()


def _with_peak(work: Callable[..., Mapping[str, Any]], arguments: Mapping[str, Any]) -> dict[str, Any]:
    FORGET.write_text("5")  # the peak, which importing has reached, starts again from what is resident now
    before = _kilobytes("VmRSS")
    found = work(**arguments)
    on_gpu = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else (_kilobytes("VmHWM") - before) / 2**10
    return {**found, "peak MiB": peak}


def _kilobytes(field: str) -> float:
    # ru_maxrss survives exec: it would start at the peak of the process that started this one.
    return float(STATUS.read_text(encoding="utf-8").partition(f"{field}:")[2].split()[0])
