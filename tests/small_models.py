"""Small models of each kind, data to train them on and their first step: what the tests of the models share."""

from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import torch
from tiny_items import Tiny, TinyPairs, item_set
from training import Recorder, trainer

from datamodules import ItemSet, Synthetic
from lightning_modules import CMPM, JFSE, LAVIMO, CSAligner

# Data ----------------------------------------------------------------------------------------------------------------

PAIR = ("image", "text")
TEXT_AND_MOTION = {"modalities": ("text", "motion")}
# Persons of the tiny items: any integers, in no order.
PERSONS = np.array([-7, 900, 3, 2**40, 0, 11_003])[np.arange(24) // 4]

few = partial(Synthetic, classes=4, items=128, image_dim=8, text_dim=6, batch_size=16, class_encoder="one-hot")
pairs = partial(Synthetic, items=400, class_encoder="one-hot")
# Easy enough to be learnt in a few epochs.
easy = partial(Synthetic, classes=8, items=320, image_dim=10, text_dim=8, difficulty=0.1, class_encoder="one-hot")


def persons(**settings) -> Tiny:
    """Vectors and texts of 24 items of six persons, four of each; every third item is a test item."""
    return Tiny(item_set(label=PERSONS), **{"modalities": ["code", "text"], "batch_size": 6, **settings})


def prepared(label: np.ndarray | None = None, change=None, width: int = 5, **kwargs) -> TinyPairs:
    """A few synthetic pairs with a class embedding of their own, other labels, or features changed in place."""
    drawn = Synthetic(4, 128, 8, 6).read()
    if change is not None:
        change(drawn)
    embedding = np.random.default_rng(0).standard_normal((4, width)) * np.arange(1, width + 1) + 7
    label = drawn.label if label is None else label
    given = drawn.vectors, label, drawn.split, drawn.class_names, "memory"
    return TinyPairs(ItemSet.of_features(*given, class_embedding=embedding), **{"class_encoder": "from-data", **kwargs})


def min_max(x, low=None, high=None):
    low, high = (x.min(0) if low is None else low), (x.max(0) if high is None else high)
    return (x - low) / np.where(high > low, high - low, 1)


# Models --------------------------------------------------------------------------------------------------------------

# Encoders of the tiny items without dropout; two train and read sequences of different lengths.
ENCODERS = {
    "text": {"name": "characters", "width": 16, "dropout": 0.0},
    "motion": {"name": "pose_transformer", "dim": 16, "depth": 1, "heads": 2, "dropout": 0.0},
    "code": {"name": "features"},
}
WORDS = {"name": "words", "vocabulary": 60, "min_count": 1, "width": 8, "hidden": 8, "dropout": 0.0}
TRANSFORMER = {"name": "transformer", "width": 16, "depth": 1, "heads": 2}


def _encoded(kind, data, seed: int, defaults: dict, settings: dict):
    L.seed_everything(seed, verbose=False)
    encoders = {name: encoder for name, encoder in defaults.pop("encoders").items() if name in data.dims}
    return kind(data.dims, **{"encoders": encoders, "learning_rate": 3e-3} | defaults | settings)


def lavimo(data, seed: int = 0, **settings) -> LAVIMO:
    """A model of width 16, without dropout; for the tiny items with the encoders above."""
    mlps = {name: {"name": "mlp", "dropout": 0.0} for name in data.dims}
    encoders = ENCODERS if isinstance(data, Tiny) else mlps
    return _encoded(LAVIMO, data, seed, {"encoders": encoders, "dim": 16}, settings)


def cmpm(data, seed: int = 0, **settings) -> CMPM:
    """A model of width 8 that reads the texts of tiny items by their words."""
    encoders = {"text": WORDS} if isinstance(data, Tiny) else {}
    return _encoded(CMPM, data, seed, {"encoders": encoders, "dim": 8, "ks": (1, 5)}, settings)


def cs_aligner(data, seed: int = 0, **settings) -> CSAligner:
    """A model of width 8, or of its target's; for the tiny items with the encoders above."""
    defaults = {"encoders": ENCODERS if isinstance(data, Tiny) else {}, "dim": None if settings.get("target") else 8}
    return _encoded(CSAligner, data, seed, defaults, settings)


def jfse(data, alignment="cs", seed: int = 0, **settings) -> JFSE:
    """A model of width 16."""
    L.seed_everything(seed, verbose=False)
    return JFSE(data.dims, alignment, **{"width": 16, "learning_rate": 1e-3, **settings})


def fit_jfse(folder, data, alignment="cs", epochs: int = 1, trainer_arguments=None, **settings) -> JFSE:
    module = jfse(data, alignment, **settings)
    trainer(folder, max_epochs=epochs, **(trainer_arguments or {})).fit(module, data)
    return module


def text_model(folder: Path, kind: str) -> str:
    """A tiny untrained text model with the tokenizer of the installed one, saved as a local model."""
    from transformers import AutoModel, AutoTokenizer, BertConfig, DistilBertConfig, MPNetConfig

    from datamodules.features.texts import model_folder

    tokenizer = AutoTokenizer.from_pretrained(model_folder("all-MiniLM-L6-v2"), local_files_only=True)
    shared = {"vocab_size": len(tokenizer), "max_position_embeddings": 64}
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = {
        "bert": lambda: BertConfig(**shared, **size),
        "mpnet": lambda: MPNetConfig(**shared, **size),
        "distilbert": lambda: DistilBertConfig(**shared, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
    }[kind]()
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


# Their first step ----------------------------------------------------------------------------------------------------


class Drawn(Recorder):
    """Keeps also the unpaired entries that every step of a CS-Aligner drew, and what the run logged."""

    def on_train_start(self, trainer, module) -> None:
        super().on_train_start(trainer, module)
        self.unpaired, draw = [], getattr(module, "_drawn", None)

        def kept(name):
            rows, mask = draw(name)
            self.unpaired.append((name, rows))
            return rows, mask

        if draw is not None:
            module._drawn = kept

    def on_train_end(self, trainer, module) -> None:
        self.logged = {name: float(value) for name, value in trainer.callback_metrics.items()}


def first_step(folder, build, data, **settings) -> tuple[L.LightningModule, Drawn]:
    """A model before its first step, in float64, and what that step saw."""
    module, seen = build(data, **settings), Drawn()
    once = {"limit_train_batches": 1, "limit_val_batches": 0, "precision": "64-true"}
    trainer(folder, callbacks=[seen], **once).fit(module, data)
    module.load_state_dict(seen.initial)
    return module.double(), seen
