"""What a table would train and how long it takes, and deleting what was trained."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import runner_cases
from runner_cases import command

import reproduce.__main__ as command_line
from reproduce.runs.checks import load_table
from reproduce.runs.estimate import run_seconds
from reproduce.runs.plan import Plan
from reproduce.runs.store import RunStore

tables, root = runner_cases.tables, runner_cases.root
undo_quiet = runner_cases.undo_quiet


@pytest.fixture(scope="module")
def out(tables: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    assert command(tables, "table2", "--data-root", root, "--out", folder).status == 0
    return folder


def test_every_run_has_a_time_measured_on_its_model(tables: Path, root: Path, tmp_path: Path) -> None:
    plan = Plan(load_table("table2", tables), "paper", str(root), [0, 1], RunStore(tmp_path))
    runs = plan.execute(plan.available(), dry=True)
    seconds = run_seconds(runs, str(root))
    assert set(seconds) == {run.key for run in runs}
    assert all(0 < value < math.inf for value in seconds.values())
    times = {(run.steps, seconds[run.key]) for run in runs if run.config["model"]["class_path"] == "JFSE"}
    assert len(times) == len({steps for steps, _ in times})  # the same steps take the same time
    assert [time for _, time in sorted(times)] == sorted(time for _, time in times)  # and more of them no less
    assert not list(tmp_path.iterdir())


def test_rows_as_published_alone_can_be_estimated(tables: Path, root: Path, tmp_path: Path) -> None:
    table = load_table("table2", tables)
    method = replace(next(m for m in table.methods if m.method == "JFSE"), protocol="as_published")
    plan = Plan(replace(table, methods=[method]), "paper", str(root), [0], RunStore(tmp_path))
    assert 0 < sum(run_seconds(plan.execute(plan.available(), dry=True), str(root)).values()) < math.inf


def test_the_runs_planned_are_those_that_are_trained(tables: Path, root: Path, out: Path) -> None:
    plan = Plan(load_table("table2", tables), "quick", str(root), [0, 1], RunStore(out / "runs" / "kept"))
    runs = plan.execute(plan.available(), dry=True)
    assert {run.key for run in runs} == {path.stem for path in plan.store.folder.glob("*.json")}
    assert all(run.result for run in runs)


def test_a_dry_run_lists_the_runs_and_trains_none(tables: Path, root: Path, out: Path, tmp_path: Path) -> None:
    call = ("table2", "--data-root", root, "--dry-run", "--out")
    fresh = command(tables, *call, tmp_path / "new")
    assert fresh.status == 0
    # Two trials each of CCA, semantic matching and JFSE + CS, and two seeds of all four.
    assert "table2: 14 runs to train, 0 finished; about" in fresh.out
    assert "tiny/own JFSE + CS, trial 2: " in fresh.out
    assert not (tmp_path / "new").exists()
    finished = command(tables, *call, out)
    assert "table2: 0 runs to train, 14 finished; about 0 s" in finished.out
    assert finished.out.count(": finished") == 14


def test_runs_are_deleted_only_where_told_to(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = out / "runs" / "kept"
    before = sorted(runs.iterdir())
    assert command_line.main(["clean-runs", "--out", str(out)]) == 0
    assert sorted(runs.iterdir()) == before
    assert command_line.main(["clean-runs", "--out", str(out), "--yes"]) == 0
    assert list(runs.iterdir()) == []
    assert command_line.main(["clean-runs", "--out", str(out)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(" in ")[0].partition(" (")[0] for line in told] == [
        *("would delete 14 finished runs", "deleted 14 finished runs", "nothing to delete")
    ]
    assert (out / "table2.csv").exists()
