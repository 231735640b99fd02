"""Small CS-Aligner models and data, and what a first step saw: what the tests of CS-Aligner share."""

import lightning as L
import numpy as np
from lavimo_cases import ENCODERS
from tiny_items import Tiny
from training import Recorder, trainer

from datamodules import Synthetic
from lightning_modules import CSAligner
from lightning_modules.predictions import flat_predictions

PAIR = ("image", "text")
TEXT_AND_MOTION = {"modalities": ("text", "motion")}
TRANSFORMER = {"name": "transformer", "width": 16, "depth": 1, "heads": 2}


def synthetic(**settings) -> Synthetic:
    """Small features of eight classes, easy enough to be learnt in a few epochs."""
    size = {"classes": 8, "items": 320, "image_dim": 10, "text_dim": 8, "difficulty": 0.1}
    return Synthetic(**{**size, "class_encoder": "one-hot", **settings})


def model(data, seed: int = 0, **settings) -> CSAligner:
    """A model of width 8; for tiny items with the encoders of LAVIMO's tests."""
    L.seed_everything(seed, verbose=False)
    encoders = ENCODERS if isinstance(data, Tiny) else {}
    chosen = {name: encoder for name, encoder in encoders.items() if name in data.dims}
    dim = None if settings.get("target") else 8
    return CSAligner(data.dims, **{"encoders": chosen, "dim": dim, "learning_rate": 3e-3, **settings})


class Drawn(Recorder):
    """Keeps also the unpaired entries that every step drew, and what it logged."""

    def on_train_start(self, trainer, module) -> None:
        super().on_train_start(trainer, module)
        self.unpaired, draw = [], module._drawn

        def kept(name):
            rows, mask = draw(name)
            self.unpaired.append((name, rows))
            return rows, mask

        module._drawn = kept

    def on_train_end(self, trainer, module) -> None:
        self.logged = {name: float(value) for name, value in trainer.callback_metrics.items()}


def first_step(folder, data, precision="64-true", **settings) -> tuple[CSAligner, Drawn]:
    """A model before its first step, in float64, and what that step saw."""
    seen, module = Drawn(), model(data, **settings)
    trainer(folder, callbacks=[seen], limit_train_batches=1, limit_val_batches=0, precision=precision).fit(module, data)
    module.load_state_dict(seen.initial)
    return module.double(), seen


def predictions(folder, module, data) -> dict[str, np.ndarray]:
    return flat_predictions(trainer(folder).predict(module, data))
