"""The command ``python -m benchmarks``: run the benchmarks, and write bench.csv, .md, .yaml and .png."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from types import ModuleType

import torch

from benchmarks import jfse, large_batch, lavimo, losses, report, retrieval
from benchmarks.harness import Record, attempt
from datamodules.files.sources import user_path
from reproduce.measurements.measures import origin, write_measures
from reproduce.results.schema import TableError, replace_file
from reproduce.runs.machine import quiet

BENCHMARKS: dict[str, ModuleType] = {module.NAME: module for module in (retrieval, losses, large_batch, jfse, lavimo)}
LIBRARIES = ("torch", "torchmetrics", "lightning", "numpy", "timm", "transformers")


def main(argv: Sequence[str]) -> int:
    """Run the command line with the words after ``python -m benchmarks``.

    Returns 0; 1 where a contestant computed something else than ours, or a benchmark broke down; 2 where the folder
    cannot be written to.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=tuple(BENCHMARKS), help="one benchmark, into files of its own")
    parser.add_argument("--out", default="results", type=user_path, help="folder for the results (default: results)")
    arguments = parser.parse_args(argv)
    quiet(threads=torch.get_num_threads())  # all cores
    chosen = {name: module for name, module in BENCHMARKS.items() if arguments.only in (name, None)}
    config = {"settings": {name: module.SETTINGS for name, module in chosen.items()}}
    config["versions"] = {name: version(name) for name in LIBRARIES}
    path = arguments.out / (f"bench-{arguments.only}.csv" if arguments.only else "bench.csv")
    try:
        replace_file(arguments.out / ".bench.writable", "").unlink()  # refused now rather than after the work
        shared = origin(config)
        record = Record({"table": "bench", "scale": "quick", "seeds": "0", **shared})
        faults = run(chosen, record)
        command = shlex.join(["python", "-m", "benchmarks", *argv])
        companion = {"table": "bench", "command": command, "threads": torch.get_num_threads(), **config}
        write_measures(record.rows, path, report.TITLE, report.text(record, chosen.values()), companion)
        report.draw(record, path.with_suffix(".png"))
    except TableError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    print(f"wrote {path}, and beside it .md, .png and .yaml")
    for fault in faults:
        print(f"benchmarks: {fault}", file=sys.stderr)
    return 1 if faults else 0


def run(chosen: dict[str, ModuleType], record: Record) -> list[str]:
    """Run benchmarks; what went wrong: contestants that differ from ours, and benchmarks that broke down."""
    broken = []
    for name, module in chosen.items():
        print(f"{name} ...", flush=True)
        _, reason = attempt(lambda module=module: module.measure(record))
        if reason:
            broken.append(f"{name}: {reason}")
            record.add(name, "benchmark", "all sizes", "seconds", None, note=reason)
    return [*record.disagreements(), *broken]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
