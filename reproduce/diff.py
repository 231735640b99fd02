"""One table against another, or against the published numbers: number by number, within a tolerance."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from datamodules.files.sources import user_path
from reproduce.compare import compare
from reproduce.published import PublishedError
from reproduce.render import column_name, section_name
from reproduce.schema import IDENTITY, METRICS, Row, TableError, read_table

# What the machine decides, not the method; a row fitted to such a metric names it as its split.
MACHINE = ("seconds/epoch", "seconds/step")
RANKS = 100  # ranks to a tolerance of 1: half a percentage point goes with half a rank
MEANING = f"""\
What T means, by metric:
  fractions (MAP, R@k, P@k, shares)   |A - B| <= T, so 0.005 is half a percentage point
  ranks (MedR)                        |A - B| <= {RANKS} T ranks, so 0.005 is half a rank
  times, peak memory, and what is     shown, never counted as a difference
    fitted to them
  every other measure                 |A - B| <= T max(|A|, |B|)

With --published, B is the number published for the same data set, features, split, gallery, protocol, metric, direction
and method; numbers of A without one are counted and do not make A differ.

Exit status: 0 everything within the tolerance; 1 something differs or is in one of the two only, or nothing could be
compared; 2 a file or an argument that cannot be used."""


@dataclass(frozen=True)
class Pair:
    """A number in A and the same number in B; either is None where it is in the other only.

    Args:
        row: the row of A; of B where A has none.
        first: the value in A.
        second: the value in B.
    """

    row: Row
    first: float | None
    second: float | None

    @property
    def counted(self) -> bool:
        """Whether a difference here is one of the method, not of the machine."""
        return not {self.row.metric, self.row.split} & set(MACHINE)

    def within(self, tolerance: float) -> bool:
        """Whether the two values agree, as ``MEANING`` says for the metric.

        Args:
            tolerance: T.
        """
        if METRICS[self.row.metric].fraction:
            allowed = tolerance
        elif self.row.metric == "MedR":
            allowed = RANKS * tolerance
        else:
            allowed = tolerance * max(abs(self.first), abs(self.second))
        return abs(self.first - self.second) <= allowed * (1 + 1e-9)  # 0.394 - 0.389 is a little more than 0.005


def pair_tables(first: Iterable[Row], second: Iterable[Row]) -> list[Pair]:
    """The numbers of two tables side by side, matched by ``Row.identity``: those of A in its order, then B's others."""
    found = {row.identity: row for row in second if row.status == "ok"}
    pairs = []
    for row in first:
        if row.status == "ok":
            other = found.pop(row.identity, None)
            pairs.append(Pair(row, row.value, other and other.value))
    return pairs + [Pair(row, None, row.value) for row in found.values()]


def pair_published(path: Path) -> list[Pair]:
    """The numbers of a table beside what was published for the very same thing, None where nothing was.

    Raises:
        TableError: the table cannot be read.
        PublishedError: the published numbers cannot be read.
    """
    found = compare([path])
    return [Pair(item.row, item.row.value, None if item.delta is None else item.other.value) for item in found]


def format_pairs(heading: str, pairs: list[Pair]) -> str:
    """Pairs as text: a line each, below the section they belong to; empty where there are none."""
    if not pairs:
        return ""
    sections: dict[str, list[tuple[str, ...]]] = {}
    for pair in pairs:
        values = (pair.first, pair.second)
        shown = ["–" if value is None else METRICS[pair.row.metric].text(value) for value in values]
        delta = "" if None in values else _signed(pair.row, pair.first - pair.second)
        name = f"{pair.row.table}: {section_name(pair.row)}"
        sections.setdefault(name, []).append((pair.row.method, column_name(pair.row), *shown, delta))
    cells = [("method", "number", "A", "B", "A - B"), *(line for lines in sections.values() for line in lines)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(cells[0]))]

    def aligned(line: tuple[str, ...]) -> str:
        return "    " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()

    text = [f"{heading} ({len(pairs)})", aligned(cells[0])]
    for name, lines in sections.items():
        text += [f"  {name}", *map(aligned, lines)]
    return "\n".join(text)


def _signed(row: Row, difference: float) -> str:
    """A difference with its sign, in as many digits as it takes to be seen."""
    text = METRICS[row.metric].text(abs(difference))
    if difference and float(text) == 0:
        text = f"{abs(difference):.6f}"
    return ("-" if difference < 0 else "+") + text


