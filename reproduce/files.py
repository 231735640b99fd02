"""The files of a table: CSV, configurations, YAML of what was chosen, comparisons, Markdown and figures."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from reproduce.report.page import show
from reproduce.report.projection import draw_projection
from reproduce.results.companion import dump_yaml, read_companion
from reproduce.results.compare import table_paths
from reproduce.results.schema import read_table, replace_file, write_table
from reproduce.results.significance import merged, read_comparisons, write_comparisons
from reproduce.rows import comparisons, merged_rows, rows_not_run, rows_of
from reproduce.runs.config import fit_file
from reproduce.runs.plan import Plan
from reproduce.runs.spec import DataSet

CONFIGS = "configs"  # in the results folder: <config_hash>.yaml for `csd fit`
HEADER = "# Settings chosen on validation data (mean over directions of MAP), and what the runs were given.\n"


def write_results(plan: Plan, folder: Path, command: str) -> list[Path]:
    """Write <table>.csv with .yaml, .md and .png beside it, the configuration of every row, and what else it measures.

    Args:
        plan: the plan, after ``execute``.
        folder: where the files go.
        command: the command that regenerates them, for the YAML.

    Returns:
        The files written, the CSV first; of the configurations their folder.

    Raises:
        TableError: the folder cannot be written, or holds a file in a table's place that is none.
    """
    path = folder / f"{plan.table.name}.csv"
    rows = rows_of(plan)
    if plan.only:
        if path.exists():
            old = read_table(path)
            rows = merged_rows(old[[not _overtaken(row, plan) for row in old.itertuples()]], rows)
    elif not (rows["dataset"] == plan.table.synthetic.dataset).any():  # else all of the table would be not_run
        rows = pd.concat([rows, rows_not_run(plan)], ignore_index=True) if plan.absent else rows
    written, beside = [write_table(rows, path)], path.with_suffix(".yaml")
    before = read_companion(beside) if plan.only and beside.exists() else {}
    written.append(replace_file(beside, HEADER + dump_yaml(_companion(plan, command, before))))
    written += _write_configs(plan, folder)
    if plan.table.comparisons:
        place = folder / "comparisons" / path.name
        compared = comparisons(plan)
        if plan.only and place.exists():
            again = {tuple(row.columns.values())[:4] for row in plan.finals if row.method.protocol == "honest"}
            compared = merged(read_comparisons(place), compared, again)
        written.append(write_comparisons(compared, place))
    return [*written, *show(plan.table, path), *_draw_projections(plan, folder)]


def _write_configs(plan: Plan, folder: Path) -> list[Path]:
    """What `csd fit` takes for the first seed of every row; files that no table names any more go."""
    place = folder / CONFIGS
    for run, *_ in plan.finals.values():
        if run.result is not None:
            head = f"{plan.table.name}: {run.name}, scale {plan.scale}"
            replace_file(place / f"{run.key}.yaml", fit_file(run.config, head))
    there = list(place.glob("*.yaml"))  # first: what another table, made at the same time, adds has its rows by then
    named = {key for path in table_paths(folder) for key in read_table(path)["config_hash"]}
    for path in there:
        if path.stem not in named:
            path.unlink(missing_ok=True)
    return [place] if place.exists() else []


def _draw_projections(plan: Plan, folder: Path) -> Iterator[Path]:
    """Pictures of the embeddings of the first seed, a data set each."""
    panels: dict[DataSet, dict[str, str]] = defaultdict(dict)  # title -> key of its run
    for (dataset, method), (run, *_) in plan.finals.items():
        if method.method in plan.table.projection and method.protocol == "honest" and run.result is not None:
            title = f"{method.method}, seed {run.config['seed_everything']}"
            panels[dataset][title] = run.key
    for dataset, keys in panels.items():
        same = [other for other in plan.table.datasets if other.dataset == dataset.dataset]
        name = dataset.dataset if len(same) < 2 else "-".join(dataset.parts).replace(" ", "-")
        path = folder / f"{plan.table.name}_projection_{re.sub(r'[^A-Za-z0-9_.-]', '', name)}.png"
        arrays = {title: plan.store.load(key, arrays=True).arrays for title, key in keys.items()}
        yield draw_projection(arrays, path, ", ".join(dataset.parts))


def _overtaken(row: Any, plan: Plan) -> bool:
    """A row that is not run, of features that the table no longer names or that are there now under their own name."""
    if row.status != "not_run":
        return False
    named = {(one.dataset, one.features): one.class_path for one in plan.table.datasets}
    found = {of.dataset.dataset for of in plan.finals if of.dataset.class_path == "OwnData"}
    pairs = named.get((row.dataset, row.features)) == "OwnData"
    return (row.dataset, row.features) not in named or (pairs and row.dataset in found)


def _companion(plan: Plan, command: str, before: dict[str, Any]) -> dict[str, Any]:
    """What the rows were given; with ``before``, what the file said, rows that are not made anew keep theirs."""
    parts: dict[str, dict[str, dict]] = {
        name: defaultdict(dict)
        for name in ("chosen_on_validation", "schedule_chosen_on_validation", "class_split_by_seed")
    }
    for (dataset, model), schedule in plan.schedules.items():
        if schedule.tried:
            entry = {"min_steps": schedule.min_steps, "chosen with": schedule.method, "tried": list(schedule.tried)}
            parts["schedule_chosen_on_validation"][dataset.name][model] = entry
    for row, choice in plan.choices.items():
        if choice.trials and not row.dataset.settings_of:
            entry = {"chosen": choice.shown, "trials": list(choice.trials)}
            parts["chosen_on_validation"][row.dataset.name][row.method.method] = entry
        for run in plan.finals.get(row, []):
            if run.result and run.result.unseen_classes:
                entry = {"seen": list(run.result.seen_classes), "unseen": list(run.result.unseen_classes)}
                parts["class_split_by_seed"][row.dataset.dataset][run.config["seed_everything"]] = entry
    commands = [line for line in before.get("command", "").splitlines() if line != command]
    content = {
        "table": plan.table.name,
        "command": "\n".join([*commands, command]),
        "scale": {**before.get("scale", {}), plan.scale: vars(plan.table.scales[plan.scale])},
    }
    for name, new in parts.items():
        old = before.get(name, {})
        content[name] = {key: {**old.get(key, {}), **new.get(key, {})} for key in {**old, **new}}
    return {name: value for name, value in content.items() if value or name == "chosen_on_validation"}
