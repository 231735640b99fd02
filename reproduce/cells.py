"""One cell: a single training and its evaluation, keyed by everything that its numbers depend on."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

import datamodules
import lightning_modules
from datamodules.features.texts import embed_texts, encoder_identity
from datamodules.features.timm_models import INSTALLED
from datamodules.files.cache import keep
from datamodules.files.sources import sha256_of
from lightning_modules.metrics import CrossModalRetrieval
from lightning_modules.metrics.galleries import Evaluated, GalleryUndefined, score_gallery
from lightning_modules.metrics.modality_gap import modality_gap
from lightning_modules.predictions import flat_predictions
from lightning_modules.preparation import prepare
from losses import build_loss
from reproduce.baselines import BASELINES
from reproduce.callbacks import BestEpoch, Gradients, ValidationCurve

# Encoders whose `model` is a folder, or the name of one that was fetched before.
FOLDER_ENCODERS = ("clip", "sentence", "tokens")
PACKAGES = ("losses", "datamodules", "lightning_modules", "reproduce")
Config = dict[str, Any]
Data = datamodules.RetrievalData


def build_data(config: Config, data_root: str | None, offline: bool = False) -> Data:
    """The cell's data module, reading from the data root (None: as the data module does by itself)."""
    arguments = dict(config["data"]["init_args"])
    kind = getattr(datamodules, config["data"]["class_path"])
    known = inspect.signature(kind).parameters
    arguments |= {"data_root": data_root} if "data_root" in known else {}
    arguments |= {"offline": offline} if "offline" in known else {}
    if config["data"]["class_path"] == "FeaturePairs":
        arguments["path"] = str(datamodules.data_root(data_root) / arguments["dataset"])
    return kind(**arguments)


