"""What this machine can do at most, and how far from that a measured time is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.profiler import DeviceType, ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.harness import Record
from reproduce.measures import device, median_seconds

NAME = "roofline"
ABOUT = """What the machine does at most, measured in this run: products of large square matrices, exponentials of as
many values as a block of a similarity matrix has, copies of a tensor far larger than the caches (bytes read and bytes
written both count), and sorted int32 keys in rows as long as a gallery. The floor of a task is what our way of doing it
has to compute or to move at least, over these; what can go on at once counts as the longer of the two, what cannot is
added. Times the floor: the measured time over it. Where time goes is told by a profiler, whose own cost it includes."""
SETTINGS = {
    "cpu": {"product": 2048, "exponential": 2**21, "copy": 2**26, "keys": 2**23, "repeats": 7},
    "cuda": {"product": 16384, "exponential": 2**28, "copy": 2**28, "keys": 2**28, "repeats": 20},
}
MACHINE = "this machine"
PRODUCT, WIDE_PRODUCT, EXPONENTIAL, COPY = "float32 product", "float64 product", "float32 exponential", "copy"
UNITS = {PRODUCT: "GFLOP/s", WIDE_PRODUCT: "GFLOP/s", EXPONENTIAL: "10^9 values/s", COPY: "GB/s"}

Ceilings = dict[str, float]


@dataclass(frozen=True)
class Part:
    """A part of a task, which waits for the one before it.

    Args:
        what: in words.
        amounts: ceiling -> operations, values or bytes.
    """

    what: str
    amounts: Mapping[str, float]

    def seconds(self, ceilings: Ceilings) -> float:
        """The least it can take."""
        return max(amount / ceilings[name] for name, amount in self.amounts.items())


def measure_ceilings(record: Record, settings: Mapping[str, int] | None = None) -> Ceilings:
    """Measure and record the ceilings: name -> operations, values or bytes per second.

    Args:
        record: takes the rows.
        settings: sizes; by default those of the device.
    """
    sizes = settings or SETTINGS[device().type]
    n, like = sizes["product"], {"device": device()}
    narrow, wide = (torch.rand(n, n, dtype=dtype, **like) for dtype in (torch.float32, torch.float64))
    values, source = torch.rand(sizes["exponential"], **like), torch.rand(sizes["copy"], **like)
    results = [torch.empty_like(x) for x in (narrow, wide, values, source)]
    steps = {
        PRODUCT: lambda: torch.mm(narrow, narrow, out=results[0]),
        WIDE_PRODUCT: lambda: torch.mm(wide, wide, out=results[1]),
        EXPONENTIAL: lambda: torch.exp(values, out=results[2]),
        COPY: lambda: results[3].copy_(source),
    }
    amounts = {PRODUCT: 2 * n**3, WIDE_PRODUCT: 2 * n**3, EXPONENTIAL: len(values), COPY: 8 * len(source)}
    seconds = median_seconds(steps, sizes["repeats"])
    ceilings = {name: amounts[name] / seconds[name] for name in steps}
    shown = {PRODUCT: f"n = {n:,}", WIDE_PRODUCT: f"n = {n:,}", EXPONENTIAL: f"{len(values):,} values"}
    for name, rate in ceilings.items():
        size = f"{name}, {shown.get(name, f'{4 * len(source):,} bytes')}"
        record.add(NAME, MACHINE, size, UNITS[name], rate / 1e9, dataset="random numbers")
    return ceilings


def sorted_keys(record: Record, length: int, settings: Mapping[str, int] | None = None) -> float:
    """Measure and record how many int32 keys are sorted per second, in rows of a length, as the metric sorts them."""
    sizes = settings or SETTINGS[device().type]
    shape = (max(sizes["keys"] // length, 1), length)
    keys = torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int32)
    if device().type == "cuda":
        keys = keys.to(device())
        step: Callable[[], Any] = lambda: torch.sort(keys, dim=1)  # noqa: E731
    else:
        step = lambda: np.sort(keys.numpy(), axis=1)  # noqa: E731
    rate = keys.numel() / median_seconds({"sort": step}, sizes["repeats"])["sort"]
    size = f"sorted int32 keys, rows of {length:,}"
    if record.value(NAME, MACHINE, size, "10^9 values/s") is None:
        record.add(NAME, MACHINE, size, "10^9 values/s", rate / 1e9, dataset="random numbers")
    return rate


class _Flops(TorchDispatchMode):
    """Adds up what the formulas of PyTorch's counter say of every call.

    The counter itself follows modules as well, with hooks that a gradient of chosen inputs does not allow.
    """

    total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        # A call that works in place costs what its functional form costs, which is the one that is listed.
        functional = getattr(torch.ops.aten, function._overloadpacket.__name__.removesuffix("_"), None)
        formula = flop_registry.get(functional)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def counted_flops(step: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products and convolutions in a step, forward and backward."""
    with _Flops() as counter:
        step()
    return counter.total


def add_floor(
    record: Record,
    benchmark: str,
    size: str,
    parts: Sequence[Part],
    ceilings: Ceilings,
    contestants: Mapping[str, str],
    metric: str = "seconds/step",
    floor: str = "floor",
    **columns: Any,
) -> None:
    """Record the least that a task can take, and how many times that each contestant takes.

    Args:
        record: holds the measured times, and takes the rows.
        benchmark: its name.
        size: of the task.
        parts: what it has to do.
        ceilings: of this machine.
        contestants: who was measured -> where its time goes, or "".
        metric: the measured time.
        floor: what the row of the floor is called.
        **columns: as in :meth:`Record.add`.
    """
    least = {part.what: part.seconds(ceilings) for part in parts}
    total = math.fsum(least.values())
    shares = ", ".join(f"{what} {seconds / total:.0%}" for what, seconds in least.items())
    record.add(benchmark, floor, size, "floor seconds", total, note=f"of it {shares}", **columns)
    for contestant, spent in contestants.items():
        seconds = record.value(benchmark, contestant, size, metric)
        if seconds is not None:
            record.add(benchmark, contestant, size, "times the floor", seconds / total, note=spent, **columns)


class Profile:
    """Where the time between :meth:`start` and :meth:`stop` goes, by the profiler of PyTorch."""

    def start(self) -> None:
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        self._profile = profile(activities=activities, acc_events=True)
        self._profile.start()
        self._start = time.perf_counter()

    def stop(self, most: int = 6) -> str:
        """Shares of the time, the largest first, in words."""
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self._start
        self._profile.stop()
        kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
        events = [event for event in self._profile.key_averages() if event.device_type == kind]
        own = {e.key[:60]: (e.self_device_time_total if on_gpu else e.self_cpu_time_total) / 1e6 for e in events}
        return named_shares(own.items(), seconds, most)


def named_shares(spent: Iterable[tuple[str, float]], seconds: float, most: int = 6) -> str:
    """The largest shares of a time in words, then what the others are together and what is none of them."""
    ordered = sorted(spent, key=lambda pair: -pair[1])
    shown = [(name, time / seconds) for name, time in ordered[:most]]
    others = sum(time for _, time in ordered[most:]) / seconds
    outside = max(1 - others - sum(share for _, share in shown), 0.0)
    words = [*shown, ("other operators", others), ("outside operators", outside)]
    return ", ".join(f"{name} {share:.0%}" for name, share in words if share >= 0.005)
