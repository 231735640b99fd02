"""Regenerating a table when it is interrupted or killed: its workers end, and what is finished is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import runner_cases
import torch
import yaml
from runner_cases import TINY, command, mtimes, timeless

tables, root, undo_quiet = runner_cases.tables, runner_cases.root, runner_cases.undo_quiet

STARTED = """
import functools, pathlib, sys
import reproduce.__main__ as command_line
from reproduce import regenerate
from reproduce.runs.checks import load_table
regenerate.load_table = functools.partial(load_table, folder=pathlib.Path(sys.argv[1]))
sys.exit(command_line.main(sys.argv[2:]))
"""
LIMIT = 90  # seconds after which a process counts as hanging


def _start(tables: Path, *argv: str | Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", STARTED, str(tables), *map(str, argv)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A shell starts background jobs with the interrupt ignored, and Python then never raises it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _read_until(process: subprocess.Popen, text: str) -> str:
    """What it printed up to a line with the text; the rest where there is no such line."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            break
    return "".join(lines)


def _stop(process: subprocess.Popen, kind: signal.Signals) -> tuple[int, str]:
    """Send the signal to the parent; it and all its workers must end. Returns its status and last words."""
    workers = psutil.Process(process.pid).children()
    assert workers
    process.send_signal(kind)
    try:
        said, _ = process.communicate(timeout=LIMIT)
        _, alive = psutil.wait_procs(workers, timeout=LIMIT)
        assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]  # which nobody buries
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, said


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
        kept = mtimes(killed)
        assert finished.items() <= kept.items()
        assert len(kept) > len(finished)
        finished = kept
    assert len(finished) < 14
    assert command(tables, *argv, killed).status == 0
    assert finished.items() <= mtimes(killed).items()
    assert command(tables, *argv, whole).status == 0
    assert timeless(killed / "table2.csv") == timeless(whole / "table2.csv")
    assert mtimes(killed).keys() == mtimes(whole).keys()


@pytest.mark.slow
def test_an_interrupt_does_not_wait_for_runs_that_run_or_queue(tables: Path, root: Path, tmp_path: Path) -> None:
    long = yaml.safe_load(TINY)
    long["scales"]["quick"] |= {"max_epochs": 10**6, "seeds": list(range(8))}
    long |= {"methods": [{"method": "JFSE", "model": "JFSE"}], "comparisons": []}
    (tmp_path / "table2.yaml").write_text(yaml.safe_dump(long))
    process = _start(tmp_path, "table2", "--data-root", root, "--out", tmp_path / "out")
    assert "8 runs" in _read_until(process, "to train")
    end = time.monotonic() + LIMIT
    # Until a worker has used more processor time than its imports take: it is in the middle of a training.
    while time.monotonic() < end and all(
        worker.cpu_times().user < 20 for worker in psutil.Process(process.pid).children()
    ):
        time.sleep(0.5)
    status, said = _stop(process, signal.SIGINT)
    assert status == 130
    assert "finished runs are kept" in said
    assert "Traceback" not in said
