"""A table as a picture: every method's MAP with its deviation over seeds, a panel per data set, split and protocol.

Smaller galleries than the whole one stay in the table, and so do the directions of more pairs than there are colours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from reproduce.schema import Row, read_table

TITLE_WIDTH = 40  # letters of a line above a panel
PANEL = ("dataset", "features", "split", "protocol")
# Colour-blind safe (Okabe and Ito), and told apart by marker as well. One style for a pair, hollow for its second way.
AVERAGE = ("#000000", "o")
OTHERS = (("#0072B2", ">"), ("#D55E00", "<"), ("#009E73", "^"), ("#CC79A7", "v"), ("#56B4E9", "s"), ("#E69F00", "D"))

Style = tuple[str, str, str]  # colour, marker, how it is filled


def draw_table(csv_path: str | Path, title: str) -> Path | None:
    """Draw the MAP rows of a table beside its CSV, as a PNG of the same name.

    Args:
        csv_path: a table written by :func:`reproduce.schema.write_table`.
        title: the heading.

    Returns:
        Path of the picture; None where the table has no MAP.

    Raises:
        TableError: the table cannot be read.
    """
    path = Path(csv_path)
    rows = [row for row in read_table(path) if (row.status, row.metric, row.gallery) == ("ok", "MAP", "full")]
    panels: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        panels.setdefault(tuple(getattr(row, name) for name in PANEL), []).append(row)
    if not panels:
        return None
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    tallest = max(len({row.method for row in panel}) for panel in panels.values())
    size = (3.6 * columns + 1.6, (0.32 * tallest + 1.0) * lines + 0.9)
    figure, grid = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    styles = _styles({row.direction for row in rows})
    for axes, (name, panel) in zip(grid.flat, panels.items(), strict=False):
        _draw_panel(axes, name, panel, styles)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    drawn = [axes.get_legend_handles_labels() for axes in grid.flat]
    handles = {label: handle for handles, labels in drawn for handle, label in zip(handles, labels, strict=True)}
    legend = {direction: handles[direction] for direction in styles}
    figure.legend(
        legend.values(), legend, loc="outside lower center", ncols=min(len(legend), 2 * columns), frameon=False
    )
    synthetic = "SYNTHETIC DATA: " if any(row.data_kind == "synthetic" for row in rows) else ""
    figure.suptitle(f"{synthetic}{title}")
    picture = path.with_suffix(".png")
    partial = picture.with_name(f".{picture.name}.partial")
    figure.savefig(partial, format="png", dpi=120, metadata={"Software": None})
    plt.close(figure)
    os.replace(partial, picture)
    return picture


def _draw_panel(axes: Axes, name: tuple[str, ...], rows: list[Row], styles: Mapping[str, Style]) -> None:
    methods = list(dict.fromkeys(row.method for row in rows))
    for direction, (colour, marker, fill_style) in styles.items():
        chosen = [row for row in rows if row.direction == direction]
        if not chosen:
            continue
        axes.errorbar(
            [row.value for row in chosen],
            [methods.index(row.method) for row in chosen],
            xerr=[row.std or 0.0 for row in chosen],
            fmt=marker,
            fillstyle=fill_style,
            color=colour,
            markersize=6,
            linewidth=1.2,
            capsize=2,
            label=direction,
            zorder=3 if direction == "average" else 2,
        )
    axes.set_yticks(range(len(methods)), methods)
    axes.invert_yaxis()
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("MAP")
    dataset, features, split, protocol = name
    axes.set_title(
        f"{fill(f'{dataset}, {features}', TITLE_WIDTH, break_on_hyphens=False)}\n{split}, {protocol.replace('_', ' ')}",
        fontsize=10,
    )


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
