"""JFSE in training and its protocols: any loss and labels, resumption, what is done to features and outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jfse_cases import MODALITIES, data, fit, min_max, model, prepared
from lightning.pytorch.callbacks import ModelCheckpoint
from training import assert_same_weights, trainer

from datamodules import ItemSet, Synthetic
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


# Protocols -----------------------------------------------------------------------------------------------------------


# Presets --------------------------------------------------------------------------------------------------------


def test_standardisation_takes_its_statistics_from_training_rows_only(tmp_path):
    def shift(drawn: ItemSet) -> None:
        for x in drawn.vectors.values():
            x[drawn.split == "test"] += 1000

    trained = [fit(tmp_path, dm, dropout=0.0) for dm in (prepared(), prepared(change=shift))]
    assert_same_weights(*trained)
    dm = prepared()
    rows = dm.indices("train")
    for name in MODALITIES:
        x = dm.data.vectors[name][rows]
        z = (x - getattr(trained[0], f"{name}_mean").numpy()) / getattr(trained[0], f"{name}_scale").numpy()
        np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(z.std(axis=0), 1, atol=0.02)
    assert len(rows) < (dm.data.split == "train").sum()  # validation rows are not training rows


def test_class_embeddings_are_centred_with_mean_square_one(tmp_path):
    dm = prepared()
    module = fit(tmp_path, dm)
    rows = dm.data.class_embedding[dm.data.label[dm.indices("train")]]
    z = (rows - module.class_embedding_mean.numpy()) / module.class_embedding_scale.numpy()
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-5)
    assert (z**2).mean() == pytest.approx(1, abs=1e-5)
    assert z.std(axis=0)[4] / z.std(axis=0)[0] == pytest.approx(rows.std(axis=0)[4] / rows.std(axis=0)[0], rel=1e-4)


def test_as_published_does_not_standardise_and_has_rectified_outputs_and_an_inert_weight(tmp_path):
    dm = prepared()
    module = fit(tmp_path, dm, protocol="as_published")
    for name in (*MODALITIES, "class_embedding"):
        assert not getattr(module, f"{name}_mean").any()
        assert (getattr(module, f"{name}_scale") == 1).all()
    batch = next(iter(dm.train_dataloader()))
    assert all((x >= 0).all() and (x == 0).any() for x in module.embed(batch).values())
    for name, generate in module.generators.items():
        assert (generate(torch.randn(50, 305)) >= 0).all(), name
    assert module.alignment_weight == 1e-4
    assert {layer.p for r in module.regressors.values() for layer in r if isinstance(layer, torch.nn.Dropout)} == {0.0}


def test_honest_has_linear_outputs_weight_one_and_dropout(tmp_path):
    dm = prepared()
    module = fit(tmp_path, dm)
    batch = next(iter(dm.train_dataloader()))
    assert all((x < 0).any() for x in module.embed(batch).values())
    assert module.alignment_weight == 1.0
    for network in module.regressors.values():
        assert [layer.p for layer in network if isinstance(layer, torch.nn.Dropout)] == pytest.approx([0.2, 0.5])


# Evaluation -----------------------------------------------------------------------------------------------------


def mean_average_precision(query: np.ndarray, gallery: np.ndarray, label: np.ndarray) -> float:
    """MAP by cosine over the whole gallery, of items that all have relevant ones."""
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery)]
    relevant = (label[:, None] == label)[np.arange(len(label))[:, None], np.argsort(-(unit[0] @ unit[1].T), axis=1)]
    precision = relevant.cumsum(axis=1) / np.arange(1, len(label) + 1)
    return float(((precision * relevant).sum(axis=1) / relevant.sum(axis=1)).mean())


def average_map(embeddings: dict[str, np.ndarray], label: np.ndarray, z_score: bool) -> float:
    x, z = embeddings.values()
    if z_score:
        x, z = ((e - e.mean(0)) / np.where(e.std(0) > 0, e.std(0), 1) for e in (x, z))
    return (mean_average_precision(x, z, label) + mean_average_precision(z, x, label)) / 2


def embeddings_of(module: JFSE, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    module.eval()
    with torch.no_grad():
        return {n: r(torch.from_numpy(features[n])).double().numpy() for n, r in module.regressors.items()}


def test_as_published_reports_the_best_of_four_post_processings(tmp_path):
    dm = prepared(width=24, protocol="as_published")  # wide enough that no two rectified outputs are equal
    module = model(dm, "kl", protocol="as_published")
    run = trainer(tmp_path, max_epochs=2)
    run.fit(module, dm)
    (logged,) = run.test(module, dm, verbose=False)
    features, label = dm.arrays("standard")
    scores = []
    for x in (features, {name: min_max(x).astype(np.float32) for name, x in features.items()}):
        plain = embeddings_of(module, x)
        softmax = {n: np.exp(e) / np.exp(e).sum(1, keepdims=True) for n, e in plain.items()}
        scores += [average_map(plain, label, z_score=True), average_map(softmax, label, z_score=True)]
    assert len({round(score, 4) for score in scores}) == 4
    assert logged["test/standard/average/MAP"] == pytest.approx(max(scores), abs=1e-6)
    assert float(run.callback_metrics["test/standard/average/MAP"]) == pytest.approx(max(scores), abs=1e-6)


def test_honest_reports_plain_cosine_retrieval(tmp_path):
    dm = data()
    module = fit(tmp_path, dm, epochs=2)
    (logged,) = trainer(tmp_path).test(module, dm, verbose=False)
    features, label = dm.arrays("standard")
    z = {
        name: (x - getattr(module, f"{name}_mean").numpy()) / getattr(module, f"{name}_scale").numpy()
        for name, x in features.items()
    }
    embeddings = embeddings_of(module, z)
    assert logged["test/standard/average/MAP"] == pytest.approx(average_map(embeddings, label, False), abs=1e-6)
    one_way = mean_average_precision(embeddings["image"], embeddings["text"], label)
    assert logged["test/standard/image->text/MAP"] == pytest.approx(one_way, abs=1e-6)
    assert module.sizes["standard"] == {"image->text": (len(label),) * 2, "text->image": (len(label),) * 2}


def test_zero_shot_reports_seen_unseen_and_generalised(tmp_path):
    dm = data(classes=5, items=200, class_split="zero-shot", class_seed=1)
    module = model(dm)
    run = trainer(tmp_path)
    run.fit(module, dm)
    logged = {}
    for result in run.test(module, dm, verbose=False):
        logged |= result
    seen = [dm.class_names.index(name) for name in dm.seen_classes]
    test = dm.data.label[dm.data.split == "test"]
    counts = (np.isin(test, seen).sum(), (~np.isin(test, seen)).sum())
    expected = {"seen": (counts[0],) * 2, "unseen": (counts[1],) * 2, "generalised": (counts[1], sum(counts))}
    assert len(seen) == 3
    for split, sizes in expected.items():
        assert module.sizes[split] == {"image->text": sizes, "text->image": sizes}
        assert 0 < logged[f"test/{split}/average/MAP"] <= 1
    assert logged["test/generalised/average/MAP"] < logged["test/unseen/average/MAP"]
    assert {key.split("/")[1] for key in logged} == set(expected)
