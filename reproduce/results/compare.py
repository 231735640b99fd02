"""Our numbers beside the published ones: the difference where they measure the same thing, else what differs."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.files.sources import user_path
from reproduce.results.published import nearest_published
from reproduce.results.schema import TableError, read_table
from reproduce.results.shown import aligned, column_name, format_value, section_name, sections

CLAIMS = "claims.csv"  # verdicts, beside the tables they are drawn from
MOST_REASONS = 3


def compare(table: pd.DataFrame) -> pd.DataFrame:
    """The numbers of a table, each with the published one nearest to it.

    Returns:
        The rows of status ok and, beside their columns, "other": the published number as a tuple of its columns, None
        where there is none or on synthetic data; "differs": the columns in which the two differ, none where they
        measure the same thing; and "delta", filled there alone.

    Raises:
        PublishedError: the published numbers cannot be read.
    """
    ok = table[table["status"] == "ok"]
    found = [(row.data_kind == "real" and nearest_published(row)) or (None, ()) for row in ok.itertuples()]
    others, differs = [other for other, _ in found], [columns for _, columns in found]
    delta = [
        row.value - other.value if other is not None and not columns else float("nan")
        for row, other, columns in zip(ok.itertuples(), others, differs, strict=True)
    ]
    return ok.assign(other=pd.Series(others, ok.index, dtype=object), differs=differs, delta=delta)


def format_comparisons(compared: pd.DataFrame) -> str:
    """The comparisons as text: a block per table and data set, and what differs once below the block."""
    return "\n\n".join(_block(rows) for rows in sections(compared))


def _block(rows: pd.DataFrame) -> str:
    remarks: dict[str, str] = {}
    lines = [("method", "number", "ours", "published", "delta", "")]
    for row in rows.itertuples():
        texts = (row.method, column_name(row), format_value(row))
        other = row.other
        if other is None:
            lines.append((*texts, "", "", ""))
            continue
        remark = _difference(row) if row.differs else other.caveat
        mark = remarks.setdefault(remark, f"[{len(remarks) + 1}]") if remark else ""
        number, origin = format_value(row, other.value), f"{other.reference}: {other.printed_method}"
        if row.differs:
            lines.append((*texts, "", "", f"nearest: {origin} {number} {mark}"))
        else:
            lines.append((*texts, number, f"{row.delta:+.3f}", f"{origin} {mark}"))
    first = next(rows.itertuples())
    text = [f"  {line}" for line in aligned(lines)]
    if first.data_kind == "synthetic":
        text.append("  Synthetic data: not compared with published numbers.")
    elif any(other is None for other in rows["other"]):
        text.append("  Where nothing is shown, nothing is published for this data set and metric.")
    return "\n".join((f"{first.table}: {section_name(first)}", *text, *(f"  {m} {r}" for r, m in remarks.items())))


def _difference(row: Any) -> str:
    """What differs; the nearest line itself shows the published method, so the remark only names that column."""
    parts = [
        name if name == "method" else f"{name} ({getattr(row.other, name)}, ours {getattr(row, name)})"
        for name in row.differs
    ]
    return "not comparable, differs in " + ", ".join(parts) + (f"; {row.other.note}" if row.other.note else "")


def table_paths(folder: Path) -> list[Path]:
    """The tables of a folder, those of the paper first: every CSV file but that of the claims."""
    paths = [path for path in folder.glob("*.csv") if path.name != CLAIMS]
    return sorted(paths, key=lambda path: (not path.name.startswith("table"), path.name))


def format_count(compared: pd.DataFrame) -> str:
    """How many of our numbers have a comparable published one, and the most frequent reasons of the others."""
    without = compared[compared["delta"].isna()]
    reasons = Counter(_reason(row) for row in without.itertuples())
    count = len(compared) - len(without)
    text = f"{count} of {len(compared)} numbers have a comparable published one, {len(without)} have none"
    named = [f"{times} {reason}" for reason, times in reasons.most_common(MOST_REASONS)]
    others = len(without) - sum(times for _, times in reasons.most_common(MOST_REASONS))
    named += [f"{others} for other reasons"] if others else []
    return f"{text}: {'; '.join(named)}." if named else f"{text}."


def _reason(row: Any) -> str:
    if row.data_kind == "synthetic":
        return "on synthetic data"
    if row.other is None:
        return "where nothing is published for the data set and metric"
    return f"where the nearest differs in {', '.join(row.differs)}"


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
            continue
        print(format_comparisons(found[-1]) or f"{path}: no number of status ok.", end="\n\n")
    if not found:
        print(f"{folder}: no tables (*.csv); run a table first, or name its folder with --out.", file=sys.stderr)
        return 1
    print(format_count(pd.concat(found)))
    return code
