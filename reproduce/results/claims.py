"""The paper's claims, one by one: do the committed results support them?

A verdict follows from figures by a rule that is fixed beforehand. Method against method counts only with at least five
seeds, each method at the temperature or weight that validation data chose:

- holds: some difference is significant in favour after Holm's correction, none against, and no mean is negative;
- does not hold: some difference is significant against; or none is in favour, and no interval reaches a gain of
  ``RELEVANT`` in MAP;
- cannot be told from this data: everything else, and where the results are missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.files.sources import user_path
from reproduce.results.schema import TableError, read_csv, read_table, write_csv
from reproduce.results.shown import data_name
from reproduce.results.significance import read_comparisons
from reproduce.runs.spec import read_file

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told from this data"
SEEDS = 5
RELEVANT = 0.02
COLUMNS = ("claim", "verdict", "evidence", "sources")
Judgement = tuple[str, list[str], list[str]]  # verdict; what was found, in lines, the first of which sums up; sources


class Missing(Exception):
    """A result file that a claim needs is not there."""


class Results:
    """The tables and comparisons of a folder.

    Args:
        folder: the results folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def rows(self, name: str, **wanted: object) -> pd.DataFrame:
        """Rows of status ok of a table that have the wanted values.

        Raises:
            Missing: the table is not there, or has no such row.
        """
        path = self.folder / f"{name}.csv"
        if not path.exists():
            raise Missing(f"results/{name}.csv is not there: make {name}")
        table = read_table(path)
        keep = table["status"] == "ok"
        for column, value in wanted.items():
            keep &= table[column] == value
        if not keep.any():
            raise Missing(f"results/{name}.csv has no such rows: make {name}")
        return table[keep]

    def compared(self, pairs: Iterable[tuple[str, str, str]]) -> pd.DataFrame:
        """The comparisons (table, method, baseline) on real data.

        Raises:
            Missing: there is none of them.
        """
        pairs = list(pairs)
        names = list(dict.fromkeys(table for table, _, _ in pairs))
        paths = [path for name in names if (path := self.folder / "comparisons" / f"{name}.csv").exists()]
        held = [read_comparisons(path) for path in paths]
        found = [
            t[[(r.table, r.method, r.baseline) in pairs and r.data_kind == "real" for r in t.itertuples()]]
            for t in held
        ]
        if not any(map(len, found)):
            raise Missing(f"there are no comparisons of {', '.join(names)} on real data: make tables")
        return pd.concat(found)

    def by_sweep(self, name: str, **wanted: object) -> pd.DataFrame:
        """As ``rows``, those of a swept method alone, with the column "line": the method without the swept value."""
        lines = {method.method: method.sweep.line for method in read_file(name).methods if method.sweep}
        rows = self.rows(name, **wanted)
        return rows.assign(line=rows["method"].map(lines)).dropna(subset="line")


def judge(found: pd.DataFrame) -> Judgement:
    """Verdict over comparisons of one method with others, by the rule of this module.

    Args:
        found: comparisons, as ``read_comparisons`` gives them.
    """
    counted = found[found["seeds"].str.split().map(len) >= SEEDS]
    against = int((counted["significant"] & (counted["difference"] < 0)).sum())
    favour = int((counted["significant"] & (counted["difference"] > 0)).sum())
    if len(counted) and (against or (not favour and (counted["high"] < RELEVANT).all())):
        verdict = FAILS
    elif favour and (counted["difference"] >= 0).all():
        verdict = HOLDS
    else:
        verdict = OPEN
    signs = f"{favour} of {len(counted)} differences in MAP are significant in favour, {against} against"
    lines = [
        f"{data_name(item)}: {item.method} against {item.baseline} {item.difference:+.3f} "
        f"({item.low:+.3f} to {item.high:+.3f}){'*' * item.significant}, {len(item.seeds.split())} seeds"
        for item in found.itertuples()
    ]
    sources = [f"comparisons/{table}.csv" for table in found["table"].unique()]
    return verdict, [f"With {SEEDS} seeds {signs}", *lines], sources


def _cs_beats_kl(results: Results) -> Judgement:
    pairs = [(table, "JFSE + CS", "JFSE + CMPM-KL") for table in ("table2", "table3")]
    pairs += [(table, "pairwise CS", "pairwise KL") for table in ("table5", "table7", "table9", "unsupervised")]
    return judge(results.compared(pairs))


