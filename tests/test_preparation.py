"""What happens between a model and its data before a Trainer runs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import lightning as L
import numpy as np
import pytest
from tiny_items import Tiny

from datamodules import Synthetic
from datamodules.files.cache import kept_arrays
from lightning_modules import JFSE, LAVIMO, prepare

ENCODERS = {"text": {"name": "characters", "width": 8}}


def quiet() -> L.Trainer:
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return L.Trainer(max_epochs=1, accelerator="cpu", **dict.fromkeys(off, False))


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_model_that_has_not_seen_its_data_is_refused_with_the_call_to_make(command):
    data = Synthetic(classes=3, items=60, class_encoder="one-hot")
    with pytest.raises(RuntimeError, match=rf"prepare\(model, data.*before Trainer\.{command}"):
        getattr(quiet(), command)(JFSE(data.dims, width=4), data)


def test_a_model_that_was_prepared_to_be_scored_is_not_trained():
    data = Synthetic(classes=3, items=60, class_encoder="one-hot")
    model = JFSE(data.dims, width=4)
    prepare(model, data, fit=False)
    assert not model.image_mean.any()
    with pytest.raises(RuntimeError, match="prepare"):
        quiet().fit(model, data)


def test_batches_hold_what_the_frozen_parts_return_and_statistics_those_of_training_items():
    data = Tiny()
    model = LAVIMO(data.dims, encoders=ENCODERS)
    assert isinstance(next(iter(data.train_dataloader()))["text"], list)
    prepare(model, data)
    assert next(iter(data.train_dataloader()))["text"].ndim == 2
    rows = data.data.modalities["code"].entries[data.indices("train")]
    np.testing.assert_allclose(model.encoders["code"].standardise.mean, rows.mean(axis=0), atol=1e-6)


def test_of_several_that_want_the_same_arrays_one_computes_them(cache):
    calls = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        time.sleep(0.2)
        return {"x": np.arange(3)}

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: kept_arrays("same", compute)["x"].tolist(), range(4)))
    assert found == [[0, 1, 2]] * 4
    assert len(calls) == 1
    assert [path.name for path in cache.iterdir()] == ["same.npz"]
