"""The numbers of other authors: read with their sources, and matched to the rows of our tables."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from reproduce.results.metrics import METRICS
from reproduce.results.schema import PATTERNS, TableError, read_csv
from reproduce.results.shown import distinct

FOLDER = Path(__file__).parents[1] / "published"
COLUMNS = (
    *("source", "locator", "confidence", "protocol", "dataset", "features"),
    *("method", "direction", "metric", "k", "value", "note"),
)
CONFIDENCE = ("primary", "secondary")

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
FEATURES = {"image 4096-d CNN; text 300-d; class embedding 300-d word vectors": "cnn4096-doc300"}
METRIC_UNITS = {"MAP": ("MAP", 1), "MAP %": ("MAP", 100), "R@k %": ("R@k", 100), "MedR": ("MedR", 1)}
# The public code of JFSE aligns with the KL divergence of CMPM (weight 1e-4), so its results are our JFSE + CMPM-KL.
METHODS = {"JFSE": "JFSE + CMPM-KL"}
UNSTATED = "unstated"
# Which classes are seen was never published: ours are drawn by seed, so the classes of the two numbers differ.
CAVEATS = dict.fromkeys(("seen", "unseen", "generalised"), "the class split of the published number is not public")

MATCHED = ("dataset", "features", "condition", "split", "gallery", "protocol", "metric", "k", "direction", "method")


class PublishedError(TableError):
    """A file of published numbers that cannot be used; the message names the file and line and what was expected."""


@cache
def load_sources(folder: Path = FOLDER) -> dict[str, str]:
    """Reads `sources.yaml`: source key -> full citation, with its address where it has one.

    Raises:
        PublishedError: the file is missing, is not YAML, or a source has no citation.
    """
    path = folder / "sources.yaml"
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {key: ", ".join(filter(None, (entry["citation"], entry.get("url")))) for key, entry in entries.items()}
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise PublishedError(f"{path}: expected a citation for every source key ({error!r}).") from error


@cache
def load_published(folder: Path = FOLDER) -> pd.DataFrame:
    """Every published number in our vocabulary: one file `<source>.csv` per source, in alphabetical order.

    Beside the columns of the files it has "gallery"; "printed_method", the name where it was published; "reference",
    source and place as in "jfse, Table 4"; "caveat", what a reader has to know even where it is compared; "obstacles",
    what is unknown or foreign to our tables; and "comparable": whether there is no such thing.

    Raises:
        PublishedError: a wrong header, a row without source or locator, a source without citation, a value that is
            not a number or outside the range of its metric, an unknown direction, or two comparable numbers for the
            same thing.
    """
    citations, records = load_sources(folder), []
    for path in sorted(folder.glob("*.csv")):
        try:
            table = read_csv(path, COLUMNS)
        except TableError as error:
            raise PublishedError(str(error)) from error
        for number, record in enumerate(table.to_dict("records"), 2):
            place = f"{path}, line {number}"
            records.append({**_translate(record, place, path.stem), "place": place})
            if record["source"] not in citations:
                raise PublishedError(f"{place}: source {record['source']!r} has no citation; add it to sources.yaml.")
    if not records:
        raise PublishedError(f"{folder}: no published numbers; expected files <source>.csv.")
    found = pd.DataFrame(records)
    repeated = found[found["comparable"]].duplicated(list(MATCHED))
    if repeated.any():
        place = found.loc[repeated.idxmax(), "place"]
        raise PublishedError(f"{place}: gives the same number as an earlier line again; keep one.")
    return found


def _translate(record: dict[str, str], place: str, stem: str) -> dict[str, Any]:
    """One record in our vocabulary, each word that has no translation noted as an obstacle."""
    for name in ("source", "locator", "dataset", "method", "metric"):
        if not record[name].strip():
            raise PublishedError(f"{place}: {name} is empty; every published number needs it.")
    if record["confidence"] not in CONFIDENCE:
        raise PublishedError(f"{place}: confidence is {record['confidence']!r}; expected {' or '.join(CONFIDENCE)}.")
    if record["source"] != stem:
        raise PublishedError(f"{place}: source is {record['source']!r}; rows of it belong in {record['source']}.csv.")
    metric, unit = METRIC_UNITS.get(record["metric"], (record["metric"], 1))
    split, gallery = PROTOCOLS.get(record["protocol"], (UNSTATED, UNSTATED))
    obstacles = list(_obstacles(record, metric, place))
    secondary = " (secondary source)" * (record["confidence"] == "secondary")
    return {
        **{name: record[name] for name in ("source", "dataset", "note")},
        "features": FEATURES.get(record["features"], record["features"] or UNSTATED),
        "condition": "",
        "split": split,
        "gallery": gallery,
        "protocol": "as_published" if record["protocol"] in PROTOCOLS else record["protocol"] or UNSTATED,
        "direction": record["direction"] or UNSTATED,
        "metric": metric,
        "k": _cutoff(record["k"], metric, place),
        "method": METHODS.get(record["method"], record["method"]),
        "printed_method": record["method"],
        "value": _value(record["value"], metric, unit, place),
        "reference": f"{record['source']}, {record['locator']}{secondary}",
        "caveat": CAVEATS.get(split, ""),
        "obstacles": obstacles,
        "comparable": not obstacles,
    }


def _obstacles(record: dict[str, str], metric: str, place: str) -> Iterator[str]:
    if record["metric"] not in METRIC_UNITS:
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


def _cutoff(text: str, metric: str, place: str) -> str:
    if metric in METRICS and not METRICS[metric].takes(text):
        raise PublishedError(f"{place}: k of {metric} is {text!r}; expected {METRICS[metric].expected_k}.")
    return text


def _value(text: str, metric: str, unit: int, place: str) -> float:
    try:
        value = round(float(text) / unit, 6)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise PublishedError(f"{place}: value is {text!r}; expected a number.")
    if metric in METRICS and METRICS[metric].fraction and not 0 <= value <= 1:
        raise PublishedError(f"{place}: {metric} is {text}; expected at most {unit} and at least 0.")
    return value


def citations_of(rows: pd.DataFrame) -> dict[str, str]:
    """Source and place of the published numbers beside rows -> the full citation of the source."""
    return {each: load_sources().get(each.partition(",")[0], "") for each in distinct(rows["published_source"])}


def nearest_published(row: Any) -> tuple[Any, tuple[str, ...]] | None:
    """The published number of the same data set and metric that differs in the fewest columns, and those columns.

    Among equally many differences the same method comes first, then its family (the part of the name before " + "),
    the same direction, the same split and the better number. Where no column differs the two measure the same thing.

    Args:
        row: of a table, as DataFrame.itertuples gives it.

    Returns:
        The number as such a tuple and the names of the columns that differ, or None where nothing is published for
        data set and metric.
    """
    published = load_published()
    rivals = published[(published["dataset"] == row.dataset) & (published["metric"] == row.metric)]

    def distance(other: Any) -> tuple:
        family = other.method.partition(" + ")[0] != row.method.partition(" + ")[0]
        worse = -other.value if METRICS[row.metric].higher_is_better else other.value
        ties = (other.method != row.method, family, other.direction != row.direction, other.split != row.split, worse)
        return len(differing(row, other)), not other.comparable, *ties

    nearest = min(rivals.itertuples(), key=distance, default=None)
    return None if nearest is None else (nearest, differing(row, nearest))


def differing(row: Any, other: Any) -> tuple[str, ...]:
    """The columns in which a row of ours and a published number differ."""
    return tuple(name for name in MATCHED if getattr(row, name) != getattr(other, name))


def with_published(table: pd.DataFrame) -> pd.DataFrame:
    """The table with published, published_source and delta filled where the very same thing was published.

    Rows on synthetic data, rows without a number and rows without an exact match come back unchanged. In the zero-shot
    splits the note says that the published class split is not public.
    """
    published = load_published()
    known = published[published["comparable"]].set_index(list(MATCHED))
    table = table.copy()
    for row in table[(table["status"] == "ok") & (table["data_kind"] == "real")].itertuples():
        key = tuple(getattr(row, name) for name in MATCHED)
        if key not in known.index:
            continue
        other = known.loc[key]
        note = row.note if other.caveat in row.note else "; ".join(filter(None, (row.note, other.caveat)))
        columns = ["published", "published_source", "delta", "note"]
        table.loc[row.Index, columns] = [other.value, other.reference, round(row.value - other.value, 6), note]
    return table
