"""What every benchmark shares: rows of the table, contestants that fail, and what is asked of the numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from reproduce.measurements.measures import measured
from reproduce.results.schema import Row

T = TypeVar("T")


class Disagreement(RuntimeError):
    """A contestant computes something else than the one that it is measured against."""


def agree(what: str, error: float, tolerance: float) -> float:
    """Return how far two contestants are apart; a Disagreement where that is above the tolerance, or not a number."""
    if not error <= tolerance:
        raise Disagreement(f"{what} differ by {error:.3g}, more than {tolerance:g}")
    return error


def attempt(work: Callable[[], T]) -> tuple[T | None, str]:
    """What a contestant returns, and in one line why it returns nothing; that is empty where it does."""
    try:
        return work(), ""
    except Exception as error:  # each fails in its own way, and the others are still measured
        return None, f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"


class Target(NamedTuple):
    """Something asked of a number: in words, the number (None where it was not measured), and the bound."""

    asked: str
    value: float | None
    bound: float
    at_least: bool = True

    def cells(self) -> list[str]:
        """What is asked, the number, and whether it is met."""
        asked = f"{self.asked}: {'at least' if self.at_least else 'at most'} {self.bound:g}"
        if self.value is None:
            return [asked, "–", "not measured"]
        met = self.value >= self.bound if self.at_least else self.value <= self.bound
        return [asked, f"{self.value:.3g}", "met" if met else "missed"]


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
        """Add a number; where there is None, the contestant failed, and ``note`` says why."""
        columns = {"dataset": "random embeddings", **columns, **self.shared}
        self.rows.append(measured(metric, value, method=contestant, features=size, split=benchmark, **columns))

    def value(self, benchmark: str, contestant: str, size: str, metric: str) -> float | None:
        """A number measured before; None where there is none."""
        sought = (benchmark, contestant, size, metric)
        found = (row.value for row in self.rows if (row.split, row.method, row.features, row.metric) == sought)
        return next(found, None)

    def ratio(self, benchmark: str, peer: str, ours: str, size: str, metric: str, **columns: Any) -> None:
        """Add what a peer's number is as a multiple of ours, where both were measured."""
        theirs, own = (self.value(benchmark, who, size, metric) for who in (peer, ours))
        if theirs and own:
            name = "memory ratio" if metric == "peak MiB" else "time ratio"
            self.add(benchmark, peer, size, name, theirs / own, note=f"its {metric} over those of {ours}", **columns)

    def disagreements(self) -> list[str]:
        """Every contestant that computed something else than ours, in words."""
        wrong = [row for row in self.rows if row.status == "failed" and row.note.startswith(Disagreement.__name__)]
        return list(dict.fromkeys(f"{row.split}, {row.method}, {row.features}: {row.note}" for row in wrong))
