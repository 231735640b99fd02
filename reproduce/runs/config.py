"""The configuration of a row: what `csd fit --config` takes, and how the training is evaluated."""

from __future__ import annotations

from typing import Any

from lightning_modules.metrics.modality_gap import GAP_METRICS
from reproduce.results.companion import dump_yaml
from reproduce.results.metrics import RANKED
from reproduce.runs.arguments import matched, merged
from reproduce.runs.preparing import Config, model_class, takes
from reproduce.runs.spec import DataSet, Method, Scale, Table

# Measured while a model is trained.
GRADIENT_METRICS = ("gradient norm", "finite gradients")
VALIDATION_FRACTION = 0.15  # of the training items, where a data set's entry names no other


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
    if method is not None and "-" in arguments.get("labels", ""):  # labels that are drawn, for each seed anew
        arguments["label_seed"] = seed or 0
    if dataset.class_path == "OwnData":
        arguments["dataset"] = dataset.dataset
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

    Args:
        table: the table.
        scale: its scale.
        dataset: the data set of the row.
        method: the method of the row.
        setting: arguments of the trial; those chosen, or none.
        seed: of the run; None for that of a trial, on seed 0 and the validation part.
        max_epochs: of the training.
        modalities: M of the data.

    Returns:
        See ``run``.

    Raises:
        ConfigError: there is no such model.
        ValueError: a matched temperature that cannot be resolved.
    """
    kind = model_class(method.model)
    known = takes(kind)
    data = data_source(table, dataset, method, seed)
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
    evaluate: dict[str, Any] = {"on": "validation" if seed is None else "test"}
    evaluate["galleries"] = [] if seed is None else dataset.galleries
    if set(table.metrics) & set(RANKED[1:]):
        evaluate["eleven_point"] = True
    if not kind.closed_form and set(table.metrics) & set(GRADIENT_METRICS):
        evaluate["gradients"] = True
    if not kind.closed_form and seed is not None and set(table.metrics) & set(GAP_METRICS):
        evaluate["modality_gap"] = True
    path = f"{kind.__module__}.{kind.__name__}" if kind.closed_form else method.model
    return {
        "seed_everything": seed or 0,
        "model": {"class_path": path, "init_args": matched(arguments, modalities, "alignment_weight" in known)},
        "data": data,
        "trainer": trainer,
        "evaluate": evaluate,
    }


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
        content["data"] = {**content["data"], "init_args": {**arguments, "path": f"data/{arguments['dataset']}"}}
    return f"# {head}\n" + dump_yaml(content)
