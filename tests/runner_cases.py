"""Tiny tables, their data, and the command line run on them: what the tests of regenerating a table share."""

import csv
import fnmatch
import io
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from test_training import write_pairs

import reproduce.__main__ as command_line
from reproduce import regenerate
from reproduce.names import table_files
from reproduce.runs.checks import load_table
from reproduce.runs.executors import Ended, Run, train
from reproduce.runs.spec import read_yaml
from reproduce.runs.store import RunStore

TINY = """
title: A tiny table
class_split: standard
metrics: [MAP, R@5]
datasets:
  - {dataset: tiny, features: own, class_path: OwnData, init_args: {class_encoder: one-hot, batch_size: 16}}
  - {dataset: absent, features: own, class_path: OwnData, init_args: {class_encoder: one-hot}}
synthetic: {dataset: synthetic, features: synthetic, class_path: Synthetic}
methods:
  - {method: CCA, model: CCA, trials: [{components: 1}, {components: 2}]}
  - {method: semantic matching, model: SemanticMatching, trials: [{C: 0.01}, {C: 1.0}]}
  - {method: JFSE, model: JFSE}
  - method: JFSE + CS
    model: JFSE
    init_args: {alignment: cs}
    trials: [{alignment_weight: 0.1}, {alignment_weight: 3.0, alignment: {temperature: 0.5}}]
comparisons: [[JFSE + CS, JFSE], [JFSE, CCA]]
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
  - {method: broken seeds, model: SemanticMatching, init_args: {C: -1.0}}
  - {method: JFSE, model: JFSE}
"""


@dataclass(frozen=True)
class Outcome:
    """What a call of the command line returned and printed."""

    status: int
    out: str
    err: str


@contextmanager
def as_before() -> Iterator[None]:
    """The command prepares its own process; here that is the one of all tests."""
    threads = torch.get_num_threads()
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    yield
    torch.set_num_threads(threads)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


# A test file takes the fixtures by assignment: imported, they would count as unused names.
@pytest.fixture(scope="module", autouse=True)
def undo_quiet():
    with as_before():
        yield


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    (folder / "table2.yaml").write_text(TINY, encoding="utf-8")
    base = yaml.safe_load(TINY)
    (folder / "base.yaml").write_text(yaml.safe_dump({**base, "methods": [], "comparisons": []}), encoding="utf-8")
    (folder / "table3.yaml").write_text(BROKEN, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_pairs(folder / "tiny")
    return folder


def shorten(name: str, folder: Path, methods: Sequence[str] = (), epochs: int = 1, **model: float) -> None:
    """Write a shipped table with one seed and trial and few epochs; of some methods alone where they are named."""
    content = read_yaml(table_files()[name])
    scale = content["scales"]["quick"]
    model = {**scale["model"], **model}
    content["scales"] = {"quick": {**scale, "seeds": [0], "max_epochs": epochs, "min_steps": [], "model": model}}
    for method in content["methods"]:
        method["trials"] = method.get("trials", [])[:1]
    if methods:
        content["methods"] = [method for method in content["methods"] if method["method"] in methods]
        content["comparisons"] = []
        for dataset in (*content["datasets"], content["synthetic"]):
            dataset["exclude"] = [each for each in dataset.get("exclude", []) if fnmatch.filter(methods, each)]
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def train_here(runs: Sequence[Run], root: str | None, store: RunStore) -> Ended:
    """An executor without worker processes, which take longer to start than a tiny run to train."""
    for one in runs:
        yield one, train(one.key, one.config, root, store.folder)


def command(tables: Path, *argv: str | Path, workers: bool = False) -> Outcome:
    """The command line, in this process, on the tables of a folder; runs in worker processes where it is said so."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err), as_before():
        patch.setattr(regenerate, "load_table", partial(load_table, folder=tables))
        patch.setattr(command_line, "table_files", lambda: table_files() | table_files(tables))
        if not workers:
            patch.setattr(regenerate, "executor_of", lambda arguments: train_here)
        try:
            status = command_line.main([str(word) for word in argv])
        except SystemExit as stop:
            status = stop.code
    return Outcome(status, out.getvalue(), err.getvalue())


def kept(folder: Path, on: str = "") -> dict[str, dict]:
    """Key -> content of the runs that are kept; only those scored on "validation" or "test" where it is said."""
    files = sorted((folder / "runs" / "kept").glob("*.json"))
    runs = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    return {key: run for key, run in runs.items() if run["config"]["evaluate"]["on"].startswith(on)}


def mtimes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "runs" / "kept").glob("*.json")}


def timeless(path: Path) -> list[dict[str, str]]:
    """Every column but train_seconds."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: cell for key, cell in row.items() if key != "train_seconds"} for row in csv.DictReader(file)]


def rows_of(table: pd.DataFrame, **values: object) -> list[Any]:
    rows = table.itertuples(index=False)
    return [row for row in rows if all(getattr(row, name) == value for name, value in values.items())]
