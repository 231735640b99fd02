"""What a table would train and how long it takes, and deleting what was trained."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import runner_cases
from runner_cases import command

import reproduce.__main__ as command_line
from reproduce.cells import CellStore
from reproduce.plan import cell_seconds, missing_cells
from reproduce.runner import Run
from reproduce.schema import read_table
from reproduce.spec import load_table

tables, root = runner_cases.tables, runner_cases.root
undo_quiet = runner_cases.undo_quiet


@pytest.fixture(scope="module")
def out(tables: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    assert command(tables, "table2", "--data-root", root, "--out", folder).status == 0
    return folder


def test_every_cell_has_a_time_measured_on_its_model(tables: Path, root: Path, tmp_path: Path) -> None:
    run = Run(load_table("table2", tables), "paper", str(root), [0, 1], CellStore(tmp_path))
    cells = run.plan(run.available()[0])
    seconds = cell_seconds(run, cells)
    assert set(seconds) == {cell.key for cell in cells}
    assert all(0 < value < math.inf for value in seconds.values())
    jfse = [cell for cell in cells if cell.method.model == "JFSE"]
    times = {(cell.steps, seconds[cell.key]) for cell in jfse}
    assert len(times) == len({steps for steps, _ in times})  # the same steps take the same time
    assert [time for _, time in sorted(times)] == sorted(time for _, time in times)  # and more of them no less
    assert not list(tmp_path.iterdir())


def test_rows_as_published_alone_can_be_estimated(tables: Path, root: Path, tmp_path: Path) -> None:
    table = load_table("table2", tables)
    method = replace(next(m for m in table.methods if m.method == "JFSE"), preset="as_published")
    run = Run(replace(table, methods=[method]), "paper", str(root), [0], CellStore(tmp_path))
    assert 0 < sum(cell_seconds(run, run.plan(run.available()[0])).values()) < math.inf


def test_the_cells_planned_are_those_that_a_run_trains(tables: Path, root: Path, out: Path) -> None:
    run = Run(load_table("table2", tables), "quick", str(root), [0, 1], CellStore(out / "runs" / "cells"))
    cells = run.plan(run.available()[0])
    assert {cell.key for cell in cells} == {path.stem for path in run.store.folder.glob("*.json")}
    assert missing_cells(run, cells) == []


def test_a_dry_run_lists_the_cells_and_trains_none(tables: Path, root: Path, out: Path, tmp_path: Path) -> None:
    call = ("table2", "--data-root", root, "--dry-run", "--out")
    fresh = command(tables, *call, tmp_path / "new")
    assert fresh.status == 0
    # Two trials each of CCA, semantic matching and JFSE + CS, and two seeds of all four.
    assert "table2: 14 cells to train, 0 finished; about" in fresh.out
    assert "tiny/own JFSE + CS, trial 2: " in fresh.out
    assert not (tmp_path / "new").exists()
    finished = command(tables, *call, out)
    assert "table2: 0 cells to train, 14 finished; about 0 s" in finished.out
    assert finished.out.count(": finished") == 14


def test_cells_are_deleted_only_where_told_to(tables: Path, root: Path, out: Path) -> None:
    cells = out / "runs" / "cells"
    before = sorted(cells.iterdir())
    assert command_line.main(["clean-cells", "--out", str(out)]) == 0
    assert sorted(cells.iterdir()) == before
    assert command_line.main(["clean-cells", "--out", str(out), "--yes"]) == 0
    assert list(cells.iterdir()) == []
    assert (out / "table2.csv").exists()


def test_what_would_be_deleted_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = CellStore(tmp_path / "runs" / "cells")
    store.save("key", {}, {"scores": {}})
    for words in (["--yes"], []):
        assert command_line.main(["clean-cells", "--out", str(tmp_path), *reversed(words)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("deleted 1 finished cells (1 files, 0.0 MiB) in ")
    assert told[1].startswith("nothing to delete in ")


def test_a_table_that_cannot_be_run_says_why(tables: Path, tmp_path: Path) -> None:
    text = (tables / "table2.yaml").read_text() + "not_run: nobody has these data\n"
    (tables / "table4.yaml").write_text(text)
    outcome = command(tables, "table4", "--out", tmp_path)
    assert outcome.status == 0
    assert "table4 is not run: nobody has these data" in outcome.out
    rows = read_table(tmp_path / "table4.csv")
    assert {(row.status, row.note) for row in rows} == {("not_run", "nobody has these data")}
    assert {row.method for row in rows} == {"CCA", "semantic matching", "JFSE", "JFSE + CS"}
    assert "nobody has these data" in (tmp_path / "table4.md").read_text()
