"""Small trainings: a trainer that prepares, the scores of a model, what a run saw, and equal weights."""

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from datamodules import RetrievalData
from lightning_modules import prepare
from lightning_modules.predictions import flat_predictions


class Trainer(L.Trainer):
    """A trainer that prepares the model for the data that it is given, as the command line and the tables do."""

    def fit(self, model, datamodule, **kwargs):
        self._prepared(model, datamodule, fit=True)
        super().fit(model, datamodule=datamodule, **kwargs)

    def validate(self, model, datamodule, **kwargs):
        return super().validate(self._prepared(model, datamodule), datamodule=datamodule, **kwargs)

    def test(self, model, datamodule, **kwargs):
        return super().test(self._prepared(model, datamodule), datamodule=datamodule, **kwargs)

    def predict(self, model, datamodule, **kwargs):
        return super().predict(self._prepared(model, datamodule), datamodule=datamodule, **kwargs)

    def _prepared(self, model, data, fit: bool = False) -> L.LightningModule:
        if self.precision == "64-true":
            model.double()  # as the trainer would, so that statistics are not rounded before
        prepare(model, data, fit=fit)
        return model


def trainer(folder, **settings) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "enable_checkpointing": False}
    return Trainer(**{**defaults, **quiet, "num_sanity_val_steps": 0, "default_root_dir": folder, **settings})


def predicted(folder, module: L.LightningModule, data: RetrievalData) -> dict[str, np.ndarray]:
    """What `predict` writes of all test items."""
    return flat_predictions(trainer(folder).predict(module, data))


def scores(folder, module: L.LightningModule, data: RetrievalData, **settings) -> dict[str, float]:
    """What `test` reports, by "<direction>/<metric>"."""
    found = trainer(folder, **settings).test(module, data, verbose=False)[0]
    return {name.split("/", 2)[2]: value for name, value in found.items()}


class Recorder(Callback):
    """Keeps the weights a run starts from, batch and loss of its steps, and the gradients of every optimiser step."""

    def on_train_start(self, trainer, module) -> None:
        self.initial = {name: x.clone() for name, x in module.state_dict().items()}
        self.batches, self.losses, self.gradients = [], [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.batches.append(batch)

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        of_step = {n: p.grad.clone() for n, p in module.named_parameters() if id(p) in own and p.grad is not None}
        self.gradients.append(of_step)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if outputs:  # JFSE, which takes its steps by itself, returns none
            self.losses.append(float(outputs["loss"]))


class PowerCut(Callback):
    """Ends a run without warning at the start of its third epoch."""

    def on_train_epoch_start(self, trainer, module) -> None:
        if trainer.current_epoch == 2:
            raise RuntimeError("power cut")


class Rates(Callback):
    """Keeps the learning rate of every step."""

    def on_train_start(self, trainer, module) -> None:
        self.rates = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def assert_same_weights(first: torch.nn.Module, second: torch.nn.Module) -> None:
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
