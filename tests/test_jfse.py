"""JFSE: its training step from the formulas, its schedule and protocols, resumption, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from reference import unit_rows
from small_models import PAIR, few, fit_jfse, jfse, min_max, prepared
from test_ranking import plain_map
from torch.autograd import grad
from torch.overrides import TorchFunctionMode
from training import assert_same_weights, trainer

from datamodules import ItemSet, SyntheticItems
from lightning_modules import JFSE
from losses import CSLoss, build_loss

# The training step, from the formulas ---------------------------------------------------------------------------


class Draws(TorchFunctionMode):
    """Records every call that draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.normal, self.uniform = [], []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.randn:
            self.normal.append(result.clone())
        elif func is torch.rand:
            self.uniform.append(result.clone())
        return result


class Recorder(Callback):
    """Keeps what a run started from, and for every step its epoch, its batch and its random numbers."""

    def on_train_start(self, trainer, module) -> None:
        self.initial = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        self.steps = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.draws = Draws()
        kept = {name: x.clone() for name, x in batch.items() if name != "masks"}
        self.steps.append((trainer.current_epoch, kept, self.draws))
        self.draws.__enter__()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.draws.__exit__(None, None, None)
        zeros = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
        self.gradients = zeros | {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


class PlainJFSE:
    """The steps of JFSE from its losses, by its networks alone: no hook, schedule or optimiser of the suite.

    Args:
        module: with the weights to start from.
        weight: of the alignment loss.
    """

    def __init__(self, module: JFSE, weight: float) -> None:
        self.module, self.weight = module, weight
        names = ("critics", "generators", "regressors", "modality_classifier")
        self.parameters = {name: list(getattr(module, name).parameters()) for name in names}
        self.adam = {name: torch.optim.Adam(p, lr=1e-3, betas=(0.5, 0.999)) for name, p in self.parameters.items()}

    def update(self, losses: dict[str, torch.Tensor]) -> None:
        """A step by each loss, all gradients before the first step."""
        for name, loss in losses.items():
            found = grad(loss, self.parameters[name], retain_graph=True, allow_unused=True)
            for parameter, gradient in zip(self.parameters[name], found, strict=True):
                parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient
        for name in losses:
            self.adam[name].step()

    def align(self, pair: list[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        return self.weight * build_loss("cs")(dict(zip(PAIR, pair, strict=True)), labels).total

    def step(self, x, labels, noise, mixes, strength: float) -> dict[str, float]:
        a, m = x["class_embedding"], self.module
        fake = {n: m.generators[n](torch.cat([a, z], 1)) for n, z in zip(PAIR, noise, strict=True)}
        for k in range(5):
            critic_loss = sum(
                m.critics[n].loss(x[n], fake[n].detach(), a, mix)
                for n, mix in zip(PAIR, mixes[2 * k : 2 * k + 2], strict=True)
            )
            self.update({"critics": critic_loss})
        real, cycled = ([m.regressors[n](rows[n]) for n in PAIR] for rows in (x, fake))
        original, cycle = (sum(((a - r) ** 2).mean() for r in pair) for pair in (real, cycled))
        adv_real, adv_syn = (m.modality_classifier.loss(*pair, strength) for pair in (real, cycled))
        align_real, align_syn = (self.align(pair, labels) for pair in (real, cycled))
        realism = sum(m.critics[n](fake[n], a).mean() for n in PAIR)
        losses = {
            "generators": -realism + 0.1 * (cycle + 0.01 * adv_syn),
            "regressors": original + align_real + 0.01 * adv_real + 0.01 * (cycle + 0.01 * adv_syn + align_syn),
            "modality_classifier": adv_syn + adv_real,
        }
        self.update(losses)
        return {"critic": critic_loss.item(), **{group: loss.item() for group, loss in losses.items()}}


def standardised(module: JFSE, batch):
    names = (*PAIR, "class_embedding")
    return {n: (batch[n] - getattr(module, f"{n}_mean")) / getattr(module, f"{n}_scale") for n in names}


def scaled_by_batch(module: JFSE, batch):
    return {n: torch.from_numpy(min_max(batch[n].numpy())) for n in (*PAIR, "class_embedding")}


CASES = {
    "honest, weight 1": ({"dropout": 0.0}, 1.0, standardised),
    "honest, weight .3": ({"dropout": 0.0, "alignment_weight": 0.3}, 0.3, standardised),
    "honest, none": ({"dropout": 0.0, "alignment": None}, 0.0, standardised),
    "as published": ({"protocol": "as_published"}, 1e-4, scaled_by_batch),
    "as published, weight 2": ({"protocol": "as_published", "alignment_weight": 2.0}, 2.0, scaled_by_batch),
}


@pytest.mark.parametrize("case", CASES)
def test_training_is_that_of_the_formulas(case, tmp_path):
    """Every weight and gradient after four steps over two epochs, the second with a reversal strength above 0."""
    arguments, weight, prepare = CASES[case]
    recorder, dm = Recorder(), prepared()
    module = fit_jfse(
        tmp_path,
        dm,
        epochs=2,
        trainer_arguments={"precision": "64-true", "limit_train_batches": 2, "callbacks": [recorder]},
        **arguments,
    )
    start = jfse(dm, **arguments).double()
    start.load_state_dict(recorder.initial)
    plain = PlainJFSE(start, weight)
    losses = []
    for epoch, batch, draws in recorder.steps:
        assert [tuple(x.shape) for x in draws.normal] == [(16, 300)] * 2  # noise: one draw per modality and batch
        assert [tuple(x.shape) for x in draws.uniform] == [(16, 1)] * 10
        strength = 2 / (1 + math.exp(-10 * epoch / 2)) - 1
        losses.append(plain.step(prepare(module, batch), batch["label"], draws.normal, draws.uniform, strength))
    assert [epoch for epoch, _, _ in recorder.steps] == [0, 0, 1, 1]
    assert len({tuple(batch["id"].tolist()) for _, batch, _ in recorder.steps}) == 4  # every epoch in another order
    for name, parameter in module.named_parameters():
        ours = start.get_parameter(name)
        for found, wanted in ((recorder.gradients[name], ours.grad), (parameter, ours)):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
        # A critic's last bias adds the same to real and fake.
        moved = (parameter - recorder.initial[name]).abs().max() > 1e-4
        assert moved != name.endswith("score.bias"), name
    logged = module.trainer.callback_metrics  # means over the last epoch
    for key, name in (("critic", "critic"), ("generator", "generators"), ("regressor", "regressors")):
        assert float(logged[f"train/{key}"]) == pytest.approx(np.mean([step[name] for step in losses[2:]]), rel=1e-5)


def test_multi_hot_labels_train_and_are_evaluated(tmp_path):
    label = np.eye(4, dtype=bool)[np.arange(128) % 4] | np.eye(4, dtype=bool)[np.arange(128) // 3 % 4]
    dm = prepared(label)
    module = fit_jfse(tmp_path, dm, epochs=2)
    assert all(value.isfinite() for value in module.trainer.callback_metrics.values())
    (logged,) = trainer(tmp_path).test(module, dm, verbose=False)
    assert 0 < logged["test/standard/average/MAP"] <= 1


@pytest.mark.parametrize(
    ("alignment", "least"),
    [(None, 0.85), pytest.param("cs", 0.6, marks=pytest.mark.slow)],
)
def test_validation_map_rises_far_above_chance_on_easy_data(alignment, least, tmp_path):
    data = few(items=320, image_dim=16, text_dim=12, difficulty=0.1)
    module = fit_jfse(tmp_path, data, alignment, epochs=6, width=32, learning_rate=5e-3)
    assert float(module.trainer.callback_metrics["val/average/MAP"]) > least  # chance: 0.25


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_a_run_resumes_from_the_middle_of_an_epoch(tmp_path):
    """Eight optimiser steps a batch: a checkpoint after the second batch of five."""
    keep = ModelCheckpoint(tmp_path, "{epoch}-{step}", every_n_train_steps=16, save_top_k=-1)
    fit_jfse(tmp_path, few(), epochs=1, trainer_arguments={"callbacks": [keep], "enable_checkpointing": True})
    resumed = jfse(few(), seed=99)
    trainer(tmp_path, max_epochs=2).fit(resumed, few(), ckpt_path=tmp_path / "epoch=0-step=16.ckpt")
    assert resumed.trainer.current_epoch == 2
    assert all(value.isfinite() for value in resumed.trainer.callback_metrics.values())


def test_a_checkpoint_loaded_with_another_loss_says_so(tmp_path):
    path = tmp_path / "trained.ckpt"
    module = jfse(few(), CSLoss(0.2))
    run = trainer(tmp_path)
    run.fit(module, few())
    run.save_checkpoint(path)
    for other in ({}, {"alignment": CSLoss(0.3)}, {"alignment": "kl"}):
        with pytest.warns(UserWarning, match=r"CSLoss\(temperature=0\.2\)"):
            JFSE.load_from_checkpoint(path, **other)


# Protocols --------------------------------------------------------------------------------------------------------


def test_standardisation_takes_its_statistics_from_training_rows_only(tmp_path):
    def shift(drawn: ItemSet) -> None:
        for x in drawn.vectors.values():
            x[drawn.split == "test"] += 1000

    trained = [fit_jfse(tmp_path, dm, dropout=0.0) for dm in (prepared(), prepared(change=shift))]
    assert_same_weights(*trained)
    dm = prepared()
    rows = dm.indices("train")
    for name in PAIR:
        x = dm.data.vectors[name][rows]
        z = (x - getattr(trained[0], f"{name}_mean").numpy()) / getattr(trained[0], f"{name}_scale").numpy()
        np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(z.std(axis=0), 1, atol=0.02)
    assert len(rows) < (dm.data.split == "train").sum()  # validation rows are not training rows


def test_class_embeddings_are_centred_with_mean_square_one(tmp_path):
    dm = prepared()
    module = fit_jfse(tmp_path, dm)
    rows = dm.data.class_embedding[dm.data.label[dm.indices("train")]]
    z = (rows - module.class_embedding_mean.numpy()) / module.class_embedding_scale.numpy()
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-5)
    assert (z**2).mean() == pytest.approx(1, abs=1e-5)
    assert z.std(axis=0)[4] / z.std(axis=0)[0] == pytest.approx(rows.std(axis=0)[4] / rows.std(axis=0)[0], rel=1e-4)


PROTOCOLS = {"honest": (1.0, [0.2, 0.5]), "as_published": (1e-4, [0.0, 0.0])}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_decides_about_scales_outputs_weight_and_dropout(protocol, tmp_path):
    weight, dropout = PROTOCOLS[protocol]
    dm = prepared()
    module = fit_jfse(tmp_path, dm, protocol=protocol)
    honest = protocol == "honest"
    for name in (*PAIR, "class_embedding"):
        assert bool(getattr(module, f"{name}_mean").any()) == honest
        assert bool((getattr(module, f"{name}_scale") != 1).any()) == honest
    synthetic = [generate(torch.randn(50, 305)) for generate in module.generators.values()]
    for x in (*module.embed(next(iter(dm.train_dataloader()))).values(), *synthetic):
        assert bool((x < 0).any()) == honest
        assert bool((x == 0).any()) != honest
    assert module.alignment_weight == weight
    for network in module.regressors.values():
        assert [layer.p for layer in network if isinstance(layer, torch.nn.Dropout)] == pytest.approx(dropout)


# Evaluation -----------------------------------------------------------------------------------------------------


def mean_average_precision(query: np.ndarray, gallery: np.ndarray, label: np.ndarray) -> float:
    return plain_map(unit_rows(query) @ unit_rows(gallery).T, label, label)


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
    module = jfse(dm, "kl", protocol="as_published")
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
    dm = few()
    module = fit_jfse(tmp_path, dm, epochs=2)
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
    dm = few(classes=5, items=200, class_split="zero-shot", class_seed=1)
    module = jfse(dm)
    run = trainer(tmp_path)
    run.fit(module, dm)
    logged = {}
    for result in run.test(module, dm, verbose=False):
        logged |= result
    seen = dm.class_halves[0]
    test = dm.data.label[dm.data.split == "test"]
    counts = (np.isin(test, seen).sum(), (~np.isin(test, seen)).sum())
    expected = {"seen": (counts[0],) * 2, "unseen": (counts[1],) * 2, "generalised": (counts[1], sum(counts))}
    assert len(seen) == 3
    for split, sizes in expected.items():
        assert module.sizes[split] == {"image->text": sizes, "text->image": sizes}
        assert 0 < logged[f"test/{split}/average/MAP"] <= 1
    assert logged["test/generalised/average/MAP"] < logged["test/unseen/average/MAP"]
    assert {key.split("/")[1] for key in logged} == set(expected)


# Refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("image text", "no labels"),
        ("image class_embedding", "two modalities"),
        ("image text audio class_embedding", "image, text, audio"),
        ("", "two modalities"),
    ],
)
def test_other_than_two_modalities_and_a_class_embedding_are_refused(names, said):
    with pytest.raises(ValueError, match=said):
        JFSE(dict.fromkeys(names.split(), 5))


def test_items_and_unknown_words_are_refused_with_what_there_is():
    with pytest.raises(ValueError, match=r"vectors.*text, video, motion.*OwnData.*LAVIMO"):
        JFSE(SyntheticItems().dims)
    with pytest.raises(ValueError, match=r"'published'.*honest.*as_published"):
        jfse(few(), protocol="published")
    with pytest.raises(ValueError, match=r"'cmpm_k'.*cmpm_kl"):
        jfse(few(), "cmpm_k")
