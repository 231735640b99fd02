"""The command ``python -m benchmarks``: run the benchmarks, and write bench.csv, .md, .yaml and .png."""

import argparse
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot as plt

from benchmarks import gpu, losses, retrieval, training
from benchmarks.harness import Benchmark, Record, attempt
from datamodules.files.sources import user_path
from reproduce.measurements.measures import Measured, origin, write_measures
from reproduce.report.figures import save_figure
from reproduce.report.markdown import markdown_table
from reproduce.results.schema import Row
from reproduce.runs.machine import quiet

SHARED = (losses.LARGE_BATCH, training.OF_JFSE)
ALL = (retrieval.BENCHMARK, losses.BENCHMARK, *SHARED)
ON_GPU = (gpu.BENCHMARK, gpu.OF_CEILING, gpu.OF_CRITICS, *SHARED, retrieval.BENCHMARK, gpu.OF_PAPER)
LIBRARIES = ("torch", "torchmetrics", "lightning", "numpy")
TITLE = "Speed and memory against peers"
INTRODUCTION = """Every contestant is measured in this run, on all cores. Times are medians of calls, epochs or
processes in which the contestants take turns. Time and memory ratios are a contestant's number over that of another
one, which its note names. In the tables a row is a contestant at a size, a column a benchmark."""


def main(argv: Sequence[str]) -> int:
    """Run the command line with the words after ``python -m benchmarks``.

    Returns 0; 1 where a contestant computed something else than ours, or a benchmark broke down; 2 where the folder
    cannot be written to.
    """
    names = tuple({one.name for one in (*ALL, *ON_GPU)})
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=names, help="one benchmark, into files of its own")
    parser.add_argument("--out", default="results", type=user_path, help="folder for the results (default: results)")
    parser.add_argument("--gpu", action="store_true", help="what a CUDA device is asked for, into bench_gpu.csv")
    arguments = parser.parse_args(argv)
    if arguments.gpu and not torch.cuda.is_available():
        print("benchmarks: there is no CUDA device here; nothing was measured")
        return 0
    quiet(threads=torch.get_num_threads())  # all cores
    chosen = [one for one in (ON_GPU if arguments.gpu else ALL) if arguments.only in (one.name, None)]
    config = {"settings": {benchmark.name: benchmark.settings for benchmark in chosen}}
    config["versions"] = {name: version(name) for name in LIBRARIES}
    table = "bench_gpu" if arguments.gpu else "bench"
    command = shlex.join(["python", "-m", "benchmarks", *argv])
    companion = {"table": table, "command": command, "threads": torch.get_num_threads(), **config}
    columns, faults = {"table": table, "scale": "quick", "seeds": "0", **origin(config)}, []
    path = arguments.out / (f"{table}-{arguments.only}.csv" if arguments.only else f"{table}.csv")
    status = write_measures(path, TITLE, companion, lambda: run(chosen, columns, faults), "benchmarks")
    for fault in faults:
        print(f"benchmarks: {fault}", file=sys.stderr)
    return status or int(bool(faults))


def run(chosen: Collection[Benchmark], columns: Mapping[str, Any], faults: list[str]) -> Measured:
    """The rows of benchmarks, their report in Markdown, and what draws their picture.

    Args:
        chosen: those that are run.
        columns: those that all rows have alike.
        faults: takes what went wrong: contestants that differ from ours, and benchmarks that broke down.
    """
    rows, asked, about = [], [], []
    for benchmark in chosen:
        print(f"{benchmark.name} ...", flush=True)
        record = Record(benchmark.name, {**columns, **benchmark.columns})
        _, reason = attempt(lambda measure=benchmark.measure, record=record: measure(record))
        if reason:
            faults.append(f"{benchmark.name}: {reason}")
            record.add("benchmark", "all sizes", "seconds", None, reason)
            asked.append([benchmark.name, "what it had not asked before it broke down", "not measured", ""])
        faults.extend(record.faults)
        rows += record.rows
        asked += record.asked
        about += [f"## Benchmark: {benchmark.name}", benchmark.about]
    targets = markdown_table([["benchmark", "asked", "measured", ""], *asked], names=2)
    return rows, "\n\n".join([INTRODUCTION, "## Targets", targets, *about]), partial(draw, rows)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw what a peer takes as a multiple of ours, in time and memory, as bars from 1 on a logarithmic axis."""
    ratios = [row for row in reversed(rows) if row.metric in ("time ratio", "memory ratio")]
    of_losses = f"B = {losses.CENTRE},"
    shown = [row for row in ratios if row.split != losses.BENCHMARK.name or of_losses in row.condition]
    figure, axes = plt.subplots(figsize=(10, 1.5 + 0.28 * len(shown)), layout="constrained")
    names = [f"{row.method}, {row.condition}, {row.metric}" for row in shown]
    axes.barh(names, [row.value - 1 for row in shown], left=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    figure.suptitle(f"{TITLE}: a peer's number over ours")  # over the names too, which are long
    axes.axvline(1, color="black", linewidth=0.8)
    axes.margins(y=0.01)
    save_figure(figure, path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
