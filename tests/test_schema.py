"""Result tables: what a row may hold, what writing and reading keep, and that the committed tables are read."""

import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reproduce.results.compare import table_paths
from reproduce.results.metrics import METRICS, metric_name, metric_of
from reproduce.results.schema import (
    COLUMNS,
    Row,
    TableError,
    check_table,
    read_table,
    replace_file,
    table_of,
    write_table,
)

RESULTS = Path(__file__).parents[1] / "results"
NUMBER = Row(
    table="table3",
    method="JFSE + CS",
    dataset="wikipedia",
    features="roph",
    split="standard",
    gallery="full",
    protocol="honest",
    direction="image->text",
    metric="MAP",
    k="all",
    value=0.3891234,
    std=0.004,
    seeds="0 1 2",
    n_queries=693,
    n_gallery=693,
    status="ok",
    data_kind="real",
    scale="quick",
    train_seconds=12.25,
    device="cpu",
    git_commit="0f0f0f0",
    torch="2.11.0",
    config_hash="a1b2",
)
COMPARED = {"published": 0.5, "published_source": "jfse, Table 4", "delta": 0.3891234 - 0.5}
MISSING = {"status": "not_run", "value": None, "std": None, "seeds": "", "note": "no data"}


def test_columns_are_those_of_the_contract() -> None:
    assert ",".join(COLUMNS) == (
        "table,method,dataset,features,split,gallery,protocol,direction,metric,k,value,std,seeds,n_queries,n_gallery,"
        "published,published_source,delta,status,data_kind,scale,train_seconds,device,git_commit,torch,config_hash,note,"
        "condition"
    )


@pytest.mark.parametrize("path", table_paths(RESULTS), ids=lambda path: path.stem)
def test_every_committed_table_is_read_and_written_back_byte_by_byte(path: Path, tmp_path: Path) -> None:
    assert write_table(read_table(path), tmp_path / path.name).read_bytes() == path.read_bytes()


texts = st.text(min_size=1, max_size=12).map(lambda text: "".join(c for c in text if c.isprintable()).strip())
texts = texts.filter(lambda text: text != "")


@st.composite
def rows(draw: st.DrawFn) -> Row:
    metric = draw(st.sampled_from(list(METRICS)))
    seeds = draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=4, unique=True))
    return replace(
        NUMBER,
        metric=metric,
        k={"all": "all", "none": "", "integer": str(draw(st.integers(1, 1000)))}[METRICS[metric].k],
        value=draw(st.floats(0, 1) if METRICS[metric].fraction else st.floats(1, 1e5)),
        std=draw(st.none() | st.floats(0, 1)) if len(seeds) > 1 else None,
        seeds=" ".join(map(str, seeds)),
        method=draw(texts),
        split=draw(texts),
        note=draw(st.text(max_size=40)),
        train_seconds=draw(st.none() | st.floats(0, 1e6)),
    )


