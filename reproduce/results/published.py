"""The numbers of other authors: read with their sources, and matched to the rows of our tables."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from losses.registry import nearest
from reproduce.results.metrics import METRICS
from reproduce.results.schema import PATTERNS, TableError, read_csv, refuse
from reproduce.results.shown import column_name, distinct, format_value

FOLDER = Path(__file__).parents[1] / "published"
COLUMNS = (
    *("source", "locator", "confidence", "protocol", "dataset", "features"),
    *("method", "direction", "metric", "k", "value", "note"),
)
CONFIDENCE = ("primary", "secondary")
# What tells the numbers of a source apart.
ONCE = ("source", "locator", "protocol", "dataset", "features", "method", "direction", "metric", "k")

# The vocabulary of the published files -> ours; nothing else translates it. A word that is not here makes its row
# incomparable: the row is loaded and shown as the nearest one, never set beside a number of ours.
PROTOCOLS = {  # -> split, gallery
    "standard": ("standard", "full"),
    "full test set": ("standard", "full"),
    "batches of 32": ("standard", "batches-32"),
    "zero-shot seen": ("seen", "full"),
    "zero-shot unseen": ("unseen", "full"),
    "generalised zero-shot": ("generalised", "full"),
}
FEATURES = {
    "image 4096-d CNN; text 300-d; class embedding 300-d word vectors": "cnn4096-doc300",
    "image SIFT bag of words 128-d; text LDA 10-d": "sift-lda",
}
# -> metric, and what its values are divided by.
METRIC_UNITS = {
    "MAP": ("MAP", 1),
    "MAP %": ("MAP", 100),
    "MAP 11-point": ("MAP 11-point", 1),
    "MAP 11-point plain": ("MAP 11-point plain", 1),
    "R@k %": ("R@k", 100),
    "MedR": ("MedR", 1),
}
# Those that no table of ours has, and the largest value of each.
FOREIGN_METRICS = {
    **dict.fromkeys(("MAP (which kind is not stated)", "MAP@50"), 1),
    "R-precision %": 100,
    **dict.fromkeys(("train seconds", "test seconds", "unstated"), math.inf),
}
# The public code of JFSE aligns with the KL divergence of CMPM (weight 1e-4), so its results are our JFSE + CMPM-KL.
METHODS = {("jfse", "JFSE"): "JFSE + CMPM-KL"}
UNSTATED = "unstated"
# Which classes are seen was never published: ours are drawn by seed, so the classes of the two numbers differ.
CAVEATS = dict.fromkeys(("seen", "unseen", "generalised"), "the class split of the published number is not public")

BENCHMARK = ("R@k", "MedR")  # what the results of retrieval benchmarks with a fixed split are given in
MATCHED = ("dataset", "features", "condition", "split", "gallery", "protocol", "metric", "k", "direction", "method")


@dataclass(frozen=True)
class Source:
    """Where the numbers of a file come from, as `sources.yaml` says it."""

    citation: str
    url: str = ""
    reviewed: bool = True
    caution: str = ""
    settings: str = ""

    @property
    def text(self) -> str:
        """Citation, address and what a reader has to know, as sentences."""
        parts = (", ".join(filter(None, (self.citation, self.url))), "" if self.reviewed else "Not peer-reviewed")
        return ". ".join(part.rstrip(".") for part in (*parts, self.caution) if part)

    def our_method(self, printed: str) -> str:
        """What our row of a method is called: with the source's name where we have rows with its settings."""
        return f"{printed.replace('+', ' + ')} ({self.settings})" if self.settings else printed


@cache
def load_sources(folder: Path = FOLDER) -> dict[str, Source]:
    """Reads `sources.yaml`: source key -> the source.

    Raises:
        TableError: the file is missing, is not YAML, or a source has no citation or says something else.
    """
    path = folder / "sources.yaml"
    try:
        return {key: Source(**entry) for key, entry in yaml.safe_load(path.read_text(encoding="utf-8")).items()}
    except (OSError, yaml.YAMLError, AttributeError, TypeError) as error:
        keys = ", ".join(Source.__dataclass_fields__)
        raise TableError(f"{path}: expected a citation for every source, with {keys} ({error!r}).") from error


