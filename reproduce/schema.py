"""The rows of a result table: their columns, what each may hold, and how a table is written and read."""

from __future__ import annotations

import csv
import io
import math
import numbers
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path


class TableError(ValueError):
    """A result table that cannot be used; the message names the file and line, what was wrong and what to do."""


@dataclass(frozen=True)
class Metric:
    """What a metric's rows may hold: `k` is "all", "integer" or "none"; a fraction lies in [0, 1].

    `higher_is_better` is None where no value is the best, as of a gradient's norm or of what a measure is by chance.
    A metric of many magnitudes is kept to six significant digits, the others to six decimals. A distance has no usual
    size, so that it is shown with three significant digits.
    """

    k: str
    fraction: bool
    higher_is_better: bool | None
    least: float = 0
    many_magnitudes: bool = False
    distance: bool = False

    def takes(self, k: str | int | None) -> bool:
        """Whether `k` is what this metric's rows hold."""
        return isinstance(k, int) if self.k == "integer" else k == ("all" if self.k == "all" else None)

    @property
    def expected_k(self) -> str:
        """What column k holds, for messages."""
        return {"all": "all", "integer": "an integer of at least 1", "none": "an empty cell"}[self.k]

    def text(self, value: float, of: float | None = None) -> str:
        """A value as people read it: fractions to three decimals, three digits of many magnitudes, ranks to two.

        Args:
            value: the number.
            of: the value whose deviation or difference it is; a distance takes its decimals from there.
        """
        if self.many_magnitudes:
            return f"{value:.3g}"
        if self.distance:
            return f"{value:.{_decimals_of_three_digits(value if of is None else of)}f}"
        return f"{value:.{3 if self.fraction else 2}f}"


def _decimals_of_three_digits(value: float) -> int:
    """Decimals that show three significant digits, but not more than a table keeps."""
    return min(max(2 - int(f"{value:.2e}".partition("e")[2]), 0), DECIMALS["value"])


