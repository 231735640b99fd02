"""What every benchmark shares: rows of the table, contestants that fail, and what is asked of the numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from reproduce.measures import measured
from reproduce.schema import Row

T = TypeVar("T")
OURS = "ours"
# A peer that keeps more than this is measured at smaller sizes, and so is one that takes longer (fresh.LIMIT_SECONDS).
LIMIT_BYTES = 8e9


class Disagreement(RuntimeError):
    """A contestant computes something else than the one that it is measured against."""


def agree(what: str, error: float, tolerance: float) -> float:
    """Return an error, or refuse it.

    Args:
        what: who is compared with whom, for the message.
        error: how far they are apart.
        tolerance: how far they may be.

    Raises:
        Disagreement: the error is larger, or not a number.
    """
    if not error <= tolerance:
        raise Disagreement(f"{what} differ by {error:.3g}, more than {tolerance:g}")
    return error


def attempt(work: Callable[[], T]) -> tuple[T | None, str]:
    """What a contestant returns, and in one line why it returns nothing; that is empty where it does."""
    try:
        return work(), ""
    except Exception as error:  # each fails in its own way, and the others are still measured
        return None, f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"


@dataclass(frozen=True)
class Target:
    """Something asked of a number.

    Args:
        asked: in words.
        value: the number; None where it was not measured.
        bound: what it is to reach, or to stay under.
        at_least: whether it is to reach the bound.
    """

    asked: str
    value: float | None
    bound: float
    at_least: bool = True

    @property
    def met(self) -> bool | None:
        """None where the number was not measured."""
        if self.value is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def cells(self) -> list[str]:
        """What is asked, the number, and whether and by which share of the bound it is met or missed."""
        if self.value is None:
            return [self.asked, "–", "not measured"]
        by = abs(self.value / self.bound - 1)
        return [self.asked, f"{self.value:.3g}", f"{'met' if self.met else 'missed'} by {by:.0%}"]


class Record:
    """The rows of the table, as they are measured.

    A row's method is the contestant, its split the benchmark, its features the size.

    Args:
        shared: the columns that all rows have alike.
    """

    def __init__(self, shared: Mapping[str, Any]):
        self.shared = dict(shared)
        self.rows: list[Row] = []

    def add(self, benchmark: str, contestant: str, size: str, metric: str, value: float | None, **columns: Any) -> None:
        """Add a number, or where there is none the reason, in ``note``.

        Args:
            benchmark: its name.
            contestant: who was measured.
            size: at what size.
            metric: what; one of `reproduce.schema.METRICS`.
            value: the number; None where the contestant failed.
            **columns: ``note``, ``status`` ("not_run" where nothing was tried), ``dataset`` and ``data_kind``.
        """
        kept = {name: columns.pop(name) for name in ("status", "data_kind") if name in columns}
        columns = {"dataset": "random embeddings", **columns, **self.shared}
        row = measured(metric, value, method=contestant, features=size, split=benchmark, **columns)
        self.rows.append(replace(row, **kept))

    def value(self, benchmark: str, contestant: str, size: str, metric: str) -> float | None:
        """A number measured before; None where there is none."""
        sought = (benchmark, contestant, size, metric)
        found = (row.value for row in self.rows if (row.split, row.method, row.features, row.metric) == sought)
        return next(found, None)

    def ratio(self, benchmark: str, peer: str, ours: str, size: str, metric: str, **columns: Any) -> None:
        """Add what a peer's number is as a multiple of ours, where both were measured.

        Args:
            benchmark: its name.
            peer: the contestant whose row it is.
            ours: the contestant it is divided by.
            size: of both.
            metric: "peak MiB", or one of seconds.
            **columns: as in :meth:`add`.
        """
        theirs, own = (self.value(benchmark, who, size, metric) for who in (peer, ours))
        if theirs and own:
            name = "memory ratio" if metric == "peak MiB" else "time ratio"
            self.add(
                benchmark, peer, size, name, theirs / own, **{"note": f"its {metric} over those of {ours}", **columns}
            )

    def disagreements(self) -> list[str]:
        """Every contestant that computed something else than ours, in words."""
        kind = f"{Disagreement.__name__}: "
        wrong = [row for row in self.rows if row.status == "failed" and row.note.startswith(kind)]
        return list(dict.fromkeys(f"{row.split}, {row.method}, {row.features}: {row.note}" for row in wrong))
