"""What the measured rows say: targets met and missed, what bounds each benchmark, and the figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks import losses, roofline
from benchmarks.harness import Record
from reproduce.measures import save_figure
from reproduce.projection import STYLE
from reproduce.schema import METRICS, Row

TITLE = "Speed and memory against peers"
INTRODUCTION = """Every contestant is measured in this run, on all cores. Times are medians of calls or epochs in which
the contestants take turns; the first ones do not count. Time and memory ratios are a contestant's number over that of
another one, which its note names. Peak memory is that of a fresh process. Extrapolated seconds were not measured. A
contestant that could not run has no number, and a note that says why. In the tables a row is a contestant at a size, a
column a benchmark."""
DRAWN = ("GCS (ours)", "GCS (plain)", "pairwise KL (ours)", "pairwise KL (plain)")
SPENT = "seconds/step"


def text(record: Record, modules: Sequence[ModuleType]) -> str:
    """The report in Markdown, without its heading and its tables of rows.

    Args:
        record: holds the rows.
        modules: the benchmarks that ran.
    """
    parts = [INTRODUCTION, *_data(record.rows)]
    asked = [[module.NAME, *target.cells()] for module in modules for target in module.targets(record)]
    if asked:
        lines = [["benchmark", "asked", "measured", ""], ["---", "---", "---:", "---"], *asked]
        parts += ["## Targets", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    for module in (roofline, *modules):
        parts += [f"## Benchmark: {module.NAME}", module.ABOUT, *_bounds(record, module.NAME)]
    return "\n\n".join(parts)


def _data(rows: Iterable[Row]) -> list[str]:
    real = dict.fromkeys((row.split, row.dataset) for row in rows if row.data_kind == "real")
    return [f"All inputs are generated but those of {name}, which reads {dataset}." for name, dataset in real]


def _bounds(record: Record, name: str) -> list[str]:
    """A sentence on every floor: what it consists of, how far from it each contestant is, and where its time goes."""
    found = []
    rows = [row for row in record.rows if row.split == name]
    for floor in [row for row in rows if row.metric == "floor seconds"]:
        words = [f"{floor.features}: the floor is {floor.value:.3g} seconds, {floor.note}."]
        for row in rows:
            above = row.metric == "times the floor" and row.features == floor.features
            if above and floor.method in ("floor", f"floor of {row.method}"):
                words.append(f"{row.method} takes {row.value:.3g} times as long.")
                words += [f"Its time goes to: {row.note}."] * bool(row.note)
        found.append(f"- {' '.join(words)}")
    return ["\n".join(found)] if found else []


def draw(record: Record, path: Path) -> None:
    """Draw the losses against batch size and modalities, all ratios to peers, and all times over their floors.

    Args:
        record: holds the rows.
        path: the PNG.
    """
    figure, grid = plt.subplots(2, 2, figsize=(14, 11), layout="constrained")
    _draw_losses(grid[0, 0], record.rows, "B = ", "batch size B", f", M = 3, D = {losses.DIM}")
    _draw_losses(grid[0, 1], record.rows, "M = ", "modalities M", f"B = {losses.CENTRE}, ")
    _draw_bars(grid[1, 0], [row for row in record.rows if row.metric in ("time ratio", "memory ratio")], "over ours")
    _draw_bars(grid[1, 1], [row for row in record.rows if row.metric == "times the floor"], "over the floor")
    figure.suptitle(TITLE)
    save_figure(figure, path)
    plt.close(figure)


def _draw_losses(axes: Axes, rows: Iterable[Row], varied: str, label: str, fixed: str) -> None:
    """Seconds of a step against one number of the size, at the default temperature."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if row.split == losses.NAME and row.metric == SPENT and row.value and row.method in DRAWN:
            size, usual = row.features, losses.TEMPERATURES[False]
            number = next((part.removeprefix(varied) for part in size.split(", ") if part.startswith(varied)), "")
            if fixed in size and size.endswith(usual) and number:
                found.setdefault(row.method, {})[int(number.replace(",", ""))] = row.value
    for method, by_number in found.items():
        colour, marker = STYLE[DRAWN.index(method)]
        line = "--" if method.endswith("(plain)") else "-"
        axes.plot(*zip(*sorted(by_number.items()), strict=True), line, color=colour, marker=marker, label=method)
    _finish(axes, label, "seconds per step", bool(found))
    if found:
        numbers = sorted({number for by_number in found.values() for number in by_number})
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(numbers, map(str, numbers))
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=8)
        axes.set_title(f"{fixed.strip(', ')}, {losses.TEMPERATURES[False]}")


def _draw_bars(axes: Axes, rows: Sequence[Row], label: str) -> None:
    """Numbers of many sizes as bars from 1, on a logarithmic axis."""
    # Of the losses' many sizes, those where exponents are fitted.
    shown = [
        row
        for row in rows
        if row.split != losses.NAME or f"B = {losses.CENTRE}, M = {losses.FITTED[-1]}" in row.features
    ]
    names = [f"{row.split}, {row.method}\n{row.features}, {row.metric}" for row in shown]
    places = range(len(shown))[::-1]
    kinds = list(dict.fromkeys(row.metric for row in shown))
    colours = [STYLE[kinds.index(row.metric)][0] for row in shown]
    axes.barh(places, [row.value - 1 for row in shown], left=1, color=colours)
    for place, row in zip(places, shown, strict=True):
        axes.text(row.value, place, f" {METRICS[row.metric].text(row.value)}", va="center", fontsize=6)
    axes.set_yticks(places, names, fontsize=6)
    _finish(axes, label, "", bool(shown))
    if shown:
        axes.set_xscale("log")
        axes.axvline(1, color="black", linewidth=0.8)


def _finish(axes: Axes, x: str, y: str, measured: bool) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if not measured:
        axes.set_title("not measured")
