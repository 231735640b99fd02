"""From finished runs to the rows of a table and its comparisons."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from reproduce.results.metrics import metric_name, metric_of
from reproduce.results.published import with_published
from reproduce.results.schema import RUN, table_of
from reproduce.results.significance import compare, comparisons_of
from reproduce.runs.config import data_class
from reproduce.runs.executors import Run
from reproduce.runs.plan import Plan, Row
from reproduce.runs.presence import form_of, in_short


def rows_of(plan: Plan) -> pd.DataFrame:
    """The rows of a table whose plan was executed."""
    rows: list[dict[str, Any]] = []
    for row, runs in plan.finals.items():
        failed = [f"seed {run.config['seed_everything']}: {run.error}" for run in runs if run.result is None]
        rows += _without_number(plan, row, "failed", failed[0]) if failed else _numbers(plan, row, runs)
    for row, choice in plan.choices.items():
        if choice.error:
            rows += _without_number(plan, row, "failed", choice.error)
    return with_published(table_of(rows))


def rows_not_run(plan: Plan) -> pd.DataFrame:
    """A row for every method and split of the data sets that are not here."""
    rows: list[dict[str, Any]] = []
    for dataset, reason in plan.absent.items():
        note = in_short(dataset, reason)
        for method in plan.table.methods_on(dataset):
            rows += _without_number(plan, Row(dataset, method), "not_run", note)
    return table_of(rows)


def _numbers(plan: Plan, row: Row, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row per number that the table shows, in its order of galleries and metrics."""
    results = [run.result for run in runs]
    scores = pd.concat([result.frame for result in results])
    names = [metric_name(*one) for one in zip(scores["metric"], scores["k"], strict=True)]
    scores["name"] = pd.Categorical(names, [*plan.table.metrics, *row.method.metrics])  # others belong to no group
    scores["gallery"] = pd.Categorical(scores["gallery"], ["full", *plan.table.galleries])
    for name in ("split", "direction"):
        scores[name] = pd.Categorical(scores[name], scores[name].unique())
    made_by = {n: ", ".join(dict.fromkeys(getattr(r, n) for r in results)) for n in ("device", "torch", "git_commit")}
    shared = {
        **_identity(plan, row),
        "seeds": " ".join(map(str, plan.seeds_of(row.dataset))),
        "status": "ok",
        "train_seconds": sum(result.train_seconds for result in results) / len(results),
        **made_by,
        "config_hash": runs[0].key,
    }
    rows, form = [], form_of(row.dataset)
    for (gallery, split, direction, name), found in scores.groupby(
        ["gallery", "split", "direction", "name"], observed=True
    ):
        metric, k = metric_of(name)
        place = {"gallery": gallery, "split": split, "direction": direction, "metric": metric, "k": k}
        rows.append({**shared, **place, **_mean(found, form.caution if form else "", plan.remark(row))})
    for gallery in plan.table.galleries:
        if gallery in results[0].galleries_undefined:
            reason = results[0].galleries_undefined[gallery]
            rows.append({**_without_number(plan, row, "not_run", reason)[-1], "gallery": gallery})
    return rows


def _mean(found: pd.DataFrame, *remarks: str) -> dict[str, Any]:
    """Mean and deviation over seeds; the sizes of a zero-shot split differ by seed, and are then in the note."""
    sizes = found[["n_queries", "n_gallery"]].drop_duplicates()
    same = sizes.iloc[0].to_dict() if len(sizes) == 1 and sizes.notna().all(axis=None) else {}
    by_seed = ", ".join(f"{int(one.n_queries)} of {int(one.n_gallery)}" for one in found.itertuples() if len(sizes) > 1)
    notes = [*remarks, f"queries and gallery items by seed: {by_seed}" if by_seed else ""]
    std = found["value"].std() if len(found) > 1 else None
    return {"value": found["value"].mean(), "std": std, **same, "note": "; ".join(filter(None, notes))}


def _identity(plan: Plan, row: Row) -> dict[str, Any]:
    kind = data_class(row.dataset.class_path).data_kind
    return {"table": plan.table.name, **row.columns, "gallery": "full", "scale": plan.scale, "data_kind": kind}


def _without_number(plan: Plan, row: Row, status: str, note: str) -> list[dict[str, Any]]:
    """A row per split, without a number."""
    splits = data_class(row.dataset.class_path).split_names(plan.table.class_split or "standard")
    return [{**_identity(plan, row), "split": split, "status": status, "note": note} for split in splits]


def merged_rows(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Old rows in their places, replaced where their run was made anew; rows that were not there come last."""
    made = dict(list(new.groupby(list(RUN), sort=False)))
    parts = [made.pop(key) if key in made else rows for key, rows in old.groupby(list(RUN), sort=False)]
    return pd.concat([*parts, *made.values()], ignore_index=True)


def comparisons(plan: Plan) -> pd.DataFrame:
    """The comparisons that a table asks for, on every data set and split where both methods have all their runs."""
    records = []
    for dataset in dict.fromkeys(row.dataset for row in plan.finals):
        complete = {
            row.method.method: (row, runs)
            for row, runs in plan.finals.items()
            if row.dataset is dataset and row.method.protocol == "honest" and all(run.result for run in runs)
        }
        for pair in plan.table.comparisons:
            if not complete.keys() >= set(pair):
                continue
            (row, runs), (_, others) = (complete[name] for name in pair)
            sides = [[plan.store.load(run.key, arrays=True).per_query for run in of] for of in (runs, others)]
            seeds = " ".join(map(str, plan.seeds_of(dataset)))
            joint = plan.table.select == "joint"
            names = {"baseline": pair[1], "metric": "MAP, joint queries" if joint else "MAP", "seeds": seeds}
            for split in runs[0].result.splits:
                found = compare(*sides, split, joint)
                records.append({**_identity(plan, row), **names, "split": split, "p_holm": found["p"], **found})
    return comparisons_of(records)
