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


def measure(work: str, arguments: dict[str, Any], runs: int = 1) -> dict[str, Any]:
    """Run a function of this package in a fresh process.

    Memory is the largest resident size of the process while the function ran for the first time, less what was
    resident when its module had been imported: inputs count, libraries do not. On a GPU it is the most that the
    allocator had handed out.

    Args:
        work: "module:function" of this package.
        arguments: keywords of the function, as JSON holds them. It returns a mapping that JSON holds.
        runs: how often it runs, one after the other.

    Returns:
        "peak MiB", and "runs": what each run returned.

    Raises:
        RuntimeError: the process failed, or took longer than ``LIMIT_SECONDS`` a run; what it said last.
    """
    command = [sys.executable, "-m", "benchmarks.fresh", work, json.dumps(arguments), str(runs)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_SECONDS * runs)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"took longer than {LIMIT_SECONDS:g} seconds a run") from error
    if done.returncode < 0:
        raise RuntimeError(f"its process was ended by signal {-done.returncode}")
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["its process failed without a word"])[-1])
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(work: str, arguments: str, runs: str) -> None:
    """What the fresh process does.

    Args:
        work: "module:function".
        arguments: JSON.
        runs: a number.
    """
    module, function = work.split(":")
    call = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    if FORGET.exists():
        FORGET.write_text("5")  # the peak, which importing has reached, starts again from what is resident now
    before = _kilobytes("VmRSS")
    found = [call(**json.loads(arguments))]
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = (_kilobytes("VmHWM") - before) / 2**10
    found += [call(**json.loads(arguments)) for _ in range(int(runs) - 1)]
    print(json.dumps({"peak MiB": peak, "runs": found}))


def _kilobytes(field: str) -> float:
    # ru_maxrss of Linux survives exec: it would start at the peak of the process that started this one.
    if STATUS.exists():
        lines = STATUS.read_text(encoding="utf-8").splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"{field}:")))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
