"""Regenerating a table, end to end on tiny data: what is trained, what is kept, and what the files say."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from test_cells import HOME, write_pairs

import reproduce.__main__ as command_line
from reproduce.cells import CellStore
from reproduce.runner import Run, estimate_seconds
from reproduce.schema import COLUMNS, Row, read_table
from reproduce.spec import load_table

TINY = """
title: A tiny table
class_split: standard
metrics: [MAP, R@5]
datasets:
  - {dataset: tiny, features: own, class_path: FeaturePairs, init_args: {class_encoder: one-hot, batch_size: 16}}
  - {dataset: absent, features: own, class_path: FeaturePairs, init_args: {class_encoder: one-hot}}
synthetic: {dataset: synthetic, features: synthetic, class_path: Synthetic}
methods:
  - {method: CCA, model: CCA, trials: [{components: 1}, {components: 2}]}
  - {method: semantic matching, model: semantic matching, trials: [{C: 0.01}, {C: 1.0}]}
  - {method: JFSE, model: JFSE}
  - method: JFSE + CS
    model: JFSE
    alignment: cs
    trials: [{alignment_weight: 0.1}, {alignment_weight: 3.0, alignment: {temperature: 0.5}}]
scales:
  quick: {seeds: [0, 1], max_epochs: 1, model: {width: 8, learning_rate: 0.01}}
  paper: {seeds: [0, 1], max_epochs: 30, model: {width: 8, learning_rate: 0.01}}
"""
# Zero-shot, and methods that cannot be trained, each for its own reason.
BROKEN = """
extends: base.yaml
title: A broken table
class_split: zero-shot
methods:
  - {method: broken width, model: JFSE, trials: [{width: -1}]}
  - {method: broken rate, model: JFSE, trials: [{learning_rate: -1.0}]}
  - {method: broken seeds, model: semantic matching}
  - {method: JFSE, model: JFSE}
"""
SHARING = "extends: table2.yaml\ntitle: The same trainings\n"


@dataclass(frozen=True)
class Outcome:
    """What a call of the command line returned and printed."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="module", autouse=True)
