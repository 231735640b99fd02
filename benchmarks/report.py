"""What the measured rows say: targets met and missed, and the figure."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from types import ModuleType

from matplotlib import pyplot as plt

from benchmarks import losses
from benchmarks.harness import Record
from reproduce.report.figures import save_figure

TITLE = "Speed and memory against peers"
INTRODUCTION = """Every contestant is measured in this run, on all cores. Times are medians of calls, epochs or
processes in which the contestants take turns. Time and memory ratios are a contestant's number over that of another
one, which its note names. In the tables a row is a contestant at a size, a column a benchmark."""


def text(record: Record, modules: Collection[ModuleType]) -> str:
    """The report of the benchmarks that ran, in Markdown, without its heading and its tables of rows."""
    asked = [[m.NAME, *target.cells()] for m in modules if hasattr(m, "targets") for target in m.targets(record)]
    lines = [["benchmark", "asked", "measured", ""], ["---", "---", "---:", "---"], *asked]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    about = [part for module in modules for part in (f"## Benchmark: {module.NAME}", module.ABOUT)]
    return "\n\n".join([INTRODUCTION, "## Targets", table, *about])


def draw(record: Record, path: Path) -> None:
    """Draw what a peer takes as a multiple of ours, in time and memory, as bars from 1 on a logarithmic axis."""
    ratios = [row for row in reversed(record.rows) if row.metric in ("time ratio", "memory ratio")]
    shown = [row for row in ratios if row.split != losses.NAME or f"B = {losses.CENTRE}," in row.features]
    figure, axes = plt.subplots(figsize=(10, 1.5 + 0.28 * len(shown)), layout="constrained")
    names = [f"{row.method}, {row.features}, {row.metric}" for row in shown]
    axes.barh(names, [row.value - 1 for row in shown], left=1)
    axes.set(xscale="log", title=f"{TITLE}: a peer's number over ours")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.margins(y=0.01)
    save_figure(figure, path)
    plt.close(figure)
