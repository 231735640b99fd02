"""From finished runs to the rows of a table and its comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

import datamodules
from datamodules.datasets import DATASETS
from reproduce.results.metrics import metric_of
from reproduce.results.published import with_published
from reproduce.results.schema import RUN, table_of
from reproduce.results.significance import compare, comparisons_of
from reproduce.runs.plan import Finals, Plan, Row
from reproduce.runs.spec import DataSet
from reproduce.runs.store import RunResult

ONE = ["split", "gallery", "direction", "metric", "k"]  # what makes scores of several seeds one number


def rows_of(plan: Plan, finals: Finals) -> pd.DataFrame:
    """The rows of a table that was executed.

    Args:
        plan: the plan, after ``execute``.
        finals: what ``execute`` returned.
    """
    rows: list[dict[str, Any]] = []
    for row, runs in finals.items():
        broken = next((run for run, result in runs if result is None), None)
        if broken is not None:
            reason = f"seed {broken.config['seed_everything']}: {plan.errors[broken.key]}"
            rows += _without_number(plan, row, "failed", reason)
        else:
            rows += _numbers(plan, row, [result for _, result in runs], runs[0][0].key)
    for row, choice in plan.choices.items():
        if choice is None:
            rows += _without_number(plan, row, "failed", plan.why_failed(row))
    return with_published(table_of(rows))


def rows_not_run(plan: Plan, dataset: DataSet, reason: str) -> pd.DataFrame:
    """A row for every method and split of a data set that is not here."""
    rows = [Row(dataset, method) for method in plan.table.methods_on(dataset)]
    return table_of([each for row in rows for each in _without_number(plan, row, "not_run", reason)])


def _numbers(plan: Plan, row: Row, results: Sequence[RunResult], key: str) -> list[dict[str, Any]]:
    scores = pd.concat([result.frame for result in results])
    shared = {
        "seeds": " ".join(map(str, plan.seeds)),
        "status": "ok",
        "train_seconds": sum(result.train_seconds for result in results) / len(results),
        **{
            name: ", ".join(dict.fromkeys(getattr(r, name) for r in results))
            for name in ("device", "torch", "git_commit")
        },
        "config_hash": key,
    }
    numbers = [
        {**dict(zip(ONE, one, strict=True)), **_mean(found, caution_of(row.dataset), plan.remark(row)), **shared}
        for one, found in scores.groupby(ONE, sort=False)
    ]
    wanted = {metric_of(name): place for place, name in enumerate(plan.table.metrics)}
    galleries = {name: place for place, name in enumerate(["full", *plan.table.galleries])}
    splits, directions = (list(scores[name].unique()) for name in ("split", "direction"))

    def place(number: dict[str, Any]) -> tuple[int, ...]:
        columns = (galleries[number["gallery"]], splits.index(number["split"]), directions.index(number["direction"]))
        return (*columns, wanted[number["metric"], number["k"]])

    kept = [n for n in numbers if (n["metric"], n["k"]) in wanted and n["gallery"] in galleries]
    rows = [{**_identity(plan, row), **number} for number in sorted(kept, key=place)]
    for gallery in plan.table.galleries:
        if gallery in results[0].galleries_undefined:
            reason = results[0].galleries_undefined[gallery]
            rows += [{**_without_number(plan, row, "not_run", reason)[-1], "gallery": gallery}]
    return rows


def caution_of(dataset: DataSet) -> str:
    """What the data set's declaration says that readers have to know of the form that a table reads."""
    declared = DATASETS.get(dataset.dataset)
    for form in declared.forms.values() if declared else ():
        if form.class_path == dataset.class_path and form.init_args.items() <= dataset.init_args.items():
            return form.caution
    return ""


def _mean(found: pd.DataFrame, *remarks: str) -> dict[str, Any]:
    """Mean and deviation over seeds; the sizes of a zero-shot split differ by seed, and are then in the note."""
    sizes = list(zip(found["n_queries"], found["n_gallery"], strict=True))
    same = len(set(sizes)) == 1 or pd.isna(sizes[0][0])
    queries, gallery = sizes[0] if same and not pd.isna(sizes[0][0]) else (None, None)
    by_seed = ", ".join(f"{int(queries)} of {int(gallery)}" for queries, gallery in sizes) if not same else ""
    notes = [*remarks, f"queries and gallery items by seed: {by_seed}" if by_seed else ""]
    return {
        "value": found["value"].mean(),
        "std": found["value"].std() if len(found) > 1 else None,
        "n_queries": queries,
        "n_gallery": gallery,
        "note": "; ".join(filter(None, notes)),
    }


def _identity(plan: Plan, row: Row) -> dict[str, Any]:
    return {
        "table": plan.table.name,
        "method": row.method.method,
        "dataset": row.dataset.dataset,
        "features": row.dataset.features,
        "condition": row.dataset.condition,
        "gallery": "full",
        "protocol": row.method.protocol,
        "scale": plan.scale,
        "data_kind": getattr(datamodules, row.dataset.class_path).data_kind,
    }


def _without_number(plan: Plan, row: Row, status: str, note: str) -> list[dict[str, Any]]:
    """A row per split, without a number."""
    kind = getattr(datamodules, row.dataset.class_path)
    splits = kind.split_names(plan.table.class_split or "standard")
    return [{**_identity(plan, row), "split": split, "status": status, "note": note} for split in splits]


def merged_rows(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Old rows in their places, replaced where their run was made anew; rows that were not there come last."""
    made = dict(list(new.groupby(list(RUN), sort=False)))
    parts = [made.pop(key) if key in made else rows for key, rows in old.groupby(list(RUN), sort=False)]
    return pd.concat([*parts, *made.values()], ignore_index=True)


def comparisons(plan: Plan, finals: Finals) -> pd.DataFrame:
    """The comparisons that a table asks for, on every data set and split where both methods have all their runs.

    Args:
        plan: the plan, after ``execute``.
        finals: what ``execute`` returned.
    """
    records = []
    for dataset in dict.fromkeys(row.dataset for row in finals):
        mine = {
            r.method.method: runs
            for r, runs in finals.items()
            if r.dataset is dataset and r.method.protocol == "honest"
        }
        complete = {name: runs for name, runs in mine.items() if all(result for _, result in runs)}
        for method, baseline in plan.table.comparisons:
            if method not in complete or baseline not in complete:
                continue
            sides = [
                [plan.store.load(run.key, arrays=True).per_query for run, _ in complete[m]] for m in (method, baseline)
            ]
            identity = _identity(plan, next(r for r in finals if r.dataset is dataset and r.method.method == method))
            for split in complete[method][0][1].splits:
                found = compare(*sides, split)
                seeds = " ".join(map(str, plan.seeds))
                names = {"method": method, "baseline": baseline, "metric": "MAP", "split": split, "protocol": "honest"}
                records.append({**identity, **names, "seeds": seeds, "p_holm": found["p"], **found})
    return comparisons_of(records)
