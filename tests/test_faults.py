"""Faults while a table is made or a model is scored: kills, full disks, damaged files."""

import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cli_cases
import numpy as np
import psutil
import pytest
import runner_cases
import torch
import yaml
from cli_cases import checkpoints, metrics, refused, write_config
from lightning.pytorch.callbacks import Callback
from runner_cases import TINY, command, mtimes, timeless
from test_pickled_features import Call
from test_training import RESULT

from datamodules import DataError
from lightning_modules.jfse import JFSE
from reproduce.runs.store import RunStore

tables, root = runner_cases.tables, runner_cases.root
fitted = cli_cases.fitted
FORK = multiprocessing.get_context("fork")  # a process that has imported everything already

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


@pytest.fixture(scope="module")
def whole(tables, root, tmp_path_factory):
    """The folder of a table that nothing disturbed, and the seconds that it took."""
    out, start = tmp_path_factory.mktemp("whole"), time.monotonic()
    process = _table(tables, root, out)
    process.join()
    assert process.exitcode == 0
    return out, time.monotonic() - start


def _table(tables: Path, root: Path, out: Path) -> multiprocessing.Process:
    words = ("table2", "--data-root", root, "--out", out)
    process = FORK.Process(target=lambda: sys.exit(command(tables, *words).status))
    process.start()
    return process


def _assert_ends_as(whole: Path, out: Path, tables: Path, root: Path) -> str:
    """The same command makes the same table of the runs that are there; returns what it prints."""
    finished = mtimes(out)
    outcome = command(tables, "table2", "--data-root", root, "--out", out)
    assert outcome.status == 0, outcome.err
    assert timeless(out / "table2.csv") == timeless(whole / "table2.csv")
    assert finished.items() <= mtimes(out).items()
    assert mtimes(out).keys() == mtimes(whole).keys()
    return outcome.out


# Kills ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(30) if n != 1)])
def test_a_table_killed_at_a_random_moment_loses_and_repeats_no_finished_run(seed, whole, tables, root, tmp_path):
    process = _table(tables, root, tmp_path)
    process.join(whole[1] * random.Random(seed).random())
    process.kill()
    process.join()
    store = RunStore(tmp_path / "runs" / "kept")
    assert all(store.load(Path(name).stem, arrays=True) for name in mtimes(tmp_path))
    _assert_ends_as(whole[0], tmp_path, tables, root)


