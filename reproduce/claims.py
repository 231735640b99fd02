"""The paper's claims, one by one: do the committed results bear them out?

A verdict follows from figures by a rule that is fixed beforehand. Method against method counts only with at least five
seeds, each method at the temperature or weight that validation data chose:

- holds: some difference is significant in favour after Holm's correction, none against, and no mean is negative;
- does not hold: some difference is significant against; or none is in favour, and no interval reaches a gain of
  ``RELEVANT`` in MAP;
- cannot be told from this data: everything else, and where the results are missing.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from datamodules.files.sources import user_path
from reproduce.comparisons import Comparison, read_comparisons
from reproduce.schema import Row, TableError, read_table, replace_file

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told from this data"
SEEDS = 5
RELEVANT = 0.02


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and what the results say to it.

    Args:
        claim: the claim.
        verdict: "holds", "does not hold" or "cannot be told from this data".
        evidence: the figures.
        sources: files in the results folder that they come from, with spaces between.
    """

    claim: str
    verdict: str
    evidence: str
    sources: str


COLUMNS = tuple(field.name for field in fields(Claim))
Judgement = tuple[str, str, list[str]]  # verdict, evidence, sources


class Missing(Exception):
    """A result file that a claim needs is not there."""


class Results:
    """The tables and comparisons of a folder.

    Args:
        folder: the results folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def rows(self, name: str, **wanted: object) -> list[Row]:
        """Rows of status ok of a table that have the wanted values.

        Raises:
            Missing: the table is not there, or has no such row.
        """
        path = self.folder / f"{name}.csv"
        found = [row for row in read_table(path) if row.status == "ok"] if path.exists() else []
        found = [row for row in found if all(getattr(row, key) == value for key, value in wanted.items())]
        if not found:
            raise Missing(f"results/{name}.csv has no such rows: make {name}")
        return found

    def compared(self, pairs: Iterable[tuple[str, str, str]]) -> list[Comparison]:
        """The comparisons (table, method, baseline) on real data.

        Raises:
            Missing: there is none of them.
        """
        pairs = list(pairs)
        found = []
        for name in dict.fromkeys(table for table, _, _ in pairs):
            path = self.folder / "comparisons" / f"{name}.csv"
            held = read_comparisons(path) if path.exists() else []
            wanted = {(method, baseline) for table, method, baseline in pairs if table == name}
            found += [c for c in held if (c.method, c.baseline) in wanted and c.data_kind == "real"]
        if not found:
            tables = ", ".join(dict.fromkeys(table for table, _, _ in pairs))
            raise Missing(f"there are no comparisons of {tables} on real data: make tables")
        return found


def judge(found: list[Comparison]) -> Judgement:
    """Verdict over comparisons of one method with others, by the rule of this module."""
    counted = [item for item in found if len(item.seeds) >= SEEDS]
    against = [item for item in counted if item.significant and item.difference < 0]
    favour = [item for item in counted if item.significant and item.difference > 0]
    if counted and (against or (not favour and all(item.high < RELEVANT for item in counted))):
        verdict = FAILS
    elif favour and all(item.difference >= 0 for item in counted):
        verdict = HOLDS
    else:
        verdict = OPEN
    lines = [
        f"{item.dataset} {item.features} {item.split}: {item.method} against {item.baseline} "
        f"{item.difference:+.3f} ({item.low:+.3f} to {item.high:+.3f}){'*' * item.significant}, {len(item.seeds)} seeds"
        for item in found
    ]
    signs = f"{len(favour)} of {len(counted)} differences in MAP are significant in favour, {len(against)} against"
    head = f"With {SEEDS} seeds {signs}"
    return verdict, f"{head}. " + "; ".join(lines), [f"comparisons/{item.table}.csv" for item in found]


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
    arguments = results.rows("table1", metric="hyperparameters", method="CS")[0]
    spreads, sources = {}, ["table1.csv"]
    swept_in = [name for name in ("temperature", "temperature-jfse") if (results.folder / f"{name}.csv").exists()]
    if not swept_in:
        raise Missing("results/temperature.csv is not there: make temperature")
    for name in swept_in:
        found: dict[str, list[float]] = {}
        for row in results.rows(name, metric="MAP", direction="average", gallery="full", data_kind="real"):
            swept, comma, _ = row.method.rpartition(", temperature ")
            if comma:
                found.setdefault(f"{row.dataset} {swept}", []).append(row.value)
        spreads |= {method: (min(values), max(values)) for method, values in found.items()}
        sources.append(f"{name}.csv")
    cs = {method: high - low for method, (low, high) in spreads.items() if method.endswith("CS")}
    verdict = HOLDS if not arguments.value and max(cs.values()) < RELEVANT else OPEN
    verdict = FAILS if max(cs.values()) >= RELEVANT else verdict
    lines = [f"{method} {low:.3f} to {high:.3f}" for method, (low, high) in spreads.items()]
    head = (
        f"The CS loss takes {arguments.value:.0f} ({arguments.note}); MAP from the worst to the best temperature swept"
    )
    return verdict, f"{head}: {'; '.join(lines)}", sources


def _finite(results: Results, methods: Iterable[str]) -> dict[str, tuple[float, float, float]]:
    """Method -> least share over precisions of finite values, finite gradients and live gradients."""
    metrics = ("finite values", "finite gradients", "live gradients")
    return {
        method: tuple(min(row.value for row in results.rows("table1", metric=m, method=method)) for m in metrics)
        for method in methods
    }


def _shares(found: dict[str, tuple[float, float, float]]) -> str:
    return "; ".join(f"{name} {a:.3f}, {b:.3f}, {c:.3f}" for name, (a, b, c) in found.items())


def _more_stable(results: Results) -> Judgement:
    found = _finite(results, ("CS", "GCS", "KL, forward", "CMPM-KL", "CS, clamped", "GCS, clamped"))
    cs, kl = min(found["CS"], found["GCS"]), found["KL, forward"]
    # What the log-softmax does for CS it does for KL: only a KL that fails where CS does not would bear the claim out.
    verdict = HOLDS if min(cs) == 1 and min(kl) < 1 else FAILS
    head = "Least share, over logits to 1e4 and three precisions, of finite values, finite and live gradients"
    return verdict, f"{head}: {_shares(found)}", ["table1.csv"]


def _trains_without_epsilon(results: Results) -> Judgement:
    rows = results.rows("stability", metric="finite gradients", data_kind="real")
    shares: dict[str, list[float]] = {}
    for row in rows:
        shares.setdefault(row.method.rpartition(", temperature ")[0], []).append(row.value)
    verdict = HOLDS if min(shares["GCS mixed"]) == 1 else FAILS
    lines = [f"{method} {min(values):.3f} to {max(values):.3f}" for method, values in shares.items()]
    return (
        verdict,
        f"Share of training steps with a finite gradient, by temperature: {'; '.join(lines)}",
        ["stability.csv"],
    )


def _bound_is_enough(results: Results) -> Judgement:
    found = _finite(results, ("CS", "CS, ordinary space"))
    verdict = FAILS if min(found["CS, ordinary space"][:2]) < 1 else HOLDS
    head = "The denominator has the same bound in both; finite values, finite and live gradients"
    return verdict, f"{head}: {_shares(found)}. The log-softmax keeps CS finite, not the bound", ["table1.csv"]


def _cost_is_linear(results: Results) -> Judgement:
    slopes = {}
    for method in ("GCS clockwise", "GCS bidirectional", "GCS mixed", "pairwise KL", "pairwise CS"):
        for metric in ("seconds/step", "saved MiB"):
            rows = [
                results.rows("scaling", method=method, split=metric, metric=m)[0]
                for m in ("exponent", "standard error")
            ]
            slopes[method, metric] = (rows[0].value, rows[1].value)
    ring = [slopes[key] for key in slopes if key[0].startswith("GCS")]
    # From 2 to 8 modalities the M(M-1) matrices of all pairs have an exponent above 2, the 2M of a ring one of 1.
    verdict = HOLDS if all(slope - 2 * error <= 1 for slope, error in ring) else OPEN
    verdict = FAILS if all(slope - 2 * error > 1.5 for slope, error in ring) else verdict
    lines = [f"{method} {metric} M^{slope:.2f} ± {error:.2f}" for (method, metric), (slope, error) in slopes.items()]
    return verdict, f"Fitted over M = 2 to 8: {'; '.join(lines)}", ["scaling.csv"]


CLAIMS: dict[str, Callable[[Results], Judgement]] = {
    "CS retrieves better than KL": _cs_beats_kl,
    "CS needs no hyperparameter": _needs_no_hyperparameter,
    "CS is numerically more stable than KL": _more_stable,
    "GCS trains without an epsilon": _trains_without_epsilon,
    "The lower bound of the denominator alone keeps CS finite": _bound_is_enough,
    "GCS retrieves better than pairwise divergences": _gcs_beats_pairwise,
    "Of the circular schemes, mixed is the best": _mixed_is_best,
    "The cost of GCS grows as M, that of all pairs as M squared": _cost_is_linear,
}


def judge_claims(folder: Path) -> list[Claim]:
    """Every claim with its verdict from the results in a folder.

    Raises:
        TableError: a result file cannot be read.
    """
    results, found = Results(folder), []
    for claim, judged in CLAIMS.items():
        try:
            verdict, evidence, sources = judged(results)
        except Missing as missing:
            verdict, evidence, sources = OPEN, str(missing), []
        found.append(Claim(claim, verdict, evidence, " ".join(dict.fromkeys(sources))))
    return found


def write_claims(claims: Iterable[Claim], path: Path) -> Path:
    """Write claims as CSV, whole or not at all."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([COLUMNS, *map(astuple, claims)])
    return replace_file(path, buffer.getvalue())


