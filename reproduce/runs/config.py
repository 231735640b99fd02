"""The configuration of a run: made of a table's row, as `csd fit` takes it, and built as `csd fit` builds it."""

import inspect
import pkgutil
from copy import deepcopy
from functools import cache
from typing import Any

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

import datamodules
import lightning_modules
from datamodules.noisy_labels import parse_labels
from lightning_modules.base import RetrievalModule
from lightning_modules.cli_errors import ConfigError, Parser
from lightning_modules.metrics.modality_gap import GAP_METRICS
from losses.registry import nearest
from reproduce.results.companion import dump_yaml
from reproduce.results.metrics import POSITIVE_METRICS, RANKED
from reproduce.runs import baselines, multiview
from reproduce.runs.arguments import loss_of, matched, merged, signature
from reproduce.runs.machine import SILENT
from reproduce.runs.spec import DataSet, Method, Scale, Table

Config = dict[str, Any]
Data = datamodules.RetrievalData
PARTS = {"model": RetrievalModule, "data": Data}
# Measured while a model is trained.
GRADIENT_METRICS = ("gradient norm", "finite gradients")
OF_LABELS = ("labels", "label_seed")  # arguments of data modules: the labels that are trained on
JOINT_SCORE = "joint_score"  # argument of models that answer joint queries
VALIDATION_FRACTION = 0.15  # of the training items, where a data set's entry names no other


@cache
def _parser(*keys: str) -> LightningArgumentParser:
    parser = Parser()
    for key in keys:
        skip = {"dims"} if keys == ("model",) else set()  # which the data give
        parser.add_subclass_arguments(PARTS[key], key, required=True, fail_untyped=False, skip=skip)
    if keys == tuple(PARTS):
        parser.link_arguments("data.dims", "model.init_args.dims", apply_on="instantiate")
    return parser


def parsed(config: Config, *keys: str, defaults: bool = False) -> Namespace:
    """Parts of a configuration with the types of their classes, as `csd fit` reads them.

    Args:
        config: see ``run``.
        keys: "model", "data" or, in this order, both.
        defaults: whether those of the classes are filled in, which takes as long as all the rest.

    Raises:
        ConfigError: `csd fit` would not take it.
    """
    return _parser(*keys).parse_object({key: deepcopy(config[key]) for key in keys}, defaults=defaults)


def model_class(name: str) -> type[RetrievalModule]:
    """The class that a method's model names.

    Raises:
        ConfigError: there is none.
    """
    places = (lightning_modules, name), *((module, name.rpartition(".")[2]) for module in (baselines, multiview))
    found = next((getattr(module, short) for module, short in places if hasattr(module, short)), None)
    if not (isinstance(found, type) and issubclass(found, RetrievalModule)):
        parsed({"model": {"class_path": name}}, "model")
        found = pkgutil.resolve_name(name)
    return found


def data_class(name: str) -> type[Data]:
    """The data module of this suite that a data set names.

    Raises:
        ConfigError: there is none.
    """
    found = getattr(datamodules, name, None)
    if not (isinstance(found, type) and issubclass(found, Data)):
        near = nearest(name, datamodules.__all__)
        said = "Tables take the data modules of this suite, by name; train on one of your own with csd fit"
        raise ConfigError(f"class_path is {name!r}; {near}. {said}")
    return found


def data_source(
    table: Table, dataset: DataSet, method: Method | None = None, seed: int | None = None
) -> dict[str, Any]:
    """Class and arguments of the data module of a row.

    Args:
        table: the table.
        dataset: the data set of the row.
        method: the method of the row; None: the data set by itself, however a method divides its items.
        seed: of the run; None for that of a trial, on seed 0 and the validation part.
    """
    arguments = dict(dataset.init_args)
    if method is not None:
        fraction = dataset.init_args.get("validation_fraction", VALIDATION_FRACTION) if seed is None else 0.0
        arguments |= {**method.data, "validation_fraction": fraction, "shuffle_seed": seed or 0}
    if table.class_split is not None:
        arguments |= {"class_split": table.class_split, **({"class_seed": seed or 0} if method else {})}
    if method is not None and parse_labels(arguments.get("labels", "class"))[1]:  # drawn, for each seed anew
        arguments["label_seed"] = seed or 0
    if dataset.class_path == "OwnData":
        arguments["dataset"] = dataset.dataset
    if dataset.split_by_seed:
        arguments["seed"] = seed or 0
    if method is not None and method.model == "JFSE":
        arguments["protocol"] = method.protocol
    return {"class_path": dataset.class_path, "init_args": arguments}


