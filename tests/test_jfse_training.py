"""Training JFSE: any loss, labels and precision, the same numbers again, resumption and checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jfse_cases import IGNORED, assert_same_weights, data, fit, model, prepared, trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from datamodules import Synthetic
from lightning_modules.jfse import JFSE
from losses import AlignmentLoss, CSLoss, GCSLoss, available_losses

pytestmark = IGNORED

EASY = {"classes": 4, "items": 320, "image_dim": 16, "text_dim": 12, "difficulty": 0.1, "class_encoder": "one-hot"}


# Losses, labels and precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", available_losses())
def test_every_registered_loss_trains(name, tmp_path):
    module = fit(tmp_path, data(), name, trainer_arguments={"limit_train_batches": 2, "limit_val_batches": 0})
    logged = module.trainer.callback_metrics
    assert all(tensor.isfinite().all() for tensor in module.state_dict().values())
    assert all(value.isfinite() for value in logged.values())
    assert logged["train/align_real"] != 0


def test_no_alignment_logs_zero(tmp_path):
    module = fit(tmp_path, data(), None, trainer_arguments={"limit_train_batches": 2, "limit_val_batches": 0})
    assert module.trainer.callback_metrics["train/align_real"] == 0
    assert module.trainer.callback_metrics["train/align_synthetic"] == 0


def test_multi_hot_labels_train_and_are_evaluated(tmp_path):
    label = np.eye(4, dtype=bool)[np.arange(128) % 4] | np.eye(4, dtype=bool)[np.arange(128) // 3 % 4]
    dm = prepared(label)
    module = fit(tmp_path, dm, epochs=2)
    assert all(value.isfinite() for value in module.trainer.callback_metrics.values())
    (logged,) = trainer(tmp_path).test(module, dm, verbose=False)
    assert 0 < logged["test/standard/average/MAP"] <= 1


@pytest.mark.filterwarnings("ignore:.*bf16.*")
@pytest.mark.parametrize("protocol", ["honest", "as_published"])
def test_bf16_mixed_trains_on_the_cpu(protocol, tmp_path):
    module = fit(tmp_path, data(), epochs=2, protocol=protocol, trainer_arguments={"precision": "bf16-mixed"})
    assert all(value.isfinite() for value in module.trainer.callback_metrics.values())
    assert {p.dtype for p in module.parameters()} == {torch.float32}


@pytest.mark.parametrize(("alignment", "least"), [(None, 0.85), ("cs", 0.6), ("kl", 0.6)])
def test_validation_map_rises_far_above_chance_on_easy_data(alignment, least, tmp_path):
    dm = Synthetic(**EASY, batch_size=16)
    module = fit(tmp_path, dm, alignment, epochs=6, width=32, learning_rate=5e-3)
    assert float(module.trainer.callback_metrics["val/average/MAP"]) > least  # chance: 0.25


# Same numbers again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(dropout, tmp_path):
    first, second, other = (fit(tmp_path, data(), seed=seed, dropout=dropout) for seed in (3, 3, 4))
    assert_same_weights(first, second)
    assert not torch.equal(first.regressors["image"][1].weight, other.regressors["image"][1].weight)


@pytest.mark.parametrize("protocol", ["honest", "as_published"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(protocol, tmp_path):
    """Bit for bit, with the protocol's dropout, from any state of the random numbers at the time of resumption."""
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    whole = fit(
        tmp_path,
        data(),
        epochs=3,
        protocol=protocol,
        trainer_arguments={"callbacks": [keep], "enable_checkpointing": True},
    )
    for epoch in (0, 1):
        resumed = model(data(), seed=99, protocol=protocol)
        torch.rand(17)
        run = trainer(tmp_path, max_epochs=3)
        run.fit(resumed, data(), ckpt_path=tmp_path / f"epoch={epoch}.ckpt")
        assert_same_weights(whole, resumed)
        assert run.callback_metrics["train/regressor"] == whole.trainer.callback_metrics["train/regressor"]


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


# Checkpoints ----------------------------------------------------------------------------------------------------


class CountingLoss(AlignmentLoss):
    """A loss of the user's own, which only this test knows."""

    def terms(self, batch):
        a, b = batch.modalities
        return {"distance": (batch.rows[a] - batch.rows[b]).square().mean()}


ALIGNMENTS = {"name": "cs", "none": None, "module": CSLoss(0.2), "gcs": GCSLoss(), "own": CountingLoss()}


@pytest.mark.parametrize("kind", ALIGNMENTS)
def test_a_checkpoint_loads_and_is_tested_whatever_the_loss_was(kind, tmp_path):
    alignment, dm = ALIGNMENTS[kind], data()
    keep = ModelCheckpoint(tmp_path, "best", monitor="val/average/MAP", mode="max")
    module = model(dm, alignment)
    run = trainer(tmp_path, enable_checkpointing=True, callbacks=[keep], logger=CSVLogger(tmp_path))
    run.fit(module, dm)
    (best,) = run.test(module, dm, ckpt_path="best", verbose=False)
    (by_path,) = trainer(tmp_path).test(model(dm, alignment, seed=5), dm, ckpt_path=keep.best_model_path, verbose=False)
    assert best == by_path
    again = {"alignment": alignment} if isinstance(alignment, AlignmentLoss) else {}
    loaded = JFSE.load_from_checkpoint(keep.best_model_path, **again)
    assert_same_weights(module, loaded)
    assert type(loaded.alignment) is type(module.alignment)
    (from_loaded,) = trainer(tmp_path).test(loaded, dm, verbose=False)
    assert best == from_loaded


def test_a_checkpoint_loaded_with_another_loss_says_so(tmp_path):
    path = tmp_path / "trained.ckpt"
    module = model(data(), CSLoss(0.2))
    run = trainer(tmp_path)
    run.fit(module, data())
    run.save_checkpoint(path)
    for other in ({}, {"alignment": CSLoss(0.3)}, {"alignment": "kl"}):
        with pytest.warns(UserWarning, match=r"CSLoss\(temperature=0\.2\)"):
            JFSE.load_from_checkpoint(path, **other)
