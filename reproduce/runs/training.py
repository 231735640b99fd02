"""One run: a training, what is recorded along it, and its evaluation."""

import math
import time
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import lightning as L
import numpy as np
import torch

import datamodules
import lightning_modules
from datamodules.features.texts import embed_texts
from lightning_modules.base import RetrievalModule
from lightning_modules.metrics.directions import is_joint
from lightning_modules.metrics.galleries import Evaluated, GalleryUndefined, score_gallery
from lightning_modules.metrics.modality_gap import modality_gap
from lightning_modules.metrics.scoring import SCORES
from lightning_modules.predictions import flat_predictions
from reproduce.runs.config import Config, Data, prepare
from reproduce.runs.machine import device_name, git_commit
from reproduce.runs.positives import Positives
from reproduce.runs.store import RunResult, Score, scores_of

VALIDATIONS = 10  # along a training that is scored on validation data


class Validated(L.Callback):
    """Keeps the validation scores of a training along its way, with the average precisions those that count.

    These are of the end of the training, which is validated some ten times, the last time after the last epoch; or of
    the epoch with the largest average MAP among those that the Trainer validates. Epochs are timed.

    Args:
        epochs: of the training.
        best: whether the best epoch counts.
    """

    def __init__(self, epochs: int, best: bool) -> None:
        self.epochs, self.best, self.every = epochs, best, math.ceil(epochs / VALIDATIONS)
        self.scores: dict[str, float] = {}
        self.average_precisions: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self.curve: list[tuple[int, float]] = []
        self.started = 0.0
        self.seconds: list[float] = []  # of each epoch

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.seconds.append(time.perf_counter() - self.started)

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.started = time.perf_counter()
        if not self.best:
            # Counted from the end: an interval of the Trainer would leave out the last epoch where it is no multiple.
            left = self.epochs - trainer.current_epoch - 1
            trainer.check_val_every_n_epoch = self.epochs + 1 if left % self.every else 1

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        now = module.scores.get("validation")
        if now:
            self.curve.append(((trainer.current_epoch + 1) * trainer.num_training_batches, now["average/MAP"]))
            if not (self.best and self.scores) or now["average/MAP"] > self.scores["average/MAP"]:
                self.scores, self.average_precisions = now, module.average_precisions["validation"]


class Gradients(L.Callback):
    """Keeps the norm of the gradient of all parameters at every step, and leaves out the steps where it is not finite.

    An optimiser that took such a step would have no finite parameter left, and there would be nothing more to count.
    """

    def __init__(self) -> None:
        self.norms: list[torch.Tensor] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, optimizer: Any) -> None:
        norm = torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
        self.norms.append(norm)
        if not norm.isfinite():
            optimizer.zero_grad()

    def summary(self) -> dict[str, float]:
        """Median norm of the steps with a finite gradient, and their share.

        Raises:
            FloatingPointError: there is none.
        """
        norms = torch.stack(self.norms).cpu()
        finite = norms[norms.isfinite()].numpy()
        if not len(finite):
            raise FloatingPointError("no training step had a finite gradient")
        return {"gradient norm": float(np.median(finite)), "finite gradients": len(finite) / len(norms)}


RECORDERS = {"gradients": Gradients, "shares_of_positives": Positives}  # "evaluate"'s entry -> what measures it


