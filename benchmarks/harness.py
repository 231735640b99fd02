"""What the benchmarks share: rows, targets, contestants that take turns and may fail, and fresh processes."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from datamodules import RetrievalData
from lightning_modules.base import RetrievalModule
from reproduce.measurements.measures import epoch_seconds, measured
from reproduce.results.schema import Row

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
T = TypeVar("T")


class Target(NamedTuple):
    """Something asked of a number: in words, the number (None where it was not measured), and the bound."""

    asked: str
    value: float | None
    bound: float
    at_least: bool = True

    def cells(self) -> list[str]:
        """What is asked, the number, and whether it is met."""
        asked = f"{self.asked}: {'at least' if self.at_least else 'at most'} {self.bound:g}"
        if self.value is None:
            return [asked, "–", "not measured"]
        met = self.value >= self.bound if self.at_least else self.value <= self.bound
        return [asked, f"{self.value:.3g}", "met" if met else "missed"]


class Benchmark(NamedTuple):
    """A benchmark: its name, what is compared (Markdown), its settings, what measures it, and what is asked of it."""

    name: str
    about: str
    settings: Mapping[str, Any]
    measure: Callable[[Record], None]
    targets: Callable[[Record], list[Target]] = lambda record: []


class Record:
    """The rows of the table, as they are measured.

    A row's method is the contestant, its split the benchmark, its condition the size.

    Args:
        shared: the columns that all rows have alike.
    """

    def __init__(self, shared: Mapping[str, Any]):
        self.shared = dict(shared)
        self.rows: list[Row] = []

    def add(self, benchmark: str, contestant: str, size: str, metric: str, value: float | None, **columns: Any) -> None:
        """Add a number; where there is None, the contestant failed, and ``note`` says why."""
        columns = {"dataset": "random embeddings", "features": "generated", **columns, **self.shared}
        self.rows.append(measured(metric, value, method=contestant, condition=size, split=benchmark, **columns))

    def value(self, benchmark: str, contestant: str, size: str, metric: str) -> float | None:
        """A number measured before; None where there is none."""
        sought = (benchmark, contestant, size, metric)
        found = (row.value for row in self.rows if (row.split, row.method, row.condition, row.metric) == sought)
        return next(found, None)

    def ratio(self, benchmark: str, peer: str, ours: str, size: str, metric: str, **columns: Any) -> None:
        """Add what a peer's number is as a multiple of ours, where both were measured."""
        theirs, own = (self.value(benchmark, who, size, metric) for who in (peer, ours))
        if theirs and own:
            name = "memory ratio" if metric == "peak MiB" else "time ratio"
            self.add(benchmark, peer, size, name, theirs / own, note=f"its {metric} over those of {ours}", **columns)

    def disagreements(self) -> list[str]:
        """Every contestant that computed something else than ours, in words."""
        wrong = [row for row in self.rows if row.status == "failed" and row.note.startswith(Disagreement.__name__)]
        return list(dict.fromkeys(f"{row.split}, {row.method}, {row.condition}: {row.note}" for row in wrong))


class Disagreement(RuntimeError):
    """A contestant computes something else than the one that it is measured against."""


def agree(what: str, error: float, tolerance: float) -> float:
    """Return how far two contestants are apart; a Disagreement where that is above the tolerance, or not a number."""
    if not error <= tolerance:
        raise Disagreement(f"{what} differ by {error:.3g}, more than {tolerance:g}")
    return error


def attempt(work: Callable[[], T]) -> tuple[T | None, str]:
    """What a contestant returns, and in one line why it returns nothing; that is empty where it does."""
    try:
        return work(), ""
    except Exception as error:  # each fails in its own way, and the others are still measured
        return None, f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"


def take_turns(runs: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, tuple[list[T], str]]:
    """Run contestants in turn, ``rounds`` times; what each returned, and why one run returned nothing."""
    outcomes = [(who, *attempt(run)) for _ in range(rounds) for who, run in runs.items()]
    found = {who: [result for name, result, why in outcomes if name == who and not why] for who in runs}
    return {who: (found[who], next((why for name, _, why in outcomes if name == who and why), "")) for who in runs}


def train_in_turns(
    record: Record,
    benchmark: str,
    size: str,
    runs: Mapping[str, Callable[[], list[float]]],
    rounds: int,
    rate: str,
    batch: int = 1,
    **columns: Any,
) -> None:
    """Train ours and a peer in turn; record median seconds of a step, their rates and the ratio.

    Args:
        record: takes the rows; benchmark, size and ``columns`` are columns of theirs.
        runs: ours, then the peer -> trains it, and returns seconds per step, one number an epoch.
        rounds: how often each is trained.
        rate: "steps/s", or "items/s", in which a step counts ``batch``.
    """
    for who, (found, reason) in take_turns(runs, rounds).items():
        value = None if reason else statistics.median(chain(*found))
        record.add(benchmark, who, size, "seconds/step", value, note=reason, **columns)
        if value:
            record.add(benchmark, who, size, rate, batch / value, **columns)
    ours, peer = runs
    record.ratio(benchmark, peer, ours, size, "seconds/step", **columns)


def seconds_per_step(model: RetrievalModule, data: RetrievalData, epochs: int, batches: int) -> list[float]:
    """Train on some batches an epoch; seconds per step of ``epochs`` epochs after one not counted."""
    seconds, steps = epoch_seconds(model, data, epochs, limit_train_batches=batches)
    return [found / steps for found in seconds]


def fresh(work: Callable[..., Mapping[str, Any]], **arguments: Any) -> dict[str, Any]:
    """Call a function of a module in a process of its own, whose peak memory is then that of the call.

    Returns:
        What the function returned, and "peak MiB": the largest resident size of the process while it ran, less what
        was resident when its module had been imported. On a GPU it is the most that the allocator had handed out.

    Raises:
        Exception: what the function raised, or that its process was killed.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_with_peak, work, arguments).result()


def _with_peak(work: Callable[..., Mapping[str, Any]], arguments: Mapping[str, Any]) -> dict[str, Any]:
    if FORGET.exists():
        FORGET.write_text("5")  # the peak, which importing has reached, starts again from what is resident now
    before = _kilobytes("VmRSS")
    found = work(**arguments)
    peak = (_kilobytes("VmHWM") - before) / 2**10
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
    return {**found, "peak MiB": peak}


def _kilobytes(field: str) -> float:
    # ru_maxrss of Linux survives exec: it would start at the peak of the process that started this one.
    if STATUS.exists():
        return float(STATUS.read_text(encoding="utf-8").partition(f"{field}:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
