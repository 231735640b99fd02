"""A table as pictures: MAP by method, along a sweep or against wrong labels, and the modality gap against MAP.

A panel per data and split.

Smaller galleries than the whole one stay in the table, and so do the directions of more pairs than there are colours.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from itertools import cycle, zip_longest
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")  # no window, whatever the machine has
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import t as student_t

from datamodules.noisy_labels import parse_labels
from lightning_modules.metrics.directions import is_joint
from lightning_modules.metrics.modality_gap import GAP_METRICS
from reproduce.results.metrics import METRICS
from reproduce.results.schema import replace_file
from reproduce.results.shown import SYNTHETIC
from reproduce.runs.spec import Table

PANEL = ["dataset", "features", "condition", "split", "protocol"]
COLUMNS = 3  # of panels, at most
NAME, TITLE = 34, 40  # letters of a line of a method's name, and of one above a panel
LETTER = 0.08  # width in inches
SPREAD = 0.28  # of the distance of two methods, how far directions lie off the middle
MOST_LABELS = 7  # swept values are written at the axis where they fit beside each other
NO_GAP = {"centroid distance": 0.0, "linear separability": 0.5, "kernel CS": 0.0}
NO_GAP_LABEL, CHANCE_LABEL = "no gap", "by chance: as many samples without a gap"
# Colour-blind safe (Okabe and Ito), and told apart by marker as well.
STYLE = (("#0072B2", "o"), ("#D55E00", "^"), ("#009E73", "s"), ("#CC79A7", "D"), ("#56B4E9", "v"), ("#E69F00", "P"))
AVERAGE = {"color": "#000000", "marker": "X", "zorder": 3}
CHANCE = {"color": "0.5", "marker": "_", "markersize": 9, "zorder": 1}
MARKERS = "osDv^<>XP*dh"

Styles = Mapping[str, Mapping[str, Any]]  # label -> how matplotlib draws it


class Panel(NamedTuple):
    """Points with the columns "label", "x", "y" and their deviations "dx" and "dy"; what else to do with the axes."""

    title: str
    points: pd.DataFrame
    finish: Callable[[Axes], None]


def draw_figures(rows: pd.DataFrame, table: Table, path: Path) -> list[Path]:
    """Draw the figures of a table beside its CSV: ``<table>.png`` with its MAP, ``<table>_gap.png`` with its gaps.

    Args:
        rows: of the table.
        table: its title, and its methods with their sweeps.
        path: its CSV.

    Returns:
        The pictures; none of what the table does not have. ``<table>_noise.png`` shows its MAP against flipped labels.
    """
    rows = rows[(rows["status"] == "ok") & (rows["gallery"] == "full")]
    retrieval = rows[rows["metric"] == "MAP"]
    written = []
    if len(retrieval):
        swept = any(method.sweep for method in table.methods)
        figure = draw_sweeps(retrieval, table) if swept else draw_methods(retrieval, table.title)
        written.append(save_figure(figure, path.with_suffix(".png")))
    if figure := draw_noise(retrieval, table):
        written.append(save_figure(figure, path.with_name(f"{path.stem}_noise.png")))
    if figure := draw_gap(rows, table.title):
        written.append(save_figure(figure, path.with_name(f"{path.stem}_gap.png")))
    return written


def draw_methods(rows: pd.DataFrame, title: str) -> Figure:
    """Every method's MAP with its deviation over seeds, methods down and a mark per direction.

    Where there are joint queries, which is then what the table asks about, their directions alone.
    """
    styles = _directions(rows["direction"].unique())
    found = [(name, of[of["direction"].isin(list(styles))]) for name, of in rows.groupby(PANEL, sort=False)]
    columns = -(-len(found) // -(-len(found) // COLUMNS))
    lines, heights, letters = [], [], 0
    for there in (found[start : start + columns] for start in range(0, len(found), columns)):
        own = set().union(*(of["method"] for _, of in there))
        names = {name: fill(name, NAME, break_on_hyphens=False) for name in rows["method"].unique() if name in own}
        letters = max(letters, *(len(part) for name in names.values() for part in name.split("\n")))
        high = max(name.count("\n") + 1 for name in names.values())
        heights.append(max(0.18 * high + 0.06, 0.24 + 0.02 * len(styles)) * len(names))
        lines.append([_methods_panel(panel_title(name), of, names, styles) for name, of in there])
    size = (LETTER * letters + max(3.4 * columns, 4.8), sum(heights) + 1.2 * len(heights) + 1.2)
    return _draw(lines, styles, size, title, "MAP", sharey="row", height_ratios=heights)


def _methods_panel(title: str, rows: pd.DataFrame, names: Mapping[str, str], styles: Styles) -> Panel:
    methods = list(names)
    others = [direction for direction in styles if direction in set(rows["direction"]) - {"average"}]
    offsets = np.linspace(-SPREAD, SPREAD, len(others)) * (len(others) > 1)  # around the average, in the middle
    below = rows["direction"].map(dict(zip(others, offsets, strict=True))).fillna(0.0)
    heights = rows["method"].map(methods.index) + below
    points = rows.assign(label=rows["direction"], x=rows["value"], dx=rows["std"], y=heights, dy=np.nan)

    def finish(axes: Axes) -> None:
        for place in range(1, len(methods), 2):  # leads the eye from a name to its marks
            axes.axhspan(place - 0.5, place + 0.5, color="0.96", zorder=0)
        axes.set_yticks(range(len(methods)), names.values())
        axes.set_ylim(len(methods) - 0.5, -0.5)
        axes.set_xlim(right=min(axes.get_xlim()[1], 1.02))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("mean average precision (MAP)")

    return Panel(title, points, finish)


def _directions(directions: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How each direction is drawn, a pair's second way hollow; the average last, and alone where there are too many."""
    if joint := [name for name in directions if is_joint(name)]:
        looks = zip(joint, cycle(STYLE))
        return {name: {"linestyle": "", "color": colour, "marker": marker} for name, (colour, marker) in looks}
    pairs = sorted({tuple(sorted(direction.split("->"))) for direction in directions if direction != "average"})
    styles = {}
    for pair, (colour, marker) in zip(pairs, STYLE if len(pairs) <= len(STYLE) else (), strict=False):
        for way, filled in ((pair, "full"), (pair[::-1], "none")):
            styles["->".join(way)] = {"color": colour, "marker": marker, "fillstyle": filled}
    styles["average"] = AVERAGE
    return {name: {"linestyle": "", **style} for name, style in styles.items() if name in directions}


