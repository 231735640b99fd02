"""A table, checked whole before anything is trained: names, metrics, and every configuration that it asks for."""

import fnmatch
import json
import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch

import datamodules
from lightning_modules.metrics import CrossModalRetrieval
from lightning_modules.metrics.directions import parse_joint_query
from lightning_modules.metrics.galleries import parse_gallery
from lightning_modules.metrics.modality_gap import BY_CHANCE, GAP_METRICS
from lightning_modules.networks.adapters import ADAPTERS
from lightning_modules.networks.encoders import ENCODERS
from losses.registry import nearest
from reproduce.results.metrics import POSITIVE_METRICS
from reproduce.results.schema import SCALES
from reproduce.runs.arguments import SpecError, check_arguments, said_of, signature
from reproduce.runs.config import GRADIENT_METRICS, Config, data_class, located, model_class, parsed, resolve
from reproduce.runs.spec import DataSet, Method, Scale, Table, read_file

# Metrics of a training, or of its joint space, rather than of its retrieval.
OF_TRAINING = ("seconds/epoch", *GRADIENT_METRICS, *POSITIVE_METRICS, *GAP_METRICS, *BY_CHANCE)
NEED_ALIGNMENT = ("LAVIMO", "CMPM")
# Arguments of data modules that the command line and the seed decide.
OF_THE_RUN = ("data_root", "path", "offline", "shuffle_seed", "class_seed")


def load_table(name: str, folder: Path | None = None) -> Table:
    """Read a table's file and those it extends, see ``read_file``, and check everything it says.

    Raises:
        SpecError: naming the file and entry, what was wrong and what was expected.
    """
    table = read_file(name, folder)
    with said_of(table.file):
        _check_names(table)
    for key, scale in table.scales.items():
        with said_of(f"{table.file}: scales.{key}"):
            _check_scale(table, key, scale)
    seen: set[str] = set()
    for dataset in (*table.datasets, table.synthetic):
        with said_of(f"{table.file}: {dataset.name}"):
            _check_dataset(table, dataset)
        for scale, method in product(table.scales.values(), table.methods_on(dataset)):
            with said_of(f"{table.file}: {method.method} on {dataset.name}"):
                _check_method(dataset, method)
                for setting in method.trials or [{}]:
                    config = resolve(table, scale, dataset, method, setting, 0, scale.max_epochs, dataset.count)
                    _check_config(config, [*table.metrics, *method.metrics], seen)
    return table


def _check_once(values: Sequence[Any], place: str) -> None:
    twice = [value for value in values if values.count(value) > 1]
    if twice or not values:
        raise SpecError(f"{place} holds {twice[0]!r} twice" if twice else f"{place} is empty; expected one or more")


def _check_names(table: Table) -> None:
    """Names stand once, and what is named is there."""
    _check_once([f"{method.method}, {method.protocol}" for method in table.methods], "methods")
    _check_once([dataset.name for dataset in table.datasets], "datasets")
    _check_once(table.metrics, "metrics")
    patterns = [("projection", pattern) for pattern in table.projection]
    for dataset in (*table.datasets, table.synthetic):
        patterns += [("exclude", pattern) for pattern in dataset.exclude]
        if lacking := [name for name in table.galleries if name not in dataset.galleries]:
            raise SpecError(f"galleries name {lacking[0]!r}, which {dataset.dataset} does not have")
    for key, pattern in patterns:
        if not fnmatch.filter(table.names, pattern):
            raise SpecError(f"{key} names {pattern!r}, no method; {nearest(pattern, table.names)}")
    if set(table.metrics) & set(BY_CHANCE) and not set(table.metrics) & set(GAP_METRICS):
        raise SpecError(f"metrics by chance stand beside one of {', '.join(GAP_METRICS)}; add one of them")


def _check_scale(table: Table, name: str, scale: Scale) -> None:
    if name not in SCALES:
        raise SpecError(f"unknown scale {name!r}; {nearest(name, SCALES)}")
    _check_once(scale.seeds, "seeds")
    if scale.min_steps:
        _check_once(scale.min_steps, "min_steps")
    if table.select == "joint" and len(scale.min_steps or ()) > 1:
        raise SpecError("min_steps are chosen by single directions, and select is joint; name one floor")
    _check_models(table, scale)


def _check_models(table: Table, of: Scale | DataSet) -> None:
    models = {method.model for method in table.methods}
    if unknown := [model for model in of.models if model not in models]:
        raise SpecError(f"models names {unknown[0]!r}, no model of the table; {nearest(unknown[0], models)}")


def _check_dataset(table: Table, dataset: DataSet) -> None:
    kind = data_class(dataset.class_path)
    _check_models(table, dataset)
    if table.select == "joint" and not dataset.model.get("joint_queries"):
        raise SpecError("it has no joint_queries in its model, by which the table selects; name some")
    of_the_run = [name for name in OF_THE_RUN if name != "path" or dataset.class_path != "OwnData"]
    for given in (dataset.init_args, *(method.data for method in table.methods)):
        if named := [name for name in given if name in of_the_run]:
            raise SpecError(f"{named[0]!r} is not given here; the table or its command sets it")
    if dataset.settings_of:
        _check_settings_of(table, dataset)
    if dataset.seeds:
        _check_once(dataset.seeds, "seeds")
    if dataset.split_by_seed and dataset.class_path != "OwnData":
        raise SpecError(f"split_by_seed is for OwnData, and {dataset.class_path} has a split of its own; remove it")
    if dataset.galleries:
        _check_once(dataset.galleries, "galleries")
        if issubclass(kind, datamodules.FeatureDataModule):
            raise SpecError("it has galleries, which paired features do not have; remove them")
    for name in dataset.galleries:
        with said_of("galleries"):
            parse_gallery(name)


