"""The figures of a table: every method and direction readable, with the values and deviations of the CSV."""

from dataclasses import replace
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from test_schema import NUMBER

from lightning_modules.metrics.modality_gap import GAP_METRICS
from reproduce.report.figures import (
    CHANCE_LABEL,
    MARKERS,
    NO_GAP_LABEL,
    draw_figures,
    draw_gap,
    draw_methods,
    draw_noise,
)
from reproduce.results.schema import Row, table_of
from reproduce.runs.spec import read_file

MODALITIES = ["text", "video", "motion", "inertial", "sound"]
LONG = [f"InfoNCE + kernel CS, a third of the pairs, unpaired, weight {weight}" for weight in range(11)]
DIRECTIONS = {"image->text": 0.03, "text->image": -0.03, "average": 0.0}
DATA = (
    {"dataset": "flickr8k_tri", "features": "tf_efficientnet_lite0, all-MiniLM-L6-v2", "split": "held-out-200"},
    {"dataset": "wikipedia", "features": "roph", "split": "standard"},
    {"dataset": "utd_mhad", "features": "16f, video and motion", "split": "cross-subject"},
)
GAP = {"MAP": (0.3, 0.01), "centroid distance": (0.08, 0.004), "linear separability": (0.6, 0.02)}
GAP |= {"kernel CS": (0.0116, 0.0003)}


def _rows(data: dict[str, str], methods: list[str], **more: object) -> list[Row]:
    return [
        replace(NUMBER, method=method, direction=direction, **data | {"value": 0.2 + place / 50 + shift} | more)
        for place, method in enumerate(methods)
        for direction, shift in DIRECTIONS.items()
    ]


def _gap_rows(methods: list[str] = LONG[:3], metrics: dict[str, tuple[float, float]] = GAP) -> list[Row]:
    fixed = {"direction": "average", "k": ""}
    return [
        replace(NUMBER, **fixed, method=method, metric=metric, value=x * scale, std=dx * scale, **data)
        for data in DATA[:2]
        for scale, method in zip(np.linspace(1, 1.1, len(methods)), methods, strict=True)
        for metric, (x, dx) in metrics.items()
    ]


def _draw(rows: list[Row], title: str = "Table 8: CS-Aligner") -> Figure:
    figure = draw_methods(table_of(rows), title)
    figure.canvas.draw()
    return figure


def _extents(texts: list) -> list:
    return [text.get_window_extent() for text in texts if text.get_visible() and text.get_text()]


# Retrieval by method -------------------------------------------------------------------------------------------------


def test_joint_queries_are_drawn_where_there_are_some_and_what_is_synthetic_is_marked_beside_what_is_real():
    joint = ["a+b->c", "a+c->b", "b+c->a"]
    directions = ["a->b", "b->a", *joint, "average"]
    generated = {"dataset": "xor", "features": "5 bits", "split": "standard", "data_kind": "synthetic"}
    rows = [replace(NUMBER, direction=name, data_kind="real", **data) for name in directions for data in DATA[:1]]
    figure = _draw([*rows, *(replace(NUMBER, direction=name, **generated) for name in directions)])
    for axes in figure.axes:
        assert [container.get_label() for container in axes.containers] == joint
    looks = {(bar.lines[0].get_color(), bar.lines[0].get_marker()) for bar in figure.axes[0].containers}
    assert len(looks) == len(joint)
    assert ["SYNTHETIC" in axes.get_title() for axes in figure.axes] == [False, True]
    assert "SYNTHETIC" not in figure.get_suptitle()


def test_no_two_directions_look_alike_and_the_ways_of_a_pair_differ_in_filling_alone():
    directions = ["average", *("->".join(pair) for pair in permutations(MODALITIES[:4], 2))]
    rows = [replace(NUMBER, direction=direction, **DATA[1]) for direction in directions]
    [axes] = draw_methods(table_of(rows), "").axes
    points = {container.get_label(): container.lines[0] for container in axes.containers}
    looks = {name: (one.get_color(), one.get_marker(), one.get_fillstyle()) for name, one in points.items()}
    assert set(looks) == set(directions)
    assert len(set(looks.values())) == len(looks)
    assert looks["text->video"] == (*looks["video->text"][:2], "full")
    more = [replace(rows[0], direction=f"sound->{name}") for name in MODALITIES[:4]]
    [axes] = draw_methods(table_of([*rows, *more]), "").axes
    assert [container.get_label() for container in axes.containers] == ["average"]  # too many


