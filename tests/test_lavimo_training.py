"""LAVIMO in training: every alignment, the learning rate, and what is computed once."""

from __future__ import annotations

import os
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lavimo_cases import model
from lightning.pytorch.callbacks import Callback
from scipy.io import loadmat
from tiny_items import Tiny
from training import Recorder, Trainer, scores, trainer

from datamodules import OwnData, Synthetic, SyntheticItems
from lightning_modules import LAVIMO
from losses import build_loss
from losses.gcs import SCHEMES

NAMES = ("text", "video", "motion", "audio")


# Alignments ---------------------------------------------------------------------------------------------------------

ALIGNMENTS = {f"pairwise {name}": ("pairwise", {"divergence": name}) for name in ("kl", "cs", "infonce", "cmpm_kl")}
ALIGNMENTS |= {f"gcs {scheme}": ("gcs", {"scheme": scheme}) for scheme in SCHEMES}


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("case", ALIGNMENTS)
def test_every_alignment_trains_three_modalities_and_four(tmp_path, case, count):
    name, settings = ALIGNMENTS[case]
    data, recorder = SyntheticItems(NAMES[:count], batch_size=48), Recorder()
    module = model(data, alignment=build_loss(name, **settings))
    untrained = scores(tmp_path, module, data)["average/MAP"]
    trainer(tmp_path, max_epochs=5, limit_val_batches=0, callbacks=[recorder]).fit(module, data)
    assert np.isfinite(recorder.losses).all()
    assert np.mean(recorder.losses[-4:]) < 0.95 * np.mean(recorder.losses[:4])
    assert scores(tmp_path, module, data)["average/MAP"] > untrained + 0.03


class Rates(Callback):
    """Keeps the learning rate of every step."""

    def on_train_start(self, trainer, module) -> None:
        self.rates = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 13, 50])
def test_the_learning_rate_warms_up_for_a_tenth_of_the_steps_and_falls_as_a_cosine(tmp_path, steps):
    seen, data = Rates(), SyntheticItems(batch_size=8)
    trainer(tmp_path, max_epochs=-1, max_steps=steps, limit_val_batches=0, callbacks=[seen]).fit(model(data), data)
    warmup = max(steps // 10, 1)
    cosine = 0.5 * (1 + np.cos(np.pi * np.arange(steps - warmup) / max(steps - warmup, 1)))
    expected = np.concatenate([np.arange(1, warmup + 1) / warmup, cosine])
    np.testing.assert_allclose(seen.rates, 3e-3 * expected, atol=1e-7)


def test_only_what_trains_is_in_the_optimiser(tmp_path):
    data = Tiny()
    module = model(data, reconstruct="motion")
    fitted = trainer(tmp_path, limit_val_batches=0)
    fitted.fit(module, data)
    (optimiser,) = fitted.optimizers
    assert isinstance(optimiser, torch.optim.AdamW)
    held = [id(p) for group in optimiser.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in module.parameters() if p.requires_grad)
    assert [name for name, p in module.named_parameters() if p.grad is None] == []


# What is computed once ----------------------------------------------------------------------------------------------


# Data ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"protocol": "as_published", "reconstruct": "text"}], ids=str)
def test_it_trains_on_paired_features_as_well_as_on_items(tmp_path, settings) -> None:
    data = Synthetic(batch_size=32)
    model = LAVIMO(data.dims, alignment="cs", dim=16, **settings)
    trainer = Trainer(max_epochs=5, default_root_dir=tmp_path, logger=False, enable_checkpointing=False)
    untrained = _average_map(trainer.test(model, data, verbose=False))
    trainer.fit(model, data)
    assert model.modalities == ("image", "text")
    assert {type(encoder).__name__ for encoder in model.encoders.values()} == {"MLP"}
    mean = data.train_entries("image")[0].double().mean(dim=0)
    torch.testing.assert_close(model.encoders["image"].standardise.mean.double(), mean, rtol=1e-5, atol=1e-6)
    assert _average_map(trainer.test(model, data, verbose=False)) > untrained + 0.1


REAL = Path(os.environ.get("CSD_DATA") or "nowhere") / "handwritten" / "handwritten_6views.mat"


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_file(), reason="CSD_DATA is unset or has no handwritten/")
def test_on_digits_its_defaults_are_above_a_linear_model(tmp_path):
    """The cosines of logistic regressions' posteriors of the three views reach .86."""
    read, parts = loadmat(REAL), ("train", "test")
    label, *views = (np.concatenate([read[f"{name}_{part}"] for part in parts]) for name in ("gt", "x1", "x2", "x3"))
    split = np.repeat(parts, [len(read[f"gt_{part}"]) for part in parts])
    np.savez(
        tmp_path / "digits.npz", label=label.ravel(), split=split, pixels=views[0], fourier=views[1], corr=views[2]
    )
    data = OwnData(tmp_path / "digits.npz", validation_fraction=0, batch_size=128)
    L.seed_everything(0, verbose=False)
    model = LAVIMO(data.dims, alignment=build_loss("pairwise", divergence="kl"))
    trainer(tmp_path, max_epochs=30).fit(model, data)
    assert scores(tmp_path, model, data)["average/MAP"] > 0.885


def _average_map(results: list[dict[str, float]]) -> float:
    return next(value for result in results for name, value in result.items() if name.endswith("average/MAP"))
