"""A table as a picture: every method's MAP with its deviation over seeds, a panel per data set, split and protocol.

Smaller galleries than the whole one stay in the table, and so do the directions of more pairs than there are colours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import fill

import matplotlib

matplotlib.use("Agg")  # no window, whatever the machine has
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from datamodules.files.sources import written_whole

NAME_WIDTH, TITLE_WIDTH = 34, 40  # letters of a line of a method's name, and of one above a panel
LETTER = 0.08  # width in inches, at the size of the names
PANEL_WIDTH = 3.4  # inches
SPREAD = 0.28  # of the distance of two methods, how far directions lie off the middle
MOST_COLUMNS = 3
PANEL = ["dataset", "features", "condition", "split", "protocol"]
# Colour-blind safe (Okabe and Ito), and told apart by marker as well. One style for a pair, hollow for its second way.
AVERAGE = ("#000000", "o")
OTHERS = (("#0072B2", ">"), ("#D55E00", "<"), ("#009E73", "^"), ("#CC79A7", "v"), ("#56B4E9", "s"), ("#E69F00", "D"))

Style = tuple[str, str, str]  # colour, marker, how it is filled
Panels = Mapping[tuple[str, ...], pd.DataFrame]


def draw_table(table: pd.DataFrame, title: str, path: Path) -> Path | None:
    """Draw the MAP rows of a table beside its CSV, as a PNG of the same name.

    Args:
        table: the table.
        title: the heading.
        path: its CSV.

    Returns:
        Path of the picture; None where the table has no MAP.
    """
    rows = numbers(table, metric="MAP", gallery="full")
    if rows.empty:
        return None
    panels = panels_of(rows)
    styles = _styles(set(rows["direction"]))
    lines = _lines(panels)
    everyone = list(rows["method"].unique())
    methods = [_methods_of([panels[name] for name in line], everyone) for line in lines]
    figure, grid = _grid(methods, max(map(len, lines)), len(styles))
    for axes, line, names in zip(grid, lines, methods, strict=True):
        for place, name in zip(axes, line, strict=False):
            _draw_panel(place, panels[name], names, styles)
            place.set_title(panel_title(name), fontsize=10)
        for place in axes[len(line) :]:
            place.set_axis_off()
    add_legend(figure, styles)
    add_title(figure, title, "MAP", rows)
    return save_figure(figure, path.with_suffix(".png"))


def numbers(table: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    """The rows of status ok that have the wanted values."""
    keep = table["status"] == "ok"
    for column, value in wanted.items():
        keep &= table[column] == value
    return table[keep]


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all, the same bytes for the same figure, and close it."""
    with written_whole(path) as file:
        figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    plt.close(figure)
    return path


