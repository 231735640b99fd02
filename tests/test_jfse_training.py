"""Training JFSE: any loss and labels, resumption from the middle of an epoch, a checkpoint of another loss."""

from __future__ import annotations

import numpy as np
import pytest
from jfse_cases import data, fit, model, prepared
from lightning.pytorch.callbacks import ModelCheckpoint
from training import trainer

from datamodules import Synthetic
from lightning_modules.jfse import JFSE
from losses import CSLoss, available_losses

EASY = {"classes": 4, "items": 320, "image_dim": 16, "text_dim": 12, "difficulty": 0.1, "class_encoder": "one-hot"}


@pytest.mark.parametrize("name", [*available_losses(), None])
def test_every_registered_loss_trains(name, tmp_path):
    module = fit(tmp_path, data(), name, trainer_arguments={"limit_train_batches": 2, "limit_val_batches": 0})
    logged = module.trainer.callback_metrics
    assert all(tensor.isfinite().all() for tensor in module.state_dict().values())
    assert all(value.isfinite() for value in logged.values())
    assert bool(logged["train/align_real"] != 0) == (name is not None)


def test_multi_hot_labels_train_and_are_evaluated(tmp_path):
    label = np.eye(4, dtype=bool)[np.arange(128) % 4] | np.eye(4, dtype=bool)[np.arange(128) // 3 % 4]
    dm = prepared(label)
    module = fit(tmp_path, dm, epochs=2)
    assert all(value.isfinite() for value in module.trainer.callback_metrics.values())
    (logged,) = trainer(tmp_path).test(module, dm, verbose=False)
    assert 0 < logged["test/standard/average/MAP"] <= 1


@pytest.mark.parametrize(
    ("alignment", "least"),
    [(None, 0.85), pytest.param("cs", 0.6, marks=pytest.mark.slow)],
)
def test_validation_map_rises_far_above_chance_on_easy_data(alignment, least, tmp_path):
    dm = Synthetic(**EASY, batch_size=16)
    module = fit(tmp_path, dm, alignment, epochs=6, width=32, learning_rate=5e-3)
    assert float(module.trainer.callback_metrics["val/average/MAP"]) > least  # chance: 0.25


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_a_run_resumes_from_the_middle_of_an_epoch(tmp_path):
    """Eight optimiser steps a batch: a checkpoint after the second batch of five."""
    keep = ModelCheckpoint(tmp_path, "{epoch}-{step}", every_n_train_steps=16, save_top_k=-1)
    fit(tmp_path, data(), epochs=1, trainer_arguments={"callbacks": [keep], "enable_checkpointing": True})
    resumed = model(data(), seed=99)
    trainer(tmp_path, max_epochs=2).fit(resumed, data(), ckpt_path=tmp_path / "epoch=0-step=16.ckpt")
    assert resumed.trainer.current_epoch == 2
    assert all(value.isfinite() for value in resumed.trainer.callback_metrics.values())


def test_a_checkpoint_loaded_with_another_loss_says_so(tmp_path):
    path = tmp_path / "trained.ckpt"
    module = model(data(), CSLoss(0.2))
    run = trainer(tmp_path)
    run.fit(module, data())
    run.save_checkpoint(path)
    for other in ({}, {"alignment": CSLoss(0.3)}, {"alignment": "kl"}):
        with pytest.warns(UserWarning, match=r"CSLoss\(temperature=0\.2\)"):
            JFSE.load_from_checkpoint(path, **other)