@settings(max_examples=50, deadline=None)
@example(
    made=[
        replace(NUMBER, direction="average", **COMPARED),
        replace(NUMBER, method="JFSE + GCS", **MISSING),
        replace(NUMBER, method="JFSE", direction="", metric="", k="", **{**MISSING, "status": "failed"}),
    ]
)
@given(made=st.lists(rows(), min_size=1, max_size=4, unique_by=lambda r: (r.method, r.split, r.metric, r.k)))
def test_reading_gives_back_what_was_written(made: list[Row], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("tables") / "new" / "table.csv"
    pd.testing.assert_frame_equal(read_table(write_table(made, path)), table_of(made), check_dtype=False)
    assert os.listdir(path.parent) == ["table.csv"]


@pytest.mark.parametrize(
    ("change", "column", "expected"),
    [
        ({"protocol": "standard"}, "protocol", "honest, as_published"),
        ({"scale": "full"}, "scale", "quick"),
        ({"direction": "image to text"}, "direction", "query->gallery"),
        ({"direction": "image->image"}, "direction", "two modalities"),
        ({"gallery": "batches"}, "gallery", "batches-32"),
        ({"metric": "mAP"}, "metric", "MAP"),
        ({"k": "50"}, "k", "all"),
        ({"metric": "R@k"}, "k", "integer"),
        ({"metric": "MedR", "value": 3.0}, "k", "an empty cell"),
        ({"metric": "MedR", "k": "", "value": 0.5}, "value", "at least 1"),
        ({"metric": ""}, "metric", "needs it"),
        ({"value": 38.9}, "value", "divide a percentage by 100"),
        ({"value": None}, "value", "finite"),
        ({"value": float("inf")}, "value", "finite"),
        ({"std": -0.1}, "std", "at least 0"),
        ({"seeds": "0"}, "std", "two seeds"),
        ({"seeds": "1 1 2"}, "seeds", "each seed once"),
        ({"seeds": "0, 1"}, "seeds", "integers"),
        ({"n_gallery": 0}, "n_gallery", "at least 1"),
        ({"train_seconds": -1.0}, "train_seconds", "at least 0"),
        ({"git_commit": ""}, "git_commit", "needs it"),
        ({"method": ""}, "method", "needs it"),
        ({"method": " CCA"}, "method", "without spaces"),
        ({"published": 0.5}, "published", "belong together"),
        ({**COMPARED, "delta": 0.1}, "delta", "value - published"),
        ({**MISSING, "note": " \n"}, "note", "reason"),
        ({**MISSING, "value": 0.1}, "value", "has none"),
        ({**MISSING, "metric": ""}, "k", "without a metric"),
    ],
)
def test_a_table_names_file_line_column_and_what_was_expected(change: dict, column: str, expected: str) -> None:
    with pytest.raises(TableError, match=rf"x\.csv, line 3: {column} is .*{expected}"):
        check_table(table_of([replace(NUMBER, method="first"), replace(NUMBER, **change)]), "x.csv")


def test_a_value_has_six_decimals_and_one_of_many_magnitudes_six_digits(tmp_path: Path) -> None:
    small = replace(NUMBER, metric="relative error", k="", value=1.23456789e-9, std=2.5e-10)
    large = replace(small, method="CCA", value=12345678.9)
    path = write_table([small, large, NUMBER], tmp_path / "table1.csv")
    lines = [line.split(",")[10:12] for line in path.read_text().splitlines()[1:]]
    assert lines == [["1.23457e-09", "2.5e-10"], ["12345700.000000", "2.5e-10"], ["0.389123", "0.004000"]]
    assert list(read_table(path)["value"]) == [1.23457e-9, 12345700.0, 0.389123]


@pytest.mark.parametrize(
    ("metric", "value", "of", "shown"),
    [
        ("kernel CS", 0.011635, None, "0.0116"),
        ("kernel CS", 0.000312, 0.011635, "0.0003"),
        ("centroid distance", 0.09996, None, "0.100"),
        ("kernel CS", 0.0, None, "0.00"),
        ("relative error", 1.23457e-9, None, "1.23e-09"),
        ("MAP", 0.0123, 0.0001, "0.012"),
        ("MedR", 0.0123, None, "0.01"),
    ],
)
def test_how_a_value_is_shown(metric: str, value: float, of: float | None, shown: str) -> None:
    assert METRICS[metric].text(value, of=of) == shown


def test_a_metric_with_its_cut_off_is_two_columns() -> None:
    names = {"MAP": ("MAP", "all"), "R@5": ("R@k", "5"), "MedR": ("MedR", "")}
    for name, columns in {**names, "MAP@10[min(R,k)]": ("MAP@k[min(R,k)]", "10")}.items():
        assert metric_of(name) == columns
        assert metric_name(*columns) == name


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.389123", "good", "line 3: value is 'good'"),
        ("0 1 2", "0 one 2", "line 3: seeds is '0 one 2'"),
        (",693,693,", ",693,many,", "line 3: n_gallery is 'many'"),
        (",693,693,", ",693,6.5,", "line 3: n_gallery is 6.5; expected an integer"),
        (",cpu,", ",", "line 3: 27 values; expected 28"),
        ("CCA", "JFSE + CS", r"line 3: method is 'JFSE \+ CS'; .* repeats"),
    ],
)
def test_reading_names_the_line_of_a_fault(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write_table([NUMBER, replace(NUMBER, method="CCA")], tmp_path / "table3.csv")
    lines = path.read_text().splitlines()
    assert lines[2].count(old) == 1
    path.write_text("\n".join([*lines[:2], lines[2].replace(old, new)]) + "\n")
    with pytest.raises(TableError, match=rf"table3\.csv.*{message}"):
        read_table(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (",".join(name for name in COLUMNS if name != "gallery"), "lacks gallery"),
        (",".join((*COLUMNS, "map")), "has unknown map"),
        (",".join(reversed(COLUMNS)), "another order"),
        (",".join(COLUMNS), "no rows"),
        ("", "lacks table"),
        ('"open quote', "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_reading_refuses_other_columns_and_what_is_no_table(tmp_path: Path, content: str, message: str) -> None:
    if content is not None:
        (tmp_path / "table3.csv").write_text(content)
    with pytest.raises(TableError, match=rf"table3\.csv.*{message}"):
        read_table(tmp_path / "table3.csv")


def test_reading_takes_a_byte_order_mark_and_other_line_ends(tmp_path: Path) -> None:
    path = write_table([NUMBER, replace(NUMBER, method="CCA")], tmp_path / "table3.csv")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert list(read_table(path)["method"]) == ["JFSE + CS", "CCA"]


def test_writing_refuses_and_leaves_the_old_table(tmp_path: Path) -> None:
    path = write_table([NUMBER], tmp_path / "table3.csv")
    before = path.read_bytes()
    synthetic = replace(NUMBER, data_kind="synthetic")
    for refused, message in [
        ([], "no rows"),
        ([NUMBER, NUMBER], "line 3: .* repeats"),
        ([synthetic, replace(NUMBER, method="CCA", **COMPARED)], "synthetic rows beside published numbers"),
        ([synthetic], "holds a table of real data"),
    ]:
        with pytest.raises(TableError, match=message):
            write_table(refused, path)
        assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["table3.csv"]


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    (tmp_path / "table3.csv").mkdir()
    with pytest.raises(TableError, match="is not a folder"):
        write_table([NUMBER], tmp_path / "results" / "deeper" / "table3.csv")
    with pytest.raises(TableError, match="cannot be written"):
        replace_file(tmp_path / "table3.csv", "text")
    assert sorted(os.listdir(tmp_path)) == ["results", "table3.csv"]
