"""A piece of work in a process of its own, whose peak memory is then that of the work: ``measure``."""

from __future__ import annotations

import importlib
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
LIMIT_SECONDS = 600.0


def measure(work: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run a function of this package in a fresh process.

    Args:
        work: "module:function" of this package.
        arguments: keywords of the function, as JSON holds them. It returns a mapping that JSON holds.

    Returns:
        What the function returned, and "peak MiB": the largest resident size of the process while it ran, less what
        was resident when its module had been imported. On a GPU it is the most that the allocator had handed out.

    Raises:
        RuntimeError: the process failed, or took longer than ``LIMIT_SECONDS``; what it said last.
    """
    command = [sys.executable, "-m", "benchmarks.fresh", work, json.dumps(arguments)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"took longer than {LIMIT_SECONDS:g} seconds") from error
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"])[-1])
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(work: str, arguments: str) -> None:
    """What the fresh process does."""
    module, function = work.split(":")
    call = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    if FORGET.exists():
        FORGET.write_text("5")  # the peak, which importing has reached, starts again from what is resident now
    before = _kilobytes("VmRSS")
    found = call(**json.loads(arguments))
    peak = (_kilobytes("VmHWM") - before) / 2**10
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps({**found, "peak MiB": peak}))


def _kilobytes(field: str) -> float:
    # ru_maxrss of Linux survives exec: it would start at the peak of the process that started this one.
    if STATUS.exists():
        return float(STATUS.read_text(encoding="utf-8").partition(f"{field}:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
