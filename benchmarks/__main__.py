"""The command ``python -m benchmarks``: run the benchmarks, and write bench.csv, .md, .yaml and .png."""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from benchmarks import jfse, large_batch, lavimo, losses, report, retrieval, roofline
from benchmarks.harness import Record, attempt
from datamodules.files.sources import user_path
from losses import build_loss
from reproduce.cells import quiet
from reproduce.measures import origin, write_measures
from reproduce.schema import TableError, replace_file

BENCHMARKS: dict[str, ModuleType] = {module.NAME: module for module in (retrieval, losses, large_batch, jfse, lavimo)}
LIBRARIES = ("torch", "torchmetrics", "lightning", "numpy", "timm", "transformers")


def main(argv: Sequence[str]) -> int:
    """Run the command line.

    Args:
        argv: words after ``python -m benchmarks``.

    Returns:
        0; 1 where a contestant computed something else than ours, or a benchmark broke down; 2 where the folder cannot
        be written to.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=tuple(BENCHMARKS), help="one benchmark, into files of its own")
    parser.add_argument("--scale", choices=("quick", "paper"), default="quick", help="how many sizes and repeats")
    parser.add_argument("--out", default="results", type=user_path, help="folder for the results (default: results)")
    arguments = parser.parse_args(argv)
    quiet(threads=torch.get_num_threads())  # all cores
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler calls it an error that there is no GPU
    try:
        replace_file(arguments.out / ".bench.writable", "").unlink()  # refused now rather than after the work
        record, broken = run(arguments.only, arguments.scale)
        words = shlex.join(["python", "-m", "benchmarks", *argv])
        path = write(record, arguments.only, arguments.scale, arguments.out, words)
    except TableError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    print(f"wrote {path}, and beside it .md, .png and .yaml")
    for fault in [*record.disagreements(), *broken]:
        print(f"benchmarks: {fault}", file=sys.stderr)
    return 1 if record.disagreements() or broken else 0


def run(only: str | None, scale: str) -> tuple[Record, list[str]]:
    """Run the benchmarks.

    Args:
        only: name of one; None for all.
        scale: "quick" or "paper".

    Returns:
        The rows, and what each benchmark that broke down said.
    """
    shared = {"table": "bench", "scale": scale, "seeds": (0,)}
    shared |= origin(_config(only, scale), [build_loss(name) for name in ("cs", "gcs", "pairwise")], __file__)
    record, broken = Record(shared), []
    ceilings = roofline.measure_ceilings(record)
    for name, module in _chosen(only).items():
        print(f"{name} ...", flush=True)
        _, reason = attempt(lambda module=module: module.measure(record, scale, ceilings))
        if reason:
            broken.append(f"{name}: {reason}")
            record.add(name, "benchmark", "all sizes", "seconds", None, note=reason)
    return record, broken


def write(record: Record, only: str | None, scale: str, folder: Path, words: str) -> Path:
    """Write the table, the report, the settings and the figure; returns the path of the CSV.

    Args:
        record: the rows.
        only: the benchmark that ran; None for all.
        scale: of the run.
        folder: where the files go: bench.csv and beside it, or bench-<only>.csv.
        words: the command.

    Raises:
        TableError: the files cannot be written.
    """
    path = folder / (f"bench-{only}.csv" if only else "bench.csv")
    companion = {"table": "bench", "command": words, "threads": torch.get_num_threads(), **_config(only, scale)}
    text = report.text(record, list(_chosen(only).values()))
    write_measures(record.rows, path, report.TITLE, text, companion)
    report.draw(record, path.with_suffix(".png"))
    return path


def _chosen(only: str | None) -> dict[str, ModuleType]:
    return {only: BENCHMARKS[only]} if only else BENCHMARKS


def _config(only: str | None, scale: str) -> dict[str, Any]:
    settings: dict[str, Mapping[str, Any]] = {
        name: module.SCALES[scale] for name, module in _chosen(only).items() if hasattr(module, "SCALES")
    }
    files = sorted(Path(__file__).parent.glob("*.py"))
    return {
        "settings": settings,
        "versions": {name: version(name) for name in LIBRARIES},
        "sources": {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files},
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
