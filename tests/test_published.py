"""Published numbers: every file as committed, its vocabulary in ours, and matches with rows of ours."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_schema import NUMBER

from reproduce.report.markdown import render_markdown
from reproduce.results.compare import compare, format_comparisons
from reproduce.results.published import (
    COLUMNS,
    MATCHED,
    PublishedError,
    _published_by,
    load_published,
    load_sources,
    nearest_published,
    published_of,
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
    assert sum(counts.values()) == 1660
    assert {name: counts[name] for name in ("jfse", "lavimo", "tong_multimodal_retrieve", "gma", "sgar")} == {
        "jfse": 629,
        "lavimo": 25,
        "tong_multimodal_retrieve": 72,
        "gma": 21,
        "sgar": 198,
    }
    assert set(load_sources()) == set(counts)
    assert "IEEE TPAMI 44(6), 2022" in load_sources()["jfse"].text


def test_what_nobody_reviewed_is_said_to_be_so() -> None:
    said = load_sources()["tong_multimodal_retrieve"].text
    assert "Not peer-reviewed. A student's project" in said
    assert "reviewed" not in load_sources()["gma"].text


def test_every_comparable_number_fits_a_row_of_ours() -> None:
    comparable = _rows(comparable=True)
    assert Counter(other.source for other in comparable) == {"jfse": 609, "tong_multimodal_retrieve": 16, "gma": 15}
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
        ({"source": "gma", "printed_method": "SM"}, "metric MAP (which kind is not stated) is not one of a table"),
        ({"source": "lcmfh"}, "protocol 693 queries, the 2,173 training pairs as gallery"),
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


def test_rows_with_the_settings_of_a_source_stand_beside_its_numbers() -> None:
    row = replace(ROW, method="CCA + PCA (Tong)", features="sift-lda", direction="text->image")
    filled = _filled(row)
    assert (filled.published, filled.delta) == (0.2162, 0.0938)
    assert "test features standardised by their own statistics" in filled.note
    gma = _filled(replace(row, method="GMLDA (GMA)", metric="MAP 11-point"))
    assert (gma.published, gma.published_source) == (0.232, "gma, Table 3")
    assert gma.note == "published: whether the 11-point precision is interpolated is not stated"
    for other in ({"metric": "MAP 11-point plain"}, {"metric": "MAP"}, {"method": "GMLDA"}, {"features": "roph"}):
        changed = replace(row, **{"method": "GMLDA (GMA)", "metric": "MAP 11-point"} | other)
        assert math.isnan(_filled(changed).published)


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
    motion = {"dataset": "humanml3d", "metric": "MedR", "gallery": "batches-32"}
    other, differs = nearest_published(replace(ROW, **motion, k="", value=9.0, direction="video->motion", method="GCS"))
    assert other.value == min(rival.value for rival in _rows(**motion))
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
        ({"value": "29.8"}, "line 3: MAP is 29.8; expected at least 0 and at most 1"),
        ({"direction": "both"}, "line 3: direction is 'both'"),
        ({"direction": ""}, "line 3: direction is ''"),
        ({"k": "10"}, "line 3: k of MAP is '10'; expected all"),
        ({"metric": "R@k %", "k": ""}, "line 3: k of R@k is ''; expected an integer"),
        ({"source": "lavimo"}, "line 3: source is 'lavimo'; rows of it belong in lavimo.csv"),
        ({"metric": "MAp"}, "line 3: metric is 'MAp'; .*MAP"),
        ({"metric": "MAP@50", "k": "50", "value": "2"}, "line 3: MAP@50 is 2; expected at least 0 and at most 1"),
        ({"metric": "MedR", "k": "", "value": "0.5"}, "line 3: MedR is 0.5; expected at least 1"),
        ({}, "line 3: gives the same number as line 2"),
        ({"note": "one,two"}, "line 3: 13 values"),
    ],
)
def test_a_file_with_a_fault_is_refused(folder: Callable[..., Path], change: dict, message: str) -> None:
    with pytest.raises(PublishedError, match=rf"jfse\.csv, {message}"):
        load_published(folder(RECORD, RECORD | change))


@pytest.fixture
def several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Four sources for one number of ours: quoted, unreviewed, and two of the authors themselves."""
    features = "image 4096-d CNN; text 300-d; class embedding 300-d word vectors"
    values = {"quoted": "0.1", "student": "0.2", "zeta": "0.3", "alpha": "0.4"}
    for source, value in values.items():
        confidence = "secondary" if source == "quoted" else "primary"
        record = RECORD | {"source": source, "features": features, "value": value, "confidence": confidence}
        (tmp_path / f"{source}.csv").write_text(",".join(COLUMNS) + "\n" + ",".join(record.values()) + "\n")
    text = "".join(f"{name}: {{citation: {name} et al., reviewed: {name != 'student'}}}\n".lower() for name in values)
    (tmp_path / "sources.yaml").write_text(text)
    published, sources = load_published(tmp_path), load_sources(tmp_path)
    monkeypatch.setattr("reproduce.results.published.load_published", lambda: published)
    monkeypatch.setattr("reproduce.results.published.load_sources", lambda: sources)
    _published_by.cache_clear()
    yield
    _published_by.cache_clear()


def test_of_several_sources_the_best_is_filled_in_and_all_are_shown(several: None, tmp_path: Path) -> None:
    found = with_published(table_of([ROW]))
    assert (found.published[0], found.published_source[0]) == (0.4, "alpha, Table 4")
    assert [other.value for other in published_of(next(found.itertuples()))] == [0.4, 0.3, 0.2, 0.1]
    text = format_comparisons(compare(found))
    markdown = render_markdown(found, tmp_path / "table2.csv", "Table 2")
    for name, value in {"alpha": 0.4, "zeta": 0.3, "student": 0.2, "quoted": 0.1}.items():
        assert f"{name}, Table 4" in text
        assert f"{value:.3f}" in text
        assert f"{name}, Table 4" in markdown
    assert "| 0.400 |" in markdown
    assert "CCA, image->text MAP 0.100 (quoted, Table 4 (secondary source))" in markdown
    assert "Not peer-reviewed" in markdown


def test_columns_sources_and_empty_folders_are_checked(folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(PublishedError, match=r"jfse\.csv, line 1: the header"):
        load_published(folder(header=COLUMNS[1:]))
    (tmp_path / "jfse.csv").unlink()
    load_published.cache_clear()
    with pytest.raises(PublishedError, match="no published numbers"):
        load_published(tmp_path)
    with pytest.raises(PublishedError, match="source 'zhang' has no citation"):
        load_published(folder(RECORD | {"source": "zhang"}, name="zhang.csv"))
    for wrong in ("jfse: A paper\n", "jfse: {url: here}\n", "jfse: {citation: A paper, review: false}\n"):
        (tmp_path / "sources.yaml").write_text(wrong)
        load_sources.cache_clear()
        with pytest.raises(PublishedError, match=r"sources\.yaml: expected a citation"):
            load_sources(tmp_path)