@pytest.mark.slow
def test_two_runs_of_one_table_at_once_both_make_it(whole, tables, root, tmp_path):
    both = [_table(tables, root, tmp_path) for _ in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert timeless(tmp_path / "table2.csv") == timeless(whole[0] / "table2.csv")
    assert "to train" not in _assert_ends_as(whole[0], tmp_path, tables, root)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was_and_ends_with_the_same_table(tables, root, tmp_path):
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
def test_an_interrupt_does_not_wait_for_runs_that_run_or_queue(tables, root, tmp_path):
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


# Full disks and places that cannot be written -------------------------------------------------------------------------


@contextmanager
def _no_file_above(size: int) -> Iterator[None]:
    """Writing meets this limit as it meets a full disk."""
    before, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    _limit(size)
    try:
        yield
    finally:
        _limit(before)


def _limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_a_disk_that_is_full_at_any_file_of_a_table_is_said_and_leaves_no_half_file(
    share, whole, tables, root, tmp_path
):
    shutil.copytree(whole[0] / "runs", tmp_path / "runs")
    sizes = sorted(path.stat().st_size for path in whole[0].glob("**/*") if path.is_file() and "runs" not in path.parts)
    with _no_file_above(sizes[round(share * (len(sizes) - 1))] - 1):
        outcome = command(tables, "table2", "--data-root", root, "--out", tmp_path)
    assert outcome.status == 2
    assert "cannot be written (File too large)" in outcome.err
    assert not list(tmp_path.rglob("*.part"))
    assert "to train" not in _assert_ends_as(whole[0], tmp_path, tables, root)


def test_a_disk_that_is_full_at_a_finished_run_is_said(whole, tables, root, tmp_path):
    with _no_file_above(300), pytest.warns(UserWarning, match="File too large"):
        outcome = command(tables, "table2", "--data-root", root, "--out", tmp_path)
    assert outcome.status == 2
    assert "a finished run cannot be kept" in outcome.err
    _assert_ends_as(whole[0], tmp_path, tables, root)


def test_a_full_disk_keeps_the_run_that_was_there(tmp_path):
    store = RunStore(tmp_path)
    store.save("key", {}, RESULT)
    for arrays in ({}, {"AP/standard/image->text": np.array([0.5])}):
        with _no_file_above(10), pytest.warns(UserWarning, match="large"), pytest.raises(DataError, match=r"key\.json"):
            store.save("key", {}, replace(RESULT, train_seconds=2.0, arrays=arrays))
        assert (store.load("key").scores, store.load("key").train_seconds) == (RESULT.scores, 1.0)
        assert [path.name for path in tmp_path.iterdir()] == ["key.json"]


@pytest.mark.parametrize("place", [".", "runs", "runs/kept", "table2.csv", "configs", "read-only"])
def test_a_place_that_cannot_be_written_is_named(place, whole, tables, root, tmp_path):
    out = Path("/proc/results") if place == "read-only" else tmp_path / "out"
    if place == "table2.csv":
        (out / place / "something").mkdir(parents=True)
        shutil.copytree(whole[0] / "runs", out / "runs")
    elif place != "read-only":
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        (out / place).write_text("in the way")
    outcome = command(tables, "table2", "--data-root", root, "--out", out)
    assert outcome.status == 2
    assert str(out / place if place != "read-only" else out) in outcome.err
    assert place in ("table2.csv", "configs") or "to train" not in outcome.out  # refused before anything is trained
    assert not (out / place).is_file() or (out / place).read_text() == "in the way"


class Full(Callback):
    """From its second epoch on a training, and a prediction from its start, meets a full disk."""

    def on_train_epoch_start(self, trainer, module) -> None:
        if trainer.current_epoch == 1:
            _limit(20_000)

    def on_predict_epoch_start(self, trainer, module) -> None:
        _limit(300)


def test_a_full_disk_is_said_and_spoils_nothing_written_before(tmp_path, capsys):
    for name, *more in (("fit",), ("predict", "--ckpt_path", "last")):
        given = ("--config", write_config(tmp_path), "--trainer.default_root_dir", tmp_path / "run", *more)
        with _no_file_above(resource.RLIM_INFINITY):  # which the callback lowers
            said = refused(capsys, name, *given, f"--trainer.callbacks+={__name__}.Full")
        assert "File too large" in said.split("csd: ")[-1]
    assert not list((tmp_path / "run").glob("*.npz"))
    for path in checkpoints(tmp_path, 0).values():
        assert torch.load(path, weights_only=True)["epoch"] == 0
        JFSE.load_from_checkpoint(path)
    assert set(checkpoints(tmp_path, 0)) == {"best", "last"}
    assert metrics(tmp_path, 0)["val/average/MAP"].notna().any()


# Damaged files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["json", "npz"])
@pytest.mark.parametrize("share", [None, 0.0, 0.5, 0.99], ids=["missing", "empty", "half", "nearly whole"])
def test_a_kept_run_that_is_not_whole_is_trained_again_alone(kind, share, whole, tables, root, tmp_path):
    shutil.copytree(whole[0] / "runs", tmp_path / "runs")
    file = sorted((tmp_path / "runs" / "kept").glob(f"*.{kind}"))[3]
    content = file.read_bytes()
    file.unlink() if share is None else file.write_bytes(content[: int(share * len(content))])
    before = mtimes(tmp_path)
    outcome = command(tables, "table2", "--data-root", root, "--out", tmp_path)
    assert outcome.status == 0, outcome.err
    assert timeless(tmp_path / "table2.csv") == timeless(whole[0] / "table2.csv")
    assert dict(mtimes(tmp_path).items() ^ before.items()).keys() == {f"{file.stem}.json"}


def test_a_kept_run_whose_arrays_are_damaged_is_named(whole, tables, root, tmp_path):
    shutil.copytree(whole[0] / "runs", tmp_path / "runs")
    files = sorted((tmp_path / "runs" / "kept").glob("*.npz"))
    for file in files:
        content = bytearray(file.read_bytes())
        content[200] ^= 1
        file.write_bytes(content)
    outcome = command(tables, "table2", "--data-root", root, "--out", tmp_path)
    assert outcome.status == 2
    assert any(f"{file}: is damaged" in outcome.err for file in files)


@pytest.mark.parametrize("damage", [b"[1]", b"{}", b"\xff\xfe{}", b"[" * 10**5])
def test_a_kept_run_of_something_else_counts_as_missing(tmp_path, damage):
    (tmp_path / "key.json").write_bytes(damage)
    assert RunStore(tmp_path).load("key") is None


@pytest.mark.parametrize("kind", ["absent", "empty", "truncated", "a folder", "text", "no weights", "code"])
def test_a_checkpoint_that_cannot_be_read_is_named_and_runs_no_code(kind, fitted, tmp_path, capsys):
    path, marker = tmp_path / "wanted.ckpt", tmp_path / "executed"
    content = {"empty": b"", "text": b"no checkpoint", "code": pickle.dumps(Call(os.system, f"touch {marker}"))}
    if kind == "a folder":
        path.mkdir()
    elif kind == "no weights":
        torch.save({"state_dict": {"weight": Call(os.system, f"touch {marker}")}}, path)
    elif kind != "absent":
        path.write_bytes(content.get(kind) or checkpoints(fitted, 0)["last"].read_bytes()[:5000] * (kind != "empty"))
    message = refused(capsys, "test", "--config", write_config(tmp_path), "--ckpt_path", path)
    assert str(path) in message
    assert "free space" not in message
    assert not marker.exists()