_SHARE = Metric(k="none", fraction=True, higher_is_better=True)
_COST = Metric(k="none", fraction=False, higher_is_better=False, many_magnitudes=True)
_DISTANCE = Metric(k="none", fraction=False, higher_is_better=False, distance=True)
_BY_CHANCE = replace(_DISTANCE, higher_is_better=None)
_RATE = Metric(k="none", fraction=False, higher_is_better=True, many_magnitudes=True)
METRICS = {
    "MAP": Metric(k="all", fraction=True, higher_is_better=True),
    "R@k": Metric(k="integer", fraction=True, higher_is_better=True),
    "P@k": Metric(k="integer", fraction=True, higher_is_better=True),
    "MAP@k[min(R,k)]": Metric(k="integer", fraction=True, higher_is_better=True),
    "MedR": Metric(k="none", fraction=False, higher_is_better=False, least=1),
    "seconds/epoch": _COST,
    **dict.fromkeys(("finite values", "finite gradients", "live gradients"), _SHARE),
    **dict.fromkeys(("relative error", "largest relative error", "gradient error"), _COST),
    "gradient norm": replace(_COST, higher_is_better=None),
    **dict.fromkeys(("hyperparameters", "seconds/step", "saved MiB"), _COST),
    **dict.fromkeys(("similarity matrices", "matching matrices"), _COST),
    "centroid distance": _DISTANCE,
    "linear separability": Metric(k="none", fraction=True, higher_is_better=False),
    "kernel CS": _DISTANCE,
    **dict.fromkeys(("centroid distance by chance", "kernel CS by chance"), _BY_CHANCE),
    **dict.fromkeys(("seconds", "extrapolated seconds", "peak MiB", "difference"), _COST),
    **dict.fromkeys(("steps/s", "items/s", "time ratio", "memory ratio"), _RATE),
    **dict.fromkeys(("floor seconds", "times the floor"), _COST),
    **dict.fromkeys(("share of ceiling", "GFLOP/s", "GB/s", "10^9 values/s"), _RATE),
    "exponent": Metric(k="none", fraction=False, higher_is_better=False, least=-math.inf),
    "standard error": Metric(k="none", fraction=False, higher_is_better=False),
}
VOCABULARY = {
    "protocol": ("honest", "as_published"),
    "status": ("ok", "not_run", "failed"),
    "data_kind": ("real", "synthetic"),
    "scale": ("quick", "paper"),
}
PATTERNS = {
    "direction": (re.compile(r"average|([^\s>]+)->(?!\1$)[^\s>]+"), '"query->gallery" of two modalities, or "average"'),
    "gallery": (
        re.compile(r"full|batches-\d+|threshold-\d\.\d+|dissimilar-\d+"),
        '"full", "batches-32", "threshold-0.95" or "dissimilar-100" (with the number used)',
    ),
}
DECIMALS = {"value": 6, "std": 6, "published": 6, "delta": 6, "train_seconds": 3}
INTEGERS = ("n_queries", "n_gallery")
# A failed or skipped training has no direction, metric or versions to name; a number has all of them.
NEEDED = ("table", "method", "dataset", "features", "split", "gallery", "protocol", "scale", "status", "data_kind")
NEEDED_BY_A_NUMBER = ("direction", "metric", "seeds", "device", "git_commit", "torch", "config_hash")
IDENTITY = (
    *("table", "method", "dataset", "features", "split", "gallery", "protocol", "direction", "metric", "k"),
    *("scale", "data_kind"),
)
TOLERANCE = 2e-6  # value, published and delta are each rounded to six decimals


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number of a table, or the reason why it is missing; checked when it is made.

    Numbers are rounded to the digits the file keeps, so a row equals what is read back. An `ok` row has a finite
    `value`; a `not_run` or `failed` row has none and gives its reason in `note`, and may leave direction, metric and k
    empty where a whole training is missing. `delta` is `value - published`.

    Args:
        k: "all" for MAP over the whole gallery, the cut-off for metrics with @k, None for the other metrics.
        value: mean over seeds; a fraction for MAP, R@k, P@k, MAP@k and shares, a rank for MedR. What has no direction,
            such as seconds, has "average" in that column.
        std: standard deviation over seeds with n - 1; None for a single seed.
        seeds: the seeds averaged over.
        note: free text; line breaks become spaces.

    Raises:
        TableError: a column holds something its vocabulary does not have, naming the column and what it may hold.
    """

    table: str
    method: str
    dataset: str
    features: str
    split: str
    gallery: str
    protocol: str
    direction: str = ""
    metric: str = ""
    k: str | int | None = None
    value: float | None = None
    std: float | None = None
    seeds: tuple[int, ...] = ()
    n_queries: int | None = None
    n_gallery: int | None = None
    published: float | None = None
    published_source: str = ""
    delta: float | None = None
    status: str
    data_kind: str
    scale: str
    train_seconds: float | None = None
    device: str = ""
    git_commit: str = ""
    torch: str = ""
    config_hash: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        many = self.metric in METRICS and METRICS[self.metric].many_magnitudes
        for name, digits in DECIMALS.items():
            if getattr(self, name) is not None:
                significant = many and name in ("value", "std")
                object.__setattr__(self, name, _rounded(name, getattr(self, name), digits, significant))
        for name in (*INTEGERS, "k"):
            if getattr(self, name) is not None and (name, getattr(self, name)) != ("k", "all"):
                object.__setattr__(self, name, _integer(name, getattr(self, name), least=1))
        if not isinstance(self.seeds, tuple | list):
            raise TableError(f"seeds is {self.seeds!r}; expected a tuple of integers.")
        object.__setattr__(self, "seeds", tuple(_integer("seeds", seed, least=0) for seed in self.seeds))
        printable = "".join(char if char.isprintable() else " " for char in str(self.note))
        object.__setattr__(self, "note", " ".join(printable.split()))
        _check_text(self)
        _check_spread(self)
        _check_status(self)
        _check_metric(self)
        _check_published(self)

    @property
    def identity(self) -> tuple:
        """The columns that tell one row of a table from another."""
        return tuple(getattr(self, name) for name in IDENTITY)


COLUMNS = tuple(field.name for field in fields(Row))
TEXT = tuple(name for name in COLUMNS if name not in {*DECIMALS, *INTEGERS, "k", "seeds"})


def _rounded(name: str, number: object, digits: int, significant: bool) -> float:
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise TableError(f"{name} is {number!r}; expected a number, or None where there is none.")
    if not math.isfinite(number):
        raise TableError(f"{name} is {number}; expected a finite number. Record a run without one as status failed.")
    rounded = float(f"{float(number):.{digits}g}") if significant else round(float(number), digits)
    return rounded + 0.0  # adding 0.0 turns -0.0 into 0.0


def _integer(name: str, number: object, least: int) -> int:
    if isinstance(number, bool) or not isinstance(number, numbers.Integral) or number < least:
        raise TableError(f"{name} holds {number!r}; expected an integer of at least {least}.")
    return int(number)


def _check_text(row: Row) -> None:
    for name in TEXT:
        text = getattr(row, name)
        if not isinstance(text, str) or text != text.strip() or not text.isprintable():
            raise TableError(f"{name} is {text!r}; expected one line of text without spaces around it.")
        if not text and name in NEEDED:
            raise TableError(f"{name} is empty; every row needs it.")
        if name in VOCABULARY and text not in VOCABULARY[name]:
            raise TableError(f"{name} is {text!r}; expected one of {', '.join(VOCABULARY[name])}.")
        if text and name in PATTERNS and not PATTERNS[name][0].fullmatch(text):
            raise TableError(f"{name} is {text!r}; expected {PATTERNS[name][1]}.")


def _check_spread(row: Row) -> None:
    if len(set(row.seeds)) < len(row.seeds):
        raise TableError(f"seeds {row.seeds} repeat a seed; name each seed once.")
    if row.std is not None and (row.std < 0 or len(row.seeds) < 2):
        raise TableError(f"std is {row.std} over {len(row.seeds)} seed(s); it is >= 0 and needs two seeds or more.")
    if row.train_seconds is not None and row.train_seconds < 0:
        raise TableError(f"train_seconds is {row.train_seconds}; expected a duration of at least 0.")


def _check_status(row: Row) -> None:
    if row.status == "ok":
        missing = [name for name in NEEDED_BY_A_NUMBER if not getattr(row, name)]
        if row.value is None or missing:
            raise TableError(f"{(missing or ['value'])[0]} is empty; a row of status ok needs it.")
        return
    held = [name for name in ("value", "std", "published", "delta") if getattr(row, name) is not None]
    if held:
        raise TableError(f"{held[0]} is {getattr(row, held[0])} in a row of status {row.status}; leave it empty.")
    if not row.note:
        raise TableError(f"note is empty; a row of status {row.status} gives its reason there.")


def _check_metric(row: Row) -> None:
    if not row.metric:
        if row.k is not None:
            raise TableError(f"k is {row.k!r} without a metric; leave it empty or name the metric.")
        return
    if row.metric not in METRICS:
        raise TableError(f"metric is {row.metric!r}; expected one of {', '.join(METRICS)}, the cut-off in column k.")
    metric = METRICS[row.metric]
    if not metric.takes(row.k):
        raise TableError(f"k of {row.metric} is {row.k!r}; expected {metric.expected_k}.")
    if row.value is None:
        return
    if metric.fraction and not 0 <= row.value <= 1:
        raise TableError(f"{row.metric} is {row.value}; expected a fraction in [0, 1] (divide a percentage by 100).")
    if row.value < metric.least:
        raise TableError(f"{row.metric} is {row.value}; expected at least {metric.least}.")


def _check_published(row: Row) -> None:
    given = [row.published is not None, bool(row.published_source), row.delta is not None]
    if not any(given):
        return
    if row.data_kind == "synthetic":
        raise TableError("published is filled on synthetic data; a synthetic number never stands beside one.")
    if not all(given):
        raise TableError("published, published_source and delta belong together; fill all three or none.")
    if abs(row.value - row.published - row.delta) > TOLERANCE:
        raise TableError(f"delta is {row.delta}; value - published is {row.value - row.published:.6f}.")


def write_table(rows: Iterable[Row], path: str | Path) -> Path:
    """Writes a table as CSV, whole or not at all: to a temporary name beside it, then renamed.

    Args:
        rows: the rows, in the order they are to appear.
        path: the CSV file; its folder is made where it is missing.

    Raises:
        TableError: no rows, two rows of one identity, synthetic rows beside published numbers or over a table of real
            ones, or a folder that cannot be written to.
    """
    rows, path = list(rows), Path(path)
    _check_table(rows, [f"{path}, row {number}" for number in range(1, len(rows) + 1)], path)
    synthetic = any(row.data_kind == "synthetic" for row in rows)
    if synthetic and path.exists() and all(row.data_kind == "real" for row in read_table(path)):
        raise TableError(f"{path}: holds a table of real data; write the synthetic one to another folder.")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([to_text(name, getattr(row, name)) for name in COLUMNS] for row in rows)
    return replace_file(path, buffer.getvalue())


def replace_file(path: str | Path, text: str) -> Path:
    """Puts `text` in `path` in one step, so that a reader or an interruption never meets half a file.

    Raises:
        TableError: the folder cannot be made or written to.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(text, encoding="utf-8", newline="")
            os.replace(draft, path)
        finally:
            with suppress(FileNotFoundError):
                draft.unlink()
    except (FileExistsError, NotADirectoryError) as error:
        raise TableError(f"{path}: {path.parent} is not a folder; rename the file in its place.") from error
    except OSError as error:
        raise TableError(f"{path}: cannot be written ({error.strerror}); choose a folder you may write to.") from error
    return path


