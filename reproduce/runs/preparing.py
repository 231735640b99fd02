"""Data module, model and trainer of a configuration, as `csd fit` builds them: the one place that knows how."""

from __future__ import annotations

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
from lightning_modules.base import RetrievalModule
from lightning_modules.cli_errors import ConfigError, Parser
from losses.registry import nearest
from reproduce.runs import baselines, multiview

Config = dict[str, Any]
Data = datamodules.RetrievalData
PARTS = {"model": RetrievalModule, "data": Data}


@cache
def _parser(*keys: str) -> LightningArgumentParser:
    parser = Parser()
    for key in keys:
        skip = {"dims"} if keys == ("model",) else set()  # which the data give
        parser.add_subclass_arguments(PARTS[key], key, required=True, fail_untyped=False, skip=skip)
    if keys == tuple(PARTS):
        parser.link_arguments("data.dims", "model.init_args.dims", apply_on="instantiate")
    return parser


def parsed(config: Config, *keys: str) -> Namespace:
    """Parts of a configuration with the types and defaults of their classes, as `csd fit` reads them.

    Args:
        config: see ``run``.
        keys: "model", "data" or, in this order, both.

    Raises:
        ConfigError: `csd fit` would not take it.
    """
    return _parser(*keys).parse_object({key: deepcopy(config[key]) for key in keys})


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


@cache
def takes(kind: type) -> dict[str, Any]:
    """Arguments of a class and of its bases -> their defaults, None where there is none."""
    parser = LightningArgumentParser()
    names = parser.add_class_arguments(kind, fail_untyped=False)
    return {name: parser.get_default(name) for name in names}


def located(config: Config, data_root: str | None, offline: bool = False) -> dict[str, Any]:
    """Class and arguments of the configuration's data module, with where the data are on this machine.

    Args:
        config: "data" with class_path and init_args.
        data_root: folder of the data sets; None: as the data module finds it.
        offline: never fetch data.
    """
    arguments = dict(config["data"]["init_args"])
    known = inspect.signature(data_class(config["data"]["class_path"])).parameters
    arguments |= {"data_root": data_root} if "data_root" in known else {}
    arguments |= {"offline": offline} if "offline" in known else {}
    if config["data"]["class_path"] == "OwnData":
        arguments["path"] = str(datamodules.data_root(data_root) / arguments["dataset"])
    return {"class_path": config["data"]["class_path"], "init_args": arguments}


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
    parser, both = _parser(*PARTS), parsed({**config, "data": located(config, data_root)}, *PARTS)
    built = parser.instantiate_classes(both)
    built.data.prepare_data()
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    # Without a first look at the validation items, which a training's curve would take for one of its points.
    silent |= {"num_sanity_val_steps": 0, "devices": 1}
    return built.data, built.model, L.Trainer(**config["trainer"], **silent, callbacks=callbacks)
