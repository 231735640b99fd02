"""Tables as data: what a table's YAML file says, checked, and the trainings (cells) it asks for."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).with_name("tables")
MODELS = ("JFSE", "LAVIMO", "CCA", "semantic matching")


class SpecError(ValueError):
    """A table file that cannot be used; the message names the file and entry and what was expected."""


@dataclass(frozen=True, eq=False)
class Method:
    """One row of a table: a model with its alignment, and the settings tried on validation data.

    Args:
        method: name in the table.
        model: one of ``MODELS``.
        preset: "honest" or "as_published", which is also the protocol of its rows.
        alignment: name of the alignment loss, or a mapping with "name" and its keywords; None for none.
        init_args: arguments of the model that no trial changes.
        trials: settings to choose from; empty where there is nothing to choose.
    """

    method: str
    model: str
    preset: str = "honest"
    alignment: str | dict[str, Any] | None = None
    init_args: dict[str, Any] = field(default_factory=dict)
    trials: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class DataSet:
    """One data set of a table, read by ``class_path(**init_args)``.

    Args:
        dataset: name in the table, and of its folder under the data root.
        features: name of the features in the table.
        class_path: name of a data module.
        init_args: its arguments.
        model: arguments that models take on it, such as encoders.
    """

    dataset: str
    features: str
    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scale:
    """How large and how long: seeds, epochs and the model's arguments."""

    seeds: list[int]
    max_epochs: int
    model: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A table: its name and title, metrics, data sets with the one that stands in for all, methods and scales.

    Args:
        class_split: how the classes of paired features are split; None for data sets with a split of their own.
        galleries: those scored beside the whole one.
        projection: method whose embeddings are drawn; None for no such picture.
    """

    name: str
    title: str
    metrics: list[str]
    datasets: list[DataSet]
    synthetic: DataSet
    methods: list[Method]
    scales: dict[str, Scale]
    class_split: str | None = None
    galleries: list[str] = field(default_factory=list)
    projection: str | None = None


def available_tables() -> list[str]:
    """Names of the tables that can be regenerated."""
    return sorted(path.stem for path in FOLDER.glob("table*.yaml"))


def load_table(name: str, folder: Path = FOLDER) -> Table:
    """Read a table's YAML file and the file it extends, whose methods come first.

    Args:
        name: "table2", "table3", ...
        folder: where the files are.

    Raises:
        SpecError: no such table, a key or model that is unknown or missing, or a file that is no YAML mapping.
    """
    path = folder / f"{name}.yaml"
    if not path.exists():
        raise SpecError(
            f"there is no {name}; there are {', '.join(sorted(p.stem for p in folder.glob('table*.yaml')))}"
        )
    own = _mapping(path)
    base = _mapping(folder / own.pop("extends")) if "extends" in own else {}
    merged = base | own | {"methods": (base.get("methods") or []) + (own.get("methods") or [])}
    for key in ("methods", "datasets", "scales", "synthetic"):
        if not merged.get(key):
            raise SpecError(f"{path.name} has no {key}; a table needs at least one")
    scales = {key: _build(Scale, value, path) for key, value in merged.pop("scales", {}).items()}
    methods = [_build(Method, value, path) for value in merged.pop("methods")]
    datasets = [_build(DataSet, value, path) for value in merged.pop("datasets", [])]
    for method in methods:
        if method.model not in MODELS:
            raise SpecError(
                f"{path.name}: {method.method} has model {method.model!r}; {_nearest(method.model, MODELS)}"
            )
    synthetic = _build(DataSet, merged["synthetic"], path)
    entries = {"name": name, "datasets": datasets, "synthetic": synthetic, "methods": methods, "scales": scales}
    return _build(Table, merged | entries, path)


def _mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise SpecError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise SpecError(f"{path.name} must be a mapping, got {type(content).__name__}")
    return content


def _build(kind: type, entry: Any, path: Path) -> Any:
    known = kind.__dataclass_fields__
    if not isinstance(entry, dict):
        raise SpecError(f"{path.name}: expected a mapping with {', '.join(known)}, got {entry!r}")
    for key in entry:
        if key not in known:
            raise SpecError(f"{path.name}: unknown key {key!r} in {entry}; {_nearest(key, known)}")
    try:
        return kind(**entry)
    except TypeError as error:
        raise SpecError(f"{path.name}: {entry} is incomplete: {error}") from error


def _nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(str(word), list(known), n=3, cutoff=0.4)
    return f"nearest: {', '.join(close)}" if close else f"there are: {', '.join(known)}"
