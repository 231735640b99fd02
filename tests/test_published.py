"""Published numbers: every file as committed, its vocabulary in ours, and matches with rows of ours."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_schema import NUMBER

from reproduce.results.published import (
    COLUMNS,
    MATCHED,
    PublishedError,
    load_published,
    load_sources,
    nearest_published,
    with_published,
)
from reproduce.results.schema import Row, table_of

ROW = replace(NUMBER, method="CCA", features="cnn4096-doc300", protocol="as_published", value=0.31, seeds="0", std=None)


def _rows(**fields: object) -> list[Any]:
    rows = load_published().itertuples()
    return [row for row in rows if all(getattr(row, name) == value for name, value in fields.items())]


def _filled(row: Row) -> Any:
    return next(with_published(table_of([row])).itertuples())


def test_every_number_is_loaded_with_a_citation() -> None:
    counts = Counter(load_published().source)
    assert counts == {"jfse": 629, "lavimo": 25, "cs_aligner": 18, "person_retrieval": 17, "csd": 2}
    assert set(load_sources()) == set(counts)
    assert "IEEE TPAMI 44(6), 2022" in load_sources()["jfse"]


def test_every_comparable_number_fits_a_row_of_ours() -> None:
    comparable = _rows(comparable=True)
    assert len(comparable) == 609
    for other in comparable:
        assert all(getattr(other, name) for name in MATCHED if name not in ("k", "condition"))


@pytest.mark.parametrize(
    ("locator", "split", "count"),
    [
        ("Table 4", "standard", 189),
        ("Table 5", "seen", 180),
        ("Table 6", "unseen", 180),
        ("Table 7", "generalised", 60),
    ],
)
def test_protocols_of_jfse(locator: str, split: str, count: int) -> None:
    rows = _rows(source="jfse", reference=f"jfse, {locator}")
    words = {(row.split, row.gallery, row.protocol, row.features) for row in rows}
    assert (len(rows), words) == (count, {(split, "full", "as_published", "cnn4096-doc300")})


def test_percentages_become_fractions_and_ranks_stay() -> None:
    batches = _rows(source="lavimo", dataset="kit_ml", direction="text->motion", gallery="batches-32")
    assert {(row.metric, row.k): row.value for row in batches} == {
        ("R@k", "1"): 0.581,
        ("R@k", "3"): 0.8634,
        ("R@k", "5"): 0.9308,
        ("R@k", "10"): 0.9647,
        ("MedR", ""): 1.08,
    }
    assert [row.value for row in _rows(source="person_retrieval", method="IRRA", metric="MAP")] == [0.6613]
    assert {row.gallery for row in _rows(source="lavimo") if "machine" in row.reference} == {"full"}


@pytest.mark.parametrize(
    ("fields", "obstacle"),
    [
        ({"metric": "train seconds"}, "metric train seconds is not one of a table"),
        ({"source": "csd", "dataset": "kit_ml"}, "metric unstated is not one of a table"),
        ({"source": "csd", "dataset": "cuhk_pedes"}, "direction unstated"),
        ({"source": "cs_aligner"}, "protocol zero-shot, trained on CC3M"),
        ({"source": "cs_aligner"}, "features CLIP ViT-L/14 image, Llama-3-8B text"),
        ({"source": "lavimo"}, "features unstated"),
        ({"source": "person_retrieval"}, "features unstated"),
    ],
)
def test_unknown_words_are_kept_and_never_compared(fields: dict, obstacle: str) -> None:
    rows = _rows(**fields)
    assert rows
    assert all(obstacle in row.obstacles and not row.comparable for row in rows)


def test_an_exact_match_is_filled() -> None:
    row = _filled(ROW)
    assert (row.published, row.published_source, row.delta, row.note) == (0.298, "jfse, Table 4", 0.012, "")


def test_jfse_is_the_one_with_the_alignment_of_its_code() -> None:
    assert _filled(replace(ROW, method="JFSE + CMPM-KL", direction="average")).published == 0.506
    for name in ("JFSE", "JFSE + CS"):
        assert math.isnan(_filled(replace(ROW, method=name)).published)


def test_a_zero_shot_number_says_that_its_classes_are_not_known() -> None:
    once = with_published(table_of([replace(ROW, split="unseen", note="three seeds")]))
    assert list(once.note) == ["three seeds; the class split of the published number is not public"]
    assert with_published(once).equals(once)


@pytest.mark.parametrize("name", [name for name in MATCHED if name not in ("metric", "k")])
def test_one_difference_leaves_the_number_alone(name: str) -> None:
    other = {
        "dataset": "utd_mhad",
        "features": "roph",
        "condition": "M = 4",
        "split": "own",
        "gallery": "batches-32",
        "protocol": "honest",
        "direction": "image->audio",
        "method": "CMPM",
    }
    assert math.isnan(_filled(replace(ROW, **{name: other[name]})).published)


def test_other_metrics_synthetic_data_and_missing_numbers_are_left_alone() -> None:
    for row in (
        replace(ROW, metric="R@k", k="1"),
        replace(ROW, data_kind="synthetic"),
        replace(ROW, status="not_run", value=None, note="no data"),
    ):
        assert math.isnan(_filled(row).published)


@pytest.mark.parametrize(
    ("change", "printed", "value", "differs"),
    [
        ({"features": "roph", "protocol": "honest"}, "CCA", 0.298, ("features", "protocol")),
        ({"method": "JFSE + CMPM-KL", "features": "roph", "direction": "average"}, "JFSE", 0.506, ("features",)),
        ({"method": "JFSE + CS"}, "JFSE", 0.527, ("method",)),
        ({"method": "CMPM", "protocol": "honest"}, "JFSE", 0.527, ("protocol", "method")),
        ({"direction": "image->audio"}, "CCA", 0.298, ("direction",)),
        ({"gallery": "batches-32", "split": "unseen"}, "CCA", 0.238, ("gallery",)),
        ({"dataset": "cuhk_pedes", "direction": "text->image"}, "IRRA", 0.6613, ("features", "method")),
    ],
)
def test_the_nearest_number_and_what_differs(change: dict, printed: str, value: float, differs: tuple) -> None:
    other, found = nearest_published(replace(ROW, **change))
    assert (other.printed_method, other.value, found) == (printed, value, differs)


def test_a_smaller_rank_is_the_better_number() -> None:
    row = replace(ROW, dataset="humanml3d", metric="MedR", k="", value=9.0, direction="video->motion", method="GCS")
    other, differs = nearest_published(row)
    assert other.value == 1.01
    assert "direction" in differs


def test_nothing_is_near_where_nothing_is_published() -> None:
    assert nearest_published(replace(ROW, dataset="utd_mhad")) is None
    assert nearest_published(replace(ROW, metric="R@k", k="1")) is None


RECORD = {
    "source": "jfse",
    "locator": "Table 4",
    "confidence": "primary",
    "protocol": "standard",
    "dataset": "wikipedia",
    "features": "",
    "method": "CCA",
    "direction": "image->text",
    "metric": "MAP",
    "k": "all",
    "value": "0.298",
    "note": "",
}


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def write(*records: dict, name: str = "jfse.csv", header: tuple = COLUMNS) -> Path:
        (tmp_path / "sources.yaml").write_text("jfse: {citation: A paper}\n")
        lines = [",".join(header), *(",".join(record[column] for column in COLUMNS) for record in records)]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": ""}, "line 3: source is empty"),
        ({"locator": " "}, "line 3: locator is empty"),
        ({"confidence": "rumour"}, "line 3: confidence is 'rumour'"),
        ({"value": "about .3"}, "line 3: value is 'about .3'; expected a number"),
        ({"value": "nan"}, "line 3: value is 'nan'"),
        ({"value": "29.8"}, "line 3: MAP is 29.8; expected at most 1"),
        ({"direction": "both"}, "line 3: direction is 'both'"),
        ({"direction": ""}, "line 3: direction is ''"),
        ({"k": "10"}, "line 3: k of MAP is '10'; expected all"),
        ({"metric": "R@k %", "k": ""}, "line 3: k of R@k is ''; expected an integer"),
        ({"source": "lavimo"}, "line 3: source is 'lavimo'; rows of it belong in lavimo.csv"),
        ({"note": "one,two"}, "line 3: 13 values"),
    ],
)
def test_a_file_with_a_fault_is_refused(folder: Callable[..., Path], change: dict, message: str) -> None:
    with pytest.raises(PublishedError, match=rf"jfse\.csv, {message}"):
        load_published(folder(RECORD, RECORD | change))


def test_a_comparable_number_given_twice_is_refused(folder: Callable[..., Path]) -> None:
    known = RECORD | {"features": "image 4096-d CNN; text 300-d; class embedding 300-d word vectors"}
    with pytest.raises(PublishedError, match=r"line 3: gives the same number"):
        load_published(folder(known, known | {"locator": "Table 9", "value": "0.3"}))


def test_columns_sources_and_empty_folders_are_checked(folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(PublishedError, match=r"jfse\.csv, line 1: the header"):
        load_published(folder(header=COLUMNS[1:]))
    (tmp_path / "jfse.csv").unlink()
    load_published.cache_clear()
    with pytest.raises(PublishedError, match="no published numbers"):
        load_published(tmp_path)
    with pytest.raises(PublishedError, match="source 'zhang' has no citation"):
        load_published(folder(RECORD | {"source": "zhang"}, name="zhang.csv"))
    (tmp_path / "sources.yaml").write_text("jfse: A paper\n")
    load_sources.cache_clear()
    with pytest.raises(PublishedError, match=r"sources\.yaml: expected a citation"):
        load_sources(tmp_path)
