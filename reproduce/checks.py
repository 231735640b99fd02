"""What a table's file may say, checked before anything is trained: its YAML, metrics, models, losses and data sets."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from jsonargparse import get_loader

import datamodules
from lightning_modules.metrics import CrossModalRetrieval
from lightning_modules.metrics.galleries import parse_gallery
from lightning_modules.metrics.modality_gap import BY_CHANCE, GAP_METRICS
from losses.registry import nearest
from reproduce.arguments import (
    OF_THE_RUN,
    SpecError,
    built,
    check_call,
    check_loss,
    check_model,
    model_class,
    parameters,
)
from reproduce.baselines import BASELINES
from reproduce.schema import VOCABULARY

if TYPE_CHECKING:
    from reproduce.spec import DataSet, Method, Scale, Table

# Measured while a model is trained, where the table has record_gradients.
GRADIENT_METRICS = ("gradient norm", "finite gradients")
# Metrics of a training, or of its joint space, rather than of its retrieval.
OF_TRAINING = ("seconds/epoch", *GRADIENT_METRICS, *GAP_METRICS, *BY_CHANCE)
PAIRED_ONLY = ("JFSE", *BASELINES)  # models of paired features alone


def read_yaml(path: Path, extending: Sequence[Path] = ()) -> dict[str, Any]:
    """What a file says together with the file it extends, named relative to it, whose methods come first.

    A number may be written as 1e-3, as in the files of `csd fit`.

    Args:
        path: the file.
        extending: the files that extend it, for the message.

    Raises:
        SpecError: a file that is no YAML mapping, that has a key twice in one mapping, or that extends itself.
    """
    path = path.resolve()
    if path in extending:
        chain = " -> ".join(each.name for each in (*extending[extending.index(path) :], path))
        raise SpecError(f"{chain}: a file cannot extend itself; remove one `extends`")
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_repeated_keys(yaml.compose(text, yaml.SafeLoader), path)
        own = get_loader("yaml")(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        by = f" ({extending[-1].name} extends it)" if extending else ""
        raise SpecError(f"{path.name} cannot be read{by}: {error}") from error
    if not isinstance(own, dict):
        raise SpecError(f"{path.name} must be a mapping, got {type(own).__name__}")
    own["methods"] = own.get("methods") or []
    if not isinstance(own["methods"], list):
        raise SpecError(f"{path.name}: methods is {own['methods']!r}; expected a list of methods")
    if "extends" not in own:
        return own
    if not isinstance(name := own.pop("extends"), str):
        raise SpecError(f"{path.name}: extends is {name!r}; expected the name of one file")
    base = read_yaml(path.parent / name, (*extending, path))
    return base | own | {"methods": base["methods"] + own["methods"]}


def _refuse_repeated_keys(node: yaml.Node | None, path: Path) -> None:
    if not isinstance(node, yaml.CollectionNode):
        return
    pairs = node.value if isinstance(node, yaml.MappingNode) else [(None, each) for each in node.value]
    names = [key.value for key, _ in pairs if key is not None]
    for key, value in pairs:
        if key is not None and names.count(key.value) > 1:
            line = key.start_mark.line + 1
            raise SpecError(f"{path.name}, line {line}: {key.value!r} stands twice in one mapping; keep one of them")
        _refuse_repeated_keys(value, path)


def check_method(method: Method, file: str) -> None:
    """Refuse a method whose model or loss does not take its arguments, of any trial.

    Raises:
        SpecError: naming the method and the argument.
    """
    place, takes = f"{file}: {method.method}", parameters(model_class(method.model))
    if method.preset == "as_published" and "preset" not in takes:
        raise SpecError(f"{place} is as_published, which {method.model} has no settings for; JFSE and LAVIMO have")
    if method.loss is not None and "alignment" not in takes:
        raise SpecError(f"{place} has an alignment, which {method.model} does not take; remove it")
    if method.loss is None and method.model in ("LAVIMO", "CMPM"):
        raise SpecError(f"{place} has no alignment; {method.model} is trained by one, such as `alignment: cs`")
    check_model(method.model, method.init_args, f"{place}: init_args")
    for trial in method.trials or [{}]:
        own, of_loss = {key: x for key, x in trial.items() if key != "alignment"}, trial.get("alignment", {})
        check_model(method.model, own, f"{place}: trials")
        if method.model in BASELINES:
            arguments = {**method.init_args, **own}
            check_call(model_class(method.model), arguments, f"{place}: init_args and trials", whole=True)
            built(f"{place}: trials", model_class(method.model), **arguments)
        if of_loss and (method.loss is None or not isinstance(of_loss, dict)):
            raise SpecError(f"{place}: trials set alignment {of_loss!r}; expected arguments of the method's alignment")
        _check_alignment(method, of_loss, place)


def _check_alignment(method: Method, chosen: dict[str, Any], place: str) -> None:
    settings = {**(method.loss or {}), **chosen}
    if method.matched_temperature is not None:
        if "temperature" in settings:
            raise SpecError(f"{place}: it has a temperature and a matched_temperature; keep one of them")
        factor = built(place, method.effective_factor, modalities=2)
        settings["temperature"] = method.matched_temperature * factor
    if method.loss is not None:
        check_loss(settings, place)


def check_table(table: Table, file: str) -> None:
    """Refuse metrics that are not computed, and arguments of scales and data sets that nothing takes.

    Args:
        table: the table, each of its methods checked by :func:`check_method`.
        file: its name, for the message.

    Raises:
        SpecError: naming the entry and what was expected.
    """
    trained = {method.model for method in table.methods if method.model not in BASELINES}
    for name, scale in table.scales.items():
        _check_scale(name, scale, trained, file)
    for dataset in (*table.datasets, table.synthetic):
        _check_dataset(table, dataset, file)
    _check_metrics(table, file)


def check_once(values: Sequence[Any], place: str) -> None:
    """Refuse an empty list, and one that holds something twice.

    Raises:
        SpecError: naming the place.
    """
    if not values:
        raise SpecError(f"{place} is empty; expected one or more")
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise SpecError(f"{place} holds {twice[0]!r} twice; expected different ones")


def _check_scale(name: str, scale: Scale, trained: set[str], file: str) -> None:
    place = f"{file}: scales.{name}"
    if name not in VOCABULARY["scale"]:
        raise SpecError(f"{place}: unknown scale {name!r}; {nearest(name, VOCABULARY['scale'])}")
    check_once(scale.seeds, f"{place}.seeds")
    if scale.min_steps:
        check_once(scale.min_steps, f"{place}.min_steps")
    for entry, values, least in (
        ("seeds", scale.seeds, 0),
        ("max_epochs", [scale.max_epochs], 1),
        ("min_steps", scale.min_steps, 1),
    ):
        if any(value < least for value in values):
            raise SpecError(f"{place}: {entry} holds {values}; expected {least} or more")
    for model, arguments in scale.models.items():
        if model not in trained:
            raise SpecError(f"{place}.models names {model!r}, no trained model of the table; {nearest(model, trained)}")
        check_model(model, arguments, f"{place}.models.{model}")
    for model in sorted(trained):  # what one of them takes alone belongs into models
        check_model(model, scale.model, f"{place}.model, for {model}")


def data_module(dataset: DataSet, file: str) -> type:
    """The class that a data set's ``class_path`` names.

    Raises:
        SpecError: there is none in this suite.
    """
    found = {name: getattr(datamodules, name) for name in datamodules.__all__}
    known = [
        name
        for name, value in found.items()
        if isinstance(value, type) and issubclass(value, datamodules.RetrievalData)
    ]
    if dataset.class_path not in known:
        near = nearest(dataset.class_path, known)
        raise SpecError(
            f"{file}: {dataset.dataset} has class_path {dataset.class_path!r}; {near}. Tables take the data modules of "
            "this suite alone, by name; train on one of your own with csd fit"
        )
    return found[dataset.class_path]


def _check_dataset(table: Table, dataset: DataSet, file: str) -> None:
    kind, place = data_module(dataset, file), f"{file}: {dataset.dataset}/{dataset.features}"
    check_call(kind, dataset.init_args, f"{place}: init_args", OF_THE_RUN)
    of_items = not issubclass(kind, datamodules.FeatureDataModule)
    for method in table.methods_on(dataset):
        check_call(kind, method.data, f"{file}: {method.method}: data, for {dataset.class_path}", OF_THE_RUN)
        if method.model in PAIRED_ONLY and of_items:
            raise SpecError(
                f"{place}: {method.method} cannot be run on {dataset.class_path}, as {method.model} takes paired "
                "features; name it in leaves_out of the data set"
            )
        if method.model not in BASELINES:
            check_model(method.model, dataset.model, f"{place}: model, for {method.model}")
        split = {} if table.class_split is None else {"class_split": table.class_split}
        path = {"path": dataset.dataset} if "path" in parameters(kind) else {}
        built(f"{place}, for {method.method}", kind, **path, **{**dataset.init_args, **method.data, **split})
    _check_galleries(table, dataset, place, of_items)


def _check_galleries(table: Table, dataset: DataSet, place: str, of_items: bool) -> None:
    if not (names := dataset.galleries):
        return
    check_once(names, f"{place}: galleries")
    if not of_items:
        raise SpecError(f"{place} has galleries, which paired features do not have; remove them")
    for name in names:
        built(f"{place}: galleries", parse_gallery, name=name)


def check_modalities(dataset: DataSet, modalities: Sequence[str], file: str) -> None:
    """Refuse encoders, and other settings of a model, for modalities that the data set does not have.

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
            place = f"{file}: {dataset.dataset}/{dataset.features}: model"
            raise SpecError(f"{place} names {name!r}, no modality of the data; {nearest(name, modalities)}")


