"""Data module, model and trainer of a configuration, as `csd fit` builds them: the one place that knows how."""

from __future__ import annotations

import inspect
import pkgutil
from copy import deepcopy
from functools import cache
from typing import Any, NoReturn

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

import datamodules
import lightning_modules
from lightning_modules.base import RetrievalModule
from lightning_modules.cli_errors import explained
from reproduce.runs import baselines, multiview

Config = dict[str, Any]
Data = datamodules.RetrievalData
# Keys of a configuration that `csd fit` takes; the other one, "evaluate", is of this package.
FIT = ("seed_everything", "model", "data", "trainer")


class ConfigError(ValueError):
    """A configuration that `csd fit` would not take; the message names the argument and what was expected."""


class _Parser(LightningArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # parsing the arguments of a class, for the parser of the configuration
            super().error(message, ex)
        raise ConfigError(explained(message, self))


@cache
def _parser(keys: tuple[str, ...]) -> LightningArgumentParser:
    parser = _Parser()
    if "seed_everything" in keys:
        parser.add_argument("--seed_everything", type=int, default=0)
    if "trainer" in keys:
        parser.add_lightning_class_args(L.Trainer, "trainer")
    if "model" in keys:
        parser.add_lightning_class_args(RetrievalModule, "model", subclass_mode=True, required=True)
    if "data" in keys:
        parser.add_lightning_class_args(L.LightningDataModule, "data", subclass_mode=True, required=True)
    if {"model", "data"} <= set(keys):
        parser.link_arguments("data.dims", "model.init_args.dims", apply_on="instantiate")
    elif "model" in keys:  # the data give them later
        parser.add_argument("--dims", type=dict, default={})
        parser.link_arguments("dims", "model.init_args.dims")
    return parser


def parsed(config: Config, keys: tuple[str, ...] = FIT) -> Namespace:
    """The configuration with the types and defaults of its classes.

    Args:
        config: see ``run``.
        keys: the parts that are read.

    Raises:
        ConfigError: `csd fit` would not take it.
    """
    return _parser(keys).parse_object({key: deepcopy(config[key]) for key in keys})


def model_class(name: str) -> type[RetrievalModule]:
    """The class that a method's model names.

    Raises:
        ConfigError: there is none.
    """
    places = (lightning_modules, name), *((module, name.rpartition(".")[2]) for module in (baselines, multiview))
    found = next((getattr(module, short) for module, short in places if hasattr(module, short)), None)
    if not (isinstance(found, type) and issubclass(found, RetrievalModule)):
        parsed({"model": {"class_path": name}}, ("model",))
        found = pkgutil.resolve_name(name)
    return found


@cache
def takes(kind: type) -> list[str]:
    """Names of the arguments of a class, those that it hands on to its bases among them."""
    return LightningArgumentParser().add_class_arguments(kind, fail_untyped=False)


def located(config: Config, data_root: str | None, offline: bool = False) -> dict[str, Any]:
    """Class and arguments of the configuration's data module, with where the data are on this machine.

    Args:
        config: "data" with class_path and init_args.
        data_root: folder of the data sets; None: as the data module finds it.
        offline: never fetch data.
    """
    arguments = dict(config["data"]["init_args"])
    kind = getattr(datamodules, config["data"]["class_path"])
    known = inspect.signature(kind).parameters
    arguments |= {"data_root": data_root} if "data_root" in known else {}
    arguments |= {"offline": offline} if "offline" in known else {}
    if config["data"]["class_path"] == "FeaturePairs":
        arguments["path"] = str(datamodules.data_root(data_root) / arguments["dataset"])
    return {"class_path": config["data"]["class_path"], "init_args": arguments}


def build_data(config: Config, data_root: str | None, offline: bool = False) -> Data:
    """The data module of a configuration; it reads nothing yet."""
    source = located(config, data_root, offline)
    return getattr(datamodules, source["class_path"])(**source["init_args"])


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
    arguments = parsed({**config, "data": located(config, data_root)})
    trainer = arguments.pop("trainer")
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    # Without a first look at the validation items, which a training's curve would take for one of its points.
    silent |= {"num_sanity_val_steps": 0, "devices": 1}
    built = _parser(FIT).instantiate_classes(arguments)
    built.data.prepare_data()
    return built.data, built.model, L.Trainer(**{**trainer.as_dict(), **silent, "callbacks": callbacks})