def draw_sweeps(rows: pd.DataFrame, table: Table) -> Figure:
    """Average MAP against the swept value, a line per sweep; a method without one is horizontal and dashed."""
    rows = rows[rows["direction"] == "average"]
    sweeps = {method.method: method.sweep for method in table.methods if method.sweep}
    arguments = list(dict.fromkeys(sweep.argument for sweep in sweeps.values()))
    values = sorted({sweep.value for sweep in sweeps.values()})
    labels, styles, looks = {}, {}, cycle(STYLE)
    for method in table.methods:
        sweep = method.sweep
        label = sweep.line + f" ({sweep.argument})" * (len(arguments) > 1) if sweep else method.method
        labels[method.method] = label
        if label not in styles:
            colour, marker = next(looks)
            styles[label] = {"color": colour, "marker": marker if sweep else "", "linestyle": "-" if sweep else "--"}

    def finish(axes: Axes) -> None:
        axes.set_xscale("log")
        if len(values) <= MOST_LABELS:
            axes.set_xticks(values, [f"{value:g}" for value in values])
            axes.minorticks_off()
        axes.set(xlabel=" or ".join(arguments), ylabel="average MAP")

    panels = []
    for name, of in rows.groupby(PANEL, sort=False):
        places = [[sweeps[method].value] if method in sweeps else [values[0], values[-1]] for method in of["method"]]
        points = of.assign(label=of["method"].map(labels), x=places, dx=np.nan, y=of["value"], dy=of["std"])
        panels.append(Panel(panel_title(name), points.explode("x").astype({"x": float}).sort_values("x"), finish))
    columns = min(len(panels), COLUMNS)
    lines = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    return _draw(lines, styles, (4.4 * columns + 1, 3.2 * len(lines) + 1.2), table.title, "average MAP")


