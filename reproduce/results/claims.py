"""The paper's claims, and those that follow from its losses, one by one: do the committed results support them?

A verdict follows from figures by a rule that is fixed beforehand. Method against method counts only with at least five
seeds, each method at the temperature or weight that validation data chose:

- holds: some difference is significant in favour after Holm's correction, none against, with any number of seeds, and
  no mean is negative;
- does not hold: some difference is significant against; or none is in favour, and no interval reaches a gain of
  ``RELEVANT`` in MAP;
- cannot be told from this data: everything else, and where the results are missing.

Conditions whose own differences, with any number of seeds, say something else are named beside the verdict.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from datamodules.files.sources import user_path
from reproduce.results.schema import TableError, read_csv, read_table, write_csv
from reproduce.results.shown import data_name
from reproduce.results.significance import read_comparisons
from reproduce.runs.spec import read_file

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told from this data"
SEEDS = 5
RELEVANT = 0.02
COLUMNS = ("claim", "verdict", "conditions", "evidence", "sources")
SHARES = ["finite values", "finite gradients", "live gradients"]


class Missing(Exception):
    """A result file that a claim needs is not there."""


class Judgement(NamedTuple):
    """A verdict; lines of what was found, the first of which sums up; result files; conditions that differ."""

    verdict: str
    evidence: Sequence[str]
    sources: Sequence[str] = ()
    conditions: str = ""


def rows_of(folder: Path, name: str, **wanted: object) -> pd.DataFrame:
    """Rows of status ok of a table that have the wanted values.

    Raises:
        Missing: the table is not there, or has no such row.
    """
    path = folder / f"{name}.csv"
    if not path.exists():
        raise Missing(f"results/{name}.csv is not there: make {name}")
    table = read_table(path)
    table = table[(table[["status", *wanted]] == ["ok", *wanted.values()]).all(axis=1)]
    if table.empty:
        raise Missing(f"results/{name}.csv has no such rows: make {name}")
    return table


def by_sweep(folder: Path, name: str, **wanted: object) -> pd.DataFrame:
    """ "min" and "max" over the swept values, by data set and line, which is the method without the swept value."""
    lines = {method.method: method.sweep.line for method in read_file(name).methods if method.sweep}
    rows = rows_of(folder, name, data_kind="real", **wanted)
    return rows.groupby(["dataset", rows["method"].map(lines)], sort=False)["value"].agg(["min", "max"])


def judge(found: pd.DataFrame) -> Judgement:
    """Verdict over comparisons of one method with others, by the rule of this module.

    Args:
        found: comparisons, as ``read_comparisons`` gives them.
    """
    seeds = found["seeds"].str.split().map(len)
    counted = found[seeds >= SEEDS]
    verdict, *signs = _by_rule(counted)
    if verdict == HOLDS and _by_rule(found)[2]:  # fewer seeds carry no claim, but may speak against one
        verdict = OPEN
    differing: dict[str, list[str]] = {}
    shared = found.groupby("condition")["dataset"].transform("nunique") > 1
    for (dataset, features, condition), rows in found.groupby(["dataset", "features", "condition"], sort=False):
        own = _by_rule(rows)[0]
        if own not in (verdict, OPEN):
            where = f" on {dataset}" * bool(condition and shared[rows.index[0]])
            name = f'"{condition or f"{dataset}, {features}"}"{where} ({seeds[rows.index].min()} seeds)'
            differing.setdefault(own, []).append(name)
    lines = [
        f"{data_name(item)}: {item.method} against {item.baseline} {item.difference:+.3f} "
        f"({item.low:+.3f} to {item.high:+.3f}){'*' * item.significant}, {len(item.seeds.split())} seeds"
        for item in found.itertuples()
    ]
    head = "With {} seeds {} of {} differences in MAP are significant in favour, {} against"
    return Judgement(
        verdict,
        [head.format(SEEDS, signs[0], len(counted), signs[1]), *lines],
        [f"comparisons/{table}.csv" for table in found["table"].unique()],
        "; ".join(f"{own} with {', '.join(names)}" for own, names in differing.items()),
    )


def _by_rule(rows: pd.DataFrame) -> tuple[str, int, int]:
    """Verdict, and how many differences are significant in favour and against."""
    favour, against = (int((rows["significant"] & (sign * rows["difference"] > 0)).sum()) for sign in (1, -1))
    if len(rows) and (against or (not favour and (rows["high"] < RELEVANT).all())):
        return FAILS, favour, against
    return HOLDS if favour and (rows["difference"] >= 0).all() else OPEN, favour, against


def compared(
    *pairs: tuple[str, str, str], but: str | None = None, on: str | None = None
) -> Callable[[Path], Judgement]:
    """A claim on a method and a baseline, judged by their comparisons in tables with spaces between.

    Args:
        *pairs: tables, method and baseline.
        but: a condition that the claim is not about.
        on: the one data set that it is about, real or generated; by default all real ones.
    """
    named = [(table, method, baseline) for tables, method, baseline in pairs for table in tables.split()]
    wanted = pd.DataFrame(named, columns=["table", "method", "baseline"])
    tables = list(wanted["table"].unique())

    def judged(folder: Path) -> Judgement:
        paths = [folder / "comparisons" / f"{name}.csv" for name in tables]
        held = [read_comparisons(path).merge(wanted) for path in paths if path.exists()]
        if held:
            found = pd.concat(held, ignore_index=True)
            about = (found["dataset"] == on) if on else (found["data_kind"] == "real")
            found = found[about & ~found["condition"].isin([but])]
        if not held or found.empty:
            raise Missing(f"there are no comparisons of {', '.join(tables)} on real data: make {' '.join(tables)}")
        return judge(found)

    return judged


def _needs_no_hyperparameter(folder: Path) -> Judgement:
    takes = next(rows_of(folder, "table1", metric="hyperparameters", method="CS").itertuples())
    names = [name for name in ("temperature", "temperature-jfse") if (folder / f"{name}.csv").exists()]
    if not names:
        raise Missing("results/temperature.csv is not there: make temperature")
    wanted = {"metric": "MAP", "direction": "average", "gallery": "full"}
    spread = pd.concat([by_sweep(folder, name, **wanted) for name in names])
    most = max(high - low for (_, line), low, high in spread.itertuples() if line.endswith("CS"))
    verdict = FAILS if most >= RELEVANT else OPEN if takes.value else HOLDS
    head = f"The CS loss takes {takes.value:.0f} ({takes.note}); MAP from the worst to the best temperature swept"
    lines = [f"{dataset} {line} {low:.3f} to {high:.3f}" for (dataset, line), low, high in spread.itertuples()]
    return Judgement(verdict, [head, *lines], ["table1.csv", *(f"{name}.csv" for name in names)])


def _shares(folder: Path, *methods: str) -> tuple[pd.DataFrame, list[str]]:
    """Least share over precisions of what is finite, method by metric; and a line of evidence for each method."""
    rows = rows_of(folder, "table1")
    found = rows.pivot_table(index="method", columns="metric", values="value", aggfunc="min")
    found = found.reindex(index=methods, columns=SHARES)
    if found.isna().any(axis=None):
        raise Missing("results/table1.csv has no such rows: make table1")
    return found, [f"{name} {a:.3f}, {b:.3f}, {c:.3f}" for name, a, b, c in found.itertuples()]


def _more_stable(folder: Path) -> Judgement:
    found, lines = _shares(folder, "CS", "GCS", "KL, forward", "CMPM-KL", "CS, clamped", "GCS, clamped")
    least = found.min(axis=1)
    # What the log-softmax does for CS it does for KL: only a KL that fails where CS does not would support the claim.
    verdict = HOLDS if min(least["CS"], least["GCS"]) == 1 and least["KL, forward"] < 1 else FAILS
    head = "Least share, over logits to 1e4 and three precisions, of finite values, finite and live gradients"
    return Judgement(verdict, [head, *lines], ["table1.csv"])


def _trains_without_epsilon(folder: Path) -> Judgement:
    shares = by_sweep(folder, "stability", metric="finite gradients").droplevel("dataset")
    verdict = HOLDS if shares.loc["GCS mixed", "min"] == 1 else FAILS
    lines = [f"{line} {low:.3f} to {high:.3f}" for line, low, high in shares.itertuples()]
    head = "Share of training steps with a finite gradient, by temperature"
    return Judgement(verdict, [head, *lines], ["stability.csv"])


def _bound_is_enough(folder: Path) -> Judgement:
    found, lines = _shares(folder, "CS", "CS, ordinary space")
    verdict = FAILS if found.loc["CS, ordinary space", SHARES[:2]].min() < 1 else HOLDS
    head = "The denominator has the same bound in both; finite values, finite and live gradients"
    return Judgement(verdict, [head, *lines, "The log-softmax keeps CS finite, not the bound"], ["table1.csv"])


def _cost(folder: Path) -> Judgement:
    """Linear for circular matching, and quadratic for pairwise: each half is judged, and both have to hold."""
    rows = rows_of(folder, "scaling")
    rows = rows[
        rows["metric"].isin(["exponent", "standard error"]) & rows["condition"].isin(["seconds/step", "saved MiB"])
    ]
    slopes = rows.pivot_table(index=["method", "condition"], columns="metric", values="value", sort=False)
    low, high = (slopes["exponent"] + sign * 2 * slopes["standard error"] for sign in (-1, 1))
    circular = slopes.index.get_level_values("method").str.startswith("GCS")
    if not circular.any() or circular.all():
        raise Missing("results/scaling.csv has no such rows: make scaling")
    # A half fails where every slope is nearer to the other half's: above 1.5 for circular matching, below it for pairs.
    halves = {
        "circular, at most M^1": _half(low[circular] <= 1, low[circular] > 1.5),
        "pairwise, at least M^2": _half(high[~circular] >= 2, high[~circular] < 1.5),
    }
    verdict = next(each for each in (FAILS, OPEN, HOLDS) if each in halves.values())
    lines = [f"{name}: {half}" for name, half in halves.items()]
    lines += [f"{method} {what} M^{slope:.2f} ± {error:.2f}" for (method, what), slope, error in slopes.itertuples()]
    return Judgement(verdict, ["Fitted over M = 2 to 8, within two standard errors", *lines], ["scaling.csv"])


def _half(holds: Iterable[bool], fails: Iterable[bool]) -> str:
    return HOLDS if all(holds) else FAILS if all(fails) else OPEN


CLEAN = "labels class"  # condition of label-noise with right labels
CLAIMS: dict[str, Callable[[Path], Judgement]] = {
    "CS retrieves better than KL, in JFSE than CMPM-KL": compared(
        ("table2 table3", "JFSE + CS", "JFSE + CMPM-KL"),
        ("table5 table7 table9 unsupervised", "pairwise CS", "pairwise KL"),
    ),
    "CS needs no hyperparameter": _needs_no_hyperparameter,
    "CS is numerically more stable than KL": _more_stable,
    "GCS trains without an epsilon": _trains_without_epsilon,
    "The lower bound of the denominator alone keeps CS finite": _bound_is_enough,
    "GCS retrieves better than pairwise divergences": compared(
        ("table5 table7 unsupervised", "GCS mixed", "pairwise KL"),
        ("table5 table7 unsupervised many-modalities", "GCS mixed", "pairwise CS"),
    ),
    "Of the circular schemes, mixed is the best": compared(
        ("table7 many-modalities", "GCS mixed", "GCS clockwise"),
        ("table7", "GCS mixed", "GCS counterclockwise"),
        ("table7", "GCS mixed", "GCS bidirectional"),
    ),
    "GCS aligns three modalities jointly: it finds what no pair of them tells": compared(
        ("higher-order", "GCS mixed", "pairwise KL"),
        ("higher-order", "GCS mixed", "pairwise CS"),
        on="xor",
    ),
    "Under wrong labels GCS retrieves better than pairwise KL and CS": compared(
        ("label-noise", "GCS mixed", "pairwise KL"), ("label-noise", "GCS mixed", "pairwise CS"), but=CLEAN
    ),
    "Under wrong labels GCS retrieves better than MIL-NCE, which asks for one positive too": compared(
        ("label-noise", "GCS mixed", "pairwise MIL-NCE"), but=CLEAN
    ),
    "Under wrong labels CS retrieves better than KL": compared(
        ("label-noise", "pairwise CS", "pairwise KL"), but=CLEAN
    ),
    "The cost of circular GCS grows as M, that of pairwise losses as M squared": _cost,
}


def judge_claims(folder: Path) -> pd.DataFrame:
    """Every claim with its verdict from the results in a folder: the columns ``COLUMNS``.

    "conditions" names those whose own figures differ from the verdict, "evidence" has a line per figure, below one that
    sums up, and "sources" names files with spaces between.

    Raises:
        TableError: a result file cannot be read.
    """
    found = []
    for claim, judged in CLAIMS.items():
        try:
            of = judged(folder)
        except Missing as missing:
            of = Judgement(OPEN, [str(missing)])
        found.append((claim, of.verdict, of.conditions, "\n".join(of.evidence), " ".join(of.sources)))
    return pd.DataFrame(found, columns=list(COLUMNS))


def read_claims(path: str | Path) -> pd.DataFrame:
    """Read what :func:`main` wrote.

    Raises:
        TableError: the file is none of ours, naming the line or claim.
    """
    claims = read_csv(path, COLUMNS)
    for claim in claims[~claims["verdict"].isin([HOLDS, FAILS, OPEN])].itertuples():
        raise TableError(
            f"{path}: the verdict on {claim.claim!r} is {claim.verdict!r}; expected {HOLDS!r}, {FAILS!r} or {OPEN!r}. "
            "Write it again with make claims."
        )
    return claims


def verdict_of(claim: Any) -> str:
    """Verdict and conditions of a row of the claims, in words."""
    return "; ".join(filter(None, (claim.verdict, claim.conditions)))


def main(argv: list[str]) -> int:
    """Judge the claims, write claims.csv and print them; returns 0.

    Raises:
        TableError: there is no such folder, or a result file cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="python -m reproduce claims", description="Check the claims of the paper against the results."
    )
    parser.add_argument("--out", default="results", type=user_path, help="folder of the results (default: results)")
    folder = parser.parse_args(argv).out
    if not folder.is_dir():
        raise TableError(f"{folder}: no such folder; run a table first, or name its folder with --out.")
    claims = judge_claims(folder)
    path = write_csv(claims, folder / "claims.csv")
    for claim in claims.itertuples():
        print(f"{claim.claim}: {verdict_of(claim)}")
        print(*(f"  {line}" for line in claim.evidence.splitlines()), sep="\n", end="\n\n")
    print(f"wrote {path}")
    return 0