def _gcs_beats_pairwise(results: Results) -> Judgement:
    others = ("pairwise KL", "pairwise CS")
    pairs = [(table, "GCS mixed", other) for table in ("table5", "table7", "unsupervised") for other in others]
    return judge(results.compared([*pairs, ("many-modalities", "GCS mixed", "pairwise CS")]))


def _mixed_is_best(results: Results) -> Judgement:
    others = ("GCS clockwise", "GCS counterclockwise", "GCS bidirectional")
    pairs = [("table7", "GCS mixed", other) for other in others]
    return judge(results.compared([*pairs, ("many-modalities", "GCS mixed", "GCS clockwise")]))


def _needs_no_hyperparameter(results: Results) -> Judgement:
    takes = next(results.rows("table1", metric="hyperparameters", method="CS").itertuples())
    swept_in = [name for name in ("temperature", "temperature-jfse") if (results.folder / f"{name}.csv").exists()]
    if not swept_in:
        raise Missing("results/temperature.csv is not there: make temperature")
    wanted = {"metric": "MAP", "direction": "average", "gallery": "full", "data_kind": "real"}
    rows = pd.concat([results.by_sweep(name, **wanted) for name in swept_in])
    spread = rows.groupby(["dataset", "line"], sort=False)["value"].agg(["min", "max"])
    cs = [high - low for (_, line), low, high in spread.itertuples() if line.endswith("CS")]
    verdict = HOLDS if not takes.value and max(cs) < RELEVANT else OPEN
    verdict = FAILS if max(cs) >= RELEVANT else verdict
    head = f"The CS loss takes {takes.value:.0f} ({takes.note}); MAP from the worst to the best temperature swept"
    lines = [f"{dataset} {line} {low:.3f} to {high:.3f}" for (dataset, line), low, high in spread.itertuples()]
    return verdict, [head, *lines], ["table1.csv", *(f"{name}.csv" for name in swept_in)]


def _finite(results: Results, methods: Iterable[str]) -> pd.DataFrame:
    """Method -> least share over precisions of finite values, finite gradients and live gradients."""
    metrics = ["finite values", "finite gradients", "live gradients"]
    rows = results.rows("table1")
    found = rows[rows["metric"].isin(metrics)].pivot_table(
        index="method", columns="metric", values="value", aggfunc="min"
    )
    lacking = [name for name in methods if name not in found.index]
    if lacking or found.columns.size < len(metrics):
        raise Missing("results/table1.csv has no such rows: make table1")
    return found.loc[list(methods), metrics]


def _shares(found: pd.DataFrame) -> list[str]:
    return [f"{name} {a:.3f}, {b:.3f}, {c:.3f}" for name, a, b, c in found.itertuples()]


def _more_stable(results: Results) -> Judgement:
    found = _finite(results, ("CS", "GCS", "KL, forward", "CMPM-KL", "CS, clamped", "GCS, clamped"))
    least = found.min(axis=1)
    # What the log-softmax does for CS it does for KL: only a KL that fails where CS does not would support the claim.
    verdict = HOLDS if min(least["CS"], least["GCS"]) == 1 and least["KL, forward"] < 1 else FAILS
    head = "Least share, over logits to 1e4 and three precisions, of finite values, finite and live gradients"
    return verdict, [head, *_shares(found)], ["table1.csv"]


def _trains_without_epsilon(results: Results) -> Judgement:
    rows = results.by_sweep("stability", metric="finite gradients", data_kind="real")
    shares = rows.groupby("line", sort=False)["value"].agg(["min", "max"])
    verdict = HOLDS if shares.loc["GCS mixed", "min"] == 1 else FAILS
    lines = [f"{line} {low:.3f} to {high:.3f}" for line, low, high in shares.itertuples()]
    return verdict, ["Share of training steps with a finite gradient, by temperature", *lines], ["stability.csv"]


def _bound_is_enough(results: Results) -> Judgement:
    found = _finite(results, ("CS", "CS, ordinary space"))
    verdict = FAILS if found.loc["CS, ordinary space"].iloc[:2].min() < 1 else HOLDS
    head = "The denominator has the same bound in both; finite values, finite and live gradients"
    return verdict, [head, *_shares(found), "The log-softmax keeps CS finite, not the bound"], ["table1.csv"]


