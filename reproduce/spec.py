"""Tables as data: what a table's YAML file says, checked, and the trainings (cells) it asks for."""

from __future__ import annotations

import difflib
import fnmatch
import inspect
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

import datamodules
import lightning_modules
from losses import build_loss
from losses.registry import keywords
from reproduce.baselines import BASELINES

FOLDER = Path(__file__).with_name("tables")
EXPERIMENTS = Path(__file__).with_name("experiments")
# By gradient descent, for the epochs of the scale; the others are fitted at once.
TRAINED = ("JFSE", "LAVIMO", "CMPM", "CSAligner")
MODELS = (*TRAINED, "CCA", "semantic matching")
# Measured while a model is trained, where the table has record_gradients.
GRADIENT_METRICS = ("gradient norm", "finite gradients")


class SpecError(ValueError):
    """A table file that cannot be used; the message names the file and entry and what was expected."""


@dataclass(frozen=True)
class Sweep:
    """A method's place on a line of methods that differ in one argument.

    Args:
        line: what the methods of the line have in common, the name before the value.
        argument: the argument, of the alignment or of the model.
        value: its value in this method.
    """

    line: str
    argument: str
    value: float


@dataclass(frozen=True, eq=False)
class Method:
    """One row of a table: a model with its alignment, and the settings tried on validation data.

    Args:
        method: name in the table.
        model: one of ``MODELS``.
        preset: "honest" or "as_published", which is also the protocol of its rows.
        alignment: name of the alignment loss, or a mapping with "name" and its keywords; None for none.
        init_args: arguments of the model that no trial changes.
        data: arguments of the data module beside those of the data set, such as a share of pairs.
        trials: settings to choose from; empty where there is nothing to choose.
        sweep: in the file {argument: values}, which makes one method per value; once loaded the place of this one.
        matched_temperature: t, the effective temperature at which losses are compared: the alignment takes f t as its
            temperature and f as its weight, with f = 1 for KL, 2 for CS and M + 1 for GCS over M modalities. None
            leaves temperature and weight to ``alignment`` and ``init_args``.
    """

    method: str
    model: str
    preset: str = "honest"
    alignment: str | dict[str, Any] | None = None
    init_args: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    trials: list[dict[str, Any]] = field(default_factory=list)
    sweep: Sweep | dict[str, list[float]] | None = None
    matched_temperature: float | None = None

    @property
    def loss(self) -> dict[str, Any] | None:
        """Name and keywords of the alignment loss; None for none."""
        return {"name": self.alignment} if isinstance(self.alignment, str) else self.alignment

    def effective_factor(self, modalities: int) -> int:
        """f for M modalities, see ``matched_temperature``.

        Raises:
            ValueError: the effective temperature of the alignment is not known.
        """
        kind = (self.loss or {}).get("divergence") or (self.loss or {}).get("name")
        factors = {"kl": 1, "cs": 2, "gcs": modalities + 1, "gcs_clamped": modalities + 1}
        if kind not in factors:
            raise ValueError(f"matched_temperature is known for {', '.join(factors)}, not for {kind}")
        return factors[kind]


