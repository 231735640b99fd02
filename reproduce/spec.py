"""Tables as data: what a table's YAML file says, checked, and the trainings (cells) it asks for."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from losses import build_loss
from losses.registry import keywords, nearest
from reproduce.arguments import SpecError, check_call, model_class, parameters
from reproduce.checks import check_method, check_once, check_table, data_module, read_yaml

FOLDER = Path(__file__).with_name("tables")
EXPERIMENTS = Path(__file__).with_name("experiments")
# By gradient descent, for the epochs of the scale; the others are fitted at once.
TRAINED = ("JFSE", "LAVIMO", "CMPM", "CSAligner")
MODELS = (*TRAINED, "CCA", "semantic matching")
PARTS = {"methods": list, "datasets": list, "scales": dict, "synthetic": dict}  # entries with entries of their own


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
        sweep: in the file {argument: values}, which makes one method per value; once loaded the ``Sweep`` of this one.
        matched_temperature: t, the effective temperature at which losses are compared: the alignment takes f t as its
            temperature and f as its weight, f being the loss's own factor. None
            leaves temperature and weight to ``alignment`` and ``init_args``.
    """

    method: str
    model: str
    preset: Literal["honest", "as_published"] = "honest"
    alignment: str | dict[str, Any] | None = None
    init_args: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    trials: list[dict[str, Any]] = field(default_factory=list)
    sweep: Any = None
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
        factor = self.loss and build_loss(**self.loss).effective_factor(modalities)
        if factor is None:
            name = self.loss and self.loss["name"]
            raise ValueError(f"matched_temperature is for a loss with a temperature, which {name} is not")
        return factor


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
    class_split: Literal["standard", "zero-shot"] | None = None
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
    """Read a YAML file and those it extends, and check everything it says.

    Args:
        name: "table2", "table3", ..., or that of an experiment.
        folder: where the files are; by default that of the tables, then that of the experiments.

    Raises:
        SpecError: no such table, a key, model, metric, data module, loss or argument that is unknown or missing or has
            another type, two rows of one name, or a file that is no YAML mapping.
    """
    folders = (FOLDER, EXPERIMENTS) if folder is None else (folder,)
    path = next((place / f"{name}.yaml" for place in folders if (place / f"{name}.yaml").exists()), None)
    if path is None:
        known = [known for place in folders for known in _names(place)]
        raise SpecError(f"there is no {name}; there are {', '.join(known)}")
    said, file = read_yaml(path), path.name
    check_call(Table, {key: value for key, value in said.items() if key not in PARTS}, file, skip=("name",))
    _require(said, PARTS, file)
    for key, kind in PARTS.items():
        if not isinstance(said[key], kind):
            raise SpecError(f"{file}: {key} is {said[key]!r}; expected a {'list' if kind is list else 'mapping'}")
    said["scales"] = {key: _build(Scale, value, f"{file}: scales.{key}") for key, value in said["scales"].items()}
    said["datasets"] = [_build(DataSet, value, f"{file}: datasets") for value in said["datasets"]]
    said["synthetic"] = _build(DataSet, said["synthetic"], f"{file}: synthetic")
    for dataset in (*said["datasets"], said["synthetic"]):
        data_module(dataset, file)
    _require(said, ("title", "metrics"), file)
    methods = [_build(Method, value, f"{file}: methods") for value in said["methods"]]
    said["methods"] = [swept for method in methods for swept in _swept(method, file)]
    table = Table(name, **said)
    _check_names(table, file)
    if not table.not_run:
        for method in table.methods:
            check_method(method, file)
        check_table(table, file)
    return table


def _swept(method: Method, file: str) -> list[Method]:
    """The methods that an entry of the file stands for: one per value of its sweep."""
    place = f"{file}: {method.method}"
    if method.model not in MODELS:
        raise SpecError(f"{place} has model {method.model!r}; {nearest(method.model, MODELS)}")
    if method.sweep is None:
        return [method]
    if not isinstance(method.sweep, dict) or len(method.sweep) != 1 or method.trials:
        raise SpecError(f"{place} has sweep {method.sweep!r}; expected one argument with its values, and no trials")
    [(argument, values)] = method.sweep.items()
    if not isinstance(values, list) or not values or not all(_positive(value) for value in values):
        raise SpecError(f"{place} sweeps {argument} over {values!r}; expected a list of one positive number or more")
    of_loss = _loss_keywords(method.loss, place) if method.loss else []
    known = [*of_loss, *parameters(model_class(method.model))]
    if argument not in known:
        raise SpecError(f"{place} sweeps unknown argument {argument!r}; {nearest(argument, known)}")
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
    if not isinstance(loss, dict) or "name" not in loss:
        raise SpecError(f"{place} has alignment {loss!r}; expected the name of a loss, or a mapping with name")
    try:
        return keywords(loss["name"], loss.get("divergence", "kl"))
    except ValueError as error:
        raise SpecError(f"{place}: {error}") from error


def _require(said: dict[str, Any], keys: Iterable[str], file: str) -> None:
    for key in keys:
        if not said.get(key):
            raise SpecError(f"{file} has no {key}; a table needs at least one")


def _check_names(table: Table, file: str) -> None:
    """Names stand once, and what is named is there."""
    check_once([f"{method.method}, {method.preset}" for method in table.methods], f"{file}: methods")
    check_once([f"{dataset.dataset}, {dataset.features}" for dataset in table.datasets], f"{file}: datasets")
    honest = [method.method for method in table.methods if method.preset == "honest"]
    for pair in table.comparisons:
        if len(pair) != 2 or pair[0] == pair[1] or table.comparisons.count(pair) > 1:
            raise SpecError(f"{file}: comparisons holds {pair!r}; expected pairs [method, baseline] of two, each once")
        for name in pair:
            if name not in honest:
                raise SpecError(f"{file}: comparisons name {name!r}, no honest method; {nearest(name, honest)}")
    _check_patterns(f"{file}: projection", table.projection, table)
    for dataset in (*table.datasets, table.synthetic):
        _check_patterns(f"{file}: leaves_out", dataset.leaves_out, table)
        if lacking := [name for name in table.galleries if name not in dataset.galleries]:
            raise SpecError(f"{file}: galleries name {lacking[0]!r}, which {dataset.dataset} does not have")


def _check_patterns(place: str, patterns: list[str], table: Table) -> None:
    for pattern in patterns:
        if not _matching(pattern, table.methods):
            near = nearest(pattern, [method.method for method in table.methods])
            raise SpecError(f"{place} names {pattern!r}, no method; {near}")


def _build(kind: type, entry: Any, place: str) -> Any:
    name = entry.get("method") or entry.get("dataset") if isinstance(entry, dict) else None
    place = f"{place}: {name}" if name else place
    check_call(kind, entry, place, whole=True)
    return kind(**entry)
