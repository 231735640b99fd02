"""CS-Aligner in training: unpaired samples, and improvement on features and on items of several captions."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from cs_aligner_cases import (
    PAIR,
    TEXT_AND_MOTION,
    TRANSFORMER,
    Drawn,
    first_step,
    model,
    predictions,
    synthetic,
)
from lightning.pytorch.callbacks import Callback
from tiny_items import Tiny
from training import Recorder, scores, trainer

from datamodules import Synthetic, SyntheticItems, Wikipedia
from losses.common.matching import unit
from losses.kernel import kernel_cs_divergence

# Unpaired samples ----------------------------------------------------------------------------------------------------


def test_pairs_do_not_depend_on_unpaired_samples(tmp_path):
    """Nor do the numbers that dropout draws for the pairs."""
    settings = {"adapter": {"name": "mlp", "dropout": 0.3}}
    with_them, without = (
        first_step(tmp_path, synthetic(batch_size=16, paired_fraction=0.5), unpaired=n, **settings)[1].logged
        for n in (9, 0)
    )
    assert with_them["train/alignment"] == without["train/alignment"]
    assert with_them["train/divergence"] != without["train/divergence"]


def test_unpaired_samples_receive_gradient(tmp_path):
    outputs = []

    class Watch(Callback):
        def on_train_start(self, trainer, module) -> None:
            def keep(adapter, arguments, output):
                output[0].retain_grad()
                outputs.append(output[0])

            for adapter in module.adapters.values():
                adapter.register_forward_hook(keep)

    data = synthetic(batch_size=16, paired_fraction=0.5)
    fitted = trainer(tmp_path, callbacks=[Watch()], limit_train_batches=1, limit_val_batches=0)
    fitted.fit(model(data, unpaired=9), data)
    assert [len(rows) for rows in outputs] == [16, 16, 9, 9]
    assert all((rows.grad != 0).any(dim=1).all() for rows in outputs)


def test_unpaired_samples_are_those_of_the_data_drawn_anew_and_per_modality(tmp_path):
    data, seen = synthetic(batch_size=8, paired_fraction=0.5), Drawn()
    module = model(data, unpaired=20)
    trainer(tmp_path, callbacks=[seen], limit_val_batches=0).fit(module, data)
    assert not [name for name in module.state_dict() if "unpaired" in name]
    pools = {name: data.unpaired_entries(name)[0] for name in PAIR}
    drawn = {name: [] for name in PAIR}
    for name, rows in seen.unpaired:
        drawn[name].append([int((pools[name] == row).all(dim=1).nonzero()[0, 0]) for row in rows])
    assert all(len(steps) == len(seen.losses) for steps in drawn.values())
    assert len({tuple(step) for steps in drawn.values() for step in steps}) == 2 * len(seen.losses)
    for name, steps in drawn.items():
        seen_at_all = np.unique(steps)
        assert len(seen_at_all) > 0.6 * len(pools[name])


def test_samples_of_one_modality_alone_may_be_unpaired(tmp_path):
    class TextsAlone(Synthetic):
        def unpaired_entries(self, name):
            rows, mask = super().unpaired_entries(name)
            return rows[: len(rows) * (name == "text")], mask

    data = TextsAlone(classes=4, items=160, class_encoder="one-hot", paired_fraction=0.5, batch_size=16)
    _, seen = first_step(tmp_path, data, unpaired=5)
    assert [(name, len(rows)) for name, rows in seen.unpaired] == [("text", 5)]


def test_every_caption_enters_the_divergence(tmp_path):
    """Drawn from all captions of the training items, though every item is paired."""
    data, seen = Tiny(**TEXT_AND_MOTION), Drawn()
    module = model(data, unpaired=12)
    trainer(tmp_path, callbacks=[seen], max_epochs=8, limit_val_batches=0).fit(module, data)
    assert {(name, len(rows)) for name, rows in seen.unpaired} == {("text", 12)}
    pool = data.unpaired_entries("text")[0]
    assert len(pool) > len(data.indices("train"))
    drawn = torch.cat([rows for _, rows in seen.unpaired])
    assert all((drawn == row).all(dim=1).any() for row in pool)


@pytest.mark.parametrize("build", [synthetic, lambda: Tiny(modalities=("motion", "code"))], ids=["features", "items"])
def test_data_without_unpaired_samples_are_refused_with_what_to_do(tmp_path, build):
    data = build()
    with pytest.raises(ValueError, match="unpaired is 4, and the data have no unpaired samples: set paired_fraction"):
        trainer(tmp_path).fit(model(data, unpaired=4), data)


REAL = Path(os.environ.get("CSD_DATA") or "nowhere") / "wikipedia"


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "wiki_roph.mat").is_file(), reason="CSD_DATA is unset or has no wikipedia/")
def test_on_wikipedia_it_retrieves_far_above_chance_without_labels(tmp_path):
    """Chance is .11; canonical correlation analysis of the same features, which uses no labels either, has .27."""
    data = Wikipedia(class_encoder="one-hot", batch_size=128, paired_fraction=0.9)
    module = model(data, target="image", unpaired=64, learning_rate=1e-3)
    trainer(tmp_path, max_epochs=8, limit_val_batches=0).fit(module, data)
    assert scores(tmp_path, module, data)["average/MAP"] > 0.24


# Training ------------------------------------------------------------------------------------------------------------

TRAINED = {
    "paired features": (lambda: synthetic(batch_size=16), {}),
    "unpaired features": (lambda: synthetic(batch_size=16, paired_fraction=0.7), {"unpaired": 16}),
    "three modalities": (lambda: SyntheticItems(batch_size=24), {"adapter": TRANSFORMER, "learning_rate": 1e-2}),
    "divergence alone": (lambda: synthetic(batch_size=16), {"alignment": None}),
}


@pytest.mark.parametrize("case", TRAINED)
def test_it_trains(tmp_path, case):
    build, settings = TRAINED[case]
    data, seen = build(), Recorder()
    module = model(data, **settings)
    untrained = scores(tmp_path, module, data)["average/MAP"]
    trainer(tmp_path, max_epochs=8, limit_val_batches=0, callbacks=[seen]).fit(module, data)
    assert np.isfinite(seen.losses).all()
    assert np.mean(seen.losses[-4:]) < 0.95 * np.mean(seen.losses[:4])
    if settings.get("alignment", "") is not None:  # the divergence knows no pairs
        assert scores(tmp_path, module, data)["average/MAP"] > untrained + 0.05


def test_the_divergence_brings_the_distributions_together(tmp_path):
    """On test items, far more than InfoNCE alone does."""
    left = {}
    for weight in (0.0, 3.0):
        data = synthetic(batch_size=16)
        module = model(data, divergence_weight=weight)
        trainer(tmp_path, max_epochs=8, limit_val_batches=0).fit(module, data)
        rows = predictions(tmp_path, module, data)
        left[weight] = float(kernel_cs_divergence(*(unit(torch.from_numpy(rows[name])) for name in PAIR), 1.0))
    assert left[3.0] < 0.3 * left[0.0]
