"""How rows are named and shown to people, in text and in Markdown."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from reproduce.results.metrics import METRICS, metric_name

# What the numbers of a section have in common.
SECTION = ["dataset", "features", "condition", "split", "gallery", "protocol", "scale", "data_kind"]
SYNTHETIC = "SYNTHETIC DATA"
STATUS = {"ok": "ok", "not_run": "not run", "failed": "failed"}  # in words


def section_name(row: Any) -> str:
    """What the numbers of a section have in common, in words."""
    named = [f"{column} {getattr(row, column)}" for column in ("features", "split", "gallery", "protocol", "scale")]
    name = ", ".join([row.dataset, *filter(None, [row.condition]), *named])
    return f"{SYNTHETIC}: {name}" if row.data_kind == "synthetic" else name


def data_name(row: Any) -> str:
    """Data set, features, condition and split of a row, in words."""
    return ", ".join(filter(None, (row.dataset, row.features, row.condition, row.split)))


def column_name(row: Any) -> str:
    """Direction and metric with its cut-off, as in "image->text R@10"."""
    return f"{row.direction} {metric_name(row.metric, row.k)}"


def format_value(row: Any, value: float | None = None) -> str:
    """A value of the row's metric as people read it; the row's own with its deviation."""
    text = METRICS[row.metric].text
    if value is not None:
        return text(value)
    return text(row.value) + ("" if pd.isna(row.std) else f" ± {text(row.std, of=row.value)}")


def distinct(values: Iterable) -> list:
    """The non-empty values, each once, in order of first appearance."""
    return [value for value in dict.fromkeys(values) if not pd.isna(value) and value != ""]


def sections(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of status ok, a DataFrame per section."""
    return [rows for _, rows in table[table["status"] == "ok"].groupby(SECTION, sort=False)]


def aligned(lines: list[tuple[str, ...]]) -> list[str]:
    """Lines of texts in columns of equal width."""
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
