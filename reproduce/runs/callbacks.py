"""What a run of a table records while a model is trained: validation scores and norms of gradients."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import numpy as np
import torch

VALIDATIONS = 10  # along a training that is scored on validation data


class Validated(L.Callback):
    """Keeps the validation scores of a training along its way, and with the average precisions those that count.

    These are of the end of the training, which is validated some ten times, the last time after the last epoch; or of
    the epoch with the largest average MAP among those that the Trainer validates.

    Args:
        epochs: of the training.
        best: whether the best epoch counts.
    """

    def __init__(self, epochs: int, best: bool) -> None:
        self.epochs, self.best, self.every = epochs, best, math.ceil(epochs / VALIDATIONS)
        self.scores: dict[str, float] = {}
        self.average_precisions: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self.curve: list[tuple[int, float]] = []

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
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
