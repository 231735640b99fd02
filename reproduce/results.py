"""From finished cells to a table's files: rows of the CSV, the Markdown and the YAML of what was chosen."""

from __future__ import annotations

import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

import datamodules
from lightning_modules.metrics.modality_gap import BY_CHANCE, GAP_METRICS
from reproduce.comparisons import compare_methods, merged, read_comparisons, write_comparisons
from reproduce.figures import draw_table
from reproduce.gap_figure import draw_gap
from reproduce.projection import draw_projection
from reproduce.published import with_published
from reproduce.render import write_markdown
from reproduce.runner import Cell, Finals, Run
from reproduce.schema import IDENTITY, Row, TableError, read_table, replace_file, write_table
from reproduce.spec import DataSet, Method
from reproduce.sweep_figure import draw_sweep

SPLITS = {"standard": ("standard",), "zero-shot": ("seen", "unseen", "generalised")}
# Metrics of a training, or of its joint space, rather than of its retrieval: from its cell and result.
OF_TRAINING = {
    "seconds/epoch": lambda cell, result: result["train_seconds"] / cell.config["max_epochs"],
    "gradient norm": lambda cell, result: result["gradients"]["median"],
    "finite gradients": lambda cell, result: 1 - result["gradients"]["non-finite steps"],
    **{name: lambda cell, result, name=name: result["gap"][name] for name in (*GAP_METRICS, *BY_CHANCE)},
}


def write_results(run: Run, finals: Finals, absent: dict[DataSet, str], folder: Path, command: str) -> list[Path]:
    """Write <table>.csv, <table>.md and <table>.png of a run, <table>.yaml of a whole one, and what else it measures.

    Args:
        run: the run, after ``execute``.
        finals: what ``execute`` returned.
        absent: data sets that could not be read, with reasons.
        folder: where the files go.
        command: the command that regenerates them, for the YAML.

    Returns:
        The files written, the CSV first.

    Raises:
        TableError: the folder cannot be written, or holds a file in a table's place that is none.
    """
    path = folder / f"{run.table.name}.csv"
    rows = [row for key, cells in finals.items() for row in _rows(run, *key, cells)]
    rows += [row for key, choice in run.choices.items() if choice is None for row in _failed(run, *key)]
    if run.only:
        old = read_table(path) if path.exists() else []
        rows = _merge([row for row in old if not _overtaken(row, run, finals)], rows)
    elif not any(row.data_kind == "synthetic" for row in rows):  # else every row of the real table would be not_run
        rows += [row for dataset, reason in absent.items() for row in _not_run(run, dataset, reason)]
    written = [write_table(rows, path)]
    beside = path.with_suffix(".yaml")
    before = _read_companion(beside) if run.only and beside.exists() else {}
    written.append(replace_file(beside, _companion(run, finals, command, before)))
    if run.table.comparisons:
        written.append(_write_comparisons(run, finals, folder / "comparisons" / path.name))
    written.append(write_markdown(path, title=run.table.title))
    swept = any(method.sweep for method in run.table.methods)
    pictures = [draw_sweep(path, run.table) if swept else draw_table(path, run.table.title)]
    pictures.append(draw_gap(path, run.table.title))
    if run.table.projection:
        pictures += _draw_projections(run, finals, folder)
    return [*written, *(picture for picture in pictures if picture)]


def _write_comparisons(run: Run, finals: Finals, path: Path) -> Path:
    found = compare_methods(run, finals)
    if run.only and path.exists():
        again = {(d.dataset, d.features, m.method) for d, m in finals if m.preset == "honest"}
        found = merged(read_comparisons(path), found, again)
    return write_comparisons(found, path)


def _draw_projections(run: Run, finals: Finals, folder: Path) -> list[Path]:
    written = []
    for dataset in dict.fromkeys(dataset for dataset, _ in finals):
        panels = {}
        for (of, method), cells in finals.items():
            cell, result = cells[0]
            if of is dataset and method.method in run.table.projection and method.preset == "honest" and result:
                panels[f"{method.method}, seed {cell.config['seed']}"] = run.store.arrays(cell.key)
        drawn = {title: embeddings for title, embeddings in panels.items() if embeddings is not None}
        if drawn:
            same = [other for other in run.table.datasets if other.dataset == dataset.dataset]
            name = dataset.dataset if len(same) < 2 else f"{dataset.dataset}-{dataset.features}".replace(" ", "-")
            path = folder / f"{run.table.name}_projection_{re.sub(r'[^A-Za-z0-9_.-]', '', name)}.png"
            written.append(draw_projection(drawn, path, f"{dataset.dataset}, {dataset.features}"))
    return written


