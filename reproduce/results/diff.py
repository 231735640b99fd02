"""One table against another, number by number, within a tolerance."""

import argparse
import math

import numpy as np
import pandas as pd

from datamodules.files.sources import user_path
from reproduce.results.metrics import METRICS
from reproduce.results.schema import IDENTITY, read_table
from reproduce.results.shown import aligned, column_name, distinct, section_name

# What the machine decides, not the method; a row fitted to such a metric names it as its condition.
MACHINE = ("seconds/epoch", "seconds/step")
RANKS = 100  # ranks to a tolerance of 1: half a percentage point goes with half a rank
MEANING = f"""\
What T means, by metric:
  fractions (MAP, R@k, P@k, shares)   |A - B| <= T, so 0.005 is half a percentage point
  ranks (MedR)                        |A - B| <= {RANKS} T ranks, so 0.005 is half a rank
  times, peak memory, and what is     shown, never counted as a difference
    fitted to them
  every other measure                 |A - B| <= T max(|A|, |B|)

Exit status: 0 everything within the tolerance; 1 something differs or is in one of the two only, or nothing could be
compared; 2 a file or an argument that cannot be used."""


def pair_tables(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The numbers of two tables side by side: those of A in its order, then what B alone has.

    Returns:
        The identity of every number with its value "A" and its value "B", missing where the other alone has it.
    """
    sides = [table[table["status"] == "ok"].set_index(list(IDENTITY))["value"] for table in (first, second)]
    return pd.concat(sides, axis=1, keys=["A", "B"]).reset_index()


def judged(pairs: pd.DataFrame, tolerance: float) -> pd.Series:
    """What each pair is: "equal", "differs", "A" or "B" where one side alone has it, "machine" or "" where none counts.

    Args:
        pairs: of ``pair_tables``.
        tolerance: T, see ``MEANING``.
    """
    fraction = pairs["metric"].map(lambda metric: METRICS[metric].fraction)
    larger = pairs[["A", "B"]].abs().max(axis=1)
    allowed = np.where(fraction, 1.0, np.where(pairs["metric"] == "MedR", RANKS, larger)) * tolerance
    # 0.394 - 0.389 is a little more than 0.005
    within = (pairs["A"] - pairs["B"]).abs() <= allowed * (1 + 1e-9)
    machine = pairs["metric"].isin(MACHINE) | pairs["condition"].isin(MACHINE)
    only_a, only_b = pairs["B"].isna(), pairs["A"].isna()
    cases = [machine & (only_a | only_b), machine, only_a, only_b, within]
    return pd.Series(np.select(cases, ["", "machine", "A", "B", "equal"], "differs"), pairs.index)


def format_pairs(heading: str, pairs: pd.DataFrame) -> str:
    """Pairs as text: a line each, below the section they belong to; empty where there are none."""
    if pairs.empty:
        return ""
    lines = [("method", "number", "A", "B", "A - B")]
    for row in pairs.itertuples():
        shown = ["–" if math.isnan(value) else METRICS[row.metric].text(value) for value in (row.A, row.B)]
        lines.append((row.method, column_name(row), *shown, _signed(row.metric, row.A - row.B)))
    head, *body = (f"    {line}" for line in aligned(lines))
    sections = [f"  {row.table}: {section_name(row)}" for row in pairs.itertuples()]
    text = [line for name, of in pd.Series(body, sections).groupby(level=0, sort=False) for line in (name, *of)]
    return "\n".join([f"{heading} ({len(pairs)})", head, *text])


def _signed(metric: str, difference: float) -> str:
    """A difference with its sign, in as many digits as it takes to be seen."""
    if math.isnan(difference):
        return ""
    text = METRICS[metric].text(abs(difference))
    if difference and float(text) == 0:
        text = f"{abs(difference):.6f}"
    return ("-" if difference < 0 else "+") + text


def remarks(first: pd.DataFrame, second: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """What the two runs were given, where it differs, and why nothing or not everything could be matched."""
    found = []
    for name in ("seeds", "device", "torch", "git_commit"):
        sides = [distinct(table.loc[table["status"] == "ok", name]) for table in (first, second)]
        if sides[0] != sides[1]:
            found.append(f"{name}: A {'; '.join(sides[0]) or 'none'} | B {'; '.join(sides[1]) or 'none'}")
    if pairs[["A", "B"]].isna().any(axis=1).all():
        apart = [name for name in IDENTITY if set(first[name]).isdisjoint(second[name])]
        found.append(f"no number in common{': the two differ in ' if apart else ''}{', '.join(apart)}")
    missing = [distinct((t["status"] + ": " + t["note"])[t["status"] != "ok"]) for t in (first, second)]
    for side, own, other in (("A", *missing), ("B", *reversed(missing))):
        found += [f"without a number in {side}, {reason}" for reason in own if reason not in other]
    return found


def report(pairs: pd.DataFrame, tolerance: float, said: list[str]) -> tuple[str, int]:
    """The list, differences first and counts last, and the exit status.

    Args:
        pairs: of ``pair_tables``.
        tolerance: T.
        said: remarks shown before the counts.
    """
    what = judged(pairs, tolerance)
    count = {**dict.fromkeys(("equal", "differs", "A", "B", "machine"), 0), **what.value_counts()}
    counts = (
        f"{count['equal']} equal within {tolerance:g}, {count['differs']} differ, {count['A']} only in A, "
        f"{count['B']} only in B, {count['machine']} times and memory"
    )
    headings = {"differs": "differs", "A": "only in A", "B": "only in B", "machine": "times and memory, not counted"}
    blocks = [format_pairs(heading, pairs[what == kind]) for kind, heading in headings.items()]
    right = count["equal"] and not any(count[kind] for kind in ("differs", "A", "B"))
    return "\n\n".join(filter(None, [*blocks, "\n".join(said), counts])), int(not right)


def main(argv: list[str]) -> int:
    """Print how two tables differ; returns the exit status, see ``MEANING``.

    Raises:
        TableError: a file that cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="python -m reproduce diff",
        description="Compare a table with another, number by number.",
        epilog=MEANING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("A", type=user_path, help="a table, as a run writes it")
    parser.add_argument("B", type=user_path, help="the table to compare it with")
    parser.add_argument("--tolerance", type=float, default=0.005, metavar="T", help="see below (default: 0.005)")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.tolerance < math.inf:
        parser.error(f"--tolerance {arguments.tolerance}: expected a number of at least 0")
    first, second = read_table(arguments.A), read_table(arguments.B)
    pairs = pair_tables(first, second)
    text, code = report(pairs, arguments.tolerance, remarks(first, second, pairs))
    print(f"A {arguments.A}\nB {arguments.B}\n\n{text}")
    return code