def read_table(path: str | Path) -> list[Row]:
    """Reads a table written by `write_table`, checking columns, types, vocabulary and duplicates.

    Raises:
        TableError: anything a table may not hold, naming the file, the line and what was expected.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, cells) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}: cannot be read as a table ({error}); run the table again to write it.") from error
    header = tuple(lines[0][1]) if lines else ()
    if header != COLUMNS:
        raise TableError(f"{path}, line 1: {_header_fault(header)}. Run the table again to write it.")
    rows = []
    for number, cells in lines[1:]:
        if len(cells) != len(COLUMNS):
            raise TableError(
                f"{path}, line {number}: {len(cells)} cells, expected {len(COLUMNS)}; restore the line, or run the "
                "table again."
            )
        try:
            rows.append(Row(**{name: _from_text(name, cell) for name, cell in zip(COLUMNS, cells, strict=True)}))
        except TableError as error:
            raise TableError(f"{path}, line {number}: {error}") from error
    _check_table(rows, [f"{path}, line {number}" for number, _ in lines[1:]], path)
    return rows


def _check_table(rows: list[Row], places: list[str], path: Path) -> None:
    if not rows:
        raise TableError(f"{path}: no rows; a table has one per number, and one per number that is missing.")
    first: dict[tuple, str] = {}
    for row, place in zip(rows, places, strict=True):
        if row.identity in first:
            named = ", ".join(str(part) for part in row.identity if part)
            raise TableError(f"{place}: repeats {first[row.identity]} ({named}); keep one of the two.")
        first[row.identity] = place
    if any(row.data_kind == "synthetic" for row in rows) and any(row.published is not None for row in rows):
        raise TableError(f"{path}: synthetic rows beside published numbers; write them to separate tables.")


def _header_fault(header: tuple[str, ...]) -> str:
    missing = [name for name in COLUMNS if name not in header]
    unknown = [name for name in header if name not in COLUMNS]
    if missing or unknown:
        faults = [("lacks", missing), ("has unknown", unknown)]
        return "the header " + " and ".join(f"{fault} {', '.join(names)}" for fault, names in faults if names)
    return f"the columns are out of order or repeated; expected {','.join(COLUMNS)}"


def to_text(name: str, cell: object) -> str:
    """A column's cell as the CSV holds it: numbers to six decimals or digits, seeds with spaces between, None empty."""
    if cell is None:
        return ""
    if name in DECIMALS:
        decimals = f"{cell:.{DECIMALS[name]}f}"
        return decimals if float(decimals) == cell else f"{cell:.{DECIMALS[name]}g}"
    return " ".join(map(str, cell)) if name == "seeds" else str(cell)


def _from_text(name: str, text: str) -> object:
    if name in TEXT:
        return text
    try:
        if name == "seeds":
            return tuple(int(seed) for seed in text.split())
        if not text:
            return None
        if name == "k":
            return text if text == "all" else int(text)
        return float(text) if name in DECIMALS else int(text)
    except ValueError:
        kind = "a number" if name in DECIMALS else "integers"
        raise TableError(f"{name} is {text!r}; expected {kind}{', or all' if name == 'k' else ''}.") from None
