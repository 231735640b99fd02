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
    _published_by,
    load_published,
    load_sources,
    nearest_published,
    published_of,
    with_published,
)
from reproduce.results.schema import Row, TableError, table_of

ROW = replace(NUMBER, method="CCA", features="cnn4096-doc300", protocol="as_published", value=0.31, seeds="0", std=None)


def _rows(**fields: object) -> list[Any]:
    rows = load_published().itertuples()
    return [row for row in rows if all(getattr(row, name) == value for name, value in fields.items())]


def _filled(row: Row) -> Any:
    return next(with_published(table_of([row])).itertuples())


def test_every_number_is_loaded_with_a_citation_and_the_comparable_ones_fit_a_row_of_ours() -> None:
    counts = Counter(load_published().source)
    assert sum(counts.values()) == 1660
    named = {"jfse": 629, "lavimo": 25, "tong_multimodal_retrieve": 72, "gma": 21, "sgar": 198}
    assert {name: counts[name] for name in named} == named
    sources = load_sources()
    assert set(sources) == set(counts)
    assert "IEEE TPAMI 44(6), 2022" in sources["jfse"].text
    assert "Not peer-reviewed. A student's project" in sources["tong_multimodal_retrieve"].text
    assert "reviewed" not in sources["gma"].text
    comparable = _rows(comparable=True)
    assert Counter(other.source for other in comparable) == {"jfse": 609, "tong_multimodal_retrieve": 16, "gma": 15}
    assert all(getattr(other, name) for other in comparable for name in MATCHED if name not in ("k", "condition"))


def test_protocols_of_jfse() -> None:
    tables = {"standard": ("Table 4", 189), "seen": ("Table 5", 180), "unseen": ("Table 6", 180)}
    for split, (locator, count) in {**tables, "generalised": ("Table 7", 60)}.items():
        rows = _rows(source="jfse", reference=f"jfse, {locator}")
        words = {(row.split, row.gallery, row.protocol, row.features) for row in rows}
        assert (len(rows), words) == (count, {(split, "full", "as_published", "cnn4096-doc300")})


def test_percentages_become_fractions_and_ranks_stay() -> None:
    batches = _rows(source="lavimo", dataset="kit_ml", direction="text->motion", gallery="batches-32")
    found = {row.metric + row.k: row.value for row in batches}
    assert found == {"R@k1": 0.581, "R@k3": 0.8634, "R@k5": 0.9308, "R@k10": 0.9647, "MedR": 1.08}
    assert [row.value for row in _rows(source="person_retrieval", method="IRRA", metric="MAP")] == [0.6613]
    assert {row.gallery for row in _rows(source="lavimo") if "machine" in row.reference} == {"full"}


@pytest.mark.parametrize(
    "fields",
    [
        {"metric": "train seconds"},
        {"source": "csd", "dataset": "kit_ml", "metric": "unstated"},
        {"source": "csd", "dataset": "cuhk_pedes", "direction": "unstated"},
        {"source": "cs_aligner", "protocol": "zero-shot, trained on CC3M"},
        {"source": "cs_aligner", "features": "CLIP ViT-L/14 image, Llama-3-8B text"},
        {"source": "lavimo", "features": "unstated"},
        {"source": "gma", "printed_method": "SM", "metric": "MAP (which kind is not stated)"},
        {"source": "lcmfh", "protocol": "693 queries, the 2,173 training pairs as gallery"},
        {"source": "person_retrieval", "features": "unstated"},
    ],
)
def test_unknown_words_are_kept_and_never_compared(fields: dict) -> None:
    rows = _rows(**fields)
    assert rows
    assert not any(row.comparable for row in rows)


def test_an_exact_match_is_filled() -> None:
    row = _filled(ROW)
    assert (row.published, row.published_source, row.delta, row.note) == (0.298, "jfse, Table 4", 0.012, "")
    # That method is JFSE with the alignment of its public code.
    assert _filled(replace(ROW, method="JFSE + CMPM-KL", direction="average")).published == 0.506


def test_a_zero_shot_number_says_that_its_classes_are_not_known() -> None:
    once = with_published(table_of([replace(ROW, split="unseen", note="three seeds")]))
    assert list(once.note) == ["three seeds; the class split of the published number is not public"]
    assert with_published(once).equals(once)


