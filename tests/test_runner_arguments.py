"""Arguments, data roots and results folders of regenerating a table: what is refused, and what runs without data."""

from __future__ import annotations

from pathlib import Path

import pytest
import runner_cases
import yaml
from runner_cases import TINY, command, rows_of
from test_training import write_pairs

from reproduce.results.schema import read_table

tables, root, undo_quiet = runner_cases.tables, runner_cases.root, runner_cases.undo_quiet


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["table7"], "table7"),
        (["tabel3"], "nearest: table3"),
        (["clams"], "nearest: claims"),
        (["nothing"], "there are: "),
        (["table2", "--scale", "huge"], "no scale 'huge'; there are quick, paper"),
        (["table2", "--only", "method"], "expected KEY=VALUE"),
        (["table2", "--only", "colour=red"], "KEY one of dataset, features, condition, method, protocol"),
        (["table2", "--only", "method="], "expected KEY=VALUE"),
        (["table2", "--only", "method=JSFE"], "JSFE: no row of table2 has it; there are: CCA; semantic matching;"),
        (["table2", "--only", "dataset=tyni"], "dataset=tyni: no row of table2 has it; there are: tiny; absent"),
        (["table2", "--only", "features=roph"], "features=roph: no row of table2 has it; there are: own"),
        (["table2", "--only", "protocol=honst"], "protocol=honst: no row of table2 has it; there are: honest"),
        (["table2", "--seeds", "0", "0"], "expected different integers"),
        (["table2", "--seeds", "-1"], "none negative"),
        (["table2", "--seeds", "one"], "--seeds"),
        (["table2", "--executor", "slurm"], '"srun"'),
        (["table2", "--slurm", "partition=debug"], "--executor slurm"),
        (["table2", "--jobs", "0"], "--jobs 0"),
        (["table2", "--executor", "elsewhere"], "elsewhere"),
    ],
)
def test_bad_arguments_are_refused(
    tables: Path, root: Path, tmp_path: Path, argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # with no command of Slurm
    outcome = command(tables, *argv, "--data-root", root, "--out", tmp_path, workers="--executor" in argv)
    assert outcome.status == 2
    assert message in outcome.err
    assert "to train" not in outcome.out
    assert not list(tmp_path.glob("table*"))


@pytest.mark.parametrize(("name", "said"), [("nowhere", "does not exist"), ("file", "is not a folder")])
def test_a_named_data_root_that_is_no_folder_is_refused(tables: Path, tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").touch()
    outcome = command(tables, "table2", "--data-root", tmp_path / name, "--out", tmp_path / "out")
    assert (outcome.status, name in outcome.err, said in outcome.err) == (2, True, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_named_data_root_without_any_of_the_data_sets_is_refused(
    tables: Path, tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("CSD_DATA", str(tmp_path / "data"))
    named = ["--data-root", tmp_path / "data"] if by == "argument" else []
    outcome = command(tables, "table2", *named, "--out", tmp_path / "out")
    assert outcome.status == 2
    assert "holds none of the data sets of table2: tiny/, absent/" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_broken_data_set_is_an_error_and_not_a_missing_one(tables: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "data" / "tiny")
    file = tmp_path / "data" / "tiny" / "pairs.npz"
    file.write_bytes(file.read_bytes()[:500])
    outcome = command(tables, "table2", "--data-root", tmp_path / "data", "--out", tmp_path / "out")
    assert outcome.status == 2
    assert "pairs.npz" in outcome.err


@pytest.mark.parametrize("place", ["", "runs", "runs/kept"])
def test_a_file_in_place_of_a_results_folder_is_refused_before_any_training(
    tables: Path, root: Path, tmp_path: Path, place: str
) -> None:
    blocked = tmp_path / "out" / place
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("mine")
    outcome = command(tables, "table2", "--data-root", root, "--out", tmp_path / "out", "--only", "method=JFSE")
    assert outcome.status == 2
    assert "is not a folder" in outcome.err
    assert "to train" not in outcome.out
    assert blocked.read_text() == "mine"


def test_without_data_the_table_is_synthetic_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CSD_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    short = yaml.safe_load(TINY) | {"methods": [{"method": "JFSE", "model": "JFSE"}], "comparisons": []}
    (tmp_path / "table2.yaml").write_text(yaml.safe_dump(short))
    outcome = command(tmp_path, "table2", "--offline", "--seeds", "0")
    assert outcome.status == 0, outcome.err
    said = [number for number, line in enumerate(outcome.out.splitlines()) if "SYNTHETIC" in line]
    assert len(said) == 2
    assert said[1] == len(outcome.out.splitlines()) - 1
    assert not list((tmp_path / "results").glob("table*"))
    folder = tmp_path / "results" / "synthetic"
    assert "SYNTHETIC DATA" in (folder / "table2.md").read_text(encoding="utf-8")
    rows = read_table(folder / "table2.csv")
    assert len(rows_of(rows, status="ok", dataset="synthetic")) == 3 * 2
    assert set(rows["data_kind"]) == {"synthetic"}
    assert rows[["published", "delta"]].isna().all(axis=None)
