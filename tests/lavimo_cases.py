"""Small LAVIMO models, their trainer, and a callback that keeps what a run saw: what the tests of LAVIMO share."""

from __future__ import annotations

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from tiny_items import Tiny
from training import Trainer

from datamodules import RetrievalData
from lightning_modules import LAVIMO

# Encoders of the tiny items that train and read sequences of different lengths.
ENCODERS = {
    "text": {"name": "characters", "width": 16, "dropout": 0.0},
    "motion": {"name": "pose_transformer", "dim": 16, "depth": 1, "heads": 2, "dropout": 0.0},
}


def model(data: RetrievalData, seed: int = 0, **settings) -> LAVIMO:
    """A model of width 16; for the tiny items with the encoders above."""
    L.seed_everything(seed, verbose=False)
    encoders = ENCODERS if isinstance(data, Tiny) else {}
    encoders = {name: settings for name, settings in encoders.items() if name in data.dims}
    return LAVIMO(data.dims, **{"encoders": encoders, "dim": 16, "learning_rate": 3e-3, **settings})


def trainer(folder, **settings) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "enable_checkpointing": False}
    return Trainer(**{**defaults, **quiet, "num_sanity_val_steps": 0, "default_root_dir": folder, **settings})


def scores(folder, module: LAVIMO, data: RetrievalData, **settings) -> dict[str, float]:
    """What `test` reports, by "<direction>/<metric>"."""
    found = trainer(folder, **settings).test(module, data, verbose=False)[0]
    return {name.split("/", 2)[2]: value for name, value in found.items()}


class Recorder(Callback):
    """Keeps the weights a run starts from, batch and loss of its steps, and the gradients of the last one."""

    def on_train_start(self, trainer, module) -> None:
        self.initial = {name: x.clone() for name, x in module.state_dict().items()}
        self.batches, self.losses = [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.batches.append(batch)

    def on_after_backward(self, trainer, module) -> None:
        self.gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.losses.append(float(outputs["loss"]))


def first_step(folder, data: RetrievalData, **settings) -> tuple[LAVIMO, Recorder]:
    """A model before its first step, in float64, and what that step saw."""
    recorder = Recorder()
    module = model(data, **settings)
    trainer(folder, callbacks=[recorder], limit_train_batches=1, limit_val_batches=0, precision="64-true").fit(
        module, data
    )
    module.load_state_dict(recorder.initial)
    return module.double(), recorder


def assert_same_weights(first: torch.nn.Module, second: torch.nn.Module) -> None:
    one, other = first.state_dict(), second.state_dict()
    assert list(one) == list(other)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