@cache
def load_published(folder: Path = FOLDER) -> pd.DataFrame:
    """Every published number in our vocabulary: one file `<source>.csv` per source.

    Of several numbers for one thing the better source comes first: those of the row's own authors before quoted ones,
    then reviewed before not reviewed ones, then in alphabetical order.

    Beside the columns of the files it has "gallery"; "printed_method", the name where it was published; "reference",
    source and place as in "jfse, Table 4"; "caveat", what a reader has to know even where it is compared; and
    "comparable": whether nothing about it is unknown or foreign to our tables.

    Raises:
        TableError: a wrong header, a row without source or locator, a source without citation, an unknown metric, a
            value that is not a number or outside the range of its metric, an unknown direction, or a number that a
            source gives twice.
    """
    sources = load_sources(folder)
    found = [_read(path, sources) for path in sorted(folder.glob("*.csv"))]
    if not found:
        raise TableError(f"{folder}: no published numbers; expected files <source>.csv.")
    return pd.concat(found).sort_values(["secondary", "unreviewed", "source"], kind="stable", ignore_index=True)


def _read(path: Path, sources: dict[str, Source]) -> pd.DataFrame:
    """The numbers of a file in our vocabulary; a word that has no translation makes its row incomparable."""
    table = read_csv(path, COLUMNS)
    if table.empty:
        raise TableError(f"{path}: no published numbers; it has a row for each, or is not there.")
    for fault in _faults(table, path.stem, sources):
        refuse(path, table, *fault)
    key, source = path.stem, sources[path.stem]
    printed, secondary = table["method"], table["confidence"] == "secondary"
    units = [METRIC_UNITS.get(metric, (metric, 1)) for metric in table["metric"]]
    places = [PROTOCOLS.get(protocol, (UNSTATED, UNSTATED)) for protocol in table["protocol"]]
    splits = [split for split, _ in places]
    known = table["protocol"].isin(PROTOCOLS) & table["features"].isin(FEATURES) & _names_direction(table)
    said = table.replace(
        {
            "features": {**FEATURES, "": UNSTATED},
            "protocol": {**dict.fromkeys(PROTOCOLS, "as_published"), "": UNSTATED},
            "direction": {"": UNSTATED},
        }
    )
    return said.assign(
        condition="",
        split=splits,
        gallery=[gallery for _, gallery in places],
        metric=[metric for metric, _ in units],
        method=[METHODS.get((key, name)) or source.our_method(name) for name in printed],
        printed_method=printed,
        value=[round(float(x) / unit, 6) for x, (_, unit) in zip(table["value"], units, strict=True)],
        reference=key + ", " + table["locator"] + secondary.map({True: " (secondary source)", False: ""}),
        caveat=[
            "; ".join(filter(None, (CAVEATS.get(split), note and f"published: {note}")))
            for split, note in zip(splits, table["note"], strict=True)
        ],
        comparable=known & table["metric"].isin(METRIC_UNITS),
        secondary=secondary,
        unreviewed=not source.reviewed,
    )


def _names_direction(table: pd.DataFrame) -> pd.Series:
    return (table["direction"] != "") & table["direction"].str.fullmatch(PATTERNS["direction"][0])


def _faults(table: pd.DataFrame, stem: str, sources: dict[str, Source]) -> Iterator[tuple[pd.Series, str, str]]:
    """What a file of published numbers may not hold: which rows do, the column, and what was expected."""
    for name in ("source", "locator", "dataset", "method", "metric"):
        yield table[name].str.strip() == "", name, "every published number needs it"
    yield ~table["confidence"].isin(CONFIDENCE), "confidence", f"expected {' or '.join(CONFIDENCE)}"
    yield table["source"] != stem, "source", "the rows of a source belong in the file of its name"
    yield ~table["source"].isin(list(sources)), "source", "it has no citation; add it to sources.yaml"
    words = [*METRIC_UNITS, *FOREIGN_METRICS]
    unknown = ~table["metric"].isin(words)
    for name in table["metric"][unknown][:1]:
        yield unknown, "metric", f"{nearest(name, words)} (published.py has the list)"
    value = pd.to_numeric(table["value"], errors="coerce")
    yield ~np.isfinite(value), "value", "expected a number"
    unnamed = ~_names_direction(table) & (table["direction"] != UNSTATED)
    for printed in table["metric"].unique():
        (name, unit), rows = METRIC_UNITS.get(printed, (printed, 1)), table["metric"] == printed
        metric, least, most = METRICS.get(name), 0, FOREIGN_METRICS.get(printed)
        if metric:
            yield rows & ~table["k"].map(metric.takes), "k", f"expected {metric.expected_k} for {name}"
            least, most = metric.least, unit if metric.fraction else math.inf
        between = f"expected at least {least}" + f" and at most {most}" * (most < math.inf)
        yield rows & ~value.between(least, most), "value", f"{between} for {printed}"
        unnamed &= ~rows | (table["direction"] != "") | (metric is not None)
    yield unnamed, "direction", f'expected {PATTERNS["direction"][1]}, or "{UNSTATED}"'
    numbers = table.groupby(list(ONCE), sort=False).ngroup()
    for number in numbers[numbers.duplicated()][:1]:
        line = int(numbers.eq(number).idxmax()) + 2
        yield numbers.duplicated(), "locator", f"the row gives the same number as line {line}; keep one"