@cache
def computed(ks: tuple[int, ...]) -> list[str]:
    """Metrics that an evaluation with these cut-offs computes: those of a gallery of two items."""
    metric = CrossModalRetrieval([("query", "gallery")], ks=ks)
    metric.update({"query": torch.eye(2), "gallery": torch.eye(2)}, torch.arange(2), torch.arange(2))
    return [name.partition("/")[2] for name in metric.compute()]


def _check_metrics(table: Table, file: str) -> None:
    check_once(table.metrics, f"{file}: metrics")
    if not table.record_gradients and set(table.metrics) & set(GRADIENT_METRICS):
        raise SpecError(f"{file}: {' and '.join(GRADIENT_METRICS)} need record_gradients: true")
    if set(table.metrics) & set(BY_CHANCE) and not set(table.metrics) & set(GAP_METRICS):
        raise SpecError(f"{file}: metrics by chance stand beside one of {', '.join(GAP_METRICS)}; add one of them")
    for dataset in (*table.datasets, table.synthetic):
        for method in table.methods_on(dataset):
            for scale in table.scales.values():
                settings = {**scale.model, **scale.models.get(method.model, {}), **dataset.model}
                _check_computed(table, method, settings, file)


def _check_computed(table: Table, method: Method, settings: dict[str, Any], file: str) -> None:
    if method.model in BASELINES and set(table.metrics) <= set(OF_TRAINING):
        raise SpecError(f"{file}: metrics holds none that {method.method} has, which is not trained by steps; add MAP")
    kind = model_class(method.model)
    own_ks = "ks" in parameters(kind)
    if not own_ks:
        kind, settings = CrossModalRetrieval, {}
    by_default = inspect.signature(kind).parameters["ks"].default
    for trial in method.trials or [{}]:
        ks = tuple({**settings, **method.init_args, **trial}.get("ks", by_default))
        known = [*built(f"{file}: {method.method}: ks", computed, ks=ks), *OF_TRAINING]
        for metric in table.metrics:
            if metric not in known:
                others = f"; `ks` of {method.model} sets other cut-offs" * own_ks
                near, every = nearest(metric, known), f"there are: {', '.join(known)}"
                raise SpecError(
                    f"{file}: metrics names {metric!r}, which is not computed for {method.method}; "
                    f"{'; '.join([near, every] if near.startswith('nearest') else [every])}{others}"
                )