def run(config: Config, data_root: str | None = None) -> RunResult:
    """Train and evaluate one configuration.

    Args:
        config: "seed_everything", "model", "data" and "trainer" as `csd fit` takes them, and "evaluate": "on",
            "validation" or "test"; "galleries", those scored beside the whole one; and where they are true "gradients",
            to record their norms, "shares_of_positives", to record which pairs they go to, "modality_gap", to measure
            the gap between the modalities of the test items, "eleven_point", for the two 11-point metrics, and
            "joint_scores", to score joint queries by every score.
        data_root: folder of the data sets, or None.

    Raises:
        DataError: the data cannot be read.
        ConfigError: an argument that a class does not take.
    """
    wanted = config["evaluate"]
    chosen_on_test = config["data"]["init_args"].get("protocol") == "as_published"
    validated = Validated(config["trainer"]["max_epochs"], best=chosen_on_test)
    recorders = [kind() for name, kind in RECORDERS.items() if wanted.get(name)]
    data, model, trainer = prepare(config, data_root, [validated, *recorders])
    model.logs_scores = False  # they are taken from the model
    model.eleven_point = wanted.get("eleven_point", False)
    model.also_joint_scores = SCORES if wanted.get("joint_scores") else ()
    start = time.perf_counter()
    lightning_modules.prepare(model, data)
    trainer.fit(model, data)
    seconds = time.perf_counter() - start
    arrays: dict[str, np.ndarray] = {}
    undefined: dict[str, str] = {}
    if chosen_on_test:
        split = data.test_splits[0]
        scores = scores_of(split, "full", validated.scores, model.sizes["validation"])
        arrays = _per_query(split, validated.average_precisions, data)
    elif wanted["on"] == "validation":
        if not validated.scores:  # of a model that is not trained by steps
            trainer.validate(model, data, verbose=False)
        scores = scores_of("validation", "full", model.scores["validation"], model.sizes["validation"])
    else:
        scores, arrays, undefined = _test(config, trainer, model, data)
    if not model.closed_form:
        # Their median, which a busy moment of the machine and the epochs with a validation leave as it is.
        recorded = {"seconds/epoch": float(np.median(validated.seconds))}
        for recorder in recorders:
            recorded |= recorder.summary()
        for name, split in product(recorded, dict.fromkeys(score.split for score in scores)):
            scores.append(Score(split, "full", "average", name, "", recorded[name]))
    names = data.class_names if isinstance(data, datamodules.FeatureDataModule) else ()
    seen, unseen = (tuple(names[c] for c in half) if names else () for half in data.class_halves)
    return RunResult(
        scores=scores,
        train_seconds=seconds,
        device=device_name(),
        git_commit=git_commit(),
        torch=torch.__version__,
        galleries_undefined=undefined,
        curve=validated.curve,
        seen_classes=seen,
        unseen_classes=unseen,
        arrays=arrays,
    )


def _test(
    config: Config, trainer: L.Trainer, model: RetrievalModule, data: Data
) -> tuple[list[Score], dict[str, np.ndarray], dict[str, str]]:
    """Scores of all splits and galleries, arrays, and why galleries are undefined."""
    trainer.test(model, data, verbose=False)
    scores: list[Score] = []
    arrays: dict[str, np.ndarray] = {}
    undefined: dict[str, str] = {}
    for split in data.test_splits:
        scores += scores_of(split, "full", model.scores[split], model.sizes[split])
        arrays |= _per_query(split, model.average_precisions[split], data)
    measure_gap = config["evaluate"].get("modality_gap")
    if isinstance(data, datamodules.FeatureDataModule) and not measure_gap:
        return scores, arrays, undefined
    predicted = flat_predictions(trainer.predict(model, data))
    split = data.test_splits[-1]  # whose items are predicted
    arrays |= predicted
    if measure_gap:
        parts = [{name: predicted[f"{prefix}{name}"] for name in model.modalities} for prefix in ("", "item/")]
        gap = modality_gap(*parts)
        scores += [Score(split, "full", "average", name, "", float(value)) for name, value in gap.items()]
    for gallery in config["evaluate"]["galleries"]:
        try:
            scores += scores_of(split, gallery, *_in_gallery(gallery, predicted, model, data))
        except GalleryUndefined as reason:
            undefined[gallery] = str(reason)
    return scores, arrays, undefined


def _per_query(
    split: str, precisions: Mapping[str, tuple[torch.Tensor, torch.Tensor]], data: Data
) -> dict[str, np.ndarray]:
    arrays = {}
    for direction, (ids, values) in precisions.items():
        query = ids.numpy()  # of a joint query that of an item, else that of an entry
        if not is_joint(direction):
            query = data.data.modalities[direction.partition("->")[0]].owners()[query]
        arrays |= {f"AP/{split}/{direction}": values.numpy(), f"query/{split}/{direction}": query}
    return arrays


def _in_gallery(
    name: str, predicted: dict[str, np.ndarray], model: RetrievalModule, data: Data
) -> tuple[dict[str, float], dict[str, tuple[int, int]]]:
    first = model.modalities[0]
    label, item = predicted[f"label/{first}"], predicted[f"item/{first}"]
    if any(not np.array_equal(predicted[f"item/{other}"], item) for other in model.modalities):
        raise GalleryUndefined("some items have several entries of a modality")
    rows = {modality: torch.from_numpy(predicted[modality]) for modality in model.modalities}
    text, vectors = data.data.modalities.get("text"), None
    if text is not None and text.kind == "text":
        vectors = text_vectors([text.entries[i] for i in predicted["id/text"]])
    return score_gallery(name, Evaluated(rows, torch.from_numpy(label), vectors, model.ks, model.protocol))


def text_vectors(texts: Sequence[str]) -> torch.Tensor:
    """Unit sentence embeddings (N, E) of N texts; equal texts have equal bits, whatever batch they are embedded in."""
    different, place = np.unique(np.array(texts), return_inverse=True)
    vectors = torch.from_numpy(embed_texts(different.tolist()))[torch.from_numpy(place)]
    return torch.nn.functional.normalize(vectors, dim=1)