def draw_noise(rows: pd.DataFrame, table: Table) -> Figure | None:
    """Average MAP against the share of labels that are flipped, a line per method, a panel for data with three or more.

    The bars are 95% intervals of the mean over seeds, by Student's t; the axis says how many seeds there are. A method
    that never reaches half of the best MAP of its panel would press the others together: the axis names it instead.
    """
    data = []
    for dataset in table.datasets:
        kind, number = parse_labels(dataset.init_args.get("labels", "class"))
        if kind in ("class", "flips"):
            alike = {name: value for name, value in dataset.init_args.items() if name != "labels"}
            data.append((dataset.dataset, dataset.features, dataset.condition, str(alike), number))
    flipped = pd.DataFrame(data, columns=["dataset", "features", "condition", "alike", "x"])
    rows = rows[rows["direction"] == "average"].merge(flipped)
    groups = rows.groupby(["dataset", "alike", "split", "protocol"], sort=False)
    found = [of for _, of in groups if of["x"].nunique() > 2]
    if not found:
        return None
    rows = pd.concat(found)
    count = rows["seeds"].str.split().map(len)
    half = rows["std"] * student_t.ppf(0.975, (count - 1).clip(lower=1)) / np.sqrt(count)
    looks = zip(cycle([*(colour for colour, _ in STYLE), "#000000", "#7f7f7f"]), cycle(MARKERS), strict=False)
    styles = {
        method: {"color": colour, "marker": marker, "linestyle": "-"}
        for method, (colour, marker) in zip(rows["method"].unique(), looks, strict=False)
    }
    said = ", ".join(f"{x}: {n}" for x, n in count.groupby(rows["x"]).first().items())

    def finish(below: pd.Series, axes: Axes) -> None:
        names = "".join(f"\n{method}: at most {METRICS['MAP'].text(best)}" for method, best in below.items())
        axes.set(xlabel=f"labels flipped, % (seeds {said}){names}", ylabel="average MAP")

    panels = []
    for of in found:
        first = next(of.itertuples())
        title = panel_title((first.dataset, first.features, "", first.split, first.protocol))
        best = of.groupby("method", sort=False)["value"].max()
        below = best[best < best.max() / 2]
        points = of.assign(label=of["method"], dx=np.nan, y=of["value"], dy=half[of.index])
        points = points[~of["method"].isin(below.index)].sort_values("x", kind="stable")
        panels.append(Panel(title, points, partial(finish, below)))
    size = (4.4 * len(panels) + 1, 4.8)
    return _draw([panels], styles, size, table.title, "average MAP", spread="95% interval")


def draw_gap(rows: pd.DataFrame, title: str) -> Figure | None:
    """Each measure of the modality gap against average MAP, a point per method; None where no method has both.

    Where two methods lie one above the other the gap differs at equal retrieval. What a measure is by chance is marked
    where the table has it.
    """
    rows = rows[rows["direction"] == "average"]
    there = [metric for metric in GAP_METRICS if metric in set(rows["metric"])]
    key = [*PANEL, "method"]
    retrieval = rows[rows["metric"] == "MAP"].set_index(key)[["value", "std"]].set_axis(["x", "dx"], axis=1)
    measured = rows[rows["metric"].isin([*there, *(f"{metric} by chance" for metric in there)])]
    points = measured.rename(columns={"value": "y", "std": "dy"}).join(retrieval, on=key, how="inner")
    if points.empty:
        return None
    methods = list(points["method"].unique())
    looks = zip(cycle(["#000000", *(colour for colour, _ in STYLE)]), cycle(MARKERS), strict=False)
    # From the first method to the last ever smaller and hollow: one that lies on another shows within it.
    sizes = np.linspace(10.5, 6.5, len(methods))
    styles = {
        name: {"color": colour, "marker": marker, "markersize": size, "markerfacecolor": "white"}
        for name, size, (colour, marker) in zip(methods, sizes, looks, strict=False)
    }
    chance = points["metric"].str.endswith(" by chance")
    points["label"] = points["method"].mask(chance, CHANCE_LABEL)
    points.loc[chance, ["dx", "dy"]] = np.nan
    points["metric"] = points["metric"].str.removesuffix(" by chance")

    def finish(metric: str, axes: Axes) -> None:
        axes.axhline(NO_GAP[metric], color="0.5", linestyle="--", linewidth=1, label=NO_GAP_LABEL, zorder=1)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.margins(0.08)
        axes.set(xlabel="average MAP", ylabel=metric)

    lines = [
        [Panel(panel_title(name), of[of["metric"] == metric], partial(finish, metric)) for metric in there]
        for name, of in points.groupby(PANEL, sort=False)
    ]
    size = (max(3.9 * len(there), 6.0), 3.4 * len(lines) + 0.12 * len(styles) + 1.2)
    styles = {name: {"linestyle": "", **style} for name, style in {**styles, CHANCE_LABEL: CHANCE}.items()}
    return _draw(lines, styles, size, title, "modality gap against MAP")


