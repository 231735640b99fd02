"""The gap between modalities as a picture: each measure of it against average MAP, a point per method."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lightning_modules.metrics.modality_gap import GAP_METRICS
from reproduce.report.figures import (
    AVERAGE,
    OTHERS,
    add_legend,
    add_title,
    frame,
    numbers,
    panel_title,
    panels_of,
    save_figure,
)

NO_GAP = {"centroid distance": 0.0, "linear separability": 0.5, "kernel CS": 0.0}
NO_GAP_LABEL, CHANCE_LABEL = "no gap", "by chance: as many samples without a gap"
MARKERS = "osDv^<>XP*dh"
SIZES = (10.5, 6.5)  # from the first method to the last, hollow: one that lies on another shows within it
COLOURS = [colour for colour, _ in (AVERAGE, *OTHERS)]
TITLE_WIDTH = 110  # letters above a line of panels
PANEL_SIZE = (3.9, 3.0)  # inches

Style = tuple[str, str, float]  # colour, marker, its size in points
Points = dict[str, dict[str, tuple[Any, ...]]]  # measure -> method -> rows
Lines = dict[tuple[str, ...], Points]


def draw_gap(table: pd.DataFrame, title: str, path: Path) -> Path | None:
    """Draw the measures of the modality gap of a table beside its CSV, as ``<table>_gap.png``.

    A line of panels per data set, split and protocol, a panel per measure: the measure against average MAP, with the
    deviation over seeds of both. Where two methods lie one above the other the gap differs at equal retrieval. What a
    measure is by chance is marked where the table has it.

    Args:
        table: the table.
        title: the heading.
        path: its CSV.

    Returns:
        Path of the picture; None where no method has both a measure of the gap and an average MAP.
    """
    rows = numbers(table, gallery="full", direction="average")
    lines = {name: points for name, found in panels_of(rows).items() if (points := _points(found))}
    if not lines:
        return None
    metrics = [metric for metric in GAP_METRICS if any(metric in points for points in lines.values())]
    styles = _styles(lines)
    width, height = PANEL_SIZE[0] * len(metrics), (PANEL_SIZE[1] + 0.4) * len(lines) + 0.12 * len(styles) + 1.2
    figure = plt.figure(figsize=(max(width, 6.0), height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1)
    parts = figure.subfigures(len(lines), squeeze=False)[:, 0]
    for part, (name, points) in zip(parts, lines.items(), strict=True):
        part.suptitle(panel_title(name, TITLE_WIDTH), fontsize=10)
        for axes, metric in zip(part.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
            _draw_panel(axes, metric, points.get(metric, {}), styles)
    add_legend(figure, [*styles, CHANCE_LABEL, NO_GAP_LABEL])
    add_title(figure, title, "modality gap against MAP", rows)
    return save_figure(figure, path.with_name(f"{path.stem}_gap.png"))


def _points(rows: pd.DataFrame) -> Points:
    """Measure -> method -> average MAP, measure, and the measure by chance where the table has it."""
    found = {(row.metric, row.method): row for row in rows.itertuples()}
    points: Points = {}
    for metric, method in found:
        if metric in GAP_METRICS and ("MAP", method) in found:
            wanted = (("MAP", method), (metric, method), (f"{metric} by chance", method))
            points.setdefault(metric, {})[method] = tuple(found[key] for key in wanted if key in found)
    return points


def _styles(lines: Lines) -> dict[str, Style]:
    methods = dict.fromkeys(method for points in lines.values() for of in points.values() for method in of)
    sizes = np.linspace(*SIZES, len(methods))
    return dict(zip(methods, zip(cycle(COLOURS), cycle(MARKERS), sizes, strict=False), strict=True))


def _draw_panel(axes: Axes, metric: str, points: dict[str, tuple[Any, ...]], styles: dict[str, Style]) -> None:
    axes.axhline(NO_GAP[metric], color="0.5", linestyle="--", linewidth=1, label=NO_GAP_LABEL, zorder=1)
    for method, (retrieval, gap, *chance) in points.items():
        colour, marker, size = styles[method]
        for row in chance:
            axes.plot(retrieval.value, row.value, "_", color="0.5", markersize=9, label=CHANCE_LABEL, zorder=1)
        axes.errorbar(
            retrieval.value,
            gap.value,
            xerr=np.nan_to_num(retrieval.std),
            yerr=np.nan_to_num(gap.std),
            fmt=marker,
            color=colour,
            markerfacecolor="white",
            markersize=size,
            linewidth=1,
            capsize=2,
            label=method,
        )
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.margins(0.08)
    frame(axes)
    axes.set_xlabel("average MAP")
    axes.set_ylabel(metric)