def _rows(run: Run, dataset: DataSet, method: Method, cells: list[tuple[Cell, dict | None]]) -> list[Row]:
    broken = [cell for cell, result in cells if result is None]
    if broken:
        reason = f"seed {broken[0].config['seed']}: {run.errors[broken[0].key]}"
        return [_empty(run, dataset, method, split, "failed", reason) for split in _splits(run, dataset)]
    rows = []
    for split in cells[0][1]["scores"]:
        found = [{key: result[key][split] for key in ("scores", "sizes")} for _, result in cells]
        rows += _gallery_rows(run, dataset, method, cells, split, "full", found)
    for gallery in run.table.galleries:
        first = cells[0][1]["galleries"][gallery]
        if "reason" in first:
            row = _empty(run, dataset, method, split, "not_run", first["reason"])
            rows.append(replace(row, gallery=gallery))
            continue
        found = [result["galleries"][gallery] for _, result in cells]
        rows += _gallery_rows(run, dataset, method, cells, split, gallery, found)
    return rows


def _gallery_rows(
    run: Run, dataset: DataSet, method: Method, cells: list[tuple[Cell, dict]], split: str, gallery: str, found: list
) -> list[Row]:
    whole = {**_identity(run, dataset, method, split), "gallery": gallery}
    rows = []
    for direction in [*found[0]["sizes"], "average"]:
        for name in run.table.metrics:
            if name not in OF_TRAINING:
                values = [result["scores"][f"{direction}/{name}"] for result in found]
                sizes = [result["sizes"].get(direction) for result in found]
                rows.append(_number(run, whole, cells, direction, name, values, sizes))
    if gallery == "full" and cells[0][0].config["max_epochs"]:
        predicted = split == list(cells[0][1]["scores"])[-1]  # the split whose embeddings are kept
        for name in [name for name in run.table.metrics if name in OF_TRAINING]:
            if name in (*GAP_METRICS, *BY_CHANCE) and not predicted:
                continue
            values = [OF_TRAINING[name](cell, result) for cell, result in cells]
            rows.append(_number(run, whole, cells, "average", name, values, [None] * len(cells)))
    return rows


def _number(
    run: Run,
    whole: dict[str, Any],
    cells: list[tuple[Cell, dict]],
    direction: str,
    name: str,
    values: list[float],
    sizes: list,
) -> Row:
    results = [result for _, result in cells]
    notes = [run.remark(cells[0][0].dataset, cells[0][0].method)]
    # The sizes of a zero-shot split differ between class splits; a mean of them would be the size of none.
    same = sizes[0] if sizes[0] and all(size == sizes[0] for size in sizes) else (None, None)
    metric, k = (name, "all") if name == "MAP" else _metric_and_cutoff(name)
    row = Row(
        **whole,
        direction=direction,
        metric=metric,
        k=k,
        value=statistics.mean(values),
        std=statistics.stdev(values) if len(values) > 1 else None,
        seeds=tuple(run.seeds),
        n_queries=same[0],
        n_gallery=same[1],
        status="ok",
        train_seconds=statistics.mean(result["train_seconds"] for result in results),
        device=_joined(results, "device"),
        git_commit=_joined(results, "git_commit"),
        torch=_joined(results, "torch"),
        config_hash=cells[0][0].key,
        note="; ".join(filter(None, [*notes, _note(sizes) if same == (None, None) and sizes[0] else ""])),
    )
    return with_published(row)


