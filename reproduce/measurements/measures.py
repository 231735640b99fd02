"""What tables of measurements share: their command line, where a number comes from, timing, and the files of a table.

Such a table measures the losses themselves on generated inputs: time, memory and arithmetic, no retrieval.
"""

import argparse
import hashlib
import json
import shlex
import statistics
import sys
from collections.abc import Callable, Hashable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch.utils.benchmark.utils.timer import timer

from datamodules import RetrievalData
from datamodules.files.sources import user_path
from lightning_modules import prepare
from lightning_modules.base import RetrievalModule
from reproduce.report.markdown import render_measures
from reproduce.results.companion import dump_yaml
from reproduce.results.schema import Row, TableError, replace_file, table_of, write_table
from reproduce.runs.machine import SILENT, VERSIONS, device_name, git_commit, quiet

WARM_UP = 3
# The rows in order; what the metrics are and what the numbers say, in Markdown; and what draws the picture at a path.
Measured = tuple[list[Row], str, Callable[[Path], None]]


def command(
    table: str,
    title: str,
    scales: Mapping[str, dict],
    settings: Mapping[str, Any],
    measure: Callable[[dict[str, Any], dict[str, str]], Measured],
    argv: list[str],
) -> int:
    """Run the command line of a table of measurements, and write its CSV, Markdown, YAML and picture.

    Args:
        table: its name.
        title: what it measures.
        scales: name of a scale -> how many inputs and repeats.
        settings: everything else that is set, for the YAML.
        measure: called with the entry of the scale and the columns that all rows share.
        argv: words after ``python -m reproduce <table>``.

    Returns:
        0; 2 where the folder cannot be written to.
    """
    parser = argparse.ArgumentParser(prog=f"python -m reproduce {table}", description=title)
    parser.add_argument("--scale", choices=tuple(scales), default="quick", help="how many inputs and repeats")
    parser.add_argument("--out", default="results", type=user_path, help="folder for the results (default: results)")
    arguments = parser.parse_args(argv)
    quiet(threads=1)
    scale = arguments.scale
    config = {**settings, "scale": {scale: scales[scale]}}
    columns = {"table": table, "scale": scale, **origin(config)}
    companion = {"table": table, "command": shlex.join(["python", "-m", "reproduce", table, *argv]), **config}
    path = arguments.out / f"{table}.csv"
    return write_measures(path, title, companion, lambda: measure(scales[scale], columns), "reproduce")


def write_measures(
    path: Path, title: str, companion: Mapping[str, Any], measure: Callable[[], Measured], program: str
) -> int:
    """Measure, and write <table>.csv, .yaml, .md and .png.

    Args:
        path: the CSV.
        title: heading of the Markdown.
        companion: content of the YAML.
        measure: called once the folder can be written to.
        program: what a refusal is said by.

    Returns:
        0; 2 where the folder cannot be written to, which is found out before the work.
    """
    try:
        replace_file(path.parent / f".{path.stem}.writable", "").unlink(missing_ok=True)
        rows, text, draw = measure()
        table = table_of(rows)
        write_table(table, path)
        replace_file(path.with_suffix(".yaml"), dump_yaml(dict(companion)))
        replace_file(path.with_suffix(".md"), render_measures(table, path, title, text))
        draw(path.with_suffix(".png"))
    except TableError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    print(f"wrote {path}, and beside it .md, .png and .yaml")
    return 0


def device() -> torch.device:
    """Where losses are measured: the GPU where there is one, as the column "device" says."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def origin(config: Mapping[str, Any]) -> dict[str, str]:
    """The columns that say where a number comes from.

    Args:
        config: everything that was set.
    """
    text = json.dumps([config, VERSIONS], sort_keys=True)
    return {
        "device": device_name(),
        "git_commit": git_commit(),
        "torch": torch.__version__,
        "config_hash": hashlib.sha256(text.encode()).hexdigest()[:16],
    }


def measured(metric: str, value: float | None, **columns: Any) -> Row:
    """A row of generated data; without a value it is a failed one, whose note says why."""
    status = "ok" if value is not None else "failed"
    fixed = {"gallery": "full", "protocol": "honest", "direction": "average", "data_kind": "synthetic"}
    return Row(**{"split": "generated", **fixed, **columns}, metric=metric, value=value, status=status)


def median_seconds(steps: Mapping[Hashable, Callable[[], Any]], repeats: int) -> dict[Hashable, float]:
    """Median seconds of each step; steps take turns, so that a busy moment of the machine slows all of them.

    Args:
        steps: key -> what is timed.
        repeats: timed calls of each, after a few that are not; what is timed once takes too long for those.
    """
    warm_up = WARM_UP if repeats > 1 else 0
    seconds: dict[Hashable, list[float]] = {key: [] for key in steps}
    for _, (key, step) in product(range(warm_up + repeats), steps.items()):
        start = timer()  # which waits for the GPU where there is one
        step()
        seconds[key].append(timer() - start)
    return {key: statistics.median(values[warm_up:]) for key, values in seconds.items()}


def epoch_seconds(model: RetrievalModule, data: RetrievalData, epochs: int, **limits: Any) -> tuple[list[float], int]:
    """Train by a Trainer that does nothing else.

    Args:
        model: the model.
        data: what it is trained on.
        epochs: how many are timed, after one that is not.
        **limits: of the Trainer.

    Returns:
        Seconds of each epoch, and how many steps it has.
    """
    ends: list[float] = []
    clock = LambdaCallback(on_train_epoch_end=lambda *_: ends.append(timer()))
    options = {"max_epochs": epochs + 1, "limit_val_batches": 0, "devices": 1, **limits, **SILENT}
    trainer = L.Trainer(callbacks=[clock], **options)
    prepare(model, data)
    trainer.fit(model, data)
    return np.diff(ends).tolist(), trainer.num_training_batches
