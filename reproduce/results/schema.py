"""Result tables: their columns, what each may hold, and how a table is written and read as a DataFrame.

In a DataFrame the text columns, "k" ("all", "10" or "") and "seeds" ("0 1 2") are strings, "" where the file has
nothing; the other columns are numbers, missing where it has none.
"""

import csv
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.files.sources import written_whole
from reproduce.results.metrics import DECIMALS, METRICS


class TableError(ValueError):
    """A result table that cannot be used; the message names the file and line, what was wrong and what to do."""


@dataclass(kw_only=True)
class Row:
    """One number of a table, or the reason why it is missing, as the columns of the file hold it.

    Args:
        k: "all" for MAP over the whole gallery, the cut-off for metrics with @k, "" for the other metrics.
        value: mean over seeds; a fraction for MAP, R@k, P@k, MAP@k and shares, a rank for MedR. What has no direction,
            such as seconds, has "average" in that column.
        std: standard deviation over seeds with n - 1; None for a single seed.
        seeds: the seeds averaged over, with spaces between.
        delta: value - published.
        condition: what is varied beside data and method, such as "M = 4" or "labels clusters".
        status: "ok"; "not_run" or "failed", with the reason in ``note``.
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
    k: str = ""
    value: float | None = None
    std: float | None = None
    seeds: str = ""
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
    condition: str = ""


COLUMNS = tuple(field.name for field in fields(Row))
NUMBERS = ("value", "std", "published", "delta", "train_seconds")
INTEGERS = ("n_queries", "n_gallery")
TEXT = tuple(name for name in COLUMNS if name not in (*NUMBERS, *INTEGERS))
RUN = ("table", "method", "dataset", "features", "condition", "split", "gallery", "protocol", "scale", "data_kind")
IDENTITY = (*RUN, "direction", "metric", "k")
SCALES = ("quick", "paper")


def _words(*words: str) -> tuple[str, str]:
    return "|".join(map(re.escape, words)), f"one of {', '.join(filter(None, words))}"


# What text columns hold, as a pattern and in words. A training without a number has no direction, metric or versions.
PATTERNS = {
    **dict.fromkeys(("table", "method", "dataset", "features", "split"), (".+", "a text, every row needs it")),
    "protocol": _words("honest", "as_published"),
    "status": _words("ok", "not_run", "failed"),
    "data_kind": _words("real", "synthetic"),
    "scale": _words(*SCALES),
    "metric": _words("", *METRICS),
    "direction": (r"|average|([^\s>]+)->(?!\1$)[^\s>]+", '"query->gallery" of two modalities, or "average"'),
    "gallery": (
        r"full|batches-\d+|threshold-\d\.\d+|dissimilar-\d+",
        '"full", "batches-32", "threshold-0.95" or "dissimilar-100" (with the number used)',
    ),
    "seeds": (r"(\d+( \d+)*)?", "integers with a space between"),
}
NEEDED_BY_A_NUMBER = ("direction", "metric", "seeds", "device", "git_commit", "torch", "config_hash")
LEAST = {"std": 0, "train_seconds": 0, "n_queries": 1, "n_gallery": 1}
TOLERANCE = 2e-6  # value, published and delta are each rounded to six decimals


def table_of(rows: Iterable[Row | dict]) -> pd.DataFrame:
    """Rows as a DataFrame with the columns of a table, rounded to the digits that the file keeps."""
    records = [row if isinstance(row, dict) else asdict(row) for row in rows]
    table = pd.DataFrame(records, columns=list(COLUMNS))
    for name in TEXT:
        table[name] = table[name].fillna("").astype(str).astype(object)
    table["note"] = [" ".join("".join(c if c.isprintable() else " " for c in text).split()) for text in table["note"]]
    many = table["metric"].map(lambda metric: metric in METRICS and METRICS[metric].many_magnitudes)
    for name in NUMBERS:
        table[name] = [
            (float(f"{x:.{DECIMALS}g}") if wide and name in ("value", "std") else round(x, _digits(name))) + 0.0
            for x, wide in zip(table[name].astype(float), many, strict=True)  # + 0.0, so that none is -0.0
        ]
    return table.astype({**dict.fromkeys(NUMBERS, float), **dict.fromkeys(INTEGERS, "Int64")})


def _digits(column: str) -> int:
    return 3 if column == "train_seconds" else DECIMALS


def refuse(path: str | Path, table: pd.DataFrame, wrong: pd.Series, column: str, expected: str) -> None:
    """Raise for the first row that is wrong.

    Raises:
        TableError: naming the file, the line, the column with its value, and what was expected.
    """
    if wrong.any():
        place = int(np.argmax(wrong))
        raise TableError(f"{path}, line {place + 2}: {column} is {table[column].tolist()[place]!r}; {expected}.")


def read_csv(path: str | Path, columns: Sequence[str], numbers: Sequence[str] = ()) -> pd.DataFrame:
    """Read any CSV file of this package: every column as text, apart from those of numbers.

    Args:
        path: the file.
        columns: the columns that it has to have, in their order.
        numbers: those that hold finite numbers or nothing.

    Raises:
        TableError: it cannot be read, or has other columns, or something else in place of a number, naming the line.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            header, *lines = list(csv.reader(file, strict=True)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}: cannot be read as a table ({error}); write it again.") from error
    if header != list(columns):
        lacking, unknown = ([x for x in one if x not in other] for one, other in ((columns, header), (header, columns)))
        faults = [f"lacks {', '.join(lacking)}"] * bool(lacking) + [f"has unknown {', '.join(unknown)}"] * bool(unknown)
        fault = " and ".join(faults) or "has its columns in another order"
        raise TableError(f"{path}, line 1: the header {fault}; expected {','.join(columns)}. Write it again.")
    for number, line in enumerate(lines, 2):
        if len(line) != len(columns):
            raise TableError(f"{path}, line {number}: {len(line)} values; expected {len(columns)}.")
    table = pd.DataFrame(lines, columns=list(columns), dtype=object)
    for name in numbers:
        found = pd.to_numeric(table[name].replace("", None), errors="coerce").astype(float)
        refuse(path, table, (found.isna() & (table[name] != "")) | np.isinf(found), name, "expected a finite number")
        table[name] = found
    return table


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a table written by :func:`write_table`, checking columns, types, vocabulary and duplicates.

    Raises:
        TableError: anything a table may not hold, naming the file, the line and what was expected.
    """
    table = read_csv(path, COLUMNS, (*NUMBERS, *INTEGERS))
    check_table(table, path)
    return table.astype(dict.fromkeys(INTEGERS, "Int64"))


def write_table(rows: pd.DataFrame | Iterable[Row], path: str | Path) -> Path:
    """Write a table as CSV, whole or not at all.

    Args:
        rows: a DataFrame of :func:`table_of`, or rows for it, in the order they are to appear.
        path: the CSV file; its folder is made where it is missing.

    Raises:
        TableError: what a table may not hold, synthetic rows over a table of real ones, or a folder that cannot be
            written to.
    """
    table, path = rows if isinstance(rows, pd.DataFrame) else table_of(rows), Path(path)
    check_table(table, path)
    synthetic = (table["data_kind"] == "synthetic").any()
    if synthetic and path.exists() and (read_table(path)["data_kind"] == "real").all():
        raise TableError(f"{path}: holds a table of real data; write the synthetic one to another folder.")
    return write_csv(table, path)


def write_csv(table: pd.DataFrame, path: str | Path) -> Path:
    """Write any DataFrame as CSV, whole or not at all; floats with six decimals, or as many digits as they take."""
    shown = table.copy()
    for name in shown.select_dtypes("float"):
        shown[name] = [_text_of(name, x) for x in shown[name]]
    return replace_file(path, shown.to_csv(index=False, lineterminator="\n"))


def _text_of(column: str, number: float) -> str:
    """A number as the CSV holds it: seconds with three decimals, others with six, small ones with six digits."""
    if math.isnan(number):
        return ""
    decimals = f"{number:.{_digits(column)}f}"
    many = column in ("value", "std") and float(decimals) != number
    return f"{number:.{DECIMALS}g}" if many else decimals


def replace_file(path: str | Path, content: str | bytes) -> Path:
    """Put `content` in `path` in one step, so that a reader or an interruption never meets half a file.

    Raises:
        TableError: the folder cannot be made or written to.
    """
    path = Path(path)
    try:
        with written_whole(path) as file:
            file.write(content if isinstance(content, bytes) else content.encode())
    except (FileExistsError, NotADirectoryError) as error:
        raise TableError(f"{path}: {path.parent} is not a folder; rename the file in its place.") from error
    except OSError as error:
        raise TableError(f"{path}: cannot be written ({error.strerror}); choose a folder you may write to.") from error
    return path


def check_table(table: pd.DataFrame, path: str | Path) -> None:
    """Raise where a table holds what it may not.

    Raises:
        TableError: naming the file, its line, the column and what was expected.
    """
    if table.empty:
        raise TableError(f"{path}: no rows; a table has one per number, and one per number that is missing.")
    for fault in _faults(table):
        refuse(path, table, *fault)
    if (table["data_kind"] == "synthetic").any() and table["published"].notna().any():
        raise TableError(f"{path}: synthetic rows beside published numbers; write them to separate tables.")


def _faults(table: pd.DataFrame) -> Iterator[tuple[pd.Series, str, str]]:
    """What rows may not hold: which do, the column, and what was expected."""
    ok = table["status"] == "ok"
    for name in TEXT:
        clean = table[name].map(lambda text: text == text.strip() and text.isprintable())
        yield ~clean, name, "expected one line of text without spaces around it"
    for name, (pattern, expected) in PATTERNS.items():
        yield ~table[name].str.fullmatch(pattern), name, f"expected {expected}"
    for name in NUMBERS:
        yield np.isinf(table[name]), name, "expected a finite number; a run without one has status failed"
    for name, least in LEAST.items():
        yield (table[name] < least).fillna(False), name, f"expected at least {least}"
    for name in INTEGERS:
        yield (table[name] % 1 > 0).fillna(False), name, "expected an integer"
    seeds = table["seeds"].str.split()
    yield seeds.map(lambda found: len(set(found)) < len(found)), "seeds", "expected each seed once"
    yield table["std"].notna() & (seeds.map(len) < 2), "std", "expected it with two seeds or more"
    yield ok & table["value"].isna(), "value", "a row of status ok has a finite one"
    for name in NEEDED_BY_A_NUMBER:
        yield ok & (table[name] == ""), name, "a row of status ok needs it"
    for name in ("value", "std", "published", "delta"):
        yield ~ok & table[name].notna(), name, "a row without status ok has none"
    yield ~ok & (table["note"] == ""), "note", "a row without status ok gives its reason there"
    yield (table["metric"] == "") & (table["k"] != ""), "k", "expected nothing without a metric"
    for name in filter(None, table["metric"].unique()):
        metric, rows = METRICS[name], table["metric"] == name
        yield rows & ~table["k"].map(metric.takes), "k", f"expected {metric.expected_k} for {name}"
        above = rows & (table["value"] > (1 if metric.fraction else np.inf))
        yield above, "value", f"{name} is a fraction in [0, 1] (divide a percentage by 100)"
        yield rows & (table["value"] < metric.least), "value", f"expected at least {metric.least} for {name}"
    given = table[["published", "delta"]].notna().assign(source=table["published_source"] != "")
    yield given.any(axis=1) & ~given.all(axis=1), "published", "published, its source and delta belong together"
    differs = (table["value"] - table["published"] - table["delta"]).abs() > TOLERANCE
    yield differs, "delta", "expected value - published"
    yield table.duplicated(list(IDENTITY)), "method", "the row repeats an earlier one; keep one"
