"""What a table would train, how long that takes here, and which finished cells there are to delete."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from datamodules.files.sources import user_path
from reproduce.cells import run_cell
from reproduce.runner import Cell, Run, duration, workers
from reproduce.spec import TRAINED

# A baseline counts as many training steps as this many seconds would be worth at the speed of the others.
BASELINE_SECONDS = 2.0
MEASURED_STEPS = 10


def missing_cells(run: Run, cells: Sequence[Cell]) -> list[Cell]:
    """Those of the cells that are not finished."""
    return [cell for cell in cells if run.store.load(cell.key) is None]


def cell_seconds(run: Run, cells: Sequence[Cell]) -> dict[str, float]:
    """Key -> seconds that the cell's training takes here on one core.

    The first cell of every model on every data set takes one step, and again eleven: the difference is that of ten
    steps, and what the first run takes beyond a step is spent once per cell.

    Args:
        run: the table to regenerate.
        cells: the cells.
    """
    costs: dict[tuple, tuple[float, float]] = {}
    seconds = {}
    for cell in cells:
        kind = (cell.dataset, cell.method.model)
        if cell.method.model not in TRAINED:
            seconds[cell.key] = BASELINE_SECONDS
            continue
        if kind not in costs:
            costs[kind] = _costs(cell, run.root)
        start, step = costs[kind]
        seconds[cell.key] = start + cell.steps * step
    return seconds


def _costs(cell: Cell, root: str | None) -> tuple[float, float]:
    """Seconds that a training takes before its first step, and that a step takes."""
    epoch = cell.steps // cell.config["max_epochs"]
    more = min(MEASURED_STEPS, epoch - 1)  # an epoch may have fewer
    found = []
    for steps in dict.fromkeys((1, 1 + more)):
        few = {**cell.config, "max_epochs": 1, "limit_train_batches": steps}
        found.append(run_cell(few, root)["train_seconds"])
    step = max(found[-1] - found[0], 0.0) / more if more else found[0]
    return max(found[0] - step, 0.0), step


def format_plan(run: Run, cells: Sequence[Cell]) -> str:
    """Every cell with its estimate, or that it is finished, and the sum on this machine's workers."""
    missing = missing_cells(run, cells)
    seconds = cell_seconds(run, missing)
    lines = [f"{cell.name}: {duration(seconds[cell.key]) if cell.key in seconds else 'finished'}" for cell in cells]
    total = duration(sum(seconds.values()) / workers())
    lines.append(
        f"{run.table.name}: {len(missing)} cells to train, {len(cells) - len(missing)} finished; about {total} with "
        f"{workers()} at once"
    )
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Say which finished cells there are, and delete them where told to; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduce clean-cells", description="Say what finished cells would be deleted; tables stay."
    )
    parser.add_argument("--out", default="results", type=user_path, help="folder of the results (default: results)")
    parser.add_argument("--yes", action="store_true", help="delete them")
    arguments = parser.parse_args(argv)
    folder = arguments.out / "runs" / "cells"
    files = [path for path in sorted(folder.glob("*")) if path.suffix in (".json", ".npz")]
    cells = sum(path.suffix == ".json" for path in files)
    size = sum(path.stat().st_size for path in files) / 2**20
    what = f"{cells} finished cells ({len(files)} files, {size:.1f} MiB) in {folder}"
    if not arguments.yes:
        print(f"would delete {what}; add --yes to do it" if files else f"nothing to delete in {folder}")
        return 0
    for path in files:
        path.unlink()
    print(f"deleted {what}")
    return 0
