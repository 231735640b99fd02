"""What random inputs of losses and broken files come to; `make fuzz` writes the counts to results/fuzz.csv."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fuzz_files
import fuzz_losses
import pandas as pd
import torch

SEED = 20
LOSSES, FILES = 100_000, 300  # inputs of all losses together, files of each form
RESULTS = Path(__file__).parents[1] / "results" / "fuzz.csv"
LIBRARIES = ("torch", "numpy", "scipy", "h5py", "pandas", "pyarrow", "pillow", "soundfile", "safetensors", "pyyaml")
GOOD = ("finite", "infinite", "read", "refused")
HANGS = 60  # seconds
FORK = multiprocessing.get_context("fork")


def guarded(work: Callable[[int], Any], numbers: Iterable[int]) -> Iterator[Any]:
    """``work`` of each number in a process of its own, which another replaces where it crashes or hangs."""
    pool = None
    try:
        for number in numbers:
            pool = pool or FORK.Pool(1, _silence)
            try:
                yield pool.apply_async(work, (number,)).get(HANGS)
            except multiprocessing.TimeoutError:
                pool.terminate()
                pool = None
                yield f"crashes, or hangs for {HANGS} s"
    finally:
        if pool:
            pool.terminate()


def _silence() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # a forked process waits for ever for the threads of the one that it is forked from
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries of images and sounds speak of what is broken


def of_losses(numbers: Iterable[int], seed: int = SEED) -> Iterator[tuple[int, str, str]]:
    """Number, loss and outcome of random inputs."""
    for number in numbers:
        yield number, *fuzz_losses.outcome(seed, number)


def of_files(form: str, numbers: Iterable[int], seed: int = SEED) -> Iterator[tuple[int, str, str]]:
    """Number, form and outcome of broken files."""
    numbers = list(numbers)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = guarded(partial(fuzz_files.outcome, Path(folder), form, seed), numbers)
        for number, said in zip(numbers, outcomes, strict=True):
            shutil.rmtree(Path(folder, str(number)), ignore_errors=True)
            yield number, form, said


def main(kinds: list[str]) -> int:
    """Count everything of the kinds "loss" and "reader", print what went wrong and write the counts.

    Those of other kinds stay in the file. Ctrl-C ends a kind early: what was done by then is counted.

    Returns:
        1 where something went wrong, else 0.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells ignore for what they start beside them
    sources = {
        "loss": lambda: of_losses(range(LOSSES)),
        "reader": lambda: (found for form in fuzz_files.FORMS for found in of_files(form, range(FILES))),
    }
    versions = ", ".join([f"python {sys.version.split()[0]}", *(f"{name} {version(name)}" for name in LIBRARIES)])
    faults = 0
    for kind in kinds or sources:
        counted: Counter[tuple[str, str]] = Counter()
        with contextlib.suppress(KeyboardInterrupt):
            for number, name, said in sources[kind]():
                outcome = said if said in GOOD else "fault"
                counted.update((each, what) for each in (name, "all") for what in ("inputs", outcome))
                if outcome == "fault":
                    print(f"{kind} {name}, input {number}: {said}", flush=True)
        faults += counted["all", "fault"]
        rows = [
            {"kind": kind, "name": name, "outcome": what, "value": counted[name, what], "seed": SEED}
            for name in sorted({name for name, _ in counted})
            for what in ("inputs", *GOOD, "fault")
            if what == "fault" or counted[name, what]
        ]
        before = pd.read_csv(RESULTS, dtype=str) if RESULTS.exists() else pd.DataFrame(columns=["kind"])
        new = pd.DataFrame(rows).assign(versions=versions).astype(str)
        pd.concat([before[before["kind"] != kind], new]).to_csv(RESULTS, index=False, lineterminator="\n")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