def test_rows_with_the_settings_of_a_source_stand_beside_its_numbers() -> None:
    row = replace(ROW, method="CCA + PCA (Tong)", features="sift-lda", direction="text->image")
    filled = _filled(row)
    assert (filled.published, filled.delta) == (0.2162, 0.0938)
    assert "test features standardised by their own statistics" in filled.note
    gma = replace(row, method="GMLDA (GMA)", metric="MAP 11-point")
    filled = _filled(gma)
    assert (filled.published, filled.published_source) == (0.232, "gma, Table 3")
    assert filled.note == "published: whether the 11-point precision is interpolated is not stated"
    for other in ({"metric": "MAP 11-point plain"}, {"metric": "MAP"}, {"method": "GMLDA"}, {"features": "roph"}):
        assert math.isnan(_filled(replace(gma, **other)).published)


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "utd_mhad"},
        {"features": "roph"},
        {"condition": "M = 4"},
        {"split": "own"},
        {"gallery": "batches-32"},
        {"protocol": "honest"},
        {"direction": "image->audio"},
        {"method": "CMPM"},
        {"method": "JFSE"},
        {"method": "JFSE + CS"},
        {"metric": "R@k", "k": "1"},
        {"data_kind": "synthetic"},
        {"status": "not_run", "value": None, "note": "no data"},
    ],
)
def test_one_difference_leaves_the_number_alone(change: dict) -> None:
    assert math.isnan(_filled(replace(ROW, **change)).published)


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


def test_a_smaller_rank_is_the_better_number_and_nothing_is_near_where_nothing_is_published() -> None:
    motion = {"dataset": "humanml3d", "metric": "MedR", "gallery": "batches-32"}
    other, differs = nearest_published(replace(ROW, **motion, k="", value=9.0, direction="video->motion", method="GCS"))
    assert other.value == min(rival.value for rival in _rows(**motion))
    assert "direction" in differs
    assert nearest_published(replace(ROW, dataset="utd_mhad")) is None
    assert nearest_published(replace(ROW, metric="R@k", k="1")) is None


VALUES = ("jfse", "Table 4", "primary", "standard", "wikipedia", "", "CCA", "image->text", "MAP", "all", "0.298", "")
RECORD = dict(zip(COLUMNS, VALUES, strict=True))


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
        ({"source": ""}, "line 3: source is ''"),
        ({"locator": " "}, "line 3: locator is ' '"),
        ({"confidence": "rumour"}, "line 3: confidence is 'rumour'"),
        ({"value": "about .3"}, "line 3: value is 'about .3'; expected a number"),
        ({"value": "nan"}, "line 3: value is 'nan'"),
        ({"value": "29.8"}, "line 3: value is '29.8'; expected at least 0 and at most 1 for MAP"),
        ({"direction": "both"}, "line 3: direction is 'both'"),
        ({"direction": ""}, "line 3: direction is ''"),
        ({"k": "10"}, "line 3: k is '10'; expected all for MAP"),
        ({"metric": "R@k %", "k": ""}, "line 3: k is ''; expected an integer"),
        ({"source": "lavimo"}, "line 3: source is 'lavimo'; the rows of a source belong"),
        ({"metric": "MAp"}, "line 3: metric is 'MAp'; .*MAP"),
        (
            {"metric": "MAP@50", "k": "50", "value": "2"},
            "line 3: value is '2'; expected at least 0 and at most 1 for MAP@50",
        ),
        ({"metric": "MedR", "k": "", "value": "0.5"}, "line 3: value is '0.5'; expected at least 1 for MedR"),
        ({}, "line 3: locator is 'Table 4'; the row gives the same number as line 2"),
        ({"note": "one,two"}, "line 3: 13 values"),
    ],
)
def test_a_file_with_a_fault_is_refused(folder: Callable[..., Path], change: dict, message: str) -> None:
    with pytest.raises(TableError, match=rf"jfse\.csv, {message}"):
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
    with pytest.raises(TableError, match=r"jfse\.csv, line 1: the header"):
        load_published(folder(header=COLUMNS[1:]))
    (tmp_path / "jfse.csv").unlink()
    load_published.cache_clear()
    with pytest.raises(TableError, match="no published numbers"):
        load_published(tmp_path)
    with pytest.raises(TableError, match="source is 'zhang'; it has no citation"):
        load_published(folder(RECORD | {"source": "zhang"}, name="zhang.csv"))
    for wrong in ("jfse: A paper\n", "jfse: {url: here}\n", "jfse: {citation: A paper, review: false}\n"):
        (tmp_path / "sources.yaml").write_text(wrong)
        load_sources.cache_clear()
        with pytest.raises(TableError, match=r"sources\.yaml: expected a citation"):
            load_sources(tmp_path)
