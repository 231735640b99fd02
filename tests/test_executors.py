"""Training cells in jobs, here and on a stand-in for Slurm: which are kept, lost, repeated and reported."""

from __future__ import annotations

import os
import re
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import runner_cases
import submitit
import test_runner_interrupted as interrupted
import yaml
from runner_cases import TINY, Outcome, command, mtimes, rows_of, timeless
from submitit.core.utils import UncompletedJobError

from reproduce import executors
from reproduce.cells import CellStore
from reproduce.executors import PARAMETERS, Jobs, train_cell
from reproduce.runner import Cell, Run
from reproduce.schema import read_table
from reproduce.spec import load_table

tables, root, undo_quiet = runner_cases.tables, runner_cases.root, runner_cases.undo_quiet

FINE, ONCE, TWICE, LIES, BREAKS, RAISES = 8, 5, 6, 7, 9, -1  # widths of models, by which a job knows how to end
NAMES = {FINE: "fine", ONCE: "killed once", TWICE: "killed twice", LIES: "lies", BREAKS: "breaks", RAISES: "raises"}
# Slurm's commands, which number jobs by their own process. The file "mode" says what becomes of a job: it runs, from
# another folder; or the first one is lost; or all are held, and whoever asks about them is interrupted; or the second
# one is refused.
COMMANDS = {
    "sbatch": """
count=$(ls "$here" | grep -c '[.]job$')
cp "$1" "$here/$$.job"
case "$(cat "$here/mode")-$count" in
    refuse-1) echo "sbatch: error: Job violates accounting/QOS policy" >&2; exit 1 ;;
    lose-0) echo NODE_FAIL > "$here/$$.state" ;;
    hold-* | refuse-*) echo PENDING > "$here/$$.state" ;;
    *)
        echo RUNNING > "$here/$$.state"
        export SLURM_JOB_ID=$$ SLURM_JOB_NAME=csd SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_PROCID=0 SLURM_LOCALID=0
        (cd /; bash "$here/$$.job"; echo COMPLETED > "$here/$$.state") > "$here/$$.out" 2>&1 &
        ;;
esac
echo "Submitted batch job $$"
""",
    "srun": """
while [ "${1#--}" != "$1" ]; do
    case "$1" in
        --output) output=$2; shift ;;
        --error) error=$2; shift ;;
    esac
    shift
done
path() { echo "$1" | sed "s/%j/$SLURM_JOB_ID/; s/%t/$SLURM_PROCID/"; }
exec "$@" > "$(path "$output")" 2> "$(path "$error")"
""",
    "sacct": """
echo "JobID|State|NodeList"
while [ $# -gt 0 ]; do
    [ "$1" = -j ] && [ -e "$here/$2.state" ] && echo "$2|$(cat "$here/$2.state")|node"
    shift
done
if [ "$(cat "$here/mode")" = hold ]; then kill -INT $PPID; fi
""",
    "scancel": """
echo CANCELLED > "$here/$1.state"
""",
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the stand-in's commands, jobs and their states."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in COMMANDS.items():
        (folder / name).write_text(f"#!/bin/sh\nhere={folder}\n{text}")
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes have it ignored
    yield folder
    signal.signal(signal.SIGINT, before)


def _states(slurm: Path) -> list[str]:
    return [path.read_text().strip() for path in sorted(slurm.glob("*.state"))]


# Jobs here -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_local_jobs_make_the_table_that_the_pool_makes(tables: Path, root: Path, tmp_path: Path) -> None:
    argv = ("table2", "--data-root", root, "--only", "method=JFSE + CS", "--seeds", "0", "--jobs", "2", "--out")
    pool = command(tables, *argv, tmp_path / "pool")
    jobs = command(tables, *argv, tmp_path / "jobs", "--executor", "local")
    assert (pool.status, jobs.status) == (0, 0), pool.err + jobs.err
    assert timeless(tmp_path / "jobs" / "table2.csv") == timeless(tmp_path / "pool" / "table2.csv")
    assert mtimes(tmp_path / "jobs").keys() == mtimes(tmp_path / "pool").keys()
    assert len(list((tmp_path / "jobs" / "runs" / "jobs").glob("*/*_result.pkl"))) == 3
    assert not (tmp_path / "pool" / "runs" / "jobs").exists()


def _faulty(notes: Path) -> Callable:
    """A job that is killed, lies or fails as the width of its model says; each writes a line into the notes."""

    def job(key: str, config: dict, *rest: str) -> tuple[str, bool]:
        width = config["model"]["init_args"]["width"]
        before = notes.read_text().split() if notes.exists() else []
        with notes.open("a") as file:
            file.write(f"{width}\n")
        if width == TWICE or (width == ONCE and str(ONCE) not in before):
            os.kill(os.getpid(), signal.SIGKILL)
        if width == LIES:
            return "", False
        if width == BREAKS:
            raise ImportError("no such library here")
        from reproduce.executors import train_cell as train  # here: the others then start in a moment

        return train(key, config, *rest)

    return job


@pytest.fixture(scope="module")
def faulty(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Results of a table whose jobs end in every way; the lines of its jobs are in the file notes."""
    folder = tmp_path_factory.mktemp("faulty")
    table = yaml.safe_load(TINY) | {"comparisons": []}
    table["methods"] = [{"method": name, "model": "JFSE", "init_args": {"width": w}} for w, name in NAMES.items()]
    (folder / "table2.yaml").write_text(yaml.safe_dump(table))
    argv = ("table2", "--data-root", root, "--seeds", "0", "--executor", "local", "--jobs", "2", "--out", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executors, "train_cell", _faulty(folder / "notes"))
        patch.setattr(submitit.Job, "_results_timeout_s", 1)  # how long a result of a job that ended is waited for
        return folder, command(folder, *argv)


def _row_of(folder: Path, width: int) -> tuple[str, str]:
    """Status and note of a method, whose log the note must name."""
    rows = rows_of(read_table(folder / "table2.csv"), method=NAMES[width], dataset="tiny")
    [(status, note)] = {(row.status, row.note) for row in rows}
    log = re.search(r"\(log: (.*)\)$", note)
    assert (status == "ok") == (log is None)
    assert log is None or (folder / log[1]).is_file()
    return status, note


def _jobs_of(folder: Path, width: int) -> int:
    return (folder / "notes").read_text().split().count(str(width))


@pytest.mark.slow
def test_a_job_that_is_killed_once_is_submitted_once_more(faulty: tuple[Path, Outcome]) -> None:
    folder, outcome = faulty
    assert _row_of(folder, ONCE)[0] == "ok"
    assert _jobs_of(folder, ONCE) == 2
    assert re.search(r"killed once, seed 0: its job .* left no result .*; submitted once more", outcome.out)


@pytest.mark.slow
def test_a_job_that_is_killed_twice_fails_and_the_others_finish(faulty: tuple[Path, Outcome]) -> None:
    folder, outcome = faulty
    status, note = _row_of(folder, TWICE)
    assert status == "failed"
    assert "lost twice" in note
    assert _jobs_of(folder, TWICE) == 2
    assert _row_of(folder, FINE) == ("ok", "")
    assert outcome.status == 1
    assert outcome.err.count("failed: ") == 4


@pytest.mark.slow
def test_an_error_in_a_job_is_reported_at_once_with_its_type_and_log(faulty: tuple[Path, Outcome]) -> None:
    status, note = _row_of(faulty[0], RAISES)
    assert status == "failed"
    assert re.search(r"ValueError: width is -1.*\(log: ", note)
    assert _jobs_of(faulty[0], RAISES) == 1
    assert "Traceback" in (faulty[0] / re.search(r"log: (.*)\)", note)[1]).read_text()


@pytest.mark.slow
def test_a_job_that_breaks_before_its_cell_is_reported_and_not_repeated(faulty: tuple[Path, Outcome]) -> None:
    status, note = _row_of(faulty[0], BREAKS)
    assert status == "failed"
    assert "failed before the cell could be trained" in note
    assert _jobs_of(faulty[0], BREAKS) == 1
    assert "no such library here" in (faulty[0] / re.search(r"log: (.*)\)", note)[1]).read_text()


@pytest.mark.slow
def test_a_job_that_left_no_cell_is_not_counted_whatever_it_says(faulty: tuple[Path, Outcome]) -> None:
    status, note = _row_of(faulty[0], LIES)
    assert status == "failed"
    assert "left no finished cell" in note
    assert _jobs_of(faulty[0], LIES) == 1
    assert len(mtimes(faulty[0])) == 2  # fine, killed once


def _cells(tables: Path, root: Path, folder: Path) -> tuple[list[Cell], CellStore]:
    store = CellStore(folder / "cells")
    run = Run(load_table("table2", tables), "quick", str(root), [0], store)
    return run.plan(run.available()[0]), store


@pytest.mark.slow
@pytest.mark.parametrize("visible", [None, "0"])
def test_no_more_jobs_than_asked_for_run_at_once_and_they_see_the_same_gpus(
    tables: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None
) -> None:
    def job(key: str, *_: object) -> tuple[str, bool]:
        """Waits for a second job, and for a third."""
        mark = tmp_path / f"{key}.running"
        mark.touch()
        seen, end = 0, time.monotonic() + 3
        while time.monotonic() < end:
            seen = max(seen, len(list(tmp_path.glob("*.running"))))
            time.sleep(0.1)
        mark.unlink()
        return f"saw {seen} and {os.environ.get('CUDA_VISIBLE_DEVICES')}", False

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(executors, "train_cell", job)
    cells, store = _cells(tables, root, tmp_path)
    jobs = Jobs("local", tmp_path / "jobs", 2, {})
    said = [error.partition(" (log")[0] for _, error in jobs(cells[:4], str(root), store)]
    assert len(said) == 4
    assert set(said) <= {f"saw {n} and {visible}" for n in (1, 2)}


# What a job does -----------------------------------------------------------------------------------------------------


def test_a_job_out_of_time_may_be_repeated(
    tables: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: object) -> None:
        raise UncompletedJobError("Job not requeued because: timed-out and not checkpointable.")

    monkeypatch.setattr(executors, "run_cell", late)
    cells, store = _cells(tables, root, tmp_path)
    error, lost = train_cell(cells[0].key, cells[0].config, str(root), str(store.folder))
    assert "ran out of time" in error
    assert lost


def test_a_job_keeps_its_cell_and_trains_none_that_is_there(tables: Path, root: Path, tmp_path: Path) -> None:
    [cell, *_], store = _cells(tables, root, tmp_path)
    arguments = (cell.key, cell.config, str(root), str(store.folder))
    assert train_cell(*arguments) == ("", False)
    assert store.load(cell.key)["scores"]
    before = (store.folder / f"{cell.key}.json").stat().st_mtime_ns
    assert train_cell(*arguments) == ("", False)
    assert (store.folder / f"{cell.key}.json").stat().st_mtime_ns == before


def test_a_job_refuses_to_train_on_other_data_or_code_than_it_was_submitted_with(
    tables: Path, root: Path, tmp_path: Path
) -> None:
    [cell, *_], store = _cells(tables, root, tmp_path)
    error, lost = train_cell("0" * 16, cell.config, str(root), str(store.folder))
    assert "code or data changed" in error
    assert not lost
    assert not store.folder.exists()


# Stopping ------------------------------------------------------------------------------------------------------------


@interrupted.linux
@pytest.mark.slow
@pytest.mark.parametrize("all_at_once", [True, False], ids=["from a terminal", "by its parent"])
def test_an_interrupt_cancels_the_jobs_and_keeps_finished_cells(root: Path, tmp_path: Path, all_at_once: bool) -> None:
    long = yaml.safe_load(TINY) | {"comparisons": []}
    long["scales"]["quick"] |= {"max_epochs": 10**6, "seeds": [0]}
    arguments = {"CCA": {"components": 1}, "JFSE": {}}
    long["methods"] = [{"method": name, "model": name, "init_args": given} for name, given in arguments.items()]
    (tmp_path / "table2.yaml").write_text(yaml.safe_dump(long))
    argv = ("table2", "--data-root", root, "--out", tmp_path / "out", "--executor", "local", "--jobs", "2")
    process = interrupted._start(tmp_path, *argv)
    try:
        assert "CCA" in interrupted._read_until(process, "[1/2]")
        [watcher] = interrupted._children(process.pid)
        running = {watcher, *interrupted._children(watcher)}
        assert len(running) == 2
        (os.killpg if all_at_once else os.kill)(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=interrupted.LIMIT)
        assert not interrupted._survivors(running)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 130
    assert "jobs cancelled: 1" in said
    assert "finished cells are kept" in said
    assert "Traceback" not in said
    assert len(mtimes(tmp_path / "out")) == 1


@interrupted.linux
@pytest.mark.slow
def test_what_jobs_finish_after_their_driver_was_killed_is_found(tables: Path, root: Path, tmp_path: Path) -> None:
    argv = ("table2", "--data-root", root, "--only", "method=JFSE", "--out", tmp_path)
    process = interrupted._start(tables, *argv, "--executor", "local", "--jobs", "2")
    end = time.monotonic() + interrupted.LIMIT
    while len(list(tmp_path.glob("runs/jobs/*/*_submitted.pkl"))) < 2 and time.monotonic() < end:
        time.sleep(0.1)
    process.kill()
    process.communicate(timeout=interrupted.LIMIT)  # to the end of the jobs, which hold its output open
    assert not list(tmp_path.glob("table2.*"))
    assert len(mtimes(tmp_path)) == 2
    outcome = command(tables, *argv)
    assert outcome.status == 0, outcome.err
    assert "to train" not in outcome.out


# Slurm ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_cell_is_trained_on_slurm_from_another_folder_though_its_first_job_is_lost(
    tables: Path, root: Path, tmp_path: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 1)
    (slurm / "mode").write_text("lose")
    argv = ("table2", "--data-root", os.path.relpath(root), "--out", "out", "--only", "method=JFSE", "--seeds", "0")
    outcome = command(tables, *argv, "--executor", "slurm", "--slurm", "partition=debug", "timeout_min=7")
    assert outcome.status == 0, outcome.err
    assert "its job ended as NODE_FAIL and left no result" in outcome.out
    assert len(_states(slurm)) == 2
    assert {row.status for row in rows_of(read_table(tmp_path / "out" / "table2.csv"), dataset="tiny")} == {"ok"}
    for script in slurm.glob("*.job"):
        assert {"#SBATCH --partition=debug", "#SBATCH --time=7"} <= set(script.read_text().splitlines())
    assert {path.name for path in tmp_path.iterdir()} == {"slurm", "out"}


def test_an_interrupt_cancels_every_job_on_slurm_and_all_parameters_are_in_their_scripts(
    tables: Path, root: Path, tmp_path: Path, slurm: Path
) -> None:
    (slurm / "mode").write_text("hold")
    numbers = {"timeout_min": "90", "cpus_per_task": "3", "gpus_per_node": "1", "mem_gb": "2.5"}
    given = {name: f"some-{name}" for name in PARAMETERS} | numbers | {"exclusive": "true", "setup": "module load cuda"}
    argv = ("table2", "--data-root", root, "--out", tmp_path / "out", "--only", "method=JFSE", "--executor", "slurm")
    outcome = command(tables, *argv, "--slurm", *(f"{name}={value}" for name, value in given.items()))
    assert outcome.status == 130
    assert "jobs cancelled: 2" in outcome.err
    assert _states(slurm) == ["CANCELLED"] * 2
    flags = {"timeout-min": "--time=90", "mem-gb": "--mem=2560MB", "exclusive": "--exclusive", "setup": None}
    for script in slurm.glob("*.job"):
        lines = script.read_text().splitlines()
        for name, value in given.items():
            key = name.replace("_", "-")
            flag = flags.get(key, f"--{key}={value}")
            assert (f"#SBATCH {flag}" if flag else value) in lines


def test_a_job_that_slurm_refuses_cancels_the_others(tables: Path, root: Path, tmp_path: Path, slurm: Path) -> None:
    (slurm / "mode").write_text("refuse")
    outcome = command(tables, "table2", "--data-root", root, "--out", tmp_path / "out", "--executor", "slurm")
    assert outcome.status == 2
    assert "Slurm refuses a job: sbatch: error: Job violates accounting/QOS policy. Correct --slurm" in outcome.err
    assert _states(slurm) == ["CANCELLED"]


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--executor", "slurm"],
            "sbatch, srun, sacct, scancel not found. Run this on a machine that submits",
        ),
        (["--executor", "local", "--slurm", "partition=debug"], "--slurm goes with --executor slurm alone"),
        (["--slurm", "partition=debug"], "--slurm goes with --executor slurm alone"),
        (["--executor", "slurm", "--slurm", "colour=red"], "colour=red: expected key=value with key one of account,"),
        (["--executor", "slurm", "--slurm", "partition"], "partition: expected key=value"),
        (["--executor", "slurm", "--slurm", "timeout_min=1h"], "timeout_min=1h: invalid literal"),
        (["--executor", "local", "--jobs", "0"], "--jobs 0: expected 1 or more"),
        (["--executor", "elsewhere"], "elsewhere"),
    ],
)
def test_bad_arguments_are_refused(
    tables: Path, root: Path, tmp_path: Path, argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = command(tables, "table2", "--data-root", root, "--out", tmp_path / "out", *argv)
    assert outcome.status == 2
    assert message in outcome.err
    assert not (tmp_path / "out").exists()


def test_without_submitit_the_extra_to_install_is_named(
    tables: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    outcome = command(tables, "table2", "--data-root", root, "--out", tmp_path / "out", "--executor", "local")
    assert outcome.status == 2
    assert "pip install 'csd-retrieval[cluster]'" in outcome.err