@dataclass(frozen=True, eq=False)
class DataSet:
    """One data set of a table, read by ``class_path(**init_args)``.

    Args:
        dataset: name in the table, and of its folder under the data root.
        features: name of the features in the table.
        class_path: name of a data module.
        init_args: its arguments.
        model: arguments that models take on it, such as encoders.
        leaves_out: names of methods that are not run on it, with * for any text.
        galleries: those scored beside the whole one, whether or not a table shows them, so that tables share cells.
    """

    dataset: str
    features: str
    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    leaves_out: list[str] = field(default_factory=list)
    galleries: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Scale:
    """How large and how long: seeds, epochs and the arguments of every model, and of some models alone.

    Args:
        min_steps: floors on the number of training steps, of which validation data choose one per data set and model;
            none: the epochs as they are.
    """

    seeds: list[int]
    max_epochs: int
    model: dict[str, Any]
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    min_steps: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """A table: its name and title, metrics, data sets with the one that stands in for all, methods and scales.

    Args:
        class_split: how the classes of paired features are split; None for data sets with a split of their own.
        galleries: those shown beside the whole one, of each data set's.
        projection: methods whose embeddings are drawn, side by side.
        comparisons: pairs (method, baseline) of honest rows to compare.
        not_run: why none of its rows can be run; empty where they can.
        record_gradients: whether trainings keep the norms of their gradients, for the metrics "gradient norm" and
            "finite gradients"; such a training leaves out steps whose gradient is not finite.
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
    projection: list[str] = field(default_factory=list)
    comparisons: list[list[str]] = field(default_factory=list)
    not_run: str = ""
    record_gradients: bool = False

    def methods_on(self, dataset: DataSet) -> list[Method]:
        """The methods that are run on a data set."""
        left_out = {name for pattern in dataset.leaves_out for name in _matching(pattern, self.methods)}
        return [method for method in self.methods if method.method not in left_out]


def _matching(pattern: str, methods: list[Method]) -> list[str]:
    return [method.method for method in methods if fnmatch.fnmatchcase(method.method, pattern)]


def available_tables() -> list[str]:
    """Names of the tables that can be regenerated, then those of the experiments."""
    return _names(FOLDER) + _names(EXPERIMENTS)


def _names(folder: Path) -> list[str]:
    """Of the tables, only those called so: the other files serve to be extended."""
    return sorted(path.stem for path in folder.glob("*.yaml" if folder == EXPERIMENTS else "table*.yaml"))


def load_table(name: str, folder: Path | None = None) -> Table:
    """Read a YAML file and the file it extends, named relative to it, whose methods come first.

    Args:
        name: "table2", "table3", ..., or that of an experiment.
        folder: where the files are; by default that of the tables, then that of the experiments.

    Raises:
        SpecError: no such table, a key, model, data module, loss or argument that is unknown or missing, two rows of
            one name, or a file that is no YAML mapping.
    """
    folders = (FOLDER, EXPERIMENTS) if folder is None else (folder,)
    path = next((place / f"{name}.yaml" for place in folders if (place / f"{name}.yaml").exists()), None)
    if path is None:
        known = [known for place in folders for known in _names(place)]
        raise SpecError(f"there is no {name}; there are {', '.join(known)}")
    own = _mapping(path)
    base = _mapping(path.parent / own.pop("extends")) if "extends" in own else {}
    merged = base | own | {"methods": (base.get("methods") or []) + (own.get("methods") or [])}
    for key in ("methods", "datasets", "scales", "synthetic"):
        if not merged.get(key):
            raise SpecError(f"{path.name} has no {key}; a table needs at least one")
    scales = {key: _build(Scale, value, path) for key, value in merged.pop("scales", {}).items()}
    methods = [_build(Method, value, path) for value in merged.pop("methods")]
    datasets = [_build(DataSet, value, path) for value in merged.pop("datasets", [])]
    synthetic = _build(DataSet, merged["synthetic"], path)
    if not merged.get("not_run"):
        methods = [swept for method in methods for swept in _checked(method, path)]
    _check_datasets([*datasets, synthetic], path)
    _check_names([(method.method, method.preset) for method in methods], path)
    _check_names([(dataset.dataset, dataset.features) for dataset in datasets], path)
    _check_comparisons(merged.get("comparisons", []), methods, path)
    _check_patterns("projection", merged.get("projection", []), methods, path)
    for dataset in (*datasets, synthetic):
        _check_patterns("leaves_out", dataset.leaves_out, methods, path)
    entries = {"name": name, "datasets": datasets, "synthetic": synthetic, "methods": methods, "scales": scales}
    table = _build(Table, merged | entries, path)
    for dataset in (*table.datasets, table.synthetic):
        if lacking := [name for name in table.galleries if name not in dataset.galleries]:
            raise SpecError(f"{path.name}: galleries name {lacking[0]!r}, which {dataset.dataset} does not have")
    if not table.record_gradients and set(table.metrics) & set(GRADIENT_METRICS):
        raise SpecError(f"{path.name}: {' and '.join(GRADIENT_METRICS)} need record_gradients: true")
    return table


def _checked(method: Method, path: Path) -> list[Method]:
    """The methods that an entry of the file stands for, with models, losses and arguments that exist."""
    if method.model not in MODELS:
        raise SpecError(f"{path.name}: {method.method} has model {method.model!r}; {_nearest(method.model, MODELS)}")
    methods = [method] if method.sweep is None else _swept(method, path)
    for one in methods:
        settings = [trial.get("alignment", {}) for trial in one.trials] or [{}]
        try:
            fixed = {}
            if one.matched_temperature is not None:
                if "temperature" in (one.loss or {}):
                    raise ValueError("it has a temperature and a matched_temperature; keep one of them")
                fixed = {"temperature": one.matched_temperature * one.effective_factor(modalities=2)}
            for setting in settings if one.loss else []:
                build_loss(**{**one.loss, **fixed, **setting})
        except (ValueError, TypeError) as error:
            raise SpecError(f"{path.name}: {one.method}: {error}") from error
    return methods


def _swept(method: Method, path: Path) -> list[Method]:
    """One method per value of a sweep."""
    place = f"{path.name}: {method.method}"
    if not isinstance(method.sweep, dict) or len(method.sweep) != 1 or method.trials:
        raise SpecError(f"{place} has sweep {method.sweep!r}; expected one argument with its values, and no trials")
    [(argument, values)] = method.sweep.items()
    if not isinstance(values, list) or not values or not all(_positive(value) for value in values):
        raise SpecError(f"{place} sweeps {argument} over {values!r}; expected a list of one positive number or more")
    of_loss = _loss_keywords(method.loss, place) if method.loss else []
    of_model = inspect.signature(BASELINES.get(method.model) or getattr(lightning_modules, method.model)).parameters
    if argument not in [*of_loss, *of_model]:
        raise SpecError(f"{place} sweeps unknown argument {argument!r}; {_nearest(argument, [*of_loss, *of_model])}")
    methods = []
    for value in values:
        if argument in of_loss:
            changed = {"alignment": {**method.loss, argument: value}}
        else:
            changed = {"init_args": {**method.init_args, argument: value}}
        sweep = Sweep(method.method, argument, value)
        methods.append(replace(method, method=f"{method.method}, {argument} {value:g}", sweep=sweep, **changed))
    return methods


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _loss_keywords(loss: dict[str, Any], place: str) -> list[str]:
    try:
        return keywords(loss["name"], loss.get("divergence", "kl"))
    except (KeyError, ValueError) as error:
        raise SpecError(f"{place}: {error}") from error


def _check_datasets(datasets: list[DataSet], path: Path) -> None:
    kinds = (datamodules.FeatureDataModule, datamodules.ItemDataModule)
    found = {name: getattr(datamodules, name) for name in datamodules.__all__}
    known = [name for name, value in found.items() if isinstance(value, type) and issubclass(value, kinds)]
    for dataset in datasets:
        if dataset.class_path not in known:
            near = _nearest(dataset.class_path, known)
            raise SpecError(
                f"{path.name}: {dataset.dataset} has class_path {dataset.class_path!r}; {near}. Tables take the data "
                "modules of this suite alone, by name; train on one of your own with csd fit"
            )


def _check_names(names: list[tuple[str, str]], path: Path) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise SpecError(f"{path.name} has {', '.join(twice)} twice; give each row a name of its own")


def _check_comparisons(pairs: Any, methods: list[Method], path: Path) -> None:
    known = [method.method for method in methods if method.preset == "honest"]
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise SpecError(f"{path.name}: comparisons holds {pair!r}; expected pairs [method, baseline]")
        for name in pair:
            if name not in known:
                raise SpecError(f"{path.name}: comparisons name {name!r}, no honest method; {_nearest(name, known)}")


def _check_patterns(key: str, patterns: Any, methods: list[Method], path: Path) -> None:
    if not isinstance(patterns, list):
        raise SpecError(f"{path.name}: {key} is {patterns!r}; expected a list of names of methods")
    for pattern in patterns:
        if not _matching(str(pattern), methods):
            near = _nearest(pattern, [method.method for method in methods])
            raise SpecError(f"{path.name}: {key} names {pattern!r}, no method; {near}")


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