def test_long_names_leave_wide_panels_whose_titles_and_ticks_are_whole_and_apart():
    figure = _draw([row for data in DATA for row in _rows(data, LONG if data is DATA[0] else LONG[:-1])])
    assert [axes.get_position().width * figure.get_figwidth() > 2.5 for axes in figure.axes] == [True] * 3
    titles = _extents([axes.title for axes in figure.axes])
    assert all(title.x0 >= 0 and title.x1 <= figure.bbox.x1 for title in titles)
    assert all(one.x1 < two.x0 for one, two in pairwise(titles))
    assert figure.get_suptitle().splitlines() == ["Table 8: CS-Aligner", "MAP, mean and standard deviation over seeds"]
    for axes in figure.axes:
        low, high = axes.get_xlim()
        shown = [label for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
        assert len(shown) >= 2
        assert all(one.x1 < two.x0 for one, two in pairwise(_extents(shown)))
    left, *others = figure.axes
    names = left.get_yticklabels()
    assert [name.get_text().replace("\n", " ") for name in names] == LONG
    assert all(one.y0 > two.y1 for one, two in pairwise(_extents(names)))
    assert not any(axes.yaxis.get_tick_params()["labelleft"] for axes in others)


def test_the_bars_are_the_values_and_deviations_of_the_table():
    rows = _rows(DATA[1], LONG[:2])
    [axes] = _draw(rows).axes
    bars = {container.get_label(): container for container in axes.containers}
    assert set(bars) == set(DIRECTIONS)
    for direction, container in bars.items():
        points, _, (lines,) = container.lines
        expected = [(row.value, row.std) for row in rows if row.direction == direction]
        assert list(points.get_xdata()) == [value for value, _ in expected]
        ends = [(low, high) for (low, _), (high, _) in lines.get_segments()]
        assert ends == [pytest.approx((value - std, value + std)) for value, std in expected]
        assert [round(y) for y in points.get_ydata()] == [0, 1]
    one_seed = _draw([replace(row, data_kind="synthetic", seeds="0", std=None) for row in rows], "Table 2")
    assert one_seed.get_suptitle() == "SYNTHETIC DATA: Table 2\nMAP"


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([*_rows(DATA[1], ["InfoNCE"]), *_gap_rows(["CCA"])], ["table8.png", "table8_gap.png"]),
        (_rows(DATA[1], ["CCA"], gallery="batches-32"), []),
        (_rows(DATA[1], ["CCA"], metric="MedR", k="", value=2.0), []),
        (_gap_rows(["CCA"], {"kernel CS": GAP["kernel CS"]}), []),
    ],
)
def test_a_table_has_the_pictures_that_its_rows_allow(rows: list[Row], names: list[str], tmp_path: Path):
    assert draw_figures(table_of(rows), read_file("table8"), tmp_path / "table8.csv") == [
        tmp_path / name for name in names
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all(imread(tmp_path / name)[..., :3].std() > 0.01 for name in names)


# The modality gap ----------------------------------------------------------------------------------------------------


def _gap(rows: list[Row]) -> Figure:
    figure = draw_gap(table_of(rows), "Table 8: CS-Aligner")
    figure.canvas.draw()
    return figure


def _containers(axes: Axes, chance: bool = False) -> dict:
    """Label -> what is drawn of a method, or of what a measure is by chance."""
    found = {container.get_label(): container for container in axes.containers}
    return {label: container for label, container in found.items() if (label == CHANCE_LABEL) == chance}


def test_a_panel_per_data_set_and_measure_has_the_points_and_bars_of_the_table():
    rows = _gap_rows()
    figure = _gap(rows)
    assert [axes.get_ylabel() for axes in figure.axes] == [*GAP_METRICS, *GAP_METRICS]
    assert {axes.get_xlabel() for axes in figure.axes} == {"average MAP"}
    numbers = {(row.dataset, row.method, row.metric): row for row in rows}
    of = [data["dataset"] for data in DATA[:2] for _ in GAP_METRICS]
    for axes, dataset in zip(figure.axes, of, strict=True):
        assert axes.get_title().startswith(dataset)
        assert list(_containers(axes)) == LONG[:3]
        for method, container in _containers(axes).items():
            x, y = numbers[dataset, method, "MAP"], numbers[dataset, method, axes.get_ylabel()]
            point, _, bars = container.lines
            [(left, right)], [(low, high)] = (bar.get_segments() for bar in bars)
            found = (*point.get_xydata()[0], left[0], right[0], low[1], high[1])
            ends = (x.value - x.std, x.value + x.std, y.value - y.std, y.value + y.std)
            assert found == pytest.approx((x.value, y.value, *ends), abs=2e-6)


def test_methods_are_in_the_legend_differ_in_marker_and_look_the_same_in_every_panel():
    methods = [f"method {number}" for number in range(len(MARKERS))]
    figure = _gap(_gap_rows(methods))
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*methods, NO_GAP_LABEL]
    box = legend.get_window_extent()
    assert 0 <= box.x0 <= box.x1 <= figure.bbox.x1
    points = [[point for point, _, _ in axes.containers] for axes in figure.axes]
    looks = [[(one.get_marker(), one.get_color(), one.get_markersize()) for one in panel] for panel in points]
    assert len({marker for marker, _, _ in looks[0]}) == len(methods)
    assert all(look == looks[0] for look in looks)


