"""A table of sweeps as a picture: average MAP against the swept value, a panel per data set, split and protocol."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from reproduce.figures import OTHERS, add_legend, add_title, panel_title, panels_of
from reproduce.measures import save_figure
from reproduce.schema import Row, read_table
from reproduce.spec import Method, Table

MOST_LABELS = 7  # swept values are written at the axis where they fit beside each other


def draw_sweep(csv_path: str | Path, table: Table) -> Path | None:
    """Draw the average MAP of a table beside its CSV, as a PNG of the same name.

    A sweep is a line, its bars the deviation over seeds; a method without one is horizontal, its band the deviation.
    Smaller galleries than the whole one stay in the table.

    Args:
        csv_path: the table's CSV.
        table: its title, and its methods with their sweeps.

    Returns:
        Path of the picture; None where the table has no MAP.

    Raises:
        TableError: the CSV cannot be read.
    """
    path = Path(csv_path)
    wanted = ("ok", "MAP", "full", "average")
    rows = [row for row in read_table(path) if (row.status, row.metric, row.gallery, row.direction) == wanted]
    panels = panels_of(rows)
    if not panels:
        return None
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    size = (4.4 * columns + 1, 3.2 * lines + 1.2)
    figure, grid = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for axes, (name, found) in zip(grid.flat, panels.items(), strict=False):
        _draw_panel(axes, name[-1], {row.method: row for row in found}, table.methods)
        axes.set_title(panel_title(name), fontsize=10)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    add_legend(figure)
    add_title(figure, table.title, "average MAP", rows)
    picture = path.with_suffix(".png")
    save_figure(figure, picture)
    plt.close(figure)
    return picture


def _draw_panel(axes: Axes, protocol: str, found: dict[str, Row], methods: list[Method]) -> None:
    lines: dict[str, list[Method]] = {}
    for method in methods:
        if method.preset == protocol:
            lines.setdefault(method.sweep.line if method.sweep else method.method, []).append(method)
    arguments = list(dict.fromkeys(method.sweep.argument for method in methods if method.sweep))
    for (line, members), style in zip(lines.items(), cycle(OTHERS), strict=False):
        sweep = members[0].sweep
        label = f"{line} ({sweep.argument})" if sweep and len(arguments) > 1 else line
        _draw_line(axes, label, [(m.sweep, found[m.method]) for m in members if m.method in found], style)
    axes.set_xscale("log")
    values = sorted({method.sweep.value for method in methods if method.sweep})
    if len(values) <= MOST_LABELS:
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(" or ".join(arguments))
    axes.set_ylabel("average MAP")


def _draw_line(axes: Axes, label: str, points: list[tuple], style: tuple[str, str]) -> None:
    colour, marker = style
    for _, row in [point for point in points if point[0] is None]:
        deviation = row.std or 0.0
        axes.axhline(row.value, color=colour, linewidth=1.2, linestyle="--", label=label)
        axes.axhspan(row.value - deviation, row.value + deviation, color=colour, alpha=0.15, linewidth=0)
    swept = sorted([(sweep.value, row.value, row.std or 0.0) for sweep, row in points if sweep])
    if swept:
        x, y, deviation = zip(*swept, strict=True)
        axes.errorbar(x, y, yerr=deviation, fmt=f"{marker}-", color=colour, linewidth=1.2, capsize=2, label=label)