def _cost(results: Results) -> Judgement:
    """Linear for the ring, and quadratic for all pairs: each half is judged, and both have to hold."""
    rows = results.rows("scaling")
    rows = rows[
        rows["metric"].isin(["exponent", "standard error"]) & rows["condition"].isin(["seconds/step", "saved MiB"])
    ]
    slopes = rows.pivot_table(index=["method", "condition"], columns="metric", values="value", sort=False)
    low, high = (slopes["exponent"] + sign * 2 * slopes["standard error"] for sign in (-1, 1))
    ring = slopes.index.get_level_values("method").str.startswith("GCS")
    if not ring.any() or ring.all():
        raise Missing("results/scaling.csv has no such rows: make scaling")
    # A half fails where every slope is nearer to the other half's: above 1.5 for the ring, below it for all pairs.
    halves = [_half(low[ring] <= 1, low[ring] > 1.5), _half(high[~ring] >= 2, high[~ring] < 1.5)]
    verdict = next(each for each in (FAILS, OPEN, HOLDS) if each in halves)
    names = ("the ring, at most M^1", "all pairs, at least M^2")
    lines = [f"{name}: {half}" for name, half in zip(names, halves, strict=True)]
    lines += [f"{method} {what} M^{slope:.2f} ± {error:.2f}" for (method, what), slope, error in slopes.itertuples()]
    return verdict, ["Fitted over M = 2 to 8, within two standard errors", *lines], ["scaling.csv"]


def _half(holds: Iterable[bool], fails: Iterable[bool]) -> str:
    return HOLDS if all(holds) else FAILS if all(fails) else OPEN


CLAIMS: dict[str, Callable[[Results], Judgement]] = {
    "CS retrieves better than KL": _cs_beats_kl,
    "CS needs no hyperparameter": _needs_no_hyperparameter,
    "CS is numerically more stable than KL": _more_stable,
    "GCS trains without an epsilon": _trains_without_epsilon,
    "The lower bound of the denominator alone keeps CS finite": _bound_is_enough,
    "GCS retrieves better than pairwise divergences": _gcs_beats_pairwise,
    "Of the circular schemes, mixed is the best": _mixed_is_best,
    "The cost of GCS grows as M, that of all pairs as M squared": _cost,
}


def judge_claims(folder: Path) -> pd.DataFrame:
    """Every claim with its verdict from the results in a folder: "claim", "verdict", "evidence" and "sources".

    "evidence" has a line per figure, below one that sums up; "sources" names files with spaces between.

    Raises:
        TableError: a result file cannot be read.
    """
    results, found = Results(folder), []
    for claim, judged in CLAIMS.items():
        try:
            verdict, lines, sources = judged(results)
        except Missing as missing:
            verdict, lines, sources = OPEN, [str(missing)], []
        found.append((claim, verdict, "\n".join(lines), " ".join(sources)))
    return pd.DataFrame(found, columns=list(COLUMNS))


def read_claims(path: str | Path) -> pd.DataFrame:
    """Read what :func:`main` wrote.

    Raises:
        TableError: the file is none of ours, naming the line.
    """
    claims = read_csv(path, COLUMNS)
    unknown = ~claims["verdict"].isin([HOLDS, FAILS, OPEN])
    if unknown.any():
        place = int(np.argmax(unknown))
        raise TableError(
            f"{path}, claim {place + 1}: verdict is {claims['verdict'].iloc[place]!r}; expected {HOLDS!r}, {FAILS!r} "
            f"or {OPEN!r}. Write it again with make claims."
        )
    return claims


def main(argv: list[str]) -> int:
    """Judge the claims, write claims.csv and print them; returns 0, or 2 where there is no such folder."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduce claims", description="Check the claims of the paper against the results."
    )
    parser.add_argument("--out", default="results", type=user_path, help="folder of the results (default: results)")
    folder = parser.parse_args(argv).out
    if not folder.is_dir():
        print(f"{folder}: no such folder; run a table first, or name its folder with --out.", file=sys.stderr)
        return 2
    claims = judge_claims(folder)
    path = write_csv(claims, folder / "claims.csv")
    for claim in claims.itertuples():
        print(f"{claim.claim}: {claim.verdict}")
        print(*(f"  {line}" for line in claim.evidence.splitlines()), sep="\n", end="\n\n")
    print(f"wrote {path}")
    return 0