def citations_of(rows: pd.DataFrame) -> dict[str, str]:
    """Source and place of the published numbers of rows -> the full citation; of several sources, all of them."""
    found: dict[str, str] = {}
    for row in rows[rows["published_source"] != ""].itertuples():
        references = [other.reference for other in published_of(row)]
        for reference in distinct([row.published_source, *references]):
            source = load_sources().get(reference.partition(",")[0])
            found[reference] = source.text if source else ""
    return found


@cache
def _published_by(*columns: str) -> dict[tuple, list[Any]]:
    """Values of columns -> the published numbers that have them, better sources first."""
    found: dict[tuple, list[Any]] = {}
    for other in load_published().itertuples():
        found.setdefault(tuple(getattr(other, name) for name in columns), []).append(other)
    return found


def published_of(row: Any) -> list[Any]:
    """The published numbers of the very same thing, of the best source first.

    Args:
        row: of a table, as DataFrame.itertuples gives it.
    """
    found = _published_by(*MATCHED).get(tuple(getattr(row, name) for name in MATCHED), [])
    return [other for other in found if other.comparable]


def nearest_published(row: Any) -> tuple[Any, tuple[str, ...]] | None:
    """The published number of the same data set and metric that differs in the fewest columns, and those columns.

    Among equally many differences the same method comes first, then its family (the part of the name before " + " and
    " ("), the same direction, the same split, the better number and the better source. Where no column differs the two
    measure the same thing.

    Args:
        row: of a table, as DataFrame.itertuples gives it.

    Returns:
        The number as such a tuple and the names of the columns that differ, or None where nothing is published for
        data set and metric.
    """

    def distance(other: Any) -> tuple:
        family = _family(other.method) != _family(row.method)
        worse = -other.value if METRICS[row.metric].higher_is_better else other.value
        ties = (other.method != row.method, family, other.direction != row.direction, other.split != row.split, worse)
        return len(differing(row, other)), not other.comparable, *ties

    rivals = _published_by("dataset", "metric").get((row.dataset, row.metric), [])
    found = min(published_of(row) or rivals, key=distance, default=None)
    return None if found is None else (found, differing(row, found))


@cache
def _family(method: str) -> str:
    return re.split(r" \+ | \(", method)[0]


def with_other_features(rows: pd.DataFrame) -> list[str]:
    """Published R@k and MedR on the data, split and gallery of rows, by other features that the source names.

    A line each: method, features, source, and the numbers in the directions, measures and cut-offs of the rows.

    Args:
        rows: of one section of a table, on real data.
    """
    place, found = ("dataset", "split", "gallery", "direction", "metric", "k"), {}
    for row in rows[rows["metric"].isin(BENCHMARK)].drop_duplicates(list(place)).itertuples():
        for other in _published_by(*place).get(tuple(getattr(row, name) for name in place), []):
            if other.features not in (row.features, UNSTATED):
                by = f"{other.printed_method}, features {other.features} ({other.reference})"
                found.setdefault(by, []).append(f"{column_name(row)} {format_value(row, other.value)}")
    return [f"{by}: {', '.join(numbers)}" for by, numbers in found.items()]


def differing(row: Any, other: Any) -> tuple[str, ...]:
    """The columns in which a row of ours and a published number differ."""
    return tuple(name for name in MATCHED if getattr(row, name) != getattr(other, name))


def with_published(table: pd.DataFrame) -> pd.DataFrame:
    """The table with published, published_source and delta filled where the very same thing was published.

    Of several sources the best one is filled in (see `load_published`). Rows on synthetic data, rows without a number
    and rows without an exact match come back unchanged. The note takes over what has to be known of the published
    number: that in the zero-shot splits its class split is not public, or what its source leaves open.
    """
    table = table.copy()
    for row in table[(table["status"] == "ok") & (table["data_kind"] == "real")].itertuples():
        for other in published_of(row)[:1]:
            note = row.note if other.caveat in row.note else "; ".join(filter(None, (row.note, other.caveat)))
            columns = ["published", "published_source", "delta", "note"]
            table.loc[row.Index, columns] = [other.value, other.reference, round(row.value - other.value, 6), note]
    return table
