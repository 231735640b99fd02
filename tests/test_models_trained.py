"""What every trained model keeps to: one seed one run, exact resumption, bfloat16, its checkpoint."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from small_models import (
    ENCODERS,
    TEXT_AND_MOTION,
    TRANSFORMER,
    WORDS,
    cmpm,
    cs_aligner,
    easy,
    few,
    jfse,
    lavimo,
    persons,
)
from tiny_items import Tiny
from training import PowerCut, assert_same_weights, scores, trainer

import lightning_modules
from datamodules import SyntheticItems
from lightning_modules.base import RetrievalModule
from losses import build_loss

DROPPED = {
    "text": {"name": "characters", "width": 16, "dropout": 0.3},
    "motion": {**ENCODERS["motion"], "dropout": 0.2},
}
OF_ITEMS = {"encoders": DROPPED, "dropout": 0.2}
ADAPTER = {"name": "mlp", "dropout": 0.3}
# How a small model and its data are built, and its settings, with dropout wherever it has some.
CASES = {
    "JFSE": (jfse, few, {}),
    "JFSE, as published": (jfse, few, {"protocol": "as_published", "dropout": 0.5}),
    "LAVIMO": (lavimo, SyntheticItems, {"dropout": 0.2}),
    "LAVIMO, tiny": (lavimo, Tiny, {**OF_ITEMS, "reconstruct": "motion", "ks": (1, 2)}),
    "LAVIMO, as published": (lavimo, Tiny, {**OF_ITEMS, "protocol": "as_published"}),
    "CMPM": (
        cmpm,
        persons,
        {"classification_weight": 1.0, "dropout": 0.2, "encoders": {"text": {**WORDS, "dropout": 0.2}}},
    ),
    "CSAligner": (
        cs_aligner,
        partial(easy, paired_fraction=0.6, batch_size=16),
        {"unpaired": 8, "adapter": ADAPTER},
    ),
    "CSAligner, a target": (cs_aligner, partial(easy, batch_size=16), {"target": "image", "adapter": TRANSFORMER}),
    "CSAligner, tiny": (
        cs_aligner,
        partial(Tiny, paired_fraction=0.7, **TEXT_AND_MOTION),
        {"unpaired": 4, "token_weight": 0.5, "adapter": ADAPTER},
    ),
}
each_model = pytest.mark.parametrize("case", CASES)


def fitted(folder, case: str, seed: int = 0, **arguments: Any) -> RetrievalModule:
    build, data, settings = CASES[case]
    module = build(data(), seed=seed, **settings)
    trainer(folder, **{"max_epochs": 2, "limit_val_batches": 0, **arguments}).fit(module, data())
    return module


@each_model
def test_one_seed_gives_one_run_and_another_seed_another(case, tmp_path):
    first, same, other = (fitted(tmp_path, case, seed) for seed in (0, 0, 1))
    assert_same_weights(first, same)
    assert [name for name, p in other.named_parameters() if not torch.equal(p, first.get_parameter(name))]


@each_model
def test_a_resumed_run_ends_with_the_numbers_of_an_uninterrupted_one(case, tmp_path):
    """Bit for bit, from any state of the random numbers: captions are drawn, lengths vary, dropout is random."""
    build, data, settings = CASES[case]
    whole = fitted(tmp_path, case, max_epochs=4, limit_val_batches=1.0)
    saving = ModelCheckpoint(tmp_path / "kept", save_last=True)
    with pytest.raises(RuntimeError, match="power cut"):
        fitted(tmp_path, case, max_epochs=4, enable_checkpointing=True, callbacks=[saving, PowerCut()])
    resumed = build(data(), seed=99, **settings)
    torch.rand(17)
    run = trainer(tmp_path, max_epochs=4)
    run.fit(resumed, data(), ckpt_path=tmp_path / "kept" / "last.ckpt", weights_only=True)
    assert_same_weights(whole, resumed)
    assert {name: float(value) for name, value in run.callback_metrics.items()} == {
        name: float(value) for name, value in whole.trainer.callback_metrics.items()
    }


@each_model
def test_bfloat16_trains_weights_of_float32(case, tmp_path):
    module = fitted(tmp_path, case, precision="bf16-mixed")
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    logged = [value for name, value in module.trainer.callback_metrics.items() if name.startswith("train/")]
    found = scores(tmp_path, module, CASES[case][1](), precision="bf16-mixed")
    assert logged
    assert np.isfinite([*map(float, logged), *found.values()]).all()


LOSSES = {
    "CSAligner, another loss": ("CSAligner", build_loss("cs")),
    "CSAligner, no loss": ("CSAligner", None),
    "JFSE, another loss": ("JFSE", build_loss("cs", temperature=0.2)),
    "JFSE, no loss": ("JFSE", None),
}


@pytest.mark.parametrize("case", [*CASES, *LOSSES])
def test_a_checkpoint_is_loaded_with_its_settings_and_scores(case, tmp_path):
    name, *given = LOSSES.get(case, (case,))
    build, data, settings = CASES[name]
    changed = {"alignment": given[0]} if given else {}
    module, run = build(data(), **settings | changed), trainer(tmp_path, limit_val_batches=0)
    run.fit(module, data())
    run.save_checkpoint(tmp_path / "model.ckpt")
    # A loss that was an object is not part of a checkpoint.
    again = {key: loss for key, loss in changed.items() if loss is not None}
    loaded = type(module).load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True, **again)
    assert_same_weights(module, loaded)
    assert repr(loaded.alignment) == repr(module.alignment)
    expected = scores(tmp_path, module, data())
    assert {f"average/R@{k}" for k in settings.get("ks", module.ks)} <= set(expected)
    assert scores(tmp_path, loaded, data()) == expected
    fresh = build(data(), seed=5, **settings | changed)
    (found,) = trainer(tmp_path).test(
        fresh, data(), ckpt_path=tmp_path / "model.ckpt", weights_only=True, verbose=False
    )
    assert {name.split("/", 2)[2]: value for name, value in found.items()} == expected


def test_every_model_is_among_them():
    assert {case.partition(",")[0] for case in CASES} == {*lightning_modules.__all__} - {"prepare"}