def resolve(
    table: Table,
    scale: Scale,
    dataset: DataSet,
    method: Method,
    setting: dict[str, Any],
    seed: int | None,
    max_epochs: int,
    modalities: int,
) -> Config:
    """Configuration of a run.

    Args beside those of ``data_source``:
        scale: of the table.
        setting: arguments of the trial; those chosen, or none.
        max_epochs: of the training.
        modalities: M of the data.

    Returns:
        See ``run``.

    Raises:
        ConfigError: there is no such model.
        ValueError: a matched temperature that cannot be resolved.
    """
    kind = model_class(method.model)
    _, known = signature(kind)
    data = data_source(table, dataset, method, seed)
    scored_by_all = seed is None and table.select == "joint"
    if scored_by_all:  # so that trials which differ in nothing else are one training
        setting = {name: value for name, value in setting.items() if name != JOINT_SCORE}
    arguments = merged(method.init_args, setting)
    trainer: dict[str, Any] = {"max_epochs": max_epochs}
    if kind.closed_form:
        trainer |= {"max_epochs": 1, "limit_train_batches": 0}
    else:
        protocol = {"protocol": method.protocol} if "protocol" in known else {}
        base = merged(merged(scale.model, scale.models.get(method.model, {})), dataset.model)
        base = merged(base, dataset.models.get(method.model, {}))
        arguments = merged({**base, **protocol}, arguments)
    # The public code looks at its test items after every second epoch.
    if data["init_args"].get("protocol") == "as_published":
        trainer["check_val_every_n_epoch"] = min(2, max_epochs)
    trial, trained, metrics = seed is None, not kind.closed_form, set(table.metrics)
    wanted = {
        "eleven_point": metrics.union(method.metrics).intersection(RANKED[1:]),
        "gradients": trained and metrics.intersection(GRADIENT_METRICS),
        "shares_of_positives": trained and not trial and metrics.intersection(POSITIVE_METRICS),
        "joint_scores": scored_by_all,
        "modality_gap": not trial and metrics.intersection(GAP_METRICS),
    }
    evaluate = {"on": "validation" if trial else "test", "galleries": [] if trial else dataset.galleries}
    path = f"{kind.__module__}.{kind.__name__}" if kind.closed_form else method.model
    return {
        "seed_everything": seed or 0,
        "model": {"class_path": path, "init_args": matched(arguments, modalities, "alignment_weight" in known)},
        "data": data,
        "trainer": trainer,
        "evaluate": evaluate | {name: True for name, asked in wanted.items() if asked},
    }


def without_unused_labels(config: Config) -> Config:
    """The configuration without the kind of label to train on, where no label enters the training or what is measured.

    Such a run serves all kinds of label: test items keep their classes, while a trial's validation items do not.
    """
    # LAVIMO takes labels in its alignment alone.
    model, data, evaluate = (config[key] for key in ("model", "data", "evaluate"))
    loss = loss_of(model["init_args"]) if model["class_path"] == "LAVIMO" else None
    if loss is None or loss.uses_labels or evaluate["on"] == "validation" or "shares_of_positives" in evaluate:
        return config
    kept = {name: value for name, value in data["init_args"].items() if name not in OF_LABELS}
    return {**config, "data": {**data, "init_args": kept}}


def fit_file(config: Config, head: str) -> str:
    """The configuration as a file for `csd fit --config`, which trains it and scores the test items at the end.

    Args:
        config: of a run on the test items.
        head: what it is of, in words.
    """
    content = {key: value for key, value in config.items() if key != "evaluate"}
    # The epoch chosen on the test items is that of a checkpoint; elsewhere the last one counts.
    checkpoints = config["data"]["init_args"].get("protocol") == "as_published"
    content["trainer"] = {**config["trainer"], "enable_checkpointing": checkpoints}
    content["test_after_fit"] = True
    if content["data"]["class_path"] == "OwnData":  # which does not look below the data root by itself
        arguments = content["data"]["init_args"]
        path = "/".join(["data", arguments["dataset"], *filter(None, [arguments.get("path")])])
        content["data"] = {**content["data"], "init_args": {**arguments, "path": path}}
    return f"# {head}\n" + dump_yaml(content)


def located(config: Config, data_root: str | None, offline: bool = False) -> dict[str, Any]:
    """Class and arguments of the configuration's data module, with where the data are on this machine.

    Args:
        config: "data" with class_path and init_args.
        data_root: folder of the data sets; None: as the data module finds it.
        offline: never fetch data.
    """
    name, arguments = config["data"]["class_path"], config["data"]["init_args"]
    known = inspect.signature(data_class(name)).parameters
    of_machine = {"data_root": data_root, "offline": offline}
    arguments = arguments | {key: value for key, value in of_machine.items() if key in known}
    if name == "OwnData":
        arguments["path"] = str(datamodules.data_root(data_root) / arguments["dataset"] / arguments.get("path", ""))
    return {"class_path": name, "init_args": arguments}


def build_data(config: Config, data_root: str | None, offline: bool = False) -> Data:
    """The data module of a configuration; it reads nothing yet."""
    source = located(config, data_root, offline)
    return data_class(source["class_path"])(**source["init_args"])


def prepare(
    config: Config, data_root: str | None, callbacks: list[L.Callback]
) -> tuple[Data, RetrievalModule, L.Trainer]:
    """Data module, read, with the model for it and the trainer.

    Args:
        config: see ``run``.
        data_root: folder of the data sets, or None.
        callbacks: of the trainer.
    """
    L.seed_everything(config["seed_everything"], verbose=False)
    parser, both = _parser(*PARTS), parsed({**config, "data": located(config, data_root)}, *PARTS, defaults=True)
    built = parser.instantiate_classes(both)
    built.data.prepare_data()
    # Without a first look at the validation items, which a training's curve would take for one of its points.
    silent = {**SILENT, "num_sanity_val_steps": 0, "devices": 1}
    return built.data, built.model, L.Trainer(**config["trainer"], **silent, callbacks=callbacks)
