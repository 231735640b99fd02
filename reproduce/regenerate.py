"""Regenerating a table: from its file and the data to its results."""

import argparse
import shlex
import sys
from collections.abc import Iterator

import torch

from datamodules import DataError
from datamodules.datasets import DATASETS
from reproduce.files import write_results
from reproduce.results.schema import TableError, replace_file
from reproduce.runs import estimate
from reproduce.runs.arguments import SpecError
from reproduce.runs.checks import load_table
from reproduce.runs.executors import Executor, ExecutorError, Jobs, Workers
from reproduce.runs.machine import duration, quiet, workers
from reproduce.runs.plan import Plan
from reproduce.runs.presence import in_short, model_absent
from reproduce.runs.spec import DataSet, Table
from reproduce.runs.store import RunStore

# What data, a table's file, a file of results or a scheduler do not allow: said in one sentence.
REFUSALS = (DataError, SpecError, TableError, ExecutorError)


def executor_of(arguments: argparse.Namespace) -> Executor:
    """Where the command line wants runs to be trained."""
    if arguments.executor == "local":
        return Workers(arguments.jobs or workers())
    return Jobs(arguments.out / "runs" / "jobs", arguments.jobs, arguments.slurm)


def regenerate(arguments: argparse.Namespace, argv: list[str], table: Table | None = None) -> int:
    """Train what is missing of a table and write its files; return 1 where a run failed.

    Args:
        arguments: of the command line.
        argv: the words they came from, for the record.
        table: what is regenerated, where it is none that stands under its name.
    """
    table = table or load_table(arguments.table)
    if arguments.scale not in table.scales:
        raise SpecError(f"{table.name} has no scale {arguments.scale!r}; there are {', '.join(table.scales)}")
    quiet(threads=1)
    plan = Plan(
        table,
        arguments.scale,
        arguments.data_root,
        arguments.seeds or (),
        RunStore(arguments.out / "runs" / "kept"),
        arguments.offline,
        arguments.only,
        executor_of(arguments),
    )
    datasets = plan.available()
    for line in _absent_lines(plan.absent, datasets):
        print(line)
    if not (runs := plan.execute(datasets, dry=True)):
        raise SpecError(_nothing_left(arguments.only, table, datasets))
    if arguments.dry_run:
        print(estimate.format_plan(plan, runs))
        return 0
    synthetic = datasets == [table.synthetic]
    folder = arguments.out / "synthetic" if synthetic else arguments.out
    if synthetic:
        print(f"NO DATA SET FOUND: {table.name} runs on SYNTHETIC data, into {folder}/")
    for place in (folder, plan.store.folder):
        # Refused now rather than after the training.
        replace_file(place / f".{table.name}.writable", "").unlink(missing_ok=True)
    if arguments.scale == "paper" and arguments.executor != "slurm" and not torch.cuda.is_available():
        seconds = sum(estimate.run_seconds(runs, plan.root).values()) / (arguments.jobs or workers())
        print(f"paper scale is a GPU's work: on this CPU it takes about {duration(seconds)}", flush=True)
    plan.execute(datasets)
    written = write_results(plan, folder, f"python -m reproduce {shlex.join(argv)}")
    print(f"wrote {', '.join(map(str, written))}")
    if synthetic:
        print(f"SYNTHETIC DATA: the numbers in {folder}/ show that the pipeline runs, and nothing about any method")
    failed = [run for run in plan.runs.values() if run.error]
    for run in failed:
        print(f"failed: {run.error}", file=sys.stderr)
    return 1 if failed else 0


def _absent_lines(absent: dict[DataSet, str], present: list[DataSet]) -> Iterator[str]:
    """A line per data set that is not here: its rows, and the command that tells more, or the reason in short."""
    found = {dataset.dataset for dataset in present}
    for name in dict.fromkeys(dataset.dataset for dataset in absent):
        mine = {dataset: reason for dataset, reason in absent.items() if dataset.dataset == name}
        rows = ", ".join(dict.fromkeys(", ".join(filter(None, (one.features, one.condition))) for one in mine))
        if name in DATASETS and name not in found and not any(map(model_absent, mine)):
            tells = f"`python -m datamodules check {name}` says what is missing"
        else:
            tells = "; ".join(dict.fromkeys(in_short(*each) for each in mine.items()))
        yield f"{name} is not run ({rows}): {tells}"


def _nothing_left(only: dict[str, str], table: Table, datasets: list[DataSet]) -> str:
    """Why --only leaves no row: a value that none has, with those there are, or values that none has together."""
    values = {"method": table.names, "protocol": [method.protocol for method in table.methods]}
    for key in ("dataset", "features", "condition"):
        values[key] = [getattr(one, key) for one in (*table.datasets, *datasets)]
    for key, value in only.items():
        if value not in values[key]:
            there = "; ".join(dict.fromkeys(filter(None, values[key]))) or "none"
            return f"--only {key}={value}: no row of {table.name} has it; there are: {there}"
    return f"--only {shlex.join(map('='.join, only.items()))} leaves no row of {table.name} that can be run"