def _draw(
    lines: Sequence[Sequence[Panel]],
    styles: Styles,
    size: tuple[float, float],
    title: str,
    metric: str,
    spread: str = "standard deviation",
    **grid: Any,
) -> Figure:
    """Panels in lines, one legend for all below them, in the order of the styles, and above them what is shown."""
    points = pd.concat([panel.points for line in lines for panel in line])
    synthetic = points["data_kind"] == "synthetic"
    figure, places = plt.subplots(
        len(lines), max(map(len, lines)), figsize=size, squeeze=False, layout="constrained", **grid
    )
    for axes, panel in (pair for line in zip(places, lines, strict=True) for pair in zip_longest(*line)):
        if panel is None:
            axes.set_axis_off()
            continue
        for label, of in panel.points.groupby("label", sort=False):
            bars = {"xerr": of["dx"].fillna(0.0), "yerr": of["dy"].fillna(0.0)}
            bars = {name: values for name, values in bars.items() if values.any()}
            axes.errorbar(of["x"], of["y"], **bars, label=label, capsize=2, linewidth=1.2, **styles[label])
        frame(axes)
        panel.finish(axes)
        marked = panel.points["data_kind"].eq("synthetic").any() and not synthetic.all()
        axes.set_title(f"{SYNTHETIC}\n" * bool(marked) + panel.title, fontsize=10)
    drawn = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles = {label: handle for handles, labels in drawn for handle, label in zip(handles, labels, strict=True)}
    labels = [*(label for label in styles if label in handles), *(label for label in handles if label not in styles)]
    columns = max(1, int(figure.get_figwidth() / (LETTER * max(map(len, labels)) + 0.7)))
    names = [label.replace("->", " → ") for label in labels]
    below = {"loc": "outside lower center", "ncols": min(columns, len(names)), "frameon": False}
    figure.legend([handles[label] for label in labels], names, **below)
    marked = f"{SYNTHETIC}: " * bool(synthetic.all())
    spread = f", mean and {spread} over seeds" * bool(points[["dx", "dy"]].notna().any(axis=None))
    width = int(figure.get_figwidth() / (1.2 * LETTER))
    figure.suptitle("\n".join(fill(line, width) for line in (f"{marked}{title}", f"{metric}{spread}")))
    return figure


def panel_title(name: tuple[str, ...]) -> str:
    """What the rows of a panel have in common."""
    *data, split, protocol = name
    data = fill(", ".join(filter(None, data)), TITLE, break_on_hyphens=False)
    return f"{data}\n{split}, {protocol.replace('_', ' ')}"


def frame(axes: Axes) -> None:
    """A light grid behind what is drawn, and no lines above and at the right."""
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all, the same bytes for the same figure, and close it.

    Raises:
        TableError: the folder cannot be written.
    """
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=120, metadata={"Software": None})
    plt.close(figure)
    return replace_file(path, drawn.getvalue())
