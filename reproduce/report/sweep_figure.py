"""A table of sweeps as a picture: average MAP against the swept value, a panel per data set, split and protocol."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from reproduce.report.figures import OTHERS, add_legend, add_title, frame, numbers, panel_title, panels_of, save_figure
from reproduce.runs.spec import Method, Table

MOST_LABELS = 7  # swept values are written at the axis where they fit beside each other


def draw_sweep(rows: pd.DataFrame, table: Table, path: Path) -> Path | None:
    """Draw the average MAP of a table beside its CSV, as a PNG of the same name.

    A sweep is a line, its bars the deviation over seeds; a method without one is horizontal, its band the deviation.
    Smaller galleries than the whole one stay in the table.

    Args:
        rows: of the table.
        table: its title, and its methods with their sweeps.
        path: its CSV.

    Returns:
        Path of the picture; None where the table has no MAP.
    """
    rows = numbers(rows, metric="MAP", gallery="full", direction="average")
    if rows.empty:
        return None
    panels = panels_of(rows)
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    size = (4.4 * columns + 1, 3.2 * lines + 1.2)
    figure, grid = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for axes, (name, found) in zip(grid.flat, panels.items(), strict=False):
        _draw_panel(axes, name[-1], {row.method: row for row in found.itertuples()}, table.methods)
        axes.set_title(panel_title(name), fontsize=10)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    add_legend(figure)
    add_title(figure, table.title, "average MAP", rows)
    return save_figure(figure, path.with_suffix(".png"))


def _draw_panel(axes: Axes, protocol: str, found: dict[str, Any], methods: list[Method]) -> None:
    lines: dict[str, list[Method]] = {}
    for method in methods:
        if method.protocol == protocol:
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
    frame(axes)
    axes.set_xlabel(" or ".join(arguments))
    axes.set_ylabel("average MAP")


def _draw_line(axes: Axes, label: str, points: list[tuple], style: tuple[str, str]) -> None:
    colour, marker = style
    for _, row in [point for point in points if point[0] is None]:
        deviation = np.nan_to_num(row.std)
        axes.axhline(row.value, color=colour, linewidth=1.2, linestyle="--", label=label)
        axes.axhspan(row.value - deviation, row.value + deviation, color=colour, alpha=0.15, linewidth=0)
    swept = sorted([(sweep.value, row.value, float(np.nan_to_num(row.std))) for sweep, row in points if sweep])
    if swept:
        x, y, deviation = zip(*swept, strict=True)
        axes.errorbar(x, y, yerr=deviation, fmt=f"{marker}-", color=colour, linewidth=1.2, capsize=2, label=label)
