"""Our numbers beside the published ones: the difference where they measure the same thing, else what differs."""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.files.sources import user_path
from reproduce.results.metrics import METRICS
from reproduce.results.published import nearest_published, published_of, with_other_features
from reproduce.results.schema import TableError, read_table
from reproduce.results.shown import aligned, column_name, format_value, section_name, sections

CLAIMS = "claims.csv"  # verdicts, beside the tables they are drawn from
FUZZ = "fuzz.csv"  # counts of `make fuzz`
MOST_REASONS = 3
# A number agrees with a published one that it differs from by at most so much: fractions, and ranks.
AGREE, AGREE_RANKS = 0.01, 0.5
WORDS = {"k": "cut-off", "as_published": "as published"}  # of the tables -> of a reader
SAME = "data, features, split, gallery, protocol and metric"


def compare(table: pd.DataFrame) -> pd.DataFrame:
    """The numbers of a table, each with the published one nearest to it.

    Returns:
        The rows of status ok and, beside their columns, "other": the published number as a tuple of its columns, None
        where there is none or on synthetic data; "differs": the columns in which the two differ, none where they
        measure the same thing; "delta", filled there alone; and "agrees", whether it is small.

    Raises:
        TableError: the published numbers cannot be read.
    """
    ok = table[table["status"] == "ok"]
    found = [(row.data_kind == "real" and nearest_published(row)) or (None, ()) for row in ok.itertuples()]
    others, differs = (pd.Series([pair[place] for pair in found], ok.index, dtype=object) for place in (0, 1))
    published = others.map(lambda other: other and other.value).astype(float)
    delta = (ok["value"] - published).where(differs.map(len) == 0)
    agreeing = pd.Series(map(agrees, ok["metric"], delta), ok.index, dtype=bool)
    return ok.assign(other=others, differs=differs, delta=delta, agrees=agreeing)


def agrees(metric: str, delta: float) -> bool:
    """Whether a number and the published one beside it agree: to .01, ranks to half of one."""
    return abs(delta) <= (AGREE if METRICS[metric].fraction else AGREE_RANKS)


def format_comparisons(compared: pd.DataFrame) -> str:
    """The comparisons as text: a block per table and data set, and what differs once below the block.

    Data sets and metrics for which nothing is published are left out.
    """
    return "\n\n".join(_block(rows) for rows in sections(compared[compared["other"].notna()]))


def _block(rows: pd.DataFrame) -> str:
    remarks: dict[str, str] = {}
    lines = [("method", "number", "ours", "published", "delta", "", "")]
    for row in rows.itertuples():
        texts = (row.method, column_name(row), format_value(row))
        for other in [row.other] if row.differs else published_of(row):
            remark = _difference(row) if row.differs else other.caveat
            mark = remarks.setdefault(remark, f"[{len(remarks) + 1}]") if remark else ""
            number, origin = format_value(row, other.value), f"{other.reference}: {other.printed_method}"
            if row.differs:
                lines.append((*texts, "", "", "", f"nearest: {origin} {number} {mark}"))
            else:
                delta = row.value - other.value
                said = "agrees" if agrees(row.metric, delta) else "differs"
                lines.append((*texts, number, f"{delta:+.3f}", said, f"{origin} {mark}"))
            texts = ("", "", "")
    first = next(rows.itertuples())
    text = [f"{first.table}: {section_name(first)}", *(f"  {line}" for line in aligned(lines))]
    text += [f"  {mark} {remark}" for remark, mark in remarks.items()]
    return "\n".join(
        [*text, *(f"  same data, split and gallery, other features: {line}" for line in with_other_features(rows))]
    )


def _difference(row: Any) -> str:
    """What differs; the nearest line itself shows the published method, so the remark only names that column."""
    parts = []
    for name in row.differs:
        theirs, ours = (_word(getattr(one, name)) or "none" for one in (row.other, row))
        parts.append(_word(name) + f" (theirs {theirs}, ours {ours})" * (name != "method"))
    return "not comparable, differs in " + ", ".join(parts) + (f"; {row.other.note}" if row.other.note else "")


def _word(text: str) -> str:
    return WORDS.get(text, text)


def table_paths(folder: Path) -> list[Path]:
    """The tables of a folder, those of the paper first: every CSV file but those of the claims and of `make fuzz`."""
    paths = [path for path in folder.glob("*.csv") if path.name not in (CLAIMS, FUZZ)]
    return sorted(paths, key=lambda path: (not path.name.startswith("table"), path.name))


def format_count(compared: pd.DataFrame) -> str:
    """How many of our numbers have a published one and agree with it, per table, and why the others have none."""
    there = compared["delta"].notna()
    counts = compared.assign(differ=there & ~compared["agrees"], published=there)
    counts = counts.groupby("table", sort=False)[["published", "agrees", "differ"]].sum()
    lines = [("table", "numbers", "published", "agree", "differ", "nearest published number of the others")]
    for name, rows in compared.groupby("table", sort=False):
        lines.append((str(name), str(len(rows)), *map(str, counts.loc[name]), _reasons(rows[rows["delta"].isna()])))
    published, agree, differ = map(int, counts.sum())
    total = (
        f"{published} of {len(compared)} numbers have a published one of the same {SAME}: {agree} agree within "
        f"{AGREE} (ranks: {AGREE_RANKS}), {differ} differ by more."
    )
    return "\n".join([*aligned(lines), "", total])


def _reasons(rows: pd.DataFrame) -> str:
    """The most frequent reasons for which numbers have no published one."""
    reasons = Counter(map(_reason, rows.itertuples())).most_common()
    rest = sum(times for _, times in reasons[MOST_REASONS:])
    return "; ".join(f"{times} {reason}" for reason, times in [*reasons[:MOST_REASONS], ("other", rest)] if times)


def _reason(row: Any) -> str:
    if row.data_kind == "synthetic":
        return "on synthetic data"
    if row.other is None:
        return "nothing published for data set and metric"
    return f"differ in {', '.join(map(_word, row.differs))}"


def main(argv: list[str] | None = None) -> int:
    """Print the comparison of every table in a folder; returns 1 where there is none or one cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m reproduce compare", description=__doc__)
    parser.add_argument("--out", default="results", type=user_path, help="folder of the tables (default: results)")
    folder = parser.parse_args(argv).out
    code, found = 0, []
    for path in table_paths(folder):
        try:
            found.append(compare(read_table(path)))
        except TableError as error:
            print(error, file=sys.stderr)
            code = 1
        else:
            print(format_comparisons(found[-1]), end="\n\n" if found[-1]["other"].notna().any() else "")
    if not found:
        print(f"{folder}: no tables (*.csv); run a table first, or name its folder with --out.", file=sys.stderr)
        return 1
    print(format_count(pd.concat(found)))
    return code
