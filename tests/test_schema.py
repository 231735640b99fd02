"""Result tables: what a row may hold, and what writing and reading keep."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reproduce.schema import COLUMNS, METRICS, Row, TableError, read_table, replace_file, write_table

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
    seeds=(0, 1, 2),
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
MISSING = {"status": "not_run", "value": None, "std": None, "seeds": (), "note": "no data"}


def test_columns_are_those_of_the_contract() -> None:
    assert ",".join(COLUMNS) == (
        "table,method,dataset,features,split,gallery,protocol,direction,metric,k,value,std,seeds,n_queries,n_gallery,"
        "published,published_source,delta,status,data_kind,scale,train_seconds,device,git_commit,torch,config_hash,note"
    )


def test_round_trip_of_every_kind_of_row(tmp_path: Path) -> None:
    rows = [
        NUMBER,
        replace(NUMBER, method="CCA, linear", seeds=(0,), std=None, train_seconds=None, note='a "quoted", | note'),
        replace(NUMBER, metric="R@k", k=10),
        replace(NUMBER, metric="MedR", k=None, value=12.5),
        replace(NUMBER, direction="average", **COMPARED),
        replace(NUMBER, method="JFSE + GCS", **MISSING),
        replace(NUMBER, method="JFSE", direction="", metric="", k=None, **{**MISSING, "status": "failed"}),
    ]
    path = write_table(rows, tmp_path / "new" / "folder" / "table3.csv")
    assert read_table(path) == rows
    assert path.read_text().splitlines()[1].split(",")[10:13] == ["0.389123", "0.004000", "0 1 2"]
    before = path.read_bytes()
    assert write_table(read_table(path), path).read_bytes() == before
    assert os.listdir(path.parent) == ["table3.csv"]


texts = st.text(min_size=1, max_size=12).map(lambda text: "".join(c for c in text if c.isprintable()).strip())
texts = texts.filter(lambda text: text != "")


@st.composite
def rows(draw: st.DrawFn) -> Row:
    metric = draw(st.sampled_from(list(METRICS)))
    fraction = METRICS[metric].fraction
    seeds = tuple(draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=4, unique=True)))
    return replace(
        NUMBER,
        metric=metric,
        k={"all": "all", "none": None, "integer": draw(st.integers(1, 1000))}[METRICS[metric].k],
        value=draw(st.floats(0, 1) if fraction else st.floats(1, 1e5)),
        std=draw(st.none() | st.floats(0, 1)) if len(seeds) > 1 else None,
        seeds=seeds,
        method=draw(texts),
        split=draw(texts),
        note=draw(st.text(max_size=40)),
        train_seconds=draw(st.none() | st.floats(0, 1e6)),
    )


@settings(max_examples=80, deadline=None)
@given(made=st.lists(rows(), min_size=1, max_size=4, unique_by=lambda row: row.identity))
def test_reading_gives_back_what_was_written(made: list[Row], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("tables") / "table.csv"
    assert read_table(write_table(made, path)) == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "standard"}, "protocol is 'standard'; expected one of honest, as_published"),
        ({"status": "done"}, "status is 'done'"),
        ({"data_kind": "fake"}, "data_kind is 'fake'"),
        ({"scale": "full"}, "scale is 'full'"),
        ({"direction": "image to text"}, "direction is 'image to text'"),
        ({"direction": "image->image"}, "direction is 'image->image'"),
        ({"gallery": "batches"}, "gallery is 'batches'"),
        ({"metric": "mAP"}, "metric is 'mAP'; expected one of MAP"),
        ({"metric": "R@1", "k": 1}, "metric is 'R@1'"),
        ({"k": 50}, "k of MAP is 50; expected all"),
        ({"metric": "R@k"}, "k of R@k is 'all'; expected an integer"),
        ({"metric": "R@k", "k": 0}, "k holds 0"),
        ({"metric": "MedR", "value": 3.0}, "k of MedR is 'all'; expected an empty cell"),
        ({"metric": "MedR", "k": None, "value": 0.5}, "expected at least 1"),
        ({"metric": ""}, "metric is empty"),
        ({"value": 38.9}, r"expected a fraction in \[0, 1\] \(divide a percentage by 100\)"),
        ({"value": -0.1}, "expected a fraction"),
        ({"value": None}, "value is empty"),
        ({"value": float("nan")}, "value is nan; expected a finite number"),
        ({"value": float("inf")}, "value is inf"),
        ({"value": "0.3"}, "value is '0.3'; expected a number"),
        ({"value": True}, "value is True"),
        ({"std": -0.1}, "std is -0.1"),
        ({"seeds": (0,)}, r"over 1 seed\(s\)"),
        ({"seeds": ()}, "seeds is empty|over 0 seed"),
        ({"seeds": (1, 1, 2)}, "repeat a seed"),
        ({"seeds": "0 1 2"}, "expected a tuple of integers"),
        ({"seeds": (0, 1.5)}, "seeds holds 1.5"),
        ({"n_gallery": 0}, "n_gallery holds 0"),
        ({"n_queries": "all"}, "n_queries holds 'all'"),
        ({"train_seconds": -1.0}, "train_seconds is -1.0"),
        ({"git_commit": ""}, "git_commit is empty"),
        ({"method": ""}, "method is empty"),
        ({"method": " CCA"}, "method is ' CCA'"),
        ({"method": "CCA\nKCCA"}, "expected one line of text"),
        ({"published": 0.5}, "belong together"),
        ({"published_source": "jfse, Table 4"}, "belong together"),
        ({**COMPARED, "delta": 0.1}, "delta is 0.1; value - published is -0.110877"),
        ({**COMPARED, "data_kind": "synthetic"}, "synthetic number never stands beside one"),
        ({**MISSING, "note": " \n"}, "note is empty"),
        ({**MISSING, "value": 0.1}, "value is 0.1 in a row of status not_run"),
        ({**MISSING, "metric": ""}, "k is 'all' without a metric"),
    ],
)
def test_a_row_refuses(change: dict, message: str) -> None:
    with pytest.raises(TableError, match=message):
        replace(NUMBER, **change)


def test_a_row_takes_numpy_numbers_and_joins_the_lines_of_a_note() -> None:
    row = replace(
        NUMBER, value=np.float32(1.0000001), seeds=[np.int64(3)], std=None, n_queries=np.int32(5), note="one\n\ttwo\0"
    )
    assert (row.value, row.seeds, row.n_queries, row.note) == (1.0, (3,), 5, "one two")


def test_a_metric_of_many_magnitudes_keeps_six_digits_however_small(tmp_path: Path) -> None:
    small = replace(NUMBER, metric="relative error", k=None, value=1.23456789e-9, std=2.5e-10)
    large = replace(small, method="CCA", value=12345678.9, train_seconds=12345.678)
    assert (small.value, small.std, large.value) == (1.23457e-9, 2.5e-10, 12345700.0)
    path = write_table([small, large], tmp_path / "table1.csv")
    assert path.read_text().splitlines()[1].split(",")[10:12] == ["1.23457e-09", "2.5e-10"]
    assert read_table(path) == [small, large]
    assert large.train_seconds == 12345.678
    assert METRICS["relative error"].text(small.value) == "1.23e-09"
    assert METRICS["seconds/step"].text(0.001234) == "0.00123"


@pytest.mark.parametrize(
    ("value", "std", "shown"),
    [
        (0.011635, 0.000312, ("0.0116", "0.0003")),
        (0.008712, 0.0, ("0.00871", "0.00000")),
        (0.09996, 0.0124, ("0.100", "0.012")),
        (1.2, 0.03, ("1.20", "0.03")),
        (0.0, 0.0, ("0.00", "0.00")),
        (0.000001, 0.000002, ("0.000001", "0.000002")),
    ],
)
@pytest.mark.parametrize("metric", ["kernel CS", "centroid distance"])
def test_a_distance_is_shown_with_three_digits_and_its_deviation_with_as_many_decimals(metric, value, std, shown):
    text = METRICS[metric].text
    assert (text(value), text(std, of=value)) == shown


def test_the_decimals_of_shares_and_ranks_do_not_depend_on_what_they_deviate_from() -> None:
    for name, decimals in (("MAP", "0.012"), ("R@k", "0.012"), ("linear separability", "0.012"), ("MedR", "0.01")):
        assert METRICS[name].text(0.0123) == METRICS[name].text(0.0123, of=0.0001) == decimals


def test_an_exponent_may_be_negative_and_an_error_not() -> None:
    assert replace(NUMBER, metric="exponent", k=None, value=-0.5).value == -0.5
    with pytest.raises(TableError, match="expected at least 0"):
        replace(NUMBER, metric="standard error", k=None, value=-0.5)


def test_numbers_are_rounded_as_the_file_keeps_them() -> None:
    row = replace(NUMBER, value=0.25, published=0.25, published_source="jfse, Table 4", delta=-1e-9)
    assert NUMBER.value == 0.389123
    assert str(row.delta) == "0.0"


def _lines(tmp_path: Path) -> tuple[Path, list[str]]:
    path = write_table([NUMBER, replace(NUMBER, method="CCA")], tmp_path / "table3.csv")
    return path, path.read_text().splitlines()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.389123", "good", "line 3: value is 'good'; expected a number"),
        ("0.389123", "nan", "line 3: value is nan"),
        ("0 1 2", "0 one 2", "line 3: seeds is '0 one 2'; expected integers"),
        (",693,693,", ",693,many,", "line 3: n_gallery is 'many'; expected integers"),
        (",all,", ",ten,", "line 3: k is 'ten'; expected integers, or all"),
        (",honest,", ",fair,", "line 3: protocol is 'fair'"),
        (",cpu,", ",", "line 3: 26 cells, expected 27"),
        ("CCA", "JFSE + CS", r"line 3: repeats .*line 2 \(table3, JFSE \+ CS, .*keep one of the two"),
    ],
)
def test_reading_names_the_line_of_a_fault(tmp_path: Path, old: str, new: str, message: str) -> None:
    path, lines = _lines(tmp_path)
    assert lines[2].count(old) == 1
    path.write_text("\n".join([*lines[:2], lines[2].replace(old, new)]) + "\n")
    with pytest.raises(TableError, match=rf"table3\.csv.*{message}"):
        read_table(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (",".join(name for name in COLUMNS if name != "gallery"), "line 1: the header lacks gallery"),
        (",".join((*COLUMNS, "map")), "line 1: the header has unknown map"),
        (",".join(reversed(COLUMNS)), "line 1: the columns are out of order"),
    ],
)
def test_reading_refuses_other_columns(tmp_path: Path, header: str, message: str) -> None:
    path, lines = _lines(tmp_path)
    path.write_text("\n".join([header, *lines[1:]]))
    with pytest.raises(TableError, match=message):
        read_table(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00binary", b'"open quote'])
def test_reading_refuses_what_is_no_table(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table3.csv"
    path.write_bytes(content)
    with pytest.raises(TableError, match=r"table3\.csv.*table again"):
        read_table(path)


def test_reading_refuses_a_missing_file_and_a_header_alone(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"absent\.csv: cannot be read"):
        read_table(tmp_path / "absent.csv")
    (tmp_path / "empty.csv").write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(TableError, match=r"empty\.csv: no rows"):
        read_table(tmp_path / "empty.csv")


def test_reading_takes_a_byte_order_mark_and_other_line_ends(tmp_path: Path) -> None:
    path, lines = _lines(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, ""]).encode())
    assert [row.method for row in read_table(path)] == ["JFSE + CS", "CCA"]


def test_writing_refuses_and_leaves_the_old_table(tmp_path: Path) -> None:
    path = write_table([NUMBER], tmp_path / "table3.csv")
    before = path.read_bytes()
    synthetic = replace(NUMBER, data_kind="synthetic")
    for refused, message in [
        ([], "no rows"),
        ([NUMBER, NUMBER], "row 2: repeats .*row 1"),
        ([synthetic, replace(NUMBER, **COMPARED)], "synthetic rows beside published numbers"),
        ([synthetic], "holds a table of real data; write the synthetic one to another folder"),
    ]:
        with pytest.raises(TableError, match=message):
            write_table(refused, path)
        assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["table3.csv"]
    assert read_table(write_table([synthetic], tmp_path / "synthetic" / "table3.csv")) == [synthetic]


def test_writing_into_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    for path in (tmp_path / "results" / "table3.csv", tmp_path / "results" / "deeper" / "table3.csv"):
        with pytest.raises(TableError, match="is not a folder; rename the file"):
            write_table([NUMBER], path)
    assert (tmp_path / "results").read_text() == "a file"


def test_writing_over_a_folder_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "table3.csv").mkdir()
    with pytest.raises(TableError, match="cannot be written"):
        replace_file(tmp_path / "table3.csv", "text")
    assert os.listdir(tmp_path) == ["table3.csv"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write to a read-only folder")
def test_writing_to_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(TableError, match=r"cannot be written .*choose a folder you may write to"):
            write_table([NUMBER], tmp_path / "table3.csv")
    finally:
        tmp_path.chmod(0o700)
