"""Small LAVIMO models and their first step: what the tests of LAVIMO share."""

import lightning as L
from tiny_items import Tiny
from training import Recorder, trainer

from datamodules import RetrievalData
from lightning_modules import LAVIMO

# Encoders of the tiny items without dropout; two train and read sequences of different lengths.
ENCODERS = {
    "text": {"name": "characters", "width": 16, "dropout": 0.0},
    "motion": {"name": "pose_transformer", "dim": 16, "depth": 1, "heads": 2, "dropout": 0.0},
    "code": {"name": "features"},
}


def model(data: RetrievalData, seed: int = 0, **settings) -> LAVIMO:
    """A model of width 16, without dropout; for the tiny items with the encoders above."""
    L.seed_everything(seed, verbose=False)
    encoders = {name: {"name": "mlp", "dropout": 0.0} for name in data.dims}
    encoders |= ENCODERS if isinstance(data, Tiny) else {}
    encoders = {name: encoder for name, encoder in encoders.items() if name in data.dims}
    return LAVIMO(data.dims, **{"encoders": encoders, "dim": 16, "learning_rate": 3e-3, **settings})


def first_step(folder, data: RetrievalData, **settings) -> tuple[LAVIMO, Recorder]:
    """A model before its first step, in float64, and what that step saw."""
    recorder = Recorder()
    module = model(data, **settings)
    trainer(folder, callbacks=[recorder], limit_train_batches=1, limit_val_batches=0, precision="64-true").fit(
        module, data
    )
    module.load_state_dict(recorder.initial)
    return module.double(), recorder
