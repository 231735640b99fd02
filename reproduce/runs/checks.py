"""A table, checked whole before anything is trained: names, metrics, and every configuration that it asks for."""

from __future__ import annotations

import inspect
import json
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser

import datamodules
from lightning_modules.metrics import CrossModalRetrieval
from lightning_modules.metrics.directions import parse_joint_query
from lightning_modules.metrics.galleries import parse_gallery
from lightning_modules.metrics.modality_gap import BY_CHANCE, GAP_METRICS
from lightning_modules.networks.adapters import ADAPTERS
from lightning_modules.networks.encoders import ENCODERS
from losses.registry import nearest
from reproduce.results.schema import VOCABULARY
from reproduce.runs.config import GRADIENT_METRICS, resolve
from reproduce.runs.preparing import Config, located, model_class, parsed, takes
from reproduce.runs.spec import DataSet, Method, Scale, SpecError, Table, matching, modalities_of, read_file

# Metrics of a training, or of its joint space, rather than of its retrieval.
OF_TRAINING = ("seconds/epoch", *GRADIENT_METRICS, *GAP_METRICS, *BY_CHANCE)
# Arguments of data modules that the command line and the seed decide.
NEED_ALIGNMENT = ("LAVIMO", "CMPM")
OF_THE_RUN = ("data_root", "path", "offline", "shuffle_seed", "class_seed")


def load_table(name: str, folder: Path | None = None) -> Table:
    """Read a table's file and those it extends, and check everything it says.

    Args:
        name: "table2", "table3", ..., or that of an experiment.
        folder: where the files are; by default that of the tables, then that of the experiments.

    Raises:
        SpecError: naming the file and entry, what was wrong and what was expected.
    """
    table = read_file(name, folder)
    _check_names(table)
    for dataset in (*table.datasets, table.synthetic):
        _check_dataset(table, dataset)
    for key, scale in table.scales.items():
        _check_scale(table, key, scale)
    seen: set[str] = set()
    for place, config in _configs(table):
        _check_config(config, place, seen)
    _check_metrics(table)
    return table


def _configs(table: Table) -> Iterator[tuple[str, Config]]:
    """Every configuration of the table, of a trial and of a final run, with its place for a message."""
    for scale in table.scales.values():
        for dataset in (*table.datasets, table.synthetic):
            for method in table.methods_on(dataset):
                place = f"{table.file}: {method.method} on {dataset.name}"
                for setting in method.trials or [{}]:
                    arguments = (table, scale, dataset, method, setting)
                    yield place, _built(place, resolve, *arguments, 0, scale.max_epochs, modalities_of(dataset))