def _check_settings_of(table: Table, dataset: DataSet) -> None:
    """The data set that chooses is one of the table, chooses by itself, and has every method run on it."""
    name, others = dataset.settings_of, {one.name: one for one in table.datasets if not one.settings_of}
    if name not in others:
        raise SpecError(f"settings_of names {name!r}; {nearest(name, others)}")
    chosen = table.methods_on(others[name])
    if lacking := [method.method for method in table.methods_on(dataset) if method not in chosen]:
        raise SpecError(f"settings_of names {name!r}, on which {lacking[0]} is not run; exclude it")


def _check_method(dataset: DataSet, method: Method) -> None:
    kind = model_class(method.model)
    of_items = not issubclass(data_class(dataset.class_path), datamodules.FeatureDataModule)
    if of_items and (kind.closed_form or method.model == "JFSE"):
        raise SpecError(
            f"it cannot be run on {dataset.class_path}, as {method.model} takes paired features; name it in exclude of "
            "the data set"
        )
    if method.model in NEED_ALIGNMENT and not method.init_args.get("alignment"):
        raise SpecError(f"it has no alignment; {method.model} is trained by one")
    if method.protocol == "as_published" and not {"protocol", "statistics"} & set(signature(kind)[1]):
        raise SpecError(f"it is as_published, which {method.model} has no settings for")


def _check_config(config: Config, metrics: Sequence[str], seen: set[str]) -> None:
    """What `csd fit` would not take, and values that data module, loss, encoders or a linear method would not."""
    source = located(config, None)
    if _is_new(source, seen):
        data = parsed({"data": source}, "data").as_dict()["data"]
        data_class(data["class_path"].rpartition(".")[2])(**data.get("init_args", {}))
    if not _is_new(config["model"], seen):
        return
    kind, given = model_class(config["model"]["class_path"]), config["model"]["init_args"]
    types, (_, defaults) = get_type_hints(kind.__init__), signature(kind)
    arguments = defaults | parsed(config, "model").as_dict()["model"].get("init_args", {})
    for name in (name for name, value in given.items() if value is None):  # which the parser lets pass
        if defaults[name] is not None and type(None) not in get_args(types.get(name)):
            raise SpecError(f"model.{name} is empty; give a value, or leave it out")
    if kind.closed_form:
        kind({"image": 1, "text": 1}, **given)
    if isinstance(loss := arguments.get("alignment"), dict):
        with said_of("alignment"):
            pkgutil.resolve_name(loss["class_path"])(**loss.get("init_args", {}), **loss.get("dict_kwargs", {}))
    for modality, settings in (given.get("encoders") or {}).items():
        if _is_new(settings, seen):
            _check_named(ENCODERS, settings, f"encoder of {modality!r}", ("source",))
    if given.get("adapter") is not None:
        _check_named(ADAPTERS, given["adapter"], "adapter", ("input_dim", "dim"))
    _check_metrics(metrics, kind, arguments)


def _is_new(part: Any, seen: set[str]) -> bool:
    before = len(seen)
    seen.add(json.dumps(part, sort_keys=True))
    return len(seen) > before


def _check_named(kinds: Mapping[str, type], settings: Any, place: str, skip: Sequence[str]) -> None:
    """Settings of an encoder or adapter: its name, and the arguments of the class that has it."""
    name = settings.get("name") if isinstance(settings, dict) else settings
    if name not in kinds or not isinstance(settings, dict):
        raise SpecError(f"{place} has the name {name!r}; {nearest(name, kinds)}")
    given = {key: value for key, value in settings.items() if key != "name"}
    check_arguments(kinds[name], given, f"{place}: {name}", skip)


@cache
def computed(ks: tuple[int, ...]) -> list[str]:
    """Metrics that an evaluation with these cut-offs computes: those of a gallery of two items."""
    metric = CrossModalRetrieval([("query", "gallery")], ks=ks, eleven_point=True)
    metric.update({"query": torch.eye(2), "gallery": torch.eye(2)}, torch.arange(2), torch.arange(2))
    return [name.partition("/")[2] for name in metric.compute()]


def _check_metrics(metrics: Sequence[str], kind: type, arguments: Mapping[str, Any]) -> None:
    if kind.closed_form and set(metrics) <= set(OF_TRAINING):
        raise SpecError("metrics holds none of a model that is not trained by steps; add MAP")
    with said_of("ks"):
        known = [*computed(tuple(arguments.get("ks") or signature(CrossModalRetrieval)[1]["ks"])), *OF_TRAINING]
    for metric in metrics:
        if metric not in known:
            near, every = nearest(metric, known), f"there are: {', '.join(known)}"
            said = "; ".join([near, every] if near.startswith("nearest") else [every])
            others = f"; `ks` of {kind.__name__} sets other cut-offs" * ("ks" in arguments)
            raise SpecError(f"metrics names {metric!r}, which is not computed for it; {said}{others}")


def check_modalities(dataset: DataSet, modalities: Sequence[str], file: str) -> None:
    """Raise where encoders, and other settings of a model, are for modalities that the data set does not have.

    Args:
        dataset: of a table.
        modalities: those of the data.
        file: name of the table's file, for the message.

    Raises:
        SpecError: naming the modality.
    """
    place = f"{file}: {dataset.name}: model"
    single = [dataset.model[name] for name in ("reconstruct", "target") if dataset.model.get(name) is not None]
    for name in (*dataset.model.get("encoders", {}), *single):
        if name not in modalities:
            raise SpecError(f"{place} names {name!r}, no modality of the data; {nearest(name, modalities)}")
    for name in dataset.model.get("joint_queries", ()):
        with said_of(place):
            parse_joint_query(name, tuple(modalities))
