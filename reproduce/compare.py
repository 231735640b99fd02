"""Our numbers beside the published ones: the difference where they measure the same thing, else what differs."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from datamodules.files.sources import user_path
from reproduce.published import Published, PublishedError, find_published, nearest_published
from reproduce.render import SECTION, column_name, format_value, section_name
from reproduce.schema import Row, TableError, read_table

CLAIMS = "claims.csv"  # verdicts, beside the tables they are drawn from
MOST_REASONS = 3


@dataclass(frozen=True)
class AgainstPublished:
    """One number of ours and the published number nearest to it.

    Args:
        row: a row of status ok.
        other: the published number; None where nothing is published for its data set and metric, or on synthetic data.
        differs: the columns in which the two differ; empty where they measure the same thing.
    """

    row: Row
    other: Published | None
    differs: tuple[str, ...] = ()

    @property
    def delta(self) -> float | None:
        """Our value minus the published one, where they measure the same thing."""
        return None if self.other is None or self.differs else self.row.value - self.other.value


def compare(paths: Iterable[str | Path]) -> list[AgainstPublished]:
    """Sets every number of the tables beside a published one.

    Args:
        paths: tables written by `reproduce.schema.write_table`.

    Raises:
        TableError: a table cannot be read.
        PublishedError: the published numbers cannot be read.
    """
    return [_compare_row(row) for path in paths for row in read_table(path) if row.status == "ok"]


def _compare_row(row: Row) -> AgainstPublished:
    if row.data_kind == "synthetic":
        return AgainstPublished(row, None)
    if (exact := find_published(row)) is not None:
        return AgainstPublished(row, exact)
    nearest = nearest_published(row)
    return AgainstPublished(row, None) if nearest is None else AgainstPublished(row, *nearest)


def format_comparisons(comparisons: Iterable[AgainstPublished]) -> str:
    """The comparisons as text: a block per table and data set, and what differs once below the block."""
    blocks: dict[tuple, list[AgainstPublished]] = {}
    for item in comparisons:
        blocks.setdefault((item.row.table, *(getattr(item.row, name) for name in SECTION)), []).append(item)
    return "\n\n".join(_block(items) for items in blocks.values())


def _block(items: list[AgainstPublished]) -> str:
    remarks: dict[str, str] = {}
    lines = [("method", "number", "ours", "published", "delta", "")]
    for item in items:
        row, other = item.row, item.other
        cells = (row.method, column_name(row), format_value(row))
        if other is None:
            lines.append((*cells, "", "", ""))
        elif item.delta is not None:
            mark = remarks.setdefault(other.caveat, f"[{len(remarks) + 1}]") if other.caveat else ""
            origin = f"{other.reference}: {other.printed_method} {mark}"
            lines.append((*cells, format_value(row, other.value), f"{item.delta:+.3f}", origin))
        else:
            mark = remarks.setdefault(_difference(item), f"[{len(remarks) + 1}]")
            number = format_value(row, other.value)
            lines.append((*cells, "", "", f"nearest: {other.reference}: {other.printed_method} {number} {mark}"))
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    row = items[0].row
    if row.data_kind == "synthetic":
        text.append("Synthetic data: not compared with published numbers.")
    elif any(item.other is None for item in items):
        text.append("Where nothing is shown, nothing is published for this data set and metric.")
    text += [f"{mark} {remark}" for remark, mark in remarks.items()]
    return "\n".join((f"{row.table}: {section_name(row)}", *("  " + line for line in text)))


def _difference(item: AgainstPublished) -> str:
    """What differs; the nearest line itself shows the published method, so the remark only names that column."""
    parts = [
        name if name == "method" else f"{name} ({getattr(item.other, name)}, ours {getattr(item.row, name)})"
        for name in item.differs
    ]
    return "not comparable, differs in " + ", ".join(parts) + (f"; {item.other.note}" if item.other.note else "")


def table_paths(folder: Path) -> list[Path]:
    """The tables of a folder, those of the paper first: every CSV file but that of the claims."""
    paths = [path for path in folder.glob("*.csv") if path.name != CLAIMS]
    return sorted(paths, key=lambda path: (not path.name.startswith("table"), path.name))


def format_count(comparisons: Iterable[AgainstPublished]) -> str:
    """How many of our numbers have a comparable published one, and the most frequent reasons of the others."""
    comparisons = list(comparisons)
    reasons = Counter(_reason(item) for item in comparisons if item.delta is None)
    count = sum(item.delta is not None for item in comparisons)
    text = f"{count} of {len(comparisons)} numbers have a comparable published one, {reasons.total()} have none"
    named = [f"{times} {reason}" for reason, times in reasons.most_common(MOST_REASONS)]
    others = reasons.total() - sum(times for _, times in reasons.most_common(MOST_REASONS))
    named += [f"{others} for other reasons"] if others else []
    return f"{text}: {'; '.join(named)}." if named else f"{text}."


def _reason(item: AgainstPublished) -> str:
    if item.row.data_kind == "synthetic":
        return "on synthetic data"
    if item.other is None:
        return "where nothing is published for the data set and metric"
    return f"where the nearest differs in {', '.join(item.differs)}"


def main(argv: list[str] | None = None) -> int:
    """Prints the comparison of every table in a folder; returns 1 where there is none or one cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m reproduce compare", description=__doc__)
    parser.add_argument("--out", default="results", type=user_path, help="folder of the tables (default: results)")
    folder = parser.parse_args(argv).out
    paths = table_paths(folder)
    if not paths:
        print(f"{folder}: no tables (*.csv); run a table first, or name its folder with --out.", file=sys.stderr)
        return 1
    code, found = 0, []
    for path in paths:
        try:
            comparisons = compare([path])
        except (TableError, PublishedError) as error:
            print(error, file=sys.stderr)
            code = 1
            continue
        found += comparisons
        print(format_comparisons(comparisons) or f"{path}: no number of status ok.", end="\n\n")
    print(format_count(found))
    return code