def _built(place: str, build: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What a call returns; SpecError with the place where it raises for its arguments."""
    try:
        return build(*arguments, **named)
    except (ValueError, TypeError) as error:
        raise SpecError(f"{place}: {error}") from error


def _check_config(config: Config, place: str, seen: set[str]) -> None:
    """What `csd fit` would not take, and values that data module, loss, encoders or a linear method would not."""
    source, model = {"data": located(config, None)}, {"model": config["model"]}
    if _is_new(source, seen):
        data = _built(place, parsed, source, ("data",)).as_dict()["data"]
        _built(place, getattr(datamodules, config["data"]["class_path"]), **data["init_args"])
    if not _is_new(model, seen):
        return
    kind, arguments = model_class(config["model"]["class_path"]), config["model"]["init_args"]
    loss = _built(place, parsed, model, ("model",)).as_dict()["model"]["init_args"].get("alignment")
    for name, value in arguments.items():
        if value is None and _default(kind, name) is not None:  # which the parser lets pass
            raise SpecError(f"{place}: model.{name} is empty; give a value, or leave it out")
    if kind.closed_form:
        _built(place, kind, {"image": 1, "text": 1}, **arguments)
    if isinstance(loss, dict):
        named = {**loss.get("init_args", {}), **loss.get("dict_kwargs", {})}
        _built(f"{place}: alignment", pkgutil.resolve_name(loss["class_path"]), **named)
    for modality, settings in (arguments.get("encoders") or {}).items():
        if _is_new(settings, seen):
            _check_named(ENCODERS, settings, f"{place}: encoder of {modality!r}", ("source",))
    if arguments.get("adapter") is not None:
        _check_named(ADAPTERS, arguments["adapter"], f"{place}: adapter", ("input_dim", "dim"))


def _default(kind: type, name: str) -> Any:
    signatures = (inspect.signature(base).parameters for base in kind.__mro__)
    return next((found[name].default for found in signatures if name in found), None)


def _is_new(part: Any, seen: set[str]) -> bool:
    text = json.dumps(part, sort_keys=True)
    known = text in seen
    seen.add(text)
    return not known


def _check_named(kinds: dict[str, type], settings: Any, place: str, skip: tuple[str, ...]) -> None:
    """Settings of an encoder or adapter: its name, and the arguments of the class that has it."""
    name = settings.get("name") if isinstance(settings, dict) else settings
    if name not in kinds or not isinstance(settings, dict):
        raise SpecError(f"{place} has the name {name!r}; {nearest(name, kinds)}")
    known = [each for each in takes(kinds[name]) if each not in skip]
    given = {key: value for key, value in settings.items() if key != "name"}
    for key in given:
        if key not in known:
            raise SpecError(f"{place}: {name} has no argument {key!r}; {nearest(key, known)}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kinds[name], skip=set(skip), fail_untyped=False)
    try:
        parser.parse_object(given)
    except ArgumentError as error:
        raise SpecError(f"{place}: {' '.join(str(error).split())}") from error


def _check_once(values: Sequence[Any], place: str) -> None:
    twice = [value for value in values if values.count(value) > 1]
    if twice or not values:
        raise SpecError(f"{place} holds {twice[0]!r} twice" if twice else f"{place} is empty; expected one or more")


def _check_names(table: Table) -> None:
    """Names stand once, and what is named is there."""
    _check_once([f"{method.method}, {method.protocol}" for method in table.methods], f"{table.file}: methods")
    _check_once([dataset.name for dataset in table.datasets], f"{table.file}: datasets")
    patterns = [("projection", pattern) for pattern in table.projection]
    for dataset in (*table.datasets, table.synthetic):
        patterns += [("exclude", pattern) for pattern in dataset.exclude]
        if lacking := [name for name in table.galleries if name not in dataset.galleries]:
            raise SpecError(f"{table.file}: galleries name {lacking[0]!r}, which {dataset.dataset} does not have")
    for key, pattern in patterns:
        if not matching(pattern, table.methods):
            near = nearest(pattern, [method.method for method in table.methods])
            raise SpecError(f"{table.file}: {key} names {pattern!r}, no method; {near}")


def _check_dataset(table: Table, dataset: DataSet) -> None:
    place = f"{table.file}: {dataset.name}"
    found = {name: getattr(datamodules, name) for name in datamodules.__all__}
    known = {
        name: kind
        for name, kind in found.items()
        if isinstance(kind, type) and issubclass(kind, datamodules.RetrievalData)
    }
    if dataset.class_path not in known:
        raise SpecError(
            f"{place} has class_path {dataset.class_path!r}; {nearest(dataset.class_path, known)}. Tables take the "
            "data modules of this suite, by name; train on one of your own with csd fit"
        )
    of_items = not issubclass(known[dataset.class_path], datamodules.FeatureDataModule)
    for method in table.methods_on(dataset):
        for name in {**dataset.init_args, **method.data}:
            if name in OF_THE_RUN:
                raise SpecError(f"{place}: {name!r} is not given here; the table or its command sets it")
        kind = _built(f"{table.file}: {method.method}", model_class, method.model)
        if of_items and (kind.closed_form or method.model == "JFSE"):
            raise SpecError(
                f"{place}: {method.method} cannot be run on {dataset.class_path}, as {method.model} takes paired "
                "features; name it in exclude of the data set"
            )
        if method.model in NEED_ALIGNMENT and not method.init_args.get("alignment"):
            raise SpecError(f"{table.file}: {method.method} has no alignment; {method.model} is trained by one")
        if method.protocol == "as_published" and not {"protocol", "statistics"} & set(takes(kind)):
            raise SpecError(f"{table.file}: {method.method} is as_published, which {method.model} has no settings for")
    if dataset.galleries:
        _check_once(dataset.galleries, f"{place}: galleries")
        if not of_items:
            raise SpecError(f"{place} has galleries, which paired features do not have; remove them")
    for name in dataset.galleries:
        _built(f"{place}: galleries", parse_gallery, name=name)


def _check_scale(table: Table, name: str, scale: Scale) -> None:
    place = f"{table.file}: scales.{name}"
    if name not in VOCABULARY["scale"]:
        raise SpecError(f"{place}: unknown scale {name!r}; {nearest(name, VOCABULARY['scale'])}")
    _check_once(scale.seeds, f"{place}.seeds")
    if scale.min_steps:
        _check_once(scale.min_steps, f"{place}.min_steps")
    limits = {"seeds": (scale.seeds, 0), "max_epochs": ([scale.max_epochs], 1), "min_steps": (scale.min_steps, 1)}
    for entry, (values, least) in limits.items():
        if any(value < least for value in values):
            raise SpecError(f"{place}: {entry} holds {values}; expected {least} or more")
    trained = {method.model for method in table.methods}
    for model in scale.models:
        if model not in trained:
            raise SpecError(f"{place}.models names {model!r}, no model of the table; {nearest(model, trained)}")


def check_modalities(dataset: DataSet, modalities: Sequence[str], file: str) -> None:
    """Raise where encoders, and other settings of a model, are for modalities that the data set does not have.

    Args:
        dataset: of a table.
        modalities: those of the data.
        file: name of the table's file, for the message.

    Raises:
        SpecError: naming the modality.
    """
    single = [dataset.model[name] for name in ("reconstruct", "target") if dataset.model.get(name) is not None]
    for name in (*dataset.model.get("encoders", {}), *single):
        if name not in modalities:
            place = f"{file}: {dataset.name}: model"
            raise SpecError(f"{place} names {name!r}, no modality of the data; {nearest(name, modalities)}")
    for name in dataset.model.get("joint_queries", ()):
        _built(f"{file}: {dataset.name}: model", parse_joint_query, name, tuple(modalities))


@cache
def computed(ks: tuple[int, ...]) -> list[str]:
    """Metrics that an evaluation with these cut-offs computes: those of a gallery of two items."""
    metric = CrossModalRetrieval([("query", "gallery")], ks=ks)
    metric.update({"query": torch.eye(2), "gallery": torch.eye(2)}, torch.arange(2), torch.arange(2))
    return [name.partition("/")[2] for name in metric.compute()]


def _check_metrics(table: Table) -> None:
    _check_once(table.metrics, f"{table.file}: metrics")
    if set(table.metrics) & set(BY_CHANCE) and not set(table.metrics) & set(GAP_METRICS):
        raise SpecError(
            f"{table.file}: metrics by chance stand beside one of {', '.join(GAP_METRICS)}; add one of them"
        )
    checked: dict[tuple[Method, tuple[int, ...] | None], None] = {}
    for dataset in (*table.datasets, table.synthetic):
        for method in table.methods_on(dataset):
            for scale in table.scales.values():
                parts = (scale.model, scale.models.get(method.model, {}), dataset.model, method.init_args)
                for trial in method.trials or [{}]:
                    given = [part["ks"] for part in (*parts, trial) if "ks" in part]
                    checked[method, tuple(given[-1]) if given else None] = None
    for method, ks in checked:
        _check_computed(table, method, ks)


def _check_computed(table: Table, method: Method, ks: tuple[int, ...] | None) -> None:
    kind = model_class(method.model)
    if kind.closed_form and set(table.metrics) <= set(OF_TRAINING):
        raise SpecError(
            f"{table.file}: metrics holds none that {method.method} has, which is not trained by steps; add MAP"
        )
    own = "ks" in takes(kind)
    default = inspect.signature(kind if own else CrossModalRetrieval).parameters["ks"].default
    known = [*_built(f"{table.file}: {method.method}: ks", computed, ks=tuple(ks or default)), *OF_TRAINING]
    for metric in table.metrics:
        if metric not in known:
            others = f"; `ks` of {method.model} sets other cut-offs" * own
            near, every = nearest(metric, known), f"there are: {', '.join(known)}"
            raise SpecError(
                f"{table.file}: metrics names {metric!r}, which is not computed for {method.method}; "
                f"{'; '.join([near, every] if near.startswith('nearest') else [every])}{others}"
            )