def read_claims(path: str | Path) -> list[Claim]:
    """Read what :func:`write_claims` wrote.

    Raises:
        TableError: the file is none of ours, naming the line.
    """
    path = Path(path)
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}: cannot be read ({error}); write it again with make claims.") from error
    if not lines or tuple(lines[0]) != COLUMNS:
        raise TableError(f"{path}, line 1: expected the columns {','.join(COLUMNS)}; write it again with make claims.")
    for number, cells in enumerate(lines[1:], 2):
        if len(cells) != len(COLUMNS) or cells[1] not in (HOLDS, FAILS, OPEN):
            raise TableError(
                f"{path}, line {number}: expected a claim, one of {HOLDS!r}, {FAILS!r}, {OPEN!r}, evidence and "
                "sources; write it again with make claims."
            )
    return [Claim(*cells) for cells in lines[1:]]


def main(argv: list[str]) -> int:
    """Judge the claims, write claims.csv and print them; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduce claims",
        description="Say of every claim of the paper whether the results bear it out.",
    )
    parser.add_argument("--out", default="results", type=user_path, help="folder of the results (default: results)")
    folder = parser.parse_args(argv).out
    if not folder.is_dir():
        print(f"{folder}: no such folder; run a table first, or name its folder with --out.", file=sys.stderr)
        return 2
    claims = judge_claims(folder)
    path = write_claims(claims, folder / "claims.csv")
    for claim in claims:
        print(f"{claim.claim}: {claim.verdict}\n  {claim.evidence}\n")
    print(f"wrote {path}")
    return 0
