"""What random inputs of losses and broken files come to; `make fuzz` writes the counts to results/fuzz.csv."""

from __future__ import annotations

import csv
import multiprocessing
import os
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import fuzz_files
import fuzz_losses
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
    left = list(numbers)
    while left:
        ours, theirs = FORK.Pipe(duplex=False)
        child = FORK.Process(target=_serve, args=(work, tuple(left), theirs))
        child.start()
        theirs.close()
        while left:
            left.pop(0)
            try:
                if ours.poll(HANGS):
                    yield ours.recv()
                    continue
                said = f"hangs for {HANGS} s"
            except EOFError:
                said = "the process crashed"
            yield said
            break
        child.kill()
        child.join()


def _serve(work: Callable[[int], Any], numbers: Iterable[int], connection: Connection) -> None:
    warnings.simplefilter("ignore")
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)  # libraries of images and sounds speak of what is broken
    for number in numbers:
        connection.send(work(number))


def of_losses(numbers: Iterable[int], seed: int = SEED) -> Iterator[tuple[int, str, str]]:
    """Number, loss and outcome of random inputs."""
    for number in numbers:
        yield number, *fuzz_losses.outcome(seed, number)


def of_files(form: str, numbers: Iterable[int], seed: int = SEED) -> Iterator[tuple[int, str, str]]:
    """Number, form and outcome of broken files."""
    numbers = list(numbers)
    with tempfile.TemporaryDirectory() as folder:
        for number, said in zip(
            numbers, guarded(partial(fuzz_files.outcome, Path(folder), form, seed), numbers), strict=True
        ):
            shutil.rmtree(Path(folder, str(number)), ignore_errors=True)
            yield number, form, said


def main() -> int:
    """Count everything, print what went wrong and write the counts; 1 where something did."""
    torch.set_num_threads(1)
    counts: dict[str, Counter] = {"loss": Counter(), "reader": Counter()}
    sources = [("loss", of_losses(range(LOSSES)))]
    sources += [("reader", of_files(form, range(FILES))) for form in fuzz_files.FORMS]
    for kind, found in sources:
        for number, name, said in found:
            known = said if said in GOOD else "fault"
            counts[kind].update((each, outcome) for each in (name, "all") for outcome in ("inputs", known))
            if known == "fault":
                print(f"{kind} {name}, input {number}: {said}", flush=True)
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    versions = f"python {sys.version.split()[0]}, {libraries}"
    with RESULTS.open("w", encoding="utf-8", newline="") as file:
        write = csv.writer(file, lineterminator="\n").writerow
        write(["kind", "name", "outcome", "value", "seed", "versions"])
        for kind, counted in counts.items():
            for name in sorted({name for name, _ in counted}):
                for outcome in ("inputs", *GOOD, "fault"):
                    if outcome == "fault" or counted[name, outcome]:
                        write([kind, name, outcome, counted[name, outcome], SEED, versions])
    return int(any(counted["all", "fault"] for counted in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
