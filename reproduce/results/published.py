"""The numbers of other authors: read with their sources, and matched to the rows of our tables."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from losses.registry import nearest
from reproduce.results.metrics import METRICS
from reproduce.results.schema import PATTERNS, TableError, read_csv
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
    "MAP (which kind is not stated)": 1,
    "MAP@50": 1,
    "R-precision %": 100,
    "train seconds": math.inf,
    "test seconds": math.inf,
    "unstated": math.inf,
}
# The public code of JFSE aligns with the KL divergence of CMPM (weight 1e-4), so its results are our JFSE + CMPM-KL.
METHODS = {("jfse", "JFSE"): "JFSE + CMPM-KL"}
UNSTATED = "unstated"
# Which classes are seen was never published: ours are drawn by seed, so the classes of the two numbers differ.
CAVEATS = dict.fromkeys(("seen", "unseen", "generalised"), "the class split of the published number is not public")

BENCHMARK = ("R@k", "MedR")  # what the results of retrieval benchmarks with a fixed split are given in
MATCHED = ("dataset", "features", "condition", "split", "gallery", "protocol", "metric", "k", "direction", "method")


class PublishedError(TableError):
    """A file of published numbers that cannot be used; the message names the file and line and what was expected."""


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
        PublishedError: the file is missing, is not YAML, or a source has no citation or says something else.
    """
    path = folder / "sources.yaml"
    try:
        return {key: Source(**entry) for key, entry in yaml.safe_load(path.read_text(encoding="utf-8")).items()}
    except (OSError, yaml.YAMLError, AttributeError, TypeError) as error:
        keys = ", ".join(Source.__dataclass_fields__)
        raise PublishedError(f"{path}: expected a citation for every source, with {keys} ({error!r}).") from error


@cache
def load_published(folder: Path = FOLDER) -> pd.DataFrame:
    """Every published number in our vocabulary: one file `<source>.csv` per source.

    Of several numbers for one thing the better source comes first: those of the row's own authors before quoted ones,
    then reviewed before not reviewed ones, then in alphabetical order.

    Beside the columns of the files it has "gallery"; "printed_method", the name where it was published; "reference",
    source and place as in "jfse, Table 4"; "caveat", what a reader has to know even where it is compared; "obstacles",
    what is unknown or foreign to our tables; and "comparable": whether there is no such thing.

    Raises:
        PublishedError: a wrong header, a row without source or locator, a source without citation, an unknown metric,
            a value that is not a number or outside the range of its metric, an unknown direction, or a number that a
            source gives twice.
    """
    sources, records = load_sources(folder), []
    for path in sorted(folder.glob("*.csv")):
        try:
            table = read_csv(path, COLUMNS)
        except TableError as error:
            raise PublishedError(str(error)) from error
        seen: dict[tuple[str, ...], int] = {}
        for number, record in enumerate(table.to_dict("records"), 2):
            place = f"{path}, line {number}"
            records.append(_translate(record, place, path.stem, sources))
            first = seen.setdefault(tuple(record[name] for name in ONCE), number)
            if first != number:
                raise PublishedError(f"{place}: gives the same number as line {first}; keep one of them.")
    if not records:
        raise PublishedError(f"{folder}: no published numbers; expected files <source>.csv.")
    return pd.DataFrame(records).sort_values("rank", kind="stable", ignore_index=True)


def _translate(record: dict[str, str], place: str, stem: str, sources: dict[str, Source]) -> dict[str, Any]:
    """One record in our vocabulary, each word that has no translation noted as an obstacle."""
    for name in ("source", "locator", "dataset", "method", "metric"):
        if not record[name].strip():
            raise PublishedError(f"{place}: {name} is empty; every published number needs it.")
    if record["confidence"] not in CONFIDENCE:
        raise PublishedError(f"{place}: confidence is {record['confidence']!r}; expected {' or '.join(CONFIDENCE)}.")
    key = record["source"]
    if key != stem:
        raise PublishedError(f"{place}: source is {key!r}; rows of it belong in {key}.csv.")
    if key not in sources:
        raise PublishedError(f"{place}: source {key!r} has no citation; add it to sources.yaml.")
    metric, value = _metric(record, place)
    split, gallery = PROTOCOLS.get(record["protocol"], (UNSTATED, UNSTATED))
    obstacles = list(_obstacles(record, metric, place))
    primary, note = record["confidence"] == "primary", record["note"]
    return {
        **{name: record[name] for name in ("source", "dataset", "note")},
        "features": FEATURES.get(record["features"], record["features"] or UNSTATED),
        "condition": "",
        "split": split,
        "gallery": gallery,
        "protocol": "as_published" if record["protocol"] in PROTOCOLS else record["protocol"] or UNSTATED,
        "direction": record["direction"] or UNSTATED,
        "metric": metric,
        "k": record["k"],
        "method": METHODS.get((key, record["method"])) or sources[key].our_method(record["method"]),
        "printed_method": record["method"],
        "value": value,
        "reference": f"{key}, {record['locator']}{' (secondary source)' * (not primary)}",
        "caveat": "; ".join(filter(None, (CAVEATS.get(split), note and f"published: {note}"))),
        "obstacles": obstacles,
        "comparable": not obstacles,
        "rank": (not primary, not sources[key].reviewed, key),
    }


def _obstacles(record: dict[str, str], metric: str, place: str) -> Iterator[str]:
    if record["metric"] in FOREIGN_METRICS:
        yield f"metric {record['metric']} is not one of a table"
    if record["protocol"] not in PROTOCOLS:
        yield f"protocol {record['protocol']}"
    if record["features"] not in FEATURES:
        yield f"features {record['features'] or UNSTATED}"
    pattern, expected = PATTERNS["direction"]
    if not record["direction"] or not re.fullmatch(pattern, record["direction"]):
        if record["direction"] != UNSTATED and (record["direction"] or metric in METRICS):
            said = f"direction is {record['direction']!r}; expected {expected}"
            raise PublishedError(f'{place}: {said}, or "{UNSTATED}".')
        yield f"direction {UNSTATED}"


def _metric(record: dict[str, str], place: str) -> tuple[str, float]:
    """Metric and value in our vocabulary and unit."""
    printed, text = record["metric"], record["value"]
    if printed not in METRIC_UNITS and printed not in FOREIGN_METRICS:
        known = (*METRIC_UNITS, *FOREIGN_METRICS)
        raise PublishedError(f"{place}: metric is {printed!r}; {nearest(printed, known)} (published.py has the list).")
    metric, unit = METRIC_UNITS.get(printed, (printed, 1))
    if metric in METRICS and not METRICS[metric].takes(record["k"]):
        raise PublishedError(f"{place}: k of {metric} is {record['k']!r}; expected {METRICS[metric].expected_k}.")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise PublishedError(f"{place}: value is {text!r}; expected a number.")
    most = FOREIGN_METRICS.get(printed, unit if metric in METRICS and METRICS[metric].fraction else math.inf)
    least = METRICS[metric].least if metric in METRICS else 0
    if not least <= value <= most:
        between = f"at least {least}" + f" and at most {most}" * (most < math.inf)
        raise PublishedError(f"{place}: {metric} is {text}; expected {between}.")
    return metric, round(value / unit, 6)


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