def frame(axes: Axes, grid: str = "both") -> None:
    """A light grid behind what is drawn, and no lines above and at the right."""
    axes.grid(axis=grid, color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def panels_of(rows: pd.DataFrame) -> dict[tuple[str, ...], pd.DataFrame]:
    """Rows by data set, features, condition, split and protocol, which share a panel."""
    return dict(list(rows.groupby(PANEL, sort=False)))


def panel_title(name: tuple[str, ...], width: int = TITLE_WIDTH) -> str:
    """What the rows of a panel have in common, in lines of at most `width` letters."""
    *data, split, protocol = name
    data = fill(", ".join(filter(None, data)), width, break_on_hyphens=False)
    return f"{data}\n{split}, {protocol.replace('_', ' ')}"


def add_title(figure: Figure, title: str, metric: str, rows: pd.DataFrame) -> None:
    """Write above a figure what it is of and which metric it shows, wrapped to its width."""
    synthetic = "SYNTHETIC DATA: " * bool((rows["data_kind"] == "synthetic").any())
    spread = ", mean and standard deviation over seeds" * bool(rows["std"].notna().any())
    width = int(figure.get_figwidth() / (1.2 * LETTER))
    figure.suptitle("\n".join(fill(line, width) for line in (f"{synthetic}{title}", f"{metric}{spread}")))


def add_legend(figure: Figure, order: Iterable[str] = ()) -> None:
    """One legend below all panels, in as many columns as fit; in the order of drawing, or in the given one."""
    drawn = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles = {label: handle for handles, labels in drawn for handle, label in zip(handles, labels, strict=True)}
    handles = {label: handles[label] for label in order or handles if label in handles}
    columns = max(1, int(figure.get_figwidth() / (LETTER * max(map(len, handles)) + 0.7)))
    names = [label.replace("->", " → ") for label in handles]
    place = {"loc": "outside lower center", "ncols": min(columns, len(names)), "frameon": False}
    figure.legend(handles.values(), names, **place)


def _lines(panels: Panels) -> list[list[tuple[str, ...]]]:
    """Panels side by side, which share the names at the left: those of one line have the same methods, or fewer."""
    columns = -(-len(panels) // -(-len(panels) // MOST_COLUMNS))
    lines: list[list[tuple[str, ...]]] = []
    for name, rows in panels.items():
        own = set(rows["method"])
        most = set().union(*(panels[other]["method"] for other in lines[-1])) if lines else set()
        if lines and len(lines[-1]) < columns and (own <= most or own >= most):
            lines[-1].append(name)
        else:
            lines.append([name])
    return lines


def _methods_of(panels: list[pd.DataFrame], order: list[str]) -> list[str]:
    found = set().union(*(rows["method"] for rows in panels))
    return [method for method in order if method in found]


def _grid(methods: list[list[str]], columns: int, directions: int) -> tuple[Figure, np.ndarray]:
    """A line of panels for each list of methods, as high as these need, and as wide as names and panels need."""
    names = {_wrapped(method) for line in methods for method in line}
    row = max(0.18 * max(name.count("\n") + 1 for name in names) + 0.06, 0.24 + 0.02 * directions)
    heights = [row * len(line) for line in methods]
    letters = max(len(part) for name in names for part in name.split("\n"))
    width = LETTER * letters + max(PANEL_WIDTH * columns, 4.8)
    figure, grid = plt.subplots(
        len(methods),
        columns,
        figsize=(width, sum(heights) + 1.2 * len(methods) + 1.2),
        sharey="row",
        squeeze=False,
        height_ratios=heights,
        layout="constrained",
    )
    return figure, grid


def _wrapped(method: str) -> str:
    return fill(method, NAME_WIDTH, break_on_hyphens=False)


def _draw_panel(axes: Axes, rows: pd.DataFrame, methods: list[str], styles: Mapping[str, Style]) -> None:
    offsets = _offsets([direction for direction in styles if direction in set(rows["direction"])])
    for direction, (colour, marker, fill_style) in styles.items():
        chosen = rows[rows["direction"] == direction]
        if chosen.empty:
            continue
        axes.errorbar(
            chosen["value"],
            [methods.index(method) + offsets[direction] for method in chosen["method"]],
            xerr=chosen["std"].fillna(0.0),
            fmt=marker,
            fillstyle=fill_style,
            color=colour,
            markersize=6,
            linewidth=1.2,
            capsize=2,
            label=direction,
            zorder=3 if direction == "average" else 2,
        )
    for place in range(1, len(methods), 2):  # leads the eye from a name to its marks
        axes.axhspan(place - 0.5, place + 0.5, color="0.96", zorder=0)
    axes.set_yticks(range(len(methods)), [_wrapped(method) for method in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_xlim(right=min(axes.get_xlim()[1], 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    frame(axes, "x")
    axes.set_xlabel("mean average precision (MAP)")


def _offsets(directions: list[str]) -> dict[str, float]:
    """Direction -> how far its marks lie below the middle of a method's line: the average in it, the others around."""
    others = [direction for direction in directions if direction != "average"]
    places = np.linspace(-SPREAD, SPREAD, len(others)) if len(others) > 1 else [0.0] * len(others)
    return {"average": 0.0, **dict(zip(others, places, strict=True))}


def _styles(directions: set[str]) -> dict[str, Style]:
    """Direction -> colour, marker and how it is filled; the average last, and alone where there are too many pairs."""
    pairs = sorted({tuple(sorted(direction.split("->"))) for direction in directions - {"average"}})
    styles = {}
    if len(pairs) <= len(OTHERS):
        for pair, style in zip(pairs, OTHERS, strict=False):
            for way, fill_style in (("->".join(pair), "full"), ("->".join(reversed(pair)), "none")):
                styles[way] = (*style, fill_style)
    styles["average"] = (*AVERAGE, "full")
    return {direction: style for direction, style in styles.items() if direction in directions}