def _metric_and_cutoff(name: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(MAP@|[RP]@)(\d+)(.*)", name)
    return (f"{match[1]}k{match[3]}", int(match[2])) if match else (name, None)


def _note(sizes: list[tuple[int, int]]) -> str:
    return "queries and gallery items by seed: " + ", ".join(f"{queries} of {gallery}" for queries, gallery in sizes)


def _joined(results: list[dict[str, Any]], name: str) -> str:
    return ", ".join(dict.fromkeys(result[name] for result in results))


def _identity(run: Run, dataset: DataSet, method: Method, split: str) -> dict[str, Any]:
    return {
        "table": run.table.name,
        "method": method.method,
        "dataset": dataset.dataset,
        "features": dataset.features,
        "split": split,
        "gallery": "full",
        "protocol": method.preset,
        "scale": run.scale,
        "data_kind": getattr(datamodules, dataset.class_path).data_kind,
    }


def _empty(run: Run, dataset: DataSet, method: Method, split: str, status: str, note: str) -> Row:
    return Row(**_identity(run, dataset, method, split), status=status, note=note)


def _failed(run: Run, dataset: DataSet, method: Method) -> list[Row]:
    if run.schedules.get((dataset, method.model), True) is None:
        keys = [cell.key for cell in run.schedule_cells([(dataset, method)])[dataset, method.model].values()]
        what = "the training that chooses the schedule"
    else:
        keys = [run._trial(dataset, method, n).key for n in range(len(method.trials))]
        what = "a tuning trial"
    note = f"{what} failed: " + next(run.errors[k] for k in keys if k in run.errors)
    return [_empty(run, dataset, method, split, "failed", note) for split in _splits(run, dataset)]


def _not_run(run: Run, dataset: DataSet, reason: str) -> list[Row]:
    splits = _splits(run, dataset)
    methods = run.table.methods_on(dataset)
    return [_empty(run, dataset, method, split, "not_run", reason) for method in methods for split in splits]


def _splits(run: Run, dataset: DataSet) -> tuple[str, ...]:
    kind = getattr(datamodules, dataset.class_path)
    return kind.split_names(run.table.class_split or "standard")


def _overtaken(row: Row, run: Run, finals: Finals) -> bool:
    """A row that is not run, of features that the table no longer names or that are there now under their own name."""
    if row.status != "not_run":
        return False
    named = {(one.dataset, one.features): one.class_path for one in run.table.datasets}
    found = {dataset.dataset for dataset, _ in finals if dataset.class_path == "FeaturePairs"}
    pairs = named.get((row.dataset, row.features)) == "FeaturePairs"
    return (row.dataset, row.features) not in named or (pairs and row.dataset in found)


def _merge(old: list[Row], new: list[Row]) -> list[Row]:
    """Old rows in their places, replaced where they were made anew; rows that were not there come last."""

    def whole(row: Row) -> tuple:
        return tuple(getattr(row, name) for name in IDENTITY if name not in ("direction", "metric", "k"))

    made = {whole(row): [r for r in new if whole(r) == whole(row)] for row in new}
    merged: list[Row] = []
    for row in old:
        merged += made.pop(whole(row), []) if whole(row) in made else []
        if whole(row) not in {whole(r) for r in new}:
            merged.append(row)
    return merged + [row for rows in made.values() for row in rows]


def _read_companion(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise TableError(f"{path} cannot be read: {error}; remove it, and run the whole table") from error
    if not isinstance(content, dict):
        raise TableError(f"{path} is no YAML mapping; remove it, and run the whole table")
    return content


def _companion(run: Run, finals: Finals, command: str, before: dict[str, Any]) -> str:
    """What the rows were given; with ``before``, what the file said, rows that are not made anew keep theirs."""
    chosen: dict[str, dict] = {}
    classes: dict[str, dict] = {}
    schedules: dict[str, dict] = {}
    for (dataset, model), schedule in run.schedules.items():
        if schedule:
            entry = {"min_steps": schedule.min_steps, "chosen with": schedule.method, "tried": list(schedule.tried)}
            schedules.setdefault(f"{dataset.dataset}/{dataset.features}", {})[model] = entry
    for (dataset, method), choice in run.choices.items():
        name = f"{dataset.dataset}/{dataset.features}"
        if choice and choice["trials"]:
            entry = {"chosen": choice["setting"], "trials": choice["trials"]}
            chosen.setdefault(name, {})[method.method] = entry
        for cell, result in finals.get((dataset, method), []):
            if result and result["unseen_classes"]:
                split = {"seen": list(result["seen_classes"]), "unseen": list(result["unseen_classes"])}
                classes.setdefault(dataset.dataset, {})[cell.config["seed"]] = split
    commands = [line for line in before.get("command", "").splitlines() if line != command]
    content = {
        "table": run.table.name,
        "command": "\n".join([*commands, command]),
        "scale": {**before.get("scale", {}), run.scale: vars(run.table.scales[run.scale])},
    }
    parts = {
        "chosen_on_validation": chosen,
        "schedule_chosen_on_validation": schedules,
        "class_split_by_seed": classes,
    }
    for name, new in parts.items():
        old = before.get(name, {})
        content[name] = {key: {**old.get(key, {}), **new.get(key, {})} for key in {**old, **new}}
    content = {name: value for name, value in content.items() if value or name == "chosen_on_validation"}
    header = "# Settings chosen on validation data (mean over directions of MAP), and what the runs were given.\n"
    return header + yaml.dump(content, Dumper=_WithoutAliases, sort_keys=False, width=120)


class _WithoutAliases(yaml.SafeDumper):
    """Writes a setting out each time it occurs, for people to read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
