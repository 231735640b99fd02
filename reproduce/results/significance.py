"""Method against method: a paired bootstrap over seeds and queries, with Holm's correction within a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lightning_modules.metrics.directions import is_joint
from reproduce.results.schema import read_csv, refuse, write_csv

RESAMPLES = 10_000
LEVEL = 0.95
NUMBERS = ("difference", "low", "high", "p", "p_holm")
COLUMNS = (
    *("table", "dataset", "features", "split", "protocol", "scale", "data_kind", "method", "baseline", "metric"),
    *(*NUMBERS, "seeds", "n_queries", "condition"),
)
# What makes two lines one comparison: methods whose settings coincide are the same runs.
SAME = ("dataset", "features", "condition", "split", "difference", "low", "high", "p")

# (split, direction) -> item of every query and its average precision, as a run keeps them
PerQuery = Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]]


def item_differences(method: PerQuery, baseline: PerQuery, split: str, joint: bool = False) -> np.ndarray:
    """What every item adds to the difference in MAP, averaged over directions, of two methods with one seed.

    c_i = n/D sum_d 1/Q_d sum_{queries q of item i in direction d} (AP_method(q) - AP_baseline(q)), for n items, D
    directions and Q_d queries; the mean of c is the difference in MAP. An item's queries go together, for they are not
    independent.

    Args:
        method: (split, direction) -> (item of each query, its average precision).
        baseline: likewise.
        split: the split.
        joint: whether the average is over the directions of joint queries, or over the others.

    Returns:
        (n,) differences.

    Raises:
        ValueError: the two were not evaluated on the same queries.
    """
    directions = [direction for of, direction in method if of == split and is_joint(direction) == joint]
    owners = {direction: method[split, direction][0] for direction in directions}
    for direction, owner in owners.items():
        if (split, direction) not in baseline or not np.array_equal(owner, baseline[split, direction][0]):
            raise ValueError(f"the two methods have different queries in {split}, {direction}")
    items = np.unique(np.concatenate(list(owners.values())))
    total = np.zeros(len(items))
    for direction, owner in owners.items():
        delta = method[split, direction][1] - baseline[split, direction][1]
        total += np.bincount(np.searchsorted(items, owner), weights=delta, minlength=len(items)) / len(delta)
    return total * len(items) / len(directions)


def compare(
    method: Sequence[PerQuery], baseline: Sequence[PerQuery], split: str, joint: bool = False
) -> dict[str, float]:
    """Difference in MAP of two methods over the same seeds, with its interval and p.

    Args are those of ``item_differences``, of both methods for every seed.

    Returns:
        "difference", "low", "high", "p" and "n_queries", the items that queries belong to in the first seed.
    """
    differences = [item_differences(*pair, split, joint) for pair in zip(method, baseline, strict=True)]
    low, high, p = paired_bootstrap(differences)
    mean = float(np.mean([values.mean() for values in differences]))
    return {"difference": mean, "low": low, "high": high, "p": p, "n_queries": len(differences[0])}


def paired_bootstrap(differences: Sequence[np.ndarray], resamples: int = RESAMPLES) -> tuple[float, float, float]:
    """Interval and two-sided p of a mean difference, by resampling seeds and, within a seed, items.

    Every resample draws as many seeds as there are with replacement, of each of them as many items as it has with
    replacement, and takes the mean over the drawn seeds of the mean over the drawn items. The interval holds the middle
    95% of the resamples; p = 2 min(#{<= 0} + 1, #{>= 0} + 1) / (resamples + 1), at most 1. The generator has a fixed
    seed.

    Args:
        differences: one array (n_s,) per seed, paired within it.
        resamples: how many.

    Returns:
        (low, high, p).

    Source: hierarchical bootstrap, Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8.
    """
    rng = np.random.default_rng(0)
    seeds = len(differences)
    drawn = rng.integers(seeds, size=(resamples, seeds))
    means = np.empty((resamples, seeds))
    for place in range(seeds):
        for seed, values in enumerate(differences):
            rows = np.flatnonzero(drawn[:, place] == seed)
            for part in np.array_split(rows, max(1, len(rows) * len(values) // 2**22)):
                means[part, place] = values[rng.integers(len(values), size=(len(part), len(values)))].mean(axis=1)
    mean = means.mean(axis=1)
    low, high = np.quantile(mean, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    p = 2 * (min(int((mean <= 0).sum()), int((mean >= 0).sum())) + 1) / (resamples + 1)
    return float(low), float(high), min(p, 1.0)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction: the k-th smallest of m p-values times m - k + 1, made to ascend, at most 1.

    Source: Holm, Scandinavian Journal of Statistics 6, 1979.
    """
    p = np.asarray(p, float)
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(np.minimum(p[order] * np.arange(len(p), 0, -1), 1.0))
    return corrected.tolist()


def comparisons_of(records: pd.DataFrame | Sequence[dict]) -> pd.DataFrame:
    """The comparisons of one table, with "p_holm" and "significant"; those of the same runs count once (Holm)."""
    table = pd.DataFrame(records, columns=list(COLUMNS)).reset_index(drop=True)
    table = table.astype(dict.fromkeys(NUMBERS, float)).round(dict.fromkeys(NUMBERS, 6))
    family = table.drop_duplicates(list(SAME))
    found = family.assign(p_holm=holm(family["p"]))[[*SAME, "p_holm"]]
    table["p_holm"] = table[list(SAME)].merge(found, how="left")["p_holm"]
    return table.assign(significant=table["p_holm"] < 1 - LEVEL)


def merged(old: pd.DataFrame, new: pd.DataFrame, run_again: set[tuple[str, ...]]) -> pd.DataFrame:
    """Old comparisons of methods that were not run again, and the new ones, corrected together.

    Args:
        old: of the file that is there.
        new: of this run.
        run_again: (dataset, features, condition, method) of this run.
    """
    sides = old[["dataset", "features", "condition", "method", "baseline"]].itertuples(index=False)
    kept = [run_again.isdisjoint([(*data, method), (*data, baseline)]) for *data, method, baseline in sides]
    return comparisons_of(pd.concat([old[kept], new]))


def write_comparisons(table: pd.DataFrame, path: str | Path) -> Path:
    """Write comparisons as CSV, whole or not at all.

    Raises:
        TableError: the folder cannot be written.
    """
    return write_csv(table[list(COLUMNS)], path)


def read_comparisons(path: str | Path) -> pd.DataFrame:
    """Read what :func:`write_comparisons` wrote, with "significant": whether the corrected p is below 0.05.

    Raises:
        TableError: the file cannot be read, or a line is not one of ours, naming file and line.
    """
    table = read_csv(path, COLUMNS, (*NUMBERS, "n_queries"))
    for name in (*NUMBERS, "n_queries"):
        refuse(path, table, table[name].isna(), name, "expected a number; run the table again")
    return table.assign(n_queries=table["n_queries"].astype(int), significant=table["p_holm"] < 1 - LEVEL)