def cell_hash(config: Config, digest: str) -> str:
    """First 16 hex digits of the sha256 over configuration, data, pretrained models and source code of a cell.

    Args:
        config: the resolved configuration.
        digest: sha256 of the data, as the data module gives it.

    Raises:
        DataError: a model or weights that an encoder names are not on this machine.
    """
    roots = [getattr(datamodules, config["data"]["class_path"]), CrossModalRetrieval, run_cell]
    model = config["model"]
    roots.append(BASELINES.get(model["class_path"]) or getattr(lightning_modules, model["class_path"]))
    if model["alignment"]:
        roots += [type(part) for part in build_loss(**model["alignment"]).modules()]
    sources = {str(path.relative_to(Path(__file__).parents[1])): _digest(path) for path in source_files(roots)}
    text = json.dumps([config, digest, sources, *_pretrained(model["init_args"])], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _pretrained(arguments: Mapping[str, Any]) -> list[str]:
    """sha256 of every model and file of weights that the encoders name."""
    settings = list(arguments.get("encoders", {}).values())
    models = [each["model"] for each in settings if each["name"] in FOLDER_ENCODERS and "model" in each]
    weights = [each["weights"] for each in settings if each.get("weights") not in (None, INSTALLED)]
    return [*map(encoder_identity, models), *map(sha256_of, weights)]


def source_files(roots: Iterable[Any]) -> list[Path]:
    """Files of this suite that define the given classes and functions, and the classes and functions these import."""
    found: dict[str, Path] = {}
    pending = [root.__module__ for root in roots]
    while pending:
        name = pending.pop()
        if name in found or name.split(".")[0] not in PACKAGES:
            continue
        module = sys.modules[name]
        found[name] = Path(module.__file__)
        # Not modules: which of them are attributes of a package depends on what has been imported elsewhere.
        values = [value for value in vars(module).values() if not isinstance(value, type(sys))]
        pending += [getattr(value, "__module__", None) or "" for value in values]
        pending += [base.__module__ for value in values if isinstance(value, type) for base in value.__mro__]
    return [found[name] for name in sorted(found)]


@cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run_cell(config: Config, data_root: str | None) -> dict[str, Any]:
    """Train and evaluate one cell.

    Args:
        config: "data" and "model" (class_path, init_args; the model's also alignment), "max_epochs", "seed",
            "evaluate" ("validation" or "test") and "galleries", those scored beside the whole one; with
            "record_gradients" true the norms of the gradients are kept too, with "modality_gap" true the gap between
            the modalities of the test items.
        data_root: the data root, or None.

    Returns:
        "scores": split -> "<direction>/<metric>" -> number; "sizes": split -> direction -> (queries, gallery items);
        "galleries": gallery -> its "scores" and "sizes", or the "reason" why the data do not have it; "arrays": for
        every test split the average precision of each query, "AP/<split>/<direction>", and the item it belongs to,
        "query/<split>/<direction>", and the embeddings of test items that are no paired features, or whose gap is
        measured; "train_seconds"; "gap", where it is measured; "gradients", where they are recorded: the "largest"
        norm, the "median" and the share of "non-finite steps"; "validation_curve", where evaluated on validation data:
        (training steps, average MAP) along the training; and where and with what it ran.
    """
    L.seed_everything(config["seed"], verbose=False)
    data = build_data(config, data_root)
    data.prepare_data()
    start = time.perf_counter()
    train = _fit_baseline if config["model"]["class_path"] in BASELINES else _fit_model
    return {
        "galleries": {},
        "arrays": {},
        **train(config, data, start),
        "seen_classes": getattr(data, "seen_classes", ()),
        "unseen_classes": getattr(data, "unseen_classes", ()),
        "device": device_name(),
        "git_commit": git_commit(),
        "torch": torch.__version__,
    }


def _fit_baseline(config: Config, data: datamodules.FeatureDataModule, start: float) -> dict[str, Any]:
    model = BASELINES[config["model"]["class_path"]](**config["model"]["init_args"])
    model.fit(*data.arrays("train"))
    seconds = time.perf_counter() - start
    loaders = [data.val_dataloader()] if config["evaluate"] == "validation" else data.test_dataloader()
    splits = ("validation",) if config["evaluate"] == "validation" else data.test_splits
    scores, sizes, arrays = {}, {}, {}
    for split, loader in zip(splits, loaders, strict=True):
        directions = [(a, b) for a in data.modalities for b in data.modalities if a != b]
        metric = CrossModalRetrieval(directions)
        for batch in loader:
            embedded = model.embed({name: batch[name].numpy() for name in data.modalities})
            rows = {name: torch.from_numpy(x) for name, x in embedded.items()}
            metric.update(rows, batch["label"], batch["id"], batch.get("query"))
        scores[split] = {name: float(value) for name, value in metric.compute().items()}
        sizes[split] = metric.sizes()
        if split != "validation":
            arrays |= _per_query(split, metric.average_precisions(), data)
    return {"scores": scores, "sizes": sizes, "arrays": arrays, "train_seconds": seconds}


def _per_query(split: str, found: Mapping[str, tuple[torch.Tensor, torch.Tensor]], data: Data) -> dict[str, np.ndarray]:
    arrays = {}
    for direction, (ids, precisions) in found.items():
        query = data.data.modalities[direction.partition("->")[0]].owners()[ids.numpy()]  # an id is that of an entry
        arrays |= {f"AP/{split}/{direction}": precisions.numpy(), f"query/{split}/{direction}": query}
    return arrays


def _fit_model(config: Config, data: Data, start: float) -> dict[str, Any]:
    alignment = config["model"]["alignment"]
    model = getattr(lightning_modules, config["model"]["class_path"])(
        dims=data.dims,
        alignment=build_loss(**alignment) if alignment else None,
        **config["model"]["init_args"],
    )
    selects_on_test = getattr(data, "as_published", False)
    validated = BestEpoch() if selects_on_test else ValidationCurve(config["max_epochs"])
    gradients = Gradients() if config.get("record_gradients") else None
    trainer = L.Trainer(
        max_epochs=config["max_epochs"],
        limit_train_batches=config.get("limit_train_batches", 1.0),
        # The public code looks at its test items after every second epoch.
        check_val_every_n_epoch=min(2, config["max_epochs"]) if selects_on_test else 1,
        callbacks=[validated, gradients] if gradients else [validated],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        devices=1,
    )
    prepare(model, data)
    trainer.fit(model, data)
    trained = {"train_seconds": time.perf_counter() - start}
    if gradients:
        trained["gradients"] = gradients.summary()
    if selects_on_test or config["evaluate"] == "validation":
        split = data.test_splits[0] if selects_on_test else "validation"
        found = {"scores": {split: validated.scores}, "sizes": {split: model.sizes["validation"]}, **trained}
        if selects_on_test:
            return found | {"arrays": _per_query(split, validated.average_precisions, data)}
        return found | {"validation_curve": validated.curve}
    trainer.test(model, data, verbose=False)
    scores: dict[str, dict[str, float]] = {split: {} for split in data.test_splits}
    for name, value in trainer.callback_metrics.items():
        _, split, key = name.split("/", 2)
        scores[split][key] = float(value)
    sizes = {split: model.sizes[split] for split in data.test_splits}
    arrays: dict[str, np.ndarray] = {}
    for split in data.test_splits:
        arrays |= _per_query(split, model.average_precisions[split], data)
    found = {"scores": scores, "sizes": sizes, "arrays": arrays, **trained}
    of_items = not isinstance(data, datamodules.FeatureDataModule)
    if of_items or config.get("modality_gap"):
        predicted = flat_predictions(trainer.predict(model, data))
        arrays |= predicted
    if config.get("modality_gap"):
        embeddings = {name: arrays[name] for name in model.modalities}
        found["gap"] = modality_gap(embeddings, {name: arrays[f"item/{name}"] for name in model.modalities})
    if of_items:
        found["galleries"] = {name: _gallery(name, predicted, model, data) for name in config["galleries"]}
    return found


def _gallery(
    name: str, predicted: dict[str, np.ndarray], model: L.LightningModule, data: datamodules.RetrievalData
) -> dict[str, Any]:
    first = model.modalities[0]
    label, item = predicted[f"label/{first}"], predicted[f"item/{first}"]
    if any(not np.array_equal(predicted[f"item/{other}"], item) for other in model.modalities):
        return {"reason": "some items have several entries of a modality"}
    rows = {modality: torch.from_numpy(predicted[modality]) for modality in model.modalities}
    text = data.data.modalities.get("text")
    if text is not None and text.kind == "text":
        vectors = text_vectors([text.entries[i] for i in predicted["id/text"]])
    else:
        vectors = None
    evaluated = Evaluated(rows, torch.from_numpy(label), vectors, model.ks, model.protocol)
    try:
        scores, sizes = score_gallery(name, evaluated)
    except GalleryUndefined as error:
        return {"reason": str(error)}
    return {"scores": scores, "sizes": sizes}


def text_vectors(texts: Sequence[str]) -> torch.Tensor:
    """Unit sentence embeddings (N, E) of N texts; equal texts have equal bits, whatever batch they are embedded in."""
    different, place = np.unique(np.array(texts), return_inverse=True)
    vectors = torch.from_numpy(embed_texts(different.tolist()))[torch.from_numpy(place)]
    return torch.nn.functional.normalize(vectors, dim=1)


def quiet(threads: int) -> None:
    """Prepare a worker process: a fixed number of threads, no hints of Lightning, and no bars for loading weights."""
    torch.set_num_threads(threads)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read when transformers is imported
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec.*")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


class CellStore:
    """Finished cells on disk, one JSON file each, written under a temporary name and renamed.

    Args:
        folder: where the files are.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def load(self, key: str) -> dict[str, Any] | None:
        """The result of a finished cell; None where it, or the file of its arrays, is missing or unreadable."""
        try:
            result = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))["result"]
            missing = result.get("arrays") and not (self.folder / f"{key}.npz").exists()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return None if missing else result

    def save(self, key: str, config: Config, result: dict[str, Any]) -> None:
        """Keep a result for good, its arrays in a file of their own beside it.

        Raises:
            DataError: it cannot be kept; what was there before stays.
        """
        arrays = result.get("arrays")
        if arrays:
            result = {**result, "arrays": sorted(arrays)}
            self.folder.mkdir(parents=True, exist_ok=True)
            keep(self.folder / f"{key}.npz", lambda file: np.savez(file, **arrays))
        path = self.folder / f"{key}.json"
        text = json.dumps({"config": config, "result": result}, indent=1) + "\n"
        keep(path, lambda file: file.write(text.encode()))
        if self.load(key) is None or path.read_text(encoding="utf-8") != text:  # why, `keep` has said
            raise datamodules.DataError(
                f"{path}: a finished cell cannot be kept. Free space, or choose a folder that you may write to; the "
                "same command then goes on from the cells finished before."
            )

    def arrays(self, key: str) -> dict[str, np.ndarray] | None:
        """Average precisions and embeddings of a finished cell; None where its file is missing or unreadable."""
        try:
            with np.load(self.folder / f"{key}.npz", allow_pickle=False) as kept:
                return dict(kept)
        except (OSError, ValueError):
            return None


@cache
def device_name() -> str:
    """The device a cell runs on: the GPU's name, or the processor's and the number of threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name} CPU, {torch.get_num_threads()} thread" + "s" * (torch.get_num_threads() > 1)


@cache
def git_commit() -> str:
    """Commit of the source, with "-dirty" where files differ from it; "unknown" outside a git checkout."""
    here = Path(__file__).parent
    run = {"cwd": here, "capture_output": True, "text": True, "env": {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}}
    try:
        commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], check=True, **run).stdout.strip()
        code = ["--", *(f":/{package}/*.py" for package in PACKAGES)]
        changed = subprocess.run(["git", "status", "--porcelain", *code], check=True, **run).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + "-dirty" * bool(changed)
