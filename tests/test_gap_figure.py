"""The figure of the modality gap: each measure against average MAP, as the CSV has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from lightning_modules.metrics.modality_gap import GAP_METRICS
from reproduce.report import figures
from reproduce.report.gap_figure import CHANCE_LABEL, MARKERS, NO_GAP_LABEL, draw_gap
from reproduce.results.schema import Row, table_of

METHODS = ["InfoNCE", "kernel CS", "InfoNCE + kernel CS, a third of the pairs, unpaired"]
DATA = [("flickr8k_tri", "tf_efficientnet_lite0, all-MiniLM-L6-v2"), ("wikipedia", "roph")]
SHARED = {"table": "table8", "split": "standard", "gallery": "full", "protocol": "honest", "seeds": "0 1 2"}
SHARED |= {"status": "ok", "data_kind": "real", "scale": "quick", "device": "cpu", "git_commit": "0f", "torch": "2"}
SHARED |= {"direction": "average", "config_hash": "a1"}
TABLE = {"MAP": (0.3, 0.01), "centroid distance": (0.08, 0.004), "linear separability": (0.6, 0.02)}
TABLE |= {"kernel CS": (0.0116, 0.0003)}


def _rows(methods: list[str] = METHODS, metrics: dict[str, tuple[float, float]] = TABLE) -> list[Row]:
    return [
        Row(
            **SHARED,
            dataset=dataset,
            features=features,
            method=method,
            metric=metric,
            k="all" if metric == "MAP" else "",
            value=value * (1 + place / 20),
            std=std * (1 + place / 20),
        )
        for dataset, features in DATA
        for place, method in enumerate(methods)
        for metric, (value, std) in metrics.items()
    ]


def _draw(rows: list[Row], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Figure:
    drawn: list[Figure] = []
    monkeypatch.setattr(figures.plt, "close", drawn.append)
    picture = draw_gap(table_of(rows), "Table 8: CS-Aligner", folder / "table8.csv")
    assert picture == folder / "table8_gap.png"
    assert imread(picture)[..., :3].std() > 0.01
    return drawn[0]


def _points(axes: Axes) -> dict[str, tuple]:
    """Method -> MAP, measure and the ends of the bars of both."""
    found = {}
    for container in axes.containers:
        point, _, (across, along) = container.lines
        [(left, right)], [(low, high)] = across.get_segments(), along.get_segments()
        found[container.get_label()] = (*point.get_xydata()[0], left[0], right[0], low[1], high[1])
    return found


def test_a_panel_per_data_set_and_measure_has_the_points_and_bars_of_the_table(tmp_path, monkeypatch):
    rows = _rows()
    figure = _draw(rows, tmp_path, monkeypatch)
    assert [axes.get_ylabel() for axes in figure.axes] == [*GAP_METRICS, *GAP_METRICS]
    assert {axes.get_xlabel() for axes in figure.axes} == {"average MAP"}
    numbers = {(row.dataset, row.method, row.metric): row for row in rows}
    of = [dataset for dataset, _ in DATA for _ in GAP_METRICS]
    for axes, dataset in zip(figure.axes, of, strict=True):
        assert list(_points(axes)) == METHODS
        for method, (*point, left, right, low, high) in _points(axes).items():
            x, y = numbers[dataset, method, "MAP"], numbers[dataset, method, axes.get_ylabel()]
            assert point == pytest.approx([x.value, y.value], abs=1e-6)
            assert (left, right) == pytest.approx((x.value - x.std, x.value + x.std), abs=2e-6)
            assert (low, high) == pytest.approx((y.value - y.std, y.value + y.std), abs=2e-6)


def test_all_methods_are_in_the_legend_and_the_titles_say_metric_and_data(tmp_path, monkeypatch):
    figure = _draw(_rows(), tmp_path, monkeypatch)
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*METHODS, NO_GAP_LABEL]
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert figure.get_suptitle().splitlines() == [
        "Table 8: CS-Aligner",
        "modality gap against MAP, mean and standard deviation over seeds",
    ]
    titles = [part.get_suptitle() for part in figure.subfigs]
    assert titles == [f"{dataset}, {features}\nstandard, honest" for dataset, features in DATA]


def test_methods_differ_in_marker_and_look_the_same_in_every_panel(tmp_path, monkeypatch):
    methods = [f"method {number}" for number in range(len(MARKERS))]
    figure = _draw(_rows(methods), tmp_path, monkeypatch)
    looks = [
        [(point.get_marker(), point.get_color(), point.get_markersize()) for point, _, _ in axes.containers]
        for axes in figure.axes
    ]
    assert len({marker for marker, _, _ in looks[0]}) == len(methods)
    assert all(look == looks[0] for look in looks)


def test_what_a_measure_is_by_chance_is_marked_where_the_table_has_it(tmp_path, monkeypatch):
    figure = _draw(_rows(metrics=TABLE | {"kernel CS by chance": (0.004, 0.0001)}), tmp_path, monkeypatch)
    marks = {
        axes.get_ylabel(): [line.get_ydata()[0] for line in axes.lines if line.get_label() == CHANCE_LABEL]
        for axes in figure.axes
    }
    assert marks == {
        "centroid distance": [],
        "linear separability": [],
        "kernel CS": pytest.approx([0.004, 0.0042, 0.0044]),
    }
    assert CHANCE_LABEL in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_method_whose_gap_was_not_measured_and_a_split_without_measures_are_left_out(tmp_path, monkeypatch):
    rows = [row for row in _rows() if row.metric == "MAP" or row.method != "kernel CS"]
    seen = {"split": "seen", "dataset": "utd_mhad", "features": "16f", "method": "InfoNCE"}
    rows.append(Row(**(SHARED | seen), metric="MAP", k="all", value=0.5))
    figure = _draw(rows, tmp_path, monkeypatch)
    assert len(figure.axes) == len(DATA) * len(GAP_METRICS)
    assert all(list(_points(axes)) == [METHODS[0], METHODS[2]] for axes in figure.axes)


@pytest.mark.parametrize("metrics", [{"MAP": TABLE["MAP"]}, {"kernel CS": TABLE["kernel CS"]}])
def test_a_table_without_a_gap_or_without_map_has_no_such_figure(metrics, tmp_path):
    assert draw_gap(table_of(_rows(metrics=metrics)), "Table 8", tmp_path / "table8.csv") is None
    assert not list(tmp_path.iterdir())
