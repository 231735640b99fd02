"""Method against method: a paired bootstrap over seeds and queries, with Holm's correction within a table."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

import datamodules
from reproduce.runner import Finals, Run
from reproduce.schema import TableError, replace_file
from reproduce.spec import DataSet

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One method against another on the same queries.

    Args:
        method: the one compared.
        baseline: the other.
        metric: what is compared, averaged over the directions.
        difference: mean over seeds of the method's score minus the baseline's.
        low: lower end of the 95% interval of the difference.
        high: upper end.
        p: two-sided, of no difference.
        p_holm: the same after Holm's correction over the comparisons of the table.
        seeds: the seeds compared.
        n_queries: items that queries belong to, in the first seed.
    """

    table: str
    dataset: str
    features: str
    split: str
    protocol: str
    scale: str
    data_kind: str
    method: str
    baseline: str
    metric: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    seeds: tuple[int, ...]
    n_queries: int

    @property
    def significant(self) -> bool:
        """Whether the corrected p is below 0.05."""
        return self.p_holm < 1 - LEVEL


COLUMNS = tuple(field.name for field in fields(Comparison))
NUMBERS = ("difference", "low", "high", "p", "p_holm")


def item_differences(method: Mapping[str, np.ndarray], baseline: Mapping[str, np.ndarray], split: str) -> np.ndarray:
    """What every item adds to the difference in MAP, averaged over directions, of two methods with one seed.

    c_i = n/D sum_d 1/Q_d sum_{queries q of item i in direction d} (AP_method(q) - AP_baseline(q)), for n items, D
    directions and Q_d queries; the mean of c is the difference in MAP. An item's queries go together, for they are not
    independent.

    Args:
        method: "AP/<split>/<direction>" and "query/<split>/<direction>" (the query's item), as a finished cell has.
        baseline: likewise.
        split: the split.

    Returns:
        (n,) differences.

    Raises:
        ValueError: the two were not evaluated on the same queries.
    """
    directions = [name.removeprefix(f"AP/{split}/") for name in method if name.startswith(f"AP/{split}/")]
    owners = {name: method[f"query/{split}/{name}"] for name in directions}
    for name in directions:
        if not np.array_equal(owners[name], baseline.get(f"query/{split}/{name}")):
            raise ValueError(f"the two methods have different queries in {split}, {name}")
    items = np.unique(np.concatenate(list(owners.values())))
    total = np.zeros(len(items))
    for name, owner in owners.items():
        delta = method[f"AP/{split}/{name}"] - baseline[f"AP/{split}/{name}"]
        total += np.bincount(np.searchsorted(items, owner), weights=delta, minlength=len(items)) / len(delta)
    return total * len(items) / len(directions)


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
    corrected = [0.0] * len(p)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, p[place] * (len(p) - rank)))
        corrected[place] = largest
    return corrected


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of one table with Holm's correction over all of them."""
    found = holm([item.p for item in comparisons])
    return [replace(item, p_holm=p) for item, p in zip(comparisons, found, strict=True)]


def compare_methods(run: Run, finals: Finals) -> list[Comparison]:
    """The comparisons that a table asks for, on every data set and split where both methods have all their cells.

    Args:
        run: the run, after ``execute``.
        finals: what ``execute`` returned.
    """
    found = []
    for dataset in dict.fromkeys(dataset for dataset, _ in finals):
        cells = {m.method: cells for (d, m), cells in finals.items() if d is dataset and m.preset == "honest"}
        for method, baseline in run.table.comparisons:
            pair = [cells.get(method, []), cells.get(baseline, [])]
            if all(pair) and all(result for side in pair for _, result in side):
                found += _compare(run, dataset, (method, baseline), pair)
    return corrected(found)


def _compare(run: Run, dataset: DataSet, names: tuple[str, str], pair: list) -> list[Comparison]:
    sides = [[run.store.arrays(cell.key) for cell, _ in side] for side in pair]
    found = []
    for split in pair[0][0][1]["scores"]:
        differences = [item_differences(*arrays, split) for arrays in zip(*sides, strict=True)]
        low, high, p = paired_bootstrap(differences)
        found.append(
            Comparison(
                table=run.table.name,
                dataset=dataset.dataset,
                features=dataset.features,
                split=split,
                protocol="honest",
                scale=run.scale,
                data_kind=getattr(datamodules, dataset.class_path).data_kind,
                method=names[0],
                baseline=names[1],
                metric="MAP",
                difference=float(np.mean([values.mean() for values in differences])),
                low=low,
                high=high,
                p=p,
                p_holm=p,
                seeds=tuple(run.seeds),
                n_queries=len(differences[0]),
            )
        )
    return found


def merged(
    old: Sequence[Comparison], new: Sequence[Comparison], run_again: Collection[tuple[str, str, str]]
) -> list[Comparison]:
    """Old comparisons of methods that were not run again, and the new ones, corrected together.

    Args:
        old: of the file that is there.
        new: of this run.
        run_again: (dataset, features, method) of this run.
    """

    def stale(item: Comparison) -> bool:
        return any((item.dataset, item.features, name) in run_again for name in (item.method, item.baseline))

    return corrected([item for item in old if not stale(item)] + list(new))


def write_comparisons(comparisons: Sequence[Comparison], path: str | Path) -> Path:
    """Write comparisons as CSV, whole or not at all.

    Raises:
        TableError: the folder cannot be written.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item in comparisons:
        writer.writerow([_to_text(name, getattr(item, name)) for name in COLUMNS])
    return replace_file(path, buffer.getvalue())


def _to_text(name: str, value: object) -> str:
    if name in NUMBERS:
        return f"{value:.6f}"
    return " ".join(map(str, value)) if name == "seeds" else str(value)


def read_comparisons(path: str | Path) -> list[Comparison]:
    """Read what :func:`write_comparisons` wrote.

    Raises:
        TableError: the file cannot be read, or a line is not one of ours, naming file and line.
    """
    path = Path(path)
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}: cannot be read ({error}); run the table again to write it.") from error
    if not lines or tuple(lines[0]) != COLUMNS:
        raise TableError(f"{path}, line 1: expected the columns {','.join(COLUMNS)}. Run the table again to write it.")
    found = []
    for number, cells in enumerate(lines[1:], 2):
        try:
            entry = dict(zip(COLUMNS, cells, strict=True))
            values = {name: float(entry[name]) for name in NUMBERS}
            if not all(math.isfinite(value) for value in values.values()):
                raise ValueError("a number is not finite")
            seeds = tuple(int(seed) for seed in entry["seeds"].split())
            found.append(Comparison(**entry | values | {"seeds": seeds, "n_queries": int(entry["n_queries"])}))
        except ValueError as error:
            raise TableError(f"{path}, line {number}: {error}. Run the table again to write it.") from error
    return found
