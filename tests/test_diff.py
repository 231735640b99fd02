"""One table against another, and against the published numbers."""

from dataclasses import replace
from pathlib import Path

import pytest
from test_schema import NUMBER

import reproduce.__main__ as command_line
from reproduce.results.published import with_published
from reproduce.results.schema import Row, table_of, write_table

DATA = {"features": "cnn4096-doc300", "protocol": "as_published", "direction": "average"}
MAP = replace(NUMBER, method="JFSE + CMPM-KL", value=0.389, **DATA)
RANK = replace(MAP, metric="MedR", k="", value=21.5)
TIME = replace(MAP, metric="seconds/epoch", k="", value=3.0)
NORM = replace(MAP, metric="gradient norm", k="", value=2000.0)
NOT_RUN = replace(MAP, value=None, std=None, seeds="", status="not_run", note="no folder wikipedia/")


def main(*words: object) -> int:
    return command_line.main(["diff", *map(str, words)])


def _diff(tmp_path: Path, first: list[Row], second: list[Row], *words: str) -> int:
    paths = [write_table(rows, tmp_path / f"{name}.csv") for name, rows in (("a", first), ("b", second))]
    return main(*paths, *words)


@pytest.mark.parametrize(
    ("row", "equal", "different"),
    [(MAP, 0.394, 0.3941), (MAP, 0.384, 0.3839), (RANK, 22.0, 22.1), (NORM, 2010.0, 2011.0)],
)
def test_the_tolerance_of_each_metric(tmp_path: Path, row: Row, equal: float, different: float) -> None:
    assert _diff(tmp_path, [row], [replace(row, value=equal)]) == 0
    assert _diff(tmp_path, [row], [replace(row, value=different)]) == 1


def test_times_are_shown_and_never_count(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert _diff(tmp_path, [MAP, TIME], [MAP, replace(TIME, value=300.0)], "--tolerance", "0") == 0
    shown = capsys.readouterr().out
    assert "times and memory, not counted (1)" in shown
    assert "-297" in shown
    assert shown.splitlines()[-1] == "1 equal within 0, 0 differ, 0 only in A, 0 only in B, 1 times and memory"
    assert _diff(tmp_path, [MAP, TIME], [MAP]) == 0
    slopes = [replace(MAP, metric="exponent", k="", value=value) for value in (2.0, 1.0)]
    assert _diff(tmp_path, [MAP, slopes[0]], [MAP, slopes[1]]) == 1
    slopes = [replace(slope, condition="seconds/step") for slope in slopes]  # fitted to times
    assert _diff(tmp_path, [MAP, slopes[0]], [MAP, slopes[1]]) == 0


def test_differences_come_first_and_counts_last(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = [MAP, replace(MAP, direction="image->text", value=0.5), replace(MAP, method="CCA")]
    second = [MAP, replace(MAP, direction="image->text", value=0.45), replace(MAP, method="JFSE", value=0.3)]
    assert _diff(tmp_path, first, second) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"A {tmp_path / 'a.csv'}", f"B {tmp_path / 'b.csv'}"]
    differs, only_a, only_b = (lines.index(f"{name} (1)") for name in ("differs", "only in A", "only in B"))
    assert differs < only_a < only_b
    assert lines[differs + 2].startswith("  table3: wikipedia, features cnn4096-doc300")
    assert " ".join(lines[differs + 3].split()) == "JFSE + CMPM-KL image->text MAP 0.500 0.450 +0.050"
    assert lines[only_a + 3].split() == ["CCA", "average", "MAP", "0.389", "–"]
    assert lines[only_b + 3].split() == ["JFSE", "average", "MAP", "–", "0.300"]
    assert lines[-1] == "1 equal within 0.005, 1 differ, 1 only in A, 1 only in B, 0 times and memory"
    assert _diff(tmp_path, [MAP], [replace(MAP, value=0.38901)], "--tolerance", "0") == 1
    assert "-0.000010" in capsys.readouterr().out  # with enough digits to be seen


def test_how_the_runs_differ_and_why_nothing_matches_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    second = replace(MAP, seeds="3 4", torch="2.12.0")
    assert _diff(tmp_path, [MAP, replace(NOT_RUN, method="CCA")], [second]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "seeds: A 0 1 2 | B 3 4" in lines
    assert "torch: A 2.11.0 | B 2.12.0" in lines
    assert "without a number in A, not_run: no folder wikipedia/" in lines
    assert not any(line.startswith(("device", "git_commit")) for line in lines)
    assert _diff(tmp_path, [MAP], [replace(MAP, scale="paper", value=0.5)]) == 1
    assert "no number in common: the two differ in scale" in capsys.readouterr().out
    assert _diff(tmp_path, [NOT_RUN], [NOT_RUN]) == 1  # nothing could be compared


def test_against_the_published_numbers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    published = with_published(table_of([MAP])).published[0]
    near = replace(MAP, value=published + 0.004)
    alone = replace(MAP, method="JFSE + CS")
    path = write_table([near, alone], tmp_path / "a.csv")
    assert main(path, "--published") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[1] == "B published numbers"
    assert shown[-1] == "1 equal within 0.005, 0 differ, 1 without a comparable published number"
    assert main(path, "--published", "--tolerance", "0.003") == 1
    assert "+0.004" in capsys.readouterr().out
    write_table([alone], path)
    assert main(path, "--published") == 1


def test_bad_input_ends_with_two(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write_table([MAP], tmp_path / "a.csv")
    broken = tmp_path / "broken.csv"
    broken.write_text(path.read_text().replace("0.389000", "1.5"))
    assert main(path, broken) == 2
    assert "broken.csv, line 2: value is 1.5" in capsys.readouterr().err
    assert main(path, tmp_path / "absent.csv") == 2
    for words in ([path], [path, path, "--published"], [path, path, "--tolerance", "-1"]):
        with pytest.raises(SystemExit, match="2"):
            main(*words)
    assert "expected a number of at least 0" in capsys.readouterr().err
