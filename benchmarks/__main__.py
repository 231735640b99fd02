"""The command ``python -m benchmarks``: run the benchmarks, and write bench.csv, .md, .yaml and .png."""

import argparse
import shlex
import sys
from collections.abc import Collection, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from matplotlib import pyplot as plt

from benchmarks import gpu, jfse, lavimo, losses, retrieval
from benchmarks.harness import Benchmark, Record, attempt
from datamodules.files.sources import user_path
from reproduce.measurements.measures import Measured, origin, write_measures
from reproduce.report.figures import save_figure
from reproduce.report.markdown import markdown_table
from reproduce.runs.machine import quiet

ALL = (retrieval.BENCHMARK, losses.BENCHMARK, losses.LARGE_BATCH, jfse.BENCHMARK, lavimo.BENCHMARK)
ON_GPU = (gpu.BENCHMARK, gpu.OF_CEILING, losses.LARGE_BATCH, jfse.BENCHMARK, retrieval.BENCHMARK)
LIBRARIES = ("torch", "torchmetrics", "lightning", "numpy", "timm", "transformers")
TITLE = "Speed and memory against peers"
INTRODUCTION = """Every contestant is measured in this run, on all cores. Times are medians of calls, epochs or
processes in which the contestants take turns. Time and memory ratios are a contestant's number over that of another
one, which its note names. In the tables a row is a contestant at a size, a column a benchmark."""


def main(argv: Sequence[str]) -> int:
    """Run the command line with the words after ``python -m benchmarks``.

    Returns 0; 1 where a contestant computed something else than ours, or a benchmark broke down; 2 where the folder
    cannot be written to.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", choices=tuple({one.name for one in (*ALL, *ON_GPU)}), help="one benchmark, into files of its own"
    )
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
    path = arguments.out / (f"{table}-{arguments.only}.csv" if arguments.only else f"{table}.csv")
    command = shlex.join(["python", "-m", "benchmarks", *argv])
    companion = {"table": table, "command": command, "threads": torch.get_num_threads(), **config}
    record, faults = Record({"table": table, "scale": "quick", "seeds": "0", **origin(config)}), []

    def measure() -> Measured:
        faults.extend(run(chosen, record))
        return record.rows, text(record, chosen), partial(draw, record)

    status = write_measures(path, TITLE, companion, measure, "benchmarks")
    for fault in faults:
        print(f"benchmarks: {fault}", file=sys.stderr)
    return status or int(bool(faults))


def run(chosen: Collection[Benchmark], record: Record) -> list[str]:
    """Run benchmarks; what went wrong: contestants that differ from ours, and benchmarks that broke down."""
    broken = []
    for benchmark in chosen:
        print(f"{benchmark.name} ...", flush=True)
        _, reason = attempt(lambda measure=benchmark.measure: measure(record))
        if reason:
            broken.append(f"{benchmark.name}: {reason}")
            record.add(benchmark.name, "benchmark", "all sizes", "seconds", None, note=reason)
    return [*record.disagreements(), *broken]


def text(record: Record, chosen: Collection[Benchmark]) -> str:
    """The report of the benchmarks that ran, in Markdown, without its heading and its tables of rows."""
    asked = [[each.name, *target.cells()] for each in chosen for target in each.targets(record)]
    table = markdown_table([["benchmark", "asked", "measured", ""], *asked], names=2)
    about = [part for each in chosen for part in (f"## Benchmark: {each.name}", each.about)]
    return "\n\n".join([INTRODUCTION, "## Targets", table, *about])


def draw(record: Record, path: Path) -> None:
    """Draw what a peer takes as a multiple of ours, in time and memory, as bars from 1 on a logarithmic axis."""
    ratios = [row for row in reversed(record.rows) if row.metric in ("time ratio", "memory ratio")]
    shown = [row for row in ratios if row.split != losses.NAME or f"B = {losses.CENTRE}," in row.condition]
    figure, axes = plt.subplots(figsize=(10, 1.5 + 0.28 * len(shown)), layout="constrained")
    names = [f"{row.method}, {row.condition}, {row.metric}" for row in shown]
    axes.barh(names, [row.value - 1 for row in shown], left=1)
    axes.set(xscale="log", title=f"{TITLE}: a peer's number over ours")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.margins(y=0.01)
    save_figure(figure, path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