def _remarks(first: list[Row], second: list[Row], pairs: list[Pair]) -> list[str]:
    """What the two runs were given, where it differs, and why nothing or not everything could be matched."""
    remarks = []
    for name in ("seeds", "device", "torch", "git_commit"):
        sides = [
            dict.fromkeys(_text(getattr(row, name)) for row in rows if row.status == "ok") for rows in (first, second)
        ]
        if sides[0] != sides[1]:
            remarks.append(f"{name}: A {'; '.join(sides[0]) or 'none'} | B {'; '.join(sides[1]) or 'none'}")
    if not any(pair.first is not None and pair.second is not None for pair in pairs):
        apart = [
            name
            for name in IDENTITY
            if {getattr(row, name) for row in first}.isdisjoint(getattr(row, name) for row in second)
        ]
        remarks.append(f"no number in common{': the two differ in ' if apart else ''}{', '.join(apart)}")
    missing = [dict.fromkeys(f"{r.status}: {r.note}" for r in rows if r.status != "ok") for rows in (first, second)]
    for side, own, other in (("A", *missing), ("B", *reversed(missing))):
        remarks += [f"without a number in {side}, {reason}" for reason in own if reason not in other]
    return remarks


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def report(pairs: list[Pair], tolerance: float, remarks: list[str], published: bool) -> tuple[str, int]:
    """The list, differences first and counts last, and the exit status.

    Args:
        pairs: of ``pair_tables`` or ``pair_published``.
        tolerance: T.
        remarks: shown before the counts.
        published: B is the published numbers, so that what is in A only does not count.
    """
    both = [pair for pair in pairs if pair.first is not None and pair.second is not None]
    machine = [pair for pair in both if not pair.counted]
    compared = [pair for pair in both if pair.counted]
    differing = [pair for pair in compared if not pair.within(tolerance)]
    only_first = [pair for pair in pairs if pair.second is None and pair.counted]
    only_second = [pair for pair in pairs if pair.first is None and pair.counted]
    blocks = [
        format_pairs("differs", differing),
        "" if published else format_pairs("only in A", only_first),
        format_pairs("only in B", only_second),
        format_pairs("times and memory, not counted", machine),
        "\n".join(remarks),
        f"{len(compared) - len(differing)} equal within {tolerance:g}, {len(differing)} differ, "
        + (
            f"{len(only_first)} without a comparable published number"
            if published
            else f"{len(only_first)} only in A, {len(only_second)} only in B, {len(machine)} times and memory"
        ),
    ]
    missing = [] if published else only_first + only_second
    return "\n\n".join(filter(None, blocks)), 1 if differing or missing or not compared else 0


def main(argv: list[str]) -> int:
    """Prints how two tables, or a table and the published numbers, differ.

    Args:
        argv: words after ``python -m reproduce diff``.

    Returns:
        0 everything within the tolerance; 1 something differs or is missing; 2 a file that cannot be used.
    """
    arguments = _parse(argv)
    try:
        if arguments.published:
            pairs, remarks = pair_published(arguments.A), []
        else:
            first, second = read_table(arguments.A), read_table(arguments.B)
            pairs = pair_tables(first, second)
            remarks = _remarks(first, second, pairs)
    except (TableError, PublishedError) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2
    text, code = report(pairs, arguments.tolerance, remarks, arguments.published)
    print(f"A {arguments.A}\nB {'published numbers' if arguments.published else arguments.B}\n\n{text}")
    return code


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reproduce diff",
        description="Compare a table with another, or with the published numbers, number by number.",
        epilog=MEANING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("A", type=user_path, help="a table, as a run writes it")
    parser.add_argument("B", type=user_path, nargs="?", help="the table to compare it with")
    parser.add_argument("--published", action="store_true", help="compare with the published numbers in place of B")
    parser.add_argument("--tolerance", type=float, default=0.005, metavar="T", help="see below (default: 0.005)")
    arguments = parser.parse_args(argv)
    if arguments.published == (arguments.B is not None):
        parser.error("expected a second table B, or --published in its place")
    if not 0 <= arguments.tolerance < math.inf:
        parser.error(f"--tolerance {arguments.tolerance}: expected a number of at least 0")
    return arguments