def _undo_quiet() -> Iterator[None]:
    """The command prepares its own process; here that is the one of all tests."""
    threads = torch.get_num_threads()
    names = ("lightning", "lightning.pytorch", "lightning.fabric")
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    torch.set_num_threads(threads)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    (folder / "table2.yaml").write_text(TINY, encoding="utf-8")
    base = yaml.safe_load(TINY)
    (folder / "base.yaml").write_text(yaml.safe_dump({**base, "methods": []}), encoding="utf-8")
    (folder / "table3.yaml").write_text(BROKEN, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_pairs(folder / "tiny")
    return folder


def _command(tables: Path, *argv: str | Path) -> Outcome:
    """The command line, in this process, on the tables of a folder."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(command_line, "load_table", partial(load_table, folder=tables))
        try:
            status = command_line.main([str(word) for word in argv])
        except SystemExit as stop:
            status = stop.code
    return Outcome(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def finished(tables: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The results folder of one whole run; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("results")
    return folder, _command(tables, "table2", "--data-root", root, "--out", folder)


@pytest.fixture
def out(finished: tuple[Path, Outcome], tmp_path: Path) -> Path:
    shutil.copytree(finished[0], tmp_path / "results")
    return tmp_path / "results"


def _cells(folder: Path) -> dict[str, dict]:
    files = sorted((folder / "runs" / "cells").glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def _mtimes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "runs" / "cells").glob("*.json")}


def _timeless(path: Path) -> list[dict[str, str]]:
    """Every column but train_seconds."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: cell for key, cell in row.items() if key != "train_seconds"} for row in csv.DictReader(file)]


def _of(rows: list[Row], **values: object) -> list[Row]:
    return [row for row in rows if all(getattr(row, name) == value for name, value in values.items())]


# A whole run ---------------------------------------------------------------------------------------------------------


def test_a_run_trains_trials_then_seeds_and_writes_its_files(finished: tuple[Path, Outcome]) -> None:
    folder, outcome = finished
    assert outcome.status == 0, outcome.err
    assert "6 cells to train for validation, 0 finished before" in outcome.out
    assert "8 cells to train for test, 0 finished before" in outcome.out
    assert outcome.out.index("for validation") < outcome.out.index("for test")
    assert len(_cells(folder)) == 14
    assert {"table2.csv", "table2.md", "table2.yaml"} <= {path.name for path in folder.iterdir()}
    assert not [path.name for path in folder.rglob(".*")]
    assert "tiny" in (folder / "table2.md").read_text(encoding="utf-8")


def test_rows_hold_means_deviations_and_sizes_of_the_cells(finished: tuple[Path, Outcome], root: Path) -> None:
    folder, _ = finished
    rows = _of(read_table(folder / "table2.csv"), status="ok")
    assert len(rows) == 4 * 3 * 2  # methods, directions with their average, metrics
    cells = [cell for cell in _cells(folder).values() if cell["config"]["evaluate"] == "test"]
    for row in rows:
        config = _cells(folder)[row.config_hash]["config"]
        same = [c["result"] for c in cells if c["config"]["model"] == config["model"]]
        name = "MAP" if row.metric == "MAP" else "R@5"
        values = [result["scores"]["standard"][f"{row.direction}/{name}"] for result in same]
        assert len(values) == 2
        assert row.value == pytest.approx(statistics.mean(values), abs=1e-6)
        assert row.std == pytest.approx(math.sqrt(sum((v - statistics.mean(values)) ** 2 for v in values)), abs=1e-6)
        assert (row.metric, row.k) == (("MAP", "all") if name == "MAP" else ("R@k", 5))
        assert (row.n_queries, row.n_gallery) == ((None, None) if row.direction == "average" else (16, 16))
        assert (row.table, row.dataset, row.features, row.split, row.gallery) == (
            "table2", "tiny", "own", "standard", "full"
        )  # fmt: skip
        assert (row.protocol, row.scale, row.data_kind, row.seeds, row.note) == (
            "honest", "quick", "real", (0, 1), ""
        )  # fmt: skip
        assert row.published is None
        assert row.torch == torch.__version__
    assert str(root) not in (folder / "table2.csv").read_text(encoding="utf-8")
    assert tuple(_timeless(folder / "table2.csv")[0]) == tuple(name for name in COLUMNS if name != "train_seconds")


def test_the_average_is_the_mean_of_the_directions(finished: tuple[Path, Outcome]) -> None:
    rows = _of(read_table(finished[0] / "table2.csv"), status="ok")
    for average in _of(rows, direction="average"):
        others = [r.value for r in _of(rows, method=average.method, metric=average.metric) if r.direction != "average"]
        assert average.value == pytest.approx(statistics.mean(others), abs=2e-6)


def test_an_absent_data_set_gives_rows_with_the_reason(finished: tuple[Path, Outcome]) -> None:
    folder, outcome = finished
    rows = _of(read_table(folder / "table2.csv"), dataset="absent")
    assert [row.method for row in rows] == ["CCA", "semantic matching", "JFSE", "JFSE + CS"]
    assert {row.status for row in rows} == {"not_run"}
    assert all("no folder absent/ under the data root" in row.note for row in rows)
    assert "absent/own is not run: no folder absent/" in outcome.out


def test_the_setting_is_the_best_on_validation_and_the_final_cells_hold_nothing_out(
    finished: tuple[Path, Outcome],
) -> None:
    folder, _ = finished
    chosen = yaml.safe_load((folder / "table2.yaml").read_text())["chosen_on_validation"]["tiny/own"]
    assert set(chosen) == {"CCA", "semantic matching", "JFSE + CS"}
    configs = [cell["config"] for cell in _cells(folder).values()]
    for method, entry in chosen.items():
        scores = [trial.pop("validation MAP") for trial in entry["trials"]]
        assert entry["chosen"] == entry["trials"][scores.index(max(scores))]
        settings = dict(entry["chosen"])
        loss = settings.pop("alignment", {})
        finals = [
            config
            for config in configs
            if config["evaluate"] == "test" and config["model"]["class_path"] == method.split(" + ")[0]
            and bool(config["model"]["alignment"]) == ("+" in method)
        ]  # fmt: skip
        assert len(finals) == 2
        for config in finals:
            assert settings.items() <= config["model"]["init_args"].items()
            assert loss.items() <= (config["model"]["alignment"] or {}).items()
    for cell in _cells(folder).values():
        trial = cell["config"]["evaluate"] == "validation"
        assert set(cell["result"]["scores"]) == {"validation" if trial else "standard"}
        assert bool(cell["config"]["data"]["init_args"]["validation_fraction"]) == trial


def test_the_scores_of_the_trials_are_those_of_their_cells(finished: tuple[Path, Outcome]) -> None:
    folder, _ = finished
    chosen = yaml.safe_load((folder / "table2.yaml").read_text())["chosen_on_validation"]["tiny/own"]
    shown = sorted(trial["validation MAP"] for entry in chosen.values() for trial in entry["trials"])
    results = [cell["result"] for cell in _cells(folder).values() if cell["config"]["evaluate"] == "validation"]
    assert shown == sorted(round(result["scores"]["validation"]["average/MAP"], 6) for result in results)


# What a second run does ----------------------------------------------------------------------------------------------


def test_a_second_run_trains_nothing(tables: Path, root: Path, out: Path) -> None:
    before, files = _mtimes(out), {p.name: p.read_bytes() for p in out.glob("table2.[cm]*")}
    outcome = _command(tables, "table2", "--data-root", root, "--out", out)
    assert outcome.status == 0
    assert "to train" not in outcome.out
    assert _mtimes(out) == before
    assert {p.name: p.read_bytes() for p in out.glob("table2.[cm]*")} == files


def test_tables_share_their_cells(tables: Path, root: Path, out: Path, tmp_path: Path) -> None:
    shutil.copytree(tables, tmp_path / "tables")
    (tmp_path / "tables" / "table3.yaml").write_text(SHARING)
    outcome = _command(tmp_path / "tables", "table3", "--data-root", root, "--out", out)
    assert outcome.status == 0
    assert "to train" not in outcome.out
    one, two = _timeless(out / "table2.csv"), _timeless(out / "table3.csv")
    assert [{**row, "table": "table3"} for row in one] == two


def test_missing_and_damaged_cells_are_trained_again_and_give_the_same_table(
    tables: Path, root: Path, out: Path
) -> None:
    """One seed of JFSE is missing, one of semantic matching cut in half: their other seeds come from the store."""
    before, rows = _mtimes(out), _timeless(out / "table2.csv")
    finals = {k: c["config"] for k, c in _cells(out).items() if c["config"]["evaluate"] == "test"}
    plain = {k: c for k, c in finals.items() if c["model"]["alignment"] is None and c["seed"] == 1}
    missing = next(k for k, c in plain.items() if c["model"]["class_path"] == "JFSE")
    damaged = next(k for k, c in plain.items() if c["model"]["class_path"] == "semantic matching")
    cells = out / "runs" / "cells"
    (cells / f"{missing}.json").unlink()
    (cells / f"{damaged}.json").write_bytes((cells / f"{damaged}.json").read_bytes()[:100])
    outcome = _command(tables, "table2", "--data-root", root, "--out", out)
    assert outcome.status == 0, outcome.err
    assert "2 cells to train for test, 6 finished before" in outcome.out
    after = _mtimes(out)
    assert {name for name in before if after[name] != before[name]} == {f"{missing}.json", f"{damaged}.json"}
    assert _timeless(out / "table2.csv") == rows


def test_only_replaces_its_rows_and_keeps_the_others(tables: Path, root: Path, out: Path) -> None:
    before = read_table(out / "table2.csv")
    only = ("--only", "method=CCA", "--seeds", "1")
    outcome = _command(tables, "table2", "--data-root", root, "--out", out, *only)
    assert outcome.status == 0, outcome.err
    assert "to train" not in outcome.out
    after = read_table(out / "table2.csv")
    assert [row.identity for row in after] == [row.identity for row in before]
    changed = [row for row, old in zip(after, before, strict=True) if row != old]
    assert changed == _of(after, method="CCA", status="ok")
    assert {(row.seeds, row.std) for row in changed} == {((1,), None)}


def test_only_on_an_empty_folder_writes_only_those_rows(tables: Path, root: Path, out: Path) -> None:
    for file in out.glob("table2.*"):
        file.unlink()
    outcome = _command(tables, "table2", "--data-root", root, "--out", out, "--only", "method=JFSE")
    assert outcome.status == 0, outcome.err
    assert {row.method for row in read_table(out / "table2.csv")} == {"JFSE"}


def test_seeds_replace_those_of_the_scale(tables: Path, root: Path, out: Path) -> None:
    outcome = _command(tables, "table2", "--data-root", root, "--out", out, "--seeds", "0")
    assert outcome.status == 0, outcome.err
    rows = _of(read_table(out / "table2.csv"), status="ok")
    assert len(rows) == 24
    assert {(row.seeds, row.std) for row in rows} == {((0,), None)}


# Zero-shot, and what fails -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broken(tables: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("broken")
    return folder, _command(tables, "table3", "--data-root", root, "--out", folder)


def test_a_failing_cell_is_reported_and_the_others_go_on(broken: tuple[Path, Outcome]) -> None:
    folder, outcome = broken
    assert outcome.status == 1
    rows = _of(read_table(folder / "table3.csv"), dataset="tiny")
    failed = {row.method for row in rows if row.status == "failed"}
    assert failed == {"broken width", "broken rate", "broken seeds"}
    assert {row.split for row in _of(rows, status="failed")} == {"seen", "unseen", "generalised"}
    assert len(_of(rows, status="ok", method="JFSE")) == 3 * 3 * 2
    assert outcome.err.count("failed: ") >= 3
    assert "Failed" in (folder / "table3.md").read_text(encoding="utf-8")


def test_every_failed_row_gives_its_own_reason(broken: tuple[Path, Outcome]) -> None:
    rows = read_table(broken[0] / "table3.csv")
    notes = {row.method: row.note for row in rows if row.status == "failed"}
    assert "learning rate" in notes["broken rate"]
    assert "width is -1" in notes["broken width"]
    assert "'C'" in notes["broken seeds"]
    assert "seed 0" in notes["broken seeds"]


def test_the_unseen_classes_follow_the_seed(broken: tuple[Path, Outcome]) -> None:
    folder, _ = broken
    finals = [c for c in _cells(folder).values() if c["config"]["evaluate"] == "test"]
    assert {c["config"]["data"]["init_args"]["class_seed"] for c in finals} == {0, 1}
    assert all(c["config"]["data"]["init_args"]["class_seed"] == c["config"]["seed"] for c in finals)
    recorded = yaml.safe_load((folder / "table3.yaml").read_text())["class_split_by_seed"]["tiny"]
    for cell in finals:
        assert recorded[cell["config"]["seed"]]["unseen"] == list(cell["result"]["unseen_classes"])
    rows = _of(read_table(folder / "table3.csv"), status="ok")
    assert {row.split for row in rows} == {"seen", "unseen", "generalised"}
    assert {(r.n_queries, r.n_gallery) for r in _of(rows, split="generalised") if r.direction != "average"} == {(8, 16)}


# Arguments and folders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["table7"], "table7"),
        (["table2", "--scale", "huge"], "no scale 'huge'; there are quick, paper"),
        (["table2", "--only", "method"], "expected KEY=VALUE"),
        (["table2", "--only", "colour=red"], "expected KEY=VALUE with KEY one of dataset, features, method, protocol"),
        (["table2", "--only", "method="], "expected KEY=VALUE"),
        (["table2", "--only", "method=JSFE"], "leaves no row of table2"),
        (["table2", "--seeds", "0", "0"], "expected different integers"),
        (["table2", "--seeds", "-1"], "none negative"),
        (["table2", "--seeds", "one"], "--seeds"),
    ],
)
def test_bad_arguments_are_refused(tables: Path, root: Path, tmp_path: Path, argv: list[str], message: str) -> None:
    outcome = _command(tables, *argv, "--data-root", root, "--out", tmp_path)
    assert outcome.status == 2
    assert message in outcome.err
    assert "to train" not in outcome.out
    assert not list(tmp_path.glob("table*"))


