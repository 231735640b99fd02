"""The numbers of other authors: read with their sources, and matched to the rows of our tables."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import yaml

from reproduce.schema import METRICS, PATTERNS, Row

FOLDER = Path(__file__).with_name("published")
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

MATCHED = ("dataset", "features", "split", "gallery", "protocol", "metric", "k", "direction", "method")


class PublishedError(ValueError):
    """A file of published numbers that cannot be used; the message names the file and line and what was expected."""


@dataclass(frozen=True)
class Published:
    """A number of other authors in our vocabulary.

    Args:
        source: key of `load_sources`; `locator`: the table or page there; `confidence`: primary or secondary.
        printed_method: the method's name where it was published; `method`: ours for it.
        value: a fraction for MAP, R@k and P@k, otherwise as published.
        obstacles: what is unknown or foreign to our tables; the number is compared only where there is nothing.
    """

    source: str
    locator: str
    confidence: str
    dataset: str
    features: str
    split: str
    gallery: str
    protocol: str
    direction: str
    metric: str
    k: str | int | None
    method: str
    printed_method: str
    value: float
    obstacles: tuple[str, ...]
    note: str

    @property
    def comparable(self) -> bool:
        """Whether everything that a comparison needs is known."""
        return not self.obstacles

    @property
    def caveat(self) -> str:
        """What a reader has to know even where the number is compared."""
        return CAVEATS.get(self.split, "")

    @property
    def reference(self) -> str:
        """Source and place, as in "jfse, Table 4"."""
        return f"{self.source}, {self.locator}" + (" (secondary source)" if self.confidence == "secondary" else "")

    @property
    def matched(self) -> tuple:
        """The columns in which a row of ours has to agree before the two are compared."""
        return tuple(getattr(self, name) for name in MATCHED)


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
def load_published(folder: Path = FOLDER) -> tuple[Published, ...]:
    """Reads every published number: one file `<source>.csv` per source, the sources in alphabetical order.

    Raises:
        PublishedError: a wrong header, a row without source or locator, a source without citation, a value that is
            not a number or outside the range of its metric, an unknown direction, or two comparable numbers for the
            same thing.
    """
    published: list[Published] = []
    first: dict[tuple, str] = {}
    citations = load_sources(folder)
    for path in sorted(folder.glob("*.csv")):
        for number, record in _records(path):
            place = f"{path}, line {number}"
            row = _translate(record, place, path.stem)
            if row.source not in citations:
                raise PublishedError(f"{place}: source {row.source!r} has no citation; add it to sources.yaml.")
            if row.comparable and first.setdefault(row.matched, place) != place:
                raise PublishedError(f"{place}: gives the same number as {first[row.matched]} again; keep one.")
            published.append(row)
    if not published:
        raise PublishedError(f"{folder}: no published numbers; expected files <source>.csv.")
    return tuple(published)


def _records(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, cells) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PublishedError(f"{path}: cannot be read as CSV ({error}).") from error
    if not lines or tuple(lines[0][1]) != COLUMNS:
        raise PublishedError(f"{path}, line 1: expected the columns {','.join(COLUMNS)}.")
    for number, cells in lines[1:]:
        if len(cells) != len(COLUMNS):
            raise PublishedError(f"{path}, line {number}: {len(cells)} cells, expected {len(COLUMNS)}.")
    return [(number, dict(zip(COLUMNS, cells, strict=True))) for number, cells in lines[1:]]


def _translate(record: dict[str, str], place: str, stem: str) -> Published:
    """One record in our vocabulary, each word that has no translation noted as an obstacle."""
    for name in ("source", "locator", "dataset", "method", "metric"):
        if not record[name].strip():
            raise PublishedError(f"{place}: {name} is empty; every published number needs it.")
    if record["confidence"] not in CONFIDENCE:
        raise PublishedError(f"{place}: confidence is {record['confidence']!r}; expected {' or '.join(CONFIDENCE)}.")
    if record["source"] != stem:
        raise PublishedError(f"{place}: source is {record['source']!r}; rows of it belong in {record['source']}.csv.")
    obstacles = []
    if record["metric"] not in METRIC_UNITS:
        obstacles.append(f"metric {record['metric']} is not one of a table")
    metric, unit = METRIC_UNITS.get(record["metric"], (record["metric"], 1))
    if record["protocol"] not in PROTOCOLS:
        obstacles.append(f"protocol {record['protocol']}")
    split, gallery = PROTOCOLS.get(record["protocol"], (UNSTATED, UNSTATED))
    if record["features"] not in FEATURES:
        obstacles.append(f"features {record['features'] or UNSTATED}")
    if not PATTERNS["direction"][0].fullmatch(record["direction"]):
        if record["direction"] != UNSTATED and (record["direction"] or metric in METRICS):
            raise PublishedError(
                f'{place}: direction is {record["direction"]!r}; expected {PATTERNS["direction"][1]}, or "{UNSTATED}".'
            )
        obstacles.append("direction " + UNSTATED)
    return Published(
        **{name: record[name] for name in ("source", "locator", "confidence", "dataset", "note")},
        features=FEATURES.get(record["features"], record["features"] or UNSTATED),
        split=split,
        gallery=gallery,
        protocol="as_published" if record["protocol"] in PROTOCOLS else record["protocol"] or UNSTATED,
        direction=record["direction"] or UNSTATED,
        metric=metric,
        k=_cutoff(record["k"], metric, place),
        method=METHODS.get(record["method"], record["method"]),
        printed_method=record["method"],
        value=_value(record["value"], metric, unit, place),
        obstacles=tuple(obstacles),
    )


def _cutoff(text: str, metric: str, place: str) -> str | int | None:
    k = int(text) if text.isdecimal() and int(text) > 0 else text or None
    if metric in METRICS and not METRICS[metric].takes(k):
        raise PublishedError(f"{place}: k of {metric} is {text!r}; expected {METRICS[metric].expected_k}.")
    return k


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


def find_published(row: Row) -> Published | None:
    """The published number of the same data set, features, split, gallery, protocol, metric, direction and method."""
    sought = tuple(getattr(row, name) for name in MATCHED)
    return next((other for other in load_published() if other.comparable and other.matched == sought), None)


def nearest_published(row: Row) -> tuple[Published, tuple[str, ...]] | None:
    """The published number of the same data set and metric that differs in the fewest columns, and those columns.

    Among equally many differences the same method comes first, then its family (the part of the name before " + "),
    the same direction, the same split and the better number.

    Returns:
        The number and the names of the columns that differ, or None where nothing is published for data set and metric.
    """

    def distance(other: Published) -> tuple:
        family = other.method.partition(" + ")[0] != row.method.partition(" + ")[0]
        worse = -other.value if METRICS[row.metric].higher_is_better else other.value
        ties = (other.method != row.method, family, other.direction != row.direction, other.split != row.split, worse)
        return len(differing(row, other)), *ties

    rivals = [other for other in load_published() if (other.dataset, other.metric) == (row.dataset, row.metric)]
    nearest = min(rivals, key=distance, default=None)
    return None if nearest is None else (nearest, differing(row, nearest))


def differing(row: Row, other: Published) -> tuple[str, ...]:
    """The columns in which a row of ours and a published number differ."""
    return tuple(name for name in MATCHED if getattr(row, name) != getattr(other, name))


def with_published(row: Row) -> Row:
    """The row with published, published_source and delta filled where the very same thing was published.

    Rows on synthetic data, rows without a number and rows without an exact match come back unchanged. In the zero-shot
    splits the note says that the published class split is not public.
    """
    other = find_published(row) if row.status == "ok" and row.data_kind == "real" else None
    if other is None:
        return row
    note = row.note if other.caveat in row.note else "; ".join(filter(None, (row.note, other.caveat)))
    return replace(
        row, published=other.value, published_source=other.reference, delta=row.value - other.value, note=note
    )
