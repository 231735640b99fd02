"""The figure of a table: every method and direction readable, with the deviations of the CSV."""

from __future__ import annotations

from itertools import pairwise, permutations
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from reproduce.report import figures
from reproduce.report.figures import OTHERS, _styles, draw_table
from reproduce.results.schema import Row, table_of

MODALITIES = ["text", "video", "motion", "inertial", "sound"]


def directions(count: int) -> set[str]:
    return {"average", *("->".join(pair) for pair in permutations(MODALITIES[:count], 2))}


@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_no_two_directions_look_alike(modalities):
    styles = _styles(directions(modalities))
    assert set(styles) == directions(modalities)
    assert len(set(styles.values())) == len(styles)
    assert list(styles)[-1] == "average"


def test_the_two_ways_of_a_pair_share_colour_and_marker():
    styles = _styles(directions(3))
    assert styles["text->video"][:2] == styles["video->text"][:2] != styles["text->motion"][:2]
    assert styles["text->video"][2] != styles["video->text"][2]


def test_more_pairs_than_styles_leave_the_average():
    assert len(OTHERS) < 10
    assert list(_styles(directions(5))) == ["average"]
    assert list(_styles({"text->video"})) == ["text->video"]


# A table with long names ---------------------------------------------------------------------------------------------

LONG = [f"InfoNCE + kernel CS, a third of the pairs, unpaired, weight {weight}" for weight in range(11)]
DIRECTIONS = {"image->text": 0.03, "text->image": -0.03, "average": 0.0}
SHARED = {"table": "table8", "gallery": "full", "protocol": "honest", "metric": "MAP", "k": "all", "seeds": "0 1 2"}
SHARED |= {"status": "ok", "data_kind": "real", "scale": "quick", "device": "cpu", "git_commit": "0f", "torch": "2"}
DATA = (
    {"dataset": "flickr8k_tri", "features": "tf_efficientnet_lite0, all-MiniLM-L6-v2", "split": "held-out-200"},
    {"dataset": "wikipedia", "features": "roph", "split": "standard"},
    {"dataset": "utd_mhad", "features": "16f, video and motion", "split": "cross-subject"},
)


def _rows(data: dict[str, str], methods: list[str], **more: object) -> list[Row]:
    return [
        Row(
            **(
                SHARED
                | data
                | {"config_hash": "a1", "value": 0.2 + place / 50 + shift, "std": 0.001 * (place + 1)}
                | more
            ),
            method=method,
            direction=direction,
        )
        for place, method in enumerate(methods)
        for direction, shift in DIRECTIONS.items()
    ]


def _draw(rows: list[Row], folder: Path, monkeypatch: pytest.MonkeyPatch, title: str = "Table 8: CS-Aligner") -> Figure:
    drawn: list[Figure] = []
    monkeypatch.setattr(figures.plt, "close", drawn.append)
    picture = draw_table(table_of(rows), title, folder / "table8.csv")
    assert picture == folder / "table8.png"
    assert imread(picture)[..., :3].std() > 0.01
    return drawn[0]


def _extents(texts: list) -> list:
    return [text.get_window_extent() for text in texts if text.get_visible() and text.get_text()]


def test_long_names_leave_wide_panels_whose_titles_and_ticks_are_whole_and_apart(tmp_path, monkeypatch):
    rows = [row for data in DATA for row in _rows(data, LONG if data is DATA[0] else LONG[:-1])]
    figure = _draw(rows, tmp_path, monkeypatch)
    assert [axes.get_position().width * figure.get_figwidth() > 2.5 for axes in figure.axes] == [True] * 3
    titles = _extents([axes.title for axes in figure.axes])
    assert all(title.x0 >= 0 and title.x1 <= figure.bbox.x1 for title in titles)
    assert all(one.x1 < two.x0 for one, two in pairwise(titles))
    assert figure.get_suptitle().splitlines() == [
        "Table 8: CS-Aligner",
        "MAP, mean and standard deviation over seeds",
    ]
    for axes in figure.axes:
        low, high = axes.get_xlim()
        shown = [label for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
        assert len(shown) >= 2
        assert all(one.x1 < two.x0 for one, two in pairwise(_extents(shown)))


def test_every_method_is_named_once_at_the_left_of_its_line(tmp_path, monkeypatch):
    figure = _draw([row for data in DATA for row in _rows(data, LONG)], tmp_path, monkeypatch)
    left, *others = figure.axes
    names = left.get_yticklabels()
    assert [name.get_text().replace("\n", " ") for name in names] == LONG
    assert all(one.y0 > two.y1 for one, two in pairwise(_extents(names)))
    assert not any(axes.yaxis.get_tick_params()["labelleft"] for axes in others)


def test_the_bars_are_the_values_and_deviations_of_the_table(tmp_path, monkeypatch):
    rows = _rows(DATA[1], LONG[:2])
    [axes] = _draw(rows, tmp_path, monkeypatch).axes
    bars = {container.get_label(): container for container in axes.containers}
    assert set(bars) == set(DIRECTIONS)
    for direction, container in bars.items():
        points, _, (lines,) = container.lines
        expected = [(row.value, row.std) for row in rows if row.direction == direction]
        assert list(points.get_xdata()) == [value for value, _ in expected]
        ends = [(low, high) for (low, _), (high, _) in lines.get_segments()]
        assert ends == [pytest.approx((value - std, value + std)) for value, std in expected]
    assert list(bars["average"].lines[0].get_ydata()) == [0, 1]
    assert [round(y) for y in bars["image->text"].lines[0].get_ydata()] == [0, 1]


def test_panels_without_a_method_in_common_stand_one_below_the_other(tmp_path, monkeypatch):
    figure = _draw(_rows(DATA[0], ["CMPM + CS", "CMPM + KL"]) + _rows(DATA[1], ["JFSE + CS"]), tmp_path, monkeypatch)
    above, below = figure.axes
    assert above.get_position().y0 > below.get_position().y1
    assert [name.get_text() for name in below.get_yticklabels()] == ["JFSE + CS"]


def test_a_synthetic_table_says_so_and_one_of_a_single_seed_says_nothing_of_deviations(tmp_path, monkeypatch):
    rows = _rows(DATA[1], ["CCA", "JFSE"], data_kind="synthetic", seeds="0", std=None)
    figure = _draw(rows, tmp_path, monkeypatch, "Table 2")
    assert figure.get_suptitle() == "SYNTHETIC DATA: Table 2\nMAP"


def test_a_table_without_map_has_no_figure(tmp_path):
    rows = _rows(DATA[1], ["CCA"], metric="MedR", k="", value=2.0)
    assert draw_table(table_of(rows), "Table 8", tmp_path / "table8.csv") is None
    assert not list(tmp_path.glob("*.png"))