def test_a_named_data_root_that_is_missing_is_refused(tables: Path, tmp_path: Path) -> None:
    outcome = _command(tables, "table2", "--data-root", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert outcome.status == 2
    assert "nowhere, the data root, does not exist" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_data_root_that_is_a_file_is_refused(tables: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = _command(tables, "table2", "--data-root", tmp_path / "file", "--out", tmp_path / "out")
    assert outcome.status == 2
    assert "is not a folder" in outcome.err


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_named_data_root_without_any_of_the_data_sets_is_refused(
    tables: Path, tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("CSD_DATA", str(tmp_path / "data"))
    named = ["--data-root", tmp_path / "data"] if by == "argument" else []
    outcome = _command(tables, "table2", *named, "--out", tmp_path / "out")
    assert outcome.status == 2
    assert "holds none of the data sets of table2: tiny/, absent/" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_broken_data_set_is_an_error_and_not_a_missing_one(tables: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "data" / "tiny")
    file = tmp_path / "data" / "tiny" / "pairs.npz"
    file.write_bytes(file.read_bytes()[:500])
    outcome = _command(tables, "table2", "--data-root", tmp_path / "data", "--out", tmp_path / "out")
    assert outcome.status == 2
    assert "pairs.npz" in outcome.err


@pytest.mark.parametrize("place", ["", "runs", "runs/cells"])
def test_a_file_in_place_of_a_results_folder_is_refused_before_any_training(
    tables: Path, root: Path, tmp_path: Path, place: str
) -> None:
    blocked = tmp_path / "out" / place
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("mine")
    outcome = _command(tables, "table2", "--data-root", root, "--out", tmp_path / "out", "--only", "method=JFSE")
    assert outcome.status == 2
    assert "is not a folder" in outcome.err
    assert "to train" not in outcome.out
    assert blocked.read_text() == "mine"


def test_without_data_the_table_is_synthetic_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CSD_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    short = yaml.safe_load(TINY) | {"methods": [{"method": "JFSE", "model": "JFSE"}]}
    (tmp_path / "table2.yaml").write_text(yaml.safe_dump(short))
    outcome = _command(tmp_path, "table2", "--offline", "--seeds", "0")
    assert outcome.status == 0, outcome.err
    assert "SYNTHETIC" in outcome.out
    assert not list((tmp_path / "results").glob("table*"))
    folder = tmp_path / "results" / "synthetic"
    assert "SYNTHETIC DATA" in (folder / "table2.md").read_text(encoding="utf-8")
    rows = read_table(folder / "table2.csv")
    assert len(_of(rows, status="ok", dataset="synthetic")) == 3 * 2
    assert {row.data_kind for row in rows} == {"synthetic"}
    assert all(row.published is None and row.delta is None for row in rows)


# The estimate --------------------------------------------------------------------------------------------------------


def test_the_time_of_a_table_is_estimated_from_measured_steps(tables: Path, root: Path, tmp_path: Path) -> None:
    table = load_table("table2", tables)
    run = Run(table, "paper", str(root), [0, 1], CellStore(tmp_path))
    datasets, _ = run.available()
    seconds = estimate_seconds(run, datasets)
    assert 0 < seconds < math.inf
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_to_estimate_where_every_cell_is_finished(tables: Path, root: Path, out: Path) -> None:
    run = Run(load_table("table2", tables), "quick", str(root), [0, 1], CellStore(out / "runs" / "cells"))
    run.only = {"method": "JFSE"}
    assert estimate_seconds(run, run.available()[0]) == 0


def test_as_published_rows_alone_can_be_estimated(tables: Path, root: Path, tmp_path: Path) -> None:
    table = load_table("table2", tables)
    method = replace(next(m for m in table.methods if m.method == "JFSE"), preset="as_published")
    run = Run(replace(table, methods=[method]), "paper", str(root), [0], CellStore(tmp_path))
    assert 0 < estimate_seconds(run, run.available()[0]) < math.inf


# Interruptions -------------------------------------------------------------------------------------------------------

STARTED = """
import functools, pathlib, sys
import reproduce.__main__ as command_line
from reproduce.spec import load_table
command_line.load_table = functools.partial(load_table, folder=pathlib.Path(sys.argv[1]))
sys.exit(command_line.main(sys.argv[2:]))
"""
LIMIT = 90  # seconds after which a process counts as hanging


def _start(tables: Path, *argv: str | Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", STARTED, str(tables), *map(str, argv)],
        env={**os.environ, "PYTHONPATH": str(HOME), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _read_until(process: subprocess.Popen, text: str) -> str:
    """What it printed up to a line with the text; the rest where there is no such line."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            break
    return "".join(lines)


def _children(pid: int) -> set[int]:
    children = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
        if parent == pid:
            children.add(int(stat.parent.name))
    return children


def _survivors(pids: set[int]) -> set[int]:
    """Those that still run after a while; a zombie that nobody buries is none."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        alive = set()
        for pid in pids:
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            alive |= {pid} if state != "Z" else set()
        if not alive:
            return set()
        time.sleep(0.2)
    return alive


def _stop(process: subprocess.Popen, kind: signal.Signals) -> tuple[int, str]:
    """Send the signal to the parent; it and all its workers must end. Returns its status and last words."""
    workers = _children(process.pid)
    assert workers
    process.send_signal(kind)
    try:
        said, _ = process.communicate(timeout=LIMIT)
        assert not _survivors(workers)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, said


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds child processes in /proc")


@linux
@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was_and_ends_with_the_same_table(
    tables: Path, root: Path, tmp_path: Path
) -> None:
    argv = ("table2", "--data-root", root, "--scale", "paper", "--out")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    finished: dict[str, int] = {}
    for kind, stage in ((signal.SIGTERM, "for validation"), (signal.SIGKILL, "for test")):
        process = _start(tables, *argv, killed)
        said = _read_until(process, stage) + _read_until(process, "[1/")
        assert "[1/" in said
        if not torch.cuda.is_available():
            assert said.index("on this CPU it takes about") < said.index("to train")
        assert _stop(process, kind)[0] == -kind
        kept = _mtimes(killed)
        assert finished.items() <= kept.items()
        assert len(kept) > len(finished)
        finished = kept
    assert len(finished) < 14
    assert _command(tables, *argv, killed).status == 0
    assert finished.items() <= _mtimes(killed).items()
    assert _command(tables, *argv, whole).status == 0
    assert _timeless(killed / "table2.csv") == _timeless(whole / "table2.csv")
    assert _mtimes(killed).keys() == _mtimes(whole).keys()


@linux
@pytest.mark.slow
def test_an_interrupt_does_not_wait_for_cells_that_run_or_queue(tables: Path, root: Path, tmp_path: Path) -> None:
    long = yaml.safe_load(TINY)
    long["scales"]["quick"]["max_epochs"] = 10**6
    long["scales"]["quick"]["seeds"] = list(range(8))
    long["methods"] = [{"method": "JFSE", "model": "JFSE"}]
    (tmp_path / "table2.yaml").write_text(yaml.safe_dump(long))
    process = _start(tmp_path, "table2", "--data-root", root, "--out", tmp_path / "out")
    assert "8 cells" in _read_until(process, "to train")
    _wait_for_busy_workers(process)
    status, said = _stop(process, signal.SIGINT)
    assert status == 130
    assert "finished cells are kept" in said
    assert "Traceback" not in said


def _wait_for_busy_workers(process: subprocess.Popen) -> None:
    """Until a worker has used more processor time than its imports take, so that it is in the middle of a training."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        for pid in _children(process.pid):
            ticks = sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
            if ticks / os.sysconf("SC_CLK_TCK") > 20:
                return
        time.sleep(0.5)
