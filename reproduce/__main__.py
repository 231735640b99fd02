"""``python -m reproduce NAME`` regenerates a table or an experiment; other words are commands on what is there."""

import argparse
import difflib
import sys
from importlib import import_module

from datamodules.files.sources import user_path
from reproduce.names import table_files

ONLY = ("dataset", "features", "condition", "method", "protocol")
# What does not train the runs of a YAML file: the first two measure the losses themselves. Imported when called, so
# that a help text or a misspelt name is answered at once.
COMMANDS = {
    "table1": "measurements.numerics",
    "scaling": "measurements.scaling",
    "own": "own",
    "claims": "results.claims",
    "compare": "results.compare",
    "diff": "results.diff",
    "report": "report.page",
    "clean-runs": "runs.estimate",
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: words after ``python -m reproduce``; by default those of the process.

    Returns:
        0; 1 where a run failed; 2 where data, arguments, folders or the scheduler do not allow it.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS and argv[0] != "own":
        name, call = COMMANDS[argv[0]], lambda module: module.main(argv[1:])
    else:
        arguments = _parse(argv)
        name, call = COMMANDS.get(arguments.table, "regenerate"), lambda module: module.regenerate(arguments, argv)
    try:
        return call(import_module(f"reproduce.{name}"))
    except KeyboardInterrupt:
        print("\nreproduce: stopped; finished runs are kept, the same command goes on from them", file=sys.stderr)
        return 130
    except ValueError as error:
        from reproduce.regenerate import REFUSALS

        if not isinstance(error, REFUSALS):
            raise
        print(f"reproduce: {error}", file=sys.stderr)
        return 2


def _parse(argv: list[str]) -> argparse.Namespace:
    own = argv[:1] == ["own"]
    whole = (
        "Regenerate a table or an experiment into CSV, Markdown, YAML and PNG. Other commands, each with a --help of "
        f"its own: {', '.join(COMMANDS)}."
    )
    said = "Linear methods and losses on data of one's own, as a table." if own else whole
    parser = argparse.ArgumentParser(prog="python -m reproduce" + " own" * own, description=said)
    names, add = list(table_files()), parser.add_argument
    if own:
        add("--data", type=user_path, required=True, metavar="PATH", help="file or folder, as OwnData reads")
        add("--methods", nargs="+", default=["*"], help="names of methods, with * for any text")
        add("--modalities", nargs="+", help="those to use (default: all)")
        parser.set_defaults(table="own", only=[], offline=True, executor="local", slurm=[])
    else:
        add("table", help=", ".join(names))
        add("--data-root", help="folder of the data sets; by default CSD_DATA, else data/")
        only = f"only rows with this value, the others stay as they are; KEY is one of {', '.join(ONLY)}"
        add("--only", action="append", default=[], metavar="KEY=VALUE", help=only)
        add("--offline", action="store_true", help="never fetch data")
        executor = (
            "where runs are trained: in worker processes, which end with this command (default), or each in a job of "
            "its own on a Slurm cluster, where data and results are on a shared file system"
        )
        add("--executor", choices=("local", "slurm"), default="local", help=executor)
        slurm = (
            "what a job asks of Slurm, by submitit's names, such as partition=gpu gpus_per_node=1 timeout_min=90; "
            "timeout_min is a day by default"
        )
        add("--slurm", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=slurm)
    add("--scale", default="quick", help="quick (default, for a CPU) or paper (for a GPU)")
    add("--out", default="results", type=user_path, help="folder for the results (default: results)")
    add("--seeds", type=int, nargs="+", help="seeds to average over (default: those of the scale)")
    at_once = f"runs at once (default: one per core, or one on a GPU{'; with slurm all' * (not own)})"
    add("--jobs", type=int, metavar="N", help=at_once)
    add("--dry-run", action="store_true", help="only list the runs, with an estimate of their time")
    arguments = parser.parse_args(argv[1:] if own else argv)
    if not own and arguments.table in COMMANDS:
        parser.error(f"{arguments.table} is a command with arguments of its own; give it first")
    if not own and arguments.table not in names:
        known = [*names, *COMMANDS]  # not by losses.registry.nearest, as torch takes seconds
        close = difflib.get_close_matches(arguments.table.lower(), known, cutoff=0.5)
        said = f"{'nearest' if close else 'there are'}: {', '.join(close or known)}"
        parser.error(f"there is no {arguments.table!r}; {said}")
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


if __name__ == "__main__":
    sys.exit(main())