def test_what_a_measure_is_by_chance_is_marked_where_the_table_has_it():
    figure = _gap(_gap_rows(metrics=GAP | {"kernel CS by chance": (0.004, 0.0001)}))
    for axes in figure.axes:
        marks = [list(one.lines[0].get_ydata()) for one in _containers(axes, chance=True).values()]
        assert marks == [pytest.approx([0.004, 0.0042, 0.0044])] * (axes.get_ylabel() == "kernel CS")
    assert CHANCE_LABEL in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_method_whose_gap_was_not_measured_and_a_split_without_measures_are_left_out():
    rows = [row for row in _gap_rows() if row.metric == "MAP" or row.method != LONG[1]]
    figure = _gap([*rows, *_rows(DATA[2], LONG[:1])])
    assert len(figure.axes) == 2 * len(GAP_METRICS)
    assert all(list(_containers(axes)) == [LONG[0], LONG[2]] for axes in figure.axes)


# Wrong labels --------------------------------------------------------------------------------------------------------


def test_map_against_flipped_labels_has_a_line_per_method_with_its_interval():
    table = read_file("label-noise")
    flips = {"labels class": 0, **{f"{share} % of labels flipped": share for share in (20, 40, 60)}}
    data = {"dataset": "utd_mhad", "features": "16f", "split": "cross-subject", "direction": "average"}
    rows = [
        replace(NUMBER, **data, condition=condition, method=method, value=0.8 - share / 200 - place / 10)
        for condition, share in {**flips, "labels clusters": 99}.items()
        for place, method in enumerate(("pairwise KL", "GCS mixed"))
    ]
    rows += [replace(row, method="GRAM", value=0.3) for row in rows if row.method == "GCS mixed"]
    one_share = {"dataset": "handwritten", "features": "x1, x2", "condition": "M = 2, 40 % of labels flipped"}
    figure = draw_noise(table_of([*rows, replace(rows[0], **one_share)]), table)
    [axes] = figure.axes
    assert axes.get_title().startswith("utd_mhad")
    assert "GRAM: at most 0.300" in axes.get_xlabel()  # below half of .8, and not drawn
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["pairwise KL", "GCS mixed"]
    for place, container in enumerate(axes.containers):
        assert container.get_label() == ("pairwise KL", "GCS mixed")[place]
        points, _, (bars,) = container.lines
        assert list(points.get_xdata()) == list(flips.values())
        for (low, high), share in zip(bars.get_segments(), flips.values(), strict=True):
            half = 4.302653 * 0.004 / 3**0.5  # Student's t at two degrees of freedom
            middle = 0.8 - share / 200 - place / 10
            assert (low[1], high[1]) == pytest.approx((middle - half, middle + half), abs=1e-6)
    assert "mean and 95% interval over seeds" in figure.get_suptitle()
    assert draw_noise(table_of(rows[:4]), table) is None  # two shares are no line
