"""What every retrieval model shares: how it is evaluated, what it logs and what it predicts."""

import inspect
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from datamodules import RetrievalData
from datamodules.batches import Batch
from datamodules.features.precompute import FrozenNetwork
from lightning_modules.checkpoints import require_same_items, trained_on
from lightning_modules.metrics import PROTOCOLS, CrossModalRetrieval
from lightning_modules.metrics.directions import Direction, is_joint, query_of
from losses import AlignmentLoss, build_loss

View = Callable[[Batch], dict[str, Tensor]]


class RetrievalModule(L.LightningModule):
    """Base of the models: evaluates ``embed(batch)`` over the whole gallery, in every direction between modalities.

    Logged are ``val/<direction>/<metric>`` and ``test/<split>/<direction>/<metric>``, with direction "image->text",
    ..., "average" and the metrics of :class:`lightning_modules.metrics.CrossModalRetrieval`.

    Every batch draws from a generator state that depends on the seed, the epoch and the batch's place in it alone, so
    that a run resumed from a checkpoint continues with the same numbers.

    A model knows batches alone. What it must learn from the training data first comes by `prepare_training` and
    `prepare_evaluation`, which :func:`lightning_modules.prepare` calls once, before a Trainer is given both.

    A checkpoint remembers the ``alignment`` it was trained with, and loading it into a model with another one warns. It
    remembers the training items, and a model prepared for data with others refuses it, since items that it was trained
    on could be among those that it is scored on; with ``allow_other_data`` set that is a warning. It
    also holds the scores of the last validation and the model's class, from which `csd export` builds it.

    ``scores`` holds, for every split evaluated last, what the metric computed; ``sizes`` direction -> (queries, gallery
    items), and ``average_precisions`` direction -> (ids of the queries, of joint ones the items, their average
    precisions). ``directions`` are those that are scored; a model may add joint ones, scored by ``joint_score``. With
    ``also_joint_scores`` set, ``scores`` has "text+video->motion, volume/MAP" too: the same embeddings by these scores.

    Args:
        modalities: names of the modalities, as in the batches.
        protocol: "honest" or "as_published", handed to the metric.
        ks: cut-offs of the metric.

    Raises:
        ValueError: an unknown protocol.
    """

    allow_other_data = False
    # Whether all scores are logged, or their average MAP alone: logging a hundred takes longer than scoring small data.
    logs_scores = True
    eleven_point = False  # whether the two 11-point metrics are scored too
    also_joint_scores: Sequence[str] = ()
    data_here: dict[str, Any] | None = None  # what is remembered of the data that the model was prepared for
    prepared_for_training = False
    closed_form = False  # whether it is fitted at once when a training starts, and not by steps
    remark = ""  # what the note of every row of it says
    ignored_dims: ClassVar[tuple[str, ...]] = ("class_embedding",)  # of the data, which no weight depends on
    # Parts that no embedding needs; `csd export` leaves them out.
    training_only: ClassVar[tuple[str, ...]] = ("alignment",)

    def __init__(self, modalities: Sequence[str], protocol: str, ks: Sequence[int] = (1, 5, 10)):
        super().__init__()
        self.modalities = tuple(modalities)
        if protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {protocol!r}; choose {' or '.join(PROTOCOLS)}")
        self.protocol = protocol
        self.ks = tuple(ks)
        self.directions: list[Direction] = list(permutations(self.modalities, 2))
        self.joint_score = "cosine"
        self._metrics: dict[tuple[str, str, str], CrossModalRetrieval] = {}  # split, view, joint score
        self.scores: dict[str, dict[str, float]] = {}
        self.sizes: dict[str, dict[str, tuple[int, int]]] = {}
        self.average_precisions: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
        self._terms: dict[str, Tensor | float] = {}  # of the training's loss, their sums over the epoch so far
        self._recorded = 0  # sizes of the batches in them
        # A buffer, so that a resumed run keeps the seed it was started with.
        self.register_buffer("run_seed", torch.tensor(torch.initial_seed() % 2**31))

    def set_alignment(self, alignment: str | AlignmentLoss | None, required: bool = False) -> None:
        """Set the alignment loss, given or named, and save the arguments of the ``__init__`` that calls this."""
        if required and alignment is None:
            raise ValueError(f"alignment is null, and {type(self).__name__} trains by one; name a loss, such as cs")
        # A loss module inside the hyperparameters could not be unpickled safely from a checkpoint.
        ignored = [] if isinstance(alignment, str | None) else ["alignment"]
        self.save_hyperparameters(ignore=ignored, frame=inspect.currentframe().f_back)
        self.alignment = build_loss(alignment) if isinstance(alignment, str) else alignment

    @abstractmethod
    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Modality -> (B, D) retrieval embedding of a batch."""

    def views(self) -> dict[str, View]:
        """Ways to embed a split, by name; where there are several, the one with the largest average MAP is reported."""
        return {"": self.embed}

    def frozen_networks(self) -> dict[str, FrozenNetwork]:
        """Modality -> the frozen network whose output the batches are to bring in place of its entries."""
        return {}

    def prepare_training(self, data: RetrievalData) -> None:
        """Take from the training items what is fixed before training, such as means and scales."""

    def prepare_evaluation(self, data: RetrievalData) -> None:
        """Take what is needed of the items that are evaluated."""

    def on_fit_start(self) -> None:
        self._require_prepared(self.prepared_for_training, "prepare(model, data)", "fit")
        self._terms, self._recorded = {}, 0  # those of a training that was broken off do not count
        if not torch.cuda.is_available():  # Lightning has every step of Adam look for NVIDIA's library, which is slow
            os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"

    def on_test_start(self) -> None:
        command = self.trainer.state.fn.value
        self._require_prepared(self.data_here is not None, "prepare(model, data, fit=False)", command)

    on_validation_start = on_predict_start = on_test_start

    def _require_prepared(self, prepared: bool, call: str, command: str) -> None:
        if not prepared:
            name = type(self).__name__
            raise RuntimeError(f"{name} has not seen its data; call lightning_modules.{call} before Trainer.{command}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["alignment"] = repr(self.alignment)
        # Without the place of the data, which is of this machine.
        checkpoint["trained_on"] = {name: said for name, said in (self.data_here or {}).items() if name != "origin"}
        metrics = self.trainer.callback_metrics.items()
        checkpoint["validation"] = {name: float(value) for name, value in metrics if name.startswith("val/")}
        # Where the command line built the model it has named the class already.
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        checkpoint.setdefault(self.CHECKPOINT_HYPER_PARAMS_KEY, {}).setdefault("_class_path", path)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other modalities or widths, and on other data one of other training items.

        Raises:
            RuntimeError: the checkpoint's model takes other modalities, or other widths of them.
            DataError: it was trained on, or chosen by, other items than those of the trainer's data.
        """
        trained_with = checkpoint.get("alignment")
        if trained_with != repr(self.alignment):
            rank_zero_warn(f"the checkpoint was trained with alignment {trained_with}, this model has {self.alignment}")
        before = self._described_dims(checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {}))
        here = self._described_dims(self.hparams)
        if before and here and before != here:
            raise RuntimeError(
                f"the checkpoint was trained on {_differing(before, here)}, and the data have "
                f"{_differing(here, before)}; give the data that it was trained on, with the same settings, or train "
                "on these"
            )
        if self.data_here is not None:  # and not loaded in Python or for an export, where there are no data
            require_same_items(checkpoint.get("trained_on"), self.data_here, self.allow_other_data)

    def _described_dims(self, hyperparameters: Mapping[str, Any]) -> dict[str, str]:
        """Modality -> itself with the width of features, or the kind and shape of entries."""
        widths = {
            name: f"{dim} wide" if isinstance(dim, int) else f"{dim['kind']} {tuple(dim['shape'])}"
            for name, dim in hyperparameters.get("dims", {}).items()
        }
        return {name: f"{name} ({width})" for name, width in widths.items() if name not in self.ignored_dims}

    def evaluated(self, batch: Batch) -> Batch:
        """The part of an evaluation batch that is evaluated."""
        return batch

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self._seed(batch_idx, self.global_rank)

    def _seed(self, batch_idx: int, rank: int) -> None:
        position = (int(self.run_seed), self.current_epoch, batch_idx, rank)
        # torch.manual_seed also seeds devices that are not there, and formats a stack trace for each.
        seeded = torch.default_generator if self.device.type == "cpu" else torch
        seeded.manual_seed(int(np.random.SeedSequence(position).generate_state(1)[0]))

    def record(self, terms: Mapping[str, Tensor], batch_size: int = 1) -> None:
        """Log the means of the terms of the training's loss, weighted by the size of their batches, once an epoch.

        A call of `log` for every term and step costs as much as a small step itself.
        """
        for name, value in terms.items():
            self._terms[name] = self._terms.get(name, 0.0) + value.detach().float() * batch_size
        self._recorded += batch_size

    def on_train_epoch_end(self) -> None:
        means = {f"train/{name}": total / self._recorded for name, total in self._terms.items()}
        self.log_dict(means, sync_dist=True)
        self._terms, self._recorded = {}, 0

    def on_validation_epoch_start(self) -> None:
        self._metrics = {}

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._update(batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._update(batch)

    def on_validation_epoch_end(self) -> None:
        for split in dict.fromkeys(split for split, *_ in self._metrics):
            self._report(split, "val" if split == "validation" else f"test/{split}")

    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        batch = self.evaluated(batch)
        return {**self.embed(batch), **{name: batch[name] for name in ("label", "id", "item")}}

    def _update(self, batch: Batch) -> None:
        split, batch = batch["split"], self.evaluated(batch)
        given = (batch["label"], batch["id"], batch.get("query"), batch["item"])
        for view, embed in self.views().items():
            embeddings = embed(batch)
            for score in dict.fromkeys((self.joint_score, *self.also_joint_scores)):
                if (split, view, score) not in self._metrics:
                    joint = [one for one in self.directions if len(query_of(one)) > 1]
                    scored = self.directions if score == self.joint_score else joint
                    metric = CrossModalRetrieval(scored, self.ks, self.protocol, score, self.eleven_point)
                    self._metrics[split, view, score] = metric.to(self.device)
                self._metrics[split, view, score].update(embeddings, *given)

    def _report(self, split: str, prefix: str) -> None:
        views = {
            view: metric for (of, view, by), metric in self._metrics.items() if (of, by) == (split, self.joint_score)
        }
        view = max(views, key=lambda name: float(views[name].compute()["average/MAP"]))
        best = views[view]
        self.sizes[split], self.average_precisions[split] = best.sizes(), best.average_precisions()
        scores = best.compute()
        self.scores[split] = {name: float(value) for name, value in scores.items()}
        for score in self.also_joint_scores:
            for name, value in self._metrics[split, view, score].compute().items():
                direction, _, measure = name.partition("/")
                if is_joint(direction):
                    self.scores[split][f"{direction}, {score}/{measure}"] = float(value)
        if self.logs_scores:
            self.log_dict({f"{prefix}/{name}": value for name, value in scores.items() if name != "average/MAP"})
        self.log(f"{prefix}/average/MAP", scores["average/MAP"], prog_bar=True)


def _differing(described: Mapping[str, str], other: Mapping[str, str]) -> str:
    """The modalities that the other does not have like this, or, where it has them all, those that are lacking here."""
    own = [text for name, text in described.items() if text != other.get(name)]
    return ", ".join(own) or f"no {', '.join(name for name in other if name not in described)}"


def prepare(model: RetrievalModule, data: RetrievalData, fit: bool = True) -> None:
    """Make a model and its data ready for a Trainer; the one place in which a model sees more of the data than batches.

    1. What the frozen parts of the model's encoders return is computed, or read from disk, and put into the batches.
    2. The model takes what it needs of the data that it is evaluated on, and says where an encoder cannot read them.
    3. Before training it takes statistics, vocabularies and the like from the training items. A checkpoint that the
       Trainer then loads overwrites them.

    Args:
        model: of any of the classes.
        data: as the Trainer is given it.
        fit: whether training follows.

    Raises:
        ValueError: the data do not allow the training that the model is set to, or have more modalities than its
            alignment takes.
        DataError: a frozen network returns something that is not finite.
    """
    if fit and model.alignment is not None:
        model.alignment.check_modalities(model.modalities)
    data.precompute(model.frozen_networks())
    model.prepare_evaluation(data)
    if fit:
        model.prepare_training(data)
    model.data_here = trained_on(data)
    model.prepared_for_training = fit
