"""``python -m reproduce NAME`` regenerates a table or an experiment; other words are commands on what is there."""

from __future__ import annotations

import argparse
import shlex
import sys
from functools import partial

import torch

from datamodules import DataError
from datamodules.files.sources import user_path
from reproduce.files import write_results
from reproduce.measurements import numerics, scaling
from reproduce.report import page
from reproduce.results import claims, compare, diff
from reproduce.results.schema import TableError, replace_file
from reproduce.runs import estimate
from reproduce.runs.checks import load_table
from reproduce.runs.executors import Executor, ExecutorError, Jobs, pool, slurm_parameters
from reproduce.runs.machine import duration, quiet, workers
from reproduce.runs.plan import Plan
from reproduce.runs.spec import SpecError, Table, available_tables
from reproduce.runs.store import RunStore

ONLY = ("dataset", "features", "method", "protocol")
# What does not train the runs of a YAML file: the first two measure the losses themselves.
COMMANDS = {
    "table1": numerics.main,
    "scaling": scaling.main,
    "claims": claims.main,
    "compare": compare.main,
    "diff": diff.main,
    "report": page.main,
    "clean-runs": estimate.main,
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: words after ``python -m reproduce``; by default those of the process.

    Returns:
        0; 1 where a run failed; 2 where data, arguments, folders or the scheduler do not allow it.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv and argv[0] in COMMANDS:
            return COMMANDS[argv[0]](argv[1:])
        return _regenerate(_parse(argv), argv)
    except (DataError, SpecError, TableError, ExecutorError) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nreproduce: stopped; finished runs are kept, the same command goes on from them", file=sys.stderr)
        return 130


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reproduce",
        description="Regenerate a table or an experiment into CSV, Markdown, YAML and PNG. Instead of its name a "
        f"command may stand: {', '.join(COMMANDS)}.",
    )
    names = available_tables()
    parser.add_argument("table", help=", ".join(names))
    parser.add_argument("--scale", default="quick", help="quick (default, for a CPU) or paper (for a GPU)")
    parser.add_argument("--data-root", help="folder of the data sets; by default CSD_DATA, else data/")
    parser.add_argument("--out", default="results", type=user_path, help="folder for the results (default: results)")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds to average over (default: those of the scale)")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"only rows with this value, the others stay as they are; KEY is one of {', '.join(ONLY)}",
    )
    parser.add_argument("--offline", action="store_true", help="never fetch data")
    parser.add_argument("--dry-run", action="store_true", help="only list the runs, with an estimate of their time")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at once (default: one per core, or one on a GPU; with slurm all)",
    )
    parser.add_argument(
        "--executor",
        choices=("local", "slurm"),
        default="local",
        help="where runs are trained: in worker processes, which end with this command (default), or each in a job of "
        "its own on a Slurm cluster, where data and results are on a shared file system",
    )
    parser.add_argument(
        "--slurm",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="what a job asks of Slurm, by submitit's names, such as partition=gpu gpus_per_node=1 timeout_min=90; "
        "timeout_min is a day by default",
    )
    arguments = parser.parse_args(argv)
    if arguments.table not in names:
        parser.error(f"there is no {arguments.table!r}; there are {', '.join(sorted([*names, *COMMANDS]))}")
    pairs = [pair.partition("=") for pair in arguments.only]
    for key, equals, value in pairs:
        if key not in ONLY or not equals or not value:
            parser.error(f"--only {key}{equals}{value}: expected KEY=VALUE with KEY one of {', '.join(ONLY)}")
    arguments.only = {key: value for key, _, value in pairs}
    if len(arguments.only) < len(pairs):
        parser.error("--only: each KEY once; run the command once per value")
    if arguments.seeds and (min(arguments.seeds) < 0 or len(set(arguments.seeds)) < len(arguments.seeds)):
        parser.error(f"--seeds {arguments.seeds}: expected different integers, none negative")
    if arguments.jobs is not None and arguments.jobs < 1:
        parser.error(f"--jobs {arguments.jobs}: expected 1 or more")
    if arguments.slurm and arguments.executor != "slurm":
        parser.error("--slurm goes with --executor slurm")
    return arguments


def _executor(arguments: argparse.Namespace) -> Executor:
    if arguments.executor == "local":
        return partial(pool, arguments.jobs or workers())
    return Jobs(arguments.out / "runs" / "jobs", arguments.jobs, slurm_parameters(arguments.slurm))


def _regenerate(arguments: argparse.Namespace, argv: list[str]) -> int:
    table = load_table(arguments.table)
    if arguments.scale not in table.scales:
        raise SpecError(f"{table.name} has no scale {arguments.scale!r}; there are {', '.join(table.scales)}")
    methods = {"method": [m.method for m in table.methods], "protocol": [m.protocol for m in table.methods]}
    _check_only(arguments.only, {"dataset": [dataset.dataset for dataset in table.datasets], **methods}, table)
    quiet(threads=1)
    plan = Plan(
        table,
        arguments.scale,
        arguments.data_root,
        arguments.seeds or table.scales[arguments.scale].seeds,
        RunStore(arguments.out / "runs" / "kept"),
        arguments.offline,
        arguments.only,
        _executor(arguments),
    )
    datasets, absent = plan.available()
    for dataset, reason in absent.items():
        print(f"{dataset.dataset}/{dataset.features} is not run: {reason}")
    if not (runs := plan.needed(datasets)):
        _check_only(arguments.only, {"features": [one.features for one in (*table.datasets, *datasets)]}, table)
        raise SpecError(
            f"--only {shlex.join(map('='.join, arguments.only.items()))} leaves no row of {table.name} that can be run"
        )
    if arguments.dry_run:
        print(estimate.format_plan(plan, runs))
        return 0
    folder = arguments.out
    if datasets == [table.synthetic]:
        folder = arguments.out / "synthetic"
        print(f"NO DATA SET FOUND: {table.name} runs on SYNTHETIC data into {folder}/; its numbers compare to nothing")
    for place in (folder, plan.store.folder):
        replace_file(place / f".{table.name}.writable", "").unlink()  # refused now rather than after the training
    if arguments.scale == "paper" and arguments.executor != "slurm" and not torch.cuda.is_available():
        seconds = sum(estimate.run_seconds(plan.missing(runs), plan.root).values()) / (arguments.jobs or workers())
        print(f"paper scale is a GPU's work: on this CPU it takes about {duration(seconds)}", flush=True)
    finals = plan.execute(datasets)
    written = write_results(plan, finals, absent, folder, f"python -m reproduce {shlex.join(argv)}")
    print(f"wrote {', '.join(map(str, written))}")
    for error in plan.errors.values():
        print(f"failed: {error}", file=sys.stderr)
    return 1 if plan.errors else 0


def _check_only(only: dict[str, str], values: dict[str, list[str]], table: Table) -> None:
    """Raise for a value of --only that no row of the table has, where the values of its key are known."""
    for key, value in only.items():
        if key in values and value not in values[key]:
            there = "; ".join(dict.fromkeys(values[key]))
            raise SpecError(f"--only {key}={value}: no row of {table.name} has it; there are: {there}")


if __name__ == "__main__":
    sys.exit(main())
