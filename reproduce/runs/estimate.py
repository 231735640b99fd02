"""What a table would train, how long that takes here, and which finished runs there are to delete."""

import argparse
from collections.abc import Sequence

from datamodules.files.sources import user_path
from reproduce.runs.config import model_class
from reproduce.runs.executors import Run
from reproduce.runs.machine import duration, workers
from reproduce.runs.plan import Plan
from reproduce.runs.training import run as train

# A model that takes no steps counts for this many seconds.
CLOSED_FORM_SECONDS = 2.0
MEASURED_STEPS = 10


def run_seconds(runs: Sequence[Run], root: str | None) -> dict[str, float]:
    """Key of a run that is not finished -> seconds that its training takes here on one core.

    The first run of every model with its encoders on every data set takes one step, and again eleven: the difference is
    that of ten steps, and what the first takes beyond a step is spent once per run.

    Args:
        runs: the runs.
        root: the data root, or None.
    """
    costs: dict[str, tuple[float, float]] = {}
    seconds = {}
    for run in (run for run in runs if run.result is None):
        model, data = run.config["model"], run.config["data"]
        if model_class(model["class_path"]).closed_form:
            seconds[run.key] = CLOSED_FORM_SECONDS
            continue
        read = {name: data["init_args"].get(name) for name in ("features", "dataset", "modalities", "names")}
        kind = str((model["class_path"], model["init_args"].get("encoders"), data["class_path"], read))
        if kind not in costs:
            costs[kind] = _costs(run, root)
        start, step = costs[kind]
        seconds[run.key] = start + run.steps * step
    return seconds


def _costs(run: Run, root: str | None) -> tuple[float, float]:
    """Seconds that a training takes before its first step, and that a step takes."""
    epoch = run.steps // run.config["trainer"]["max_epochs"]
    more = min(MEASURED_STEPS, epoch - 1)  # an epoch may have fewer
    found = []
    for steps in dict.fromkeys((1, 1 + more)):
        trainer = {**run.config["trainer"], "max_epochs": 1, "limit_train_batches": steps}
        if "check_val_every_n_epoch" in trainer:
            trainer["check_val_every_n_epoch"] = 1
        found.append(train({**run.config, "trainer": trainer}, root).train_seconds)
    step = max(found[-1] - found[0], 0.0) / more if more else found[0]
    return max(found[0] - step, 0.0), step


def format_plan(plan: Plan, runs: Sequence[Run]) -> str:
    """Every run with its estimate, or that it is finished, and the sum on this machine's workers."""
    seconds = run_seconds(runs, plan.root)
    lines = [f"{run.name}: {duration(seconds[run.key]) if run.key in seconds else 'finished'}" for run in runs]
    total = duration(sum(seconds.values()) / workers())
    counts = f"{len(seconds)} runs to train, {len(runs) - len(seconds)} finished"
    return "\n".join([*lines, f"{plan.table.name}: {counts}; about {total} with {workers()} at once"])


def main(argv: list[str]) -> int:
    """Say which finished runs there are, and delete them where told to; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduce clean-runs", description="Say what finished runs would be deleted; tables stay."
    )
    parser.add_argument("--out", default="results", type=user_path, help="folder of the results (default: results)")
    parser.add_argument("--yes", action="store_true", help="delete them")
    arguments = parser.parse_args(argv)
    folder = arguments.out / "runs" / "kept"
    files = [path for path in sorted(folder.glob("*")) if path.suffix in (".json", ".npz")]
    runs = sum(path.suffix == ".json" for path in files)
    size = sum(path.stat().st_size for path in files) / 2**20
    what = f"{runs} finished runs ({len(files)} files, {size:.1f} MiB) in {folder}"
    if not arguments.yes:
        print(f"would delete {what}; add --yes to do it" if files else f"nothing to delete in {folder}")
        return 0
    for path in files:
        path.unlink()
    print(f"deleted {what}")
    return 0
