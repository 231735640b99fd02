"""JFSE: its training step against plain PyTorch, its presets, resumption, and the evaluation shared by all models."""

from __future__ import annotations

import math

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.autograd import grad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from datamodules import FeatureDataModule, FeatureSet, Synthetic
from datamodules.synthetic import synthetic_features
from lightning_modules.jfse import JFSE
from losses import AlignmentLoss, CSLoss, GCSLoss, available_losses

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks"),
]

DIMS = {"image": 8, "text": 6, "class_embedding": 5}
MODALITIES = ("image", "text")
SMALL = {"classes": 4, "items": 128, "image_dim": 8, "text_dim": 6, "batch_size": 16, "class_encoder": "one-hot"}
EASY = {"classes": 4, "items": 320, "image_dim": 16, "text_dim": 12, "difficulty": 0.1, "class_encoder": "one-hot"}


def data(**changes) -> Synthetic:
    return Synthetic(**{**SMALL, **changes})


class Prepared(FeatureDataModule):
    """A data module over a FeatureSet in memory."""

    dataset, features, data_kind = "prepared", "prepared", "synthetic"

    def __init__(self, content: FeatureSet, **kwargs) -> None:
        super().__init__(**{"batch_size": 16, "class_encoder": "from-data", **kwargs})
        self.content = content

    def read(self) -> FeatureSet:
        return self.content


def prepared(label: np.ndarray | None = None, change=None, width: int = 5, **kwargs) -> Prepared:
    """The small synthetic data with a class embedding of its own, other labels, or features changed in place."""
    drawn = synthetic_features(4, 128, 8, 6)
    if change is not None:
        change(drawn)
    embedding = np.random.default_rng(0).standard_normal((4, width)) * np.arange(1, width + 1) + 7
    label = drawn.label if label is None else label
    return Prepared(FeatureSet(drawn.features, label, drawn.split, drawn.class_names, "memory", embedding), **kwargs)


def trainer(folder, **kwargs) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "enable_checkpointing": False}
    return L.Trainer(**{**defaults, **quiet, "default_root_dir": folder, **kwargs})


def model(dm: FeatureDataModule, alignment="cs", seed: int = 0, **kwargs) -> JFSE:
    L.seed_everything(seed, verbose=False)
    return JFSE(dm.dims, alignment, **{"width": 16, "learning_rate": 1e-3, **kwargs})


def fit(folder, dm: FeatureDataModule, alignment="cs", epochs: int = 1, trainer_arguments=None, **kwargs) -> JFSE:
    module = model(dm, alignment, **kwargs)
    trainer(folder, max_epochs=epochs, **(trainer_arguments or {})).fit(module, dm)
    return module


def assert_same_weights(first: torch.nn.Module, second: torch.nn.Module) -> None:
    one, other = first.state_dict(), second.state_dict()
    assert list(one) == list(other)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


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
        self.steps.append((trainer.current_epoch, {name: x.clone() for name, x in batch.items()}, self.draws))
        self.draws.__enter__()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.draws.__exit__(None, None, None)
        zeros = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
        self.gradients = zeros | {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, strength):
        ctx.strength = strength
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.strength * gradient, None


def cs_alignment(image, text, labels, temperature: float = 0.1) -> torch.Tensor:
    """Cauchy-Schwarz divergence of matching and true distributions, both directions, written without log space."""
    similarity = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T / temperature
    match = (labels[:, None] == labels).to(image)
    q = match / match.sum(1, keepdim=True)
    total = 0.0
    for scores in (similarity, similarity.T):
        p = scores.softmax(dim=1)
        total = total - ((p * q).sum(1) / (p.norm(dim=1) * q.norm(dim=1))).log().mean()
    return total


class PlainJFSE:
    """JFSE on bare tensors, from its losses: no module, hook or optimiser of the suite.

    Args:
        state: weights to start from.
        weight: of the alignment loss.
        rectified: whether generator and regressor outputs pass a ReLU.
        rate: learning rate.
    """

    def __init__(self, state, weight: float, rectified: bool, rate: float) -> None:
        self.w = {name: x.clone().requires_grad_(x.is_floating_point()) for name, x in state.items()}
        self.weight, self.output = weight, F.relu if rectified else lambda x: x
        groups = ("critics", "generators", "regressors", "modality_classifier")
        self.names = {group: [n for n in self.w if n.startswith(f"{group}.")] for group in groups}
        self.adam = {
            group: torch.optim.Adam([self.w[n] for n in names], lr=rate, betas=(0.5, 0.999))
            for group, names in self.names.items()
        }

    def dense(self, prefix: str, x):
        """hidden layer with ReLU, then the output layer."""
        layers = sorted({name.rsplit(".", 1)[0] for name in self.w if name.startswith(f"{prefix}.")})
        first, second = ((self.w[f"{layer}.weight"], self.w[f"{layer}.bias"]) for layer in layers)
        return self.output(F.linear(F.relu(F.linear(x, *first)), *second))

    def critic(self, m: str, feature, a):
        w = {key: self.w[f"critics.{m}.{key}"] for key in ("feature.weight", "feature.bias", "condition.weight")}
        hidden = F.linear(feature, w["feature.weight"], w["feature.bias"]) + F.linear(a, w["condition.weight"])
        score = F.linear(F.leaky_relu(hidden, 0.2), *(self.w[f"critics.{m}.score.{k}"] for k in ("weight", "bias")))
        return score[:, 0]

    def adversarial(self, pair, strength: float):
        total = 0.0
        for k, x in enumerate(pair):
            x = Reverse.apply(x, strength)
            for layer in range(3):
                x = F.linear(x, *(self.w[f"modality_classifier.layers.{layer}.{p}"] for p in ("weight", "bias")))
            total = total - x.log_softmax(dim=1)[:, k].mean()
        return total

    def critic_loss(self, x, fake, a, mixes):
        total = 0.0
        for m, mix in zip(MODALITIES, mixes, strict=True):
            between = (mix * x[m] + (1 - mix) * fake[m]).detach().requires_grad_()
            (slope,) = grad(self.critic(m, between, a).sum(), between, create_graph=True)
            penalty = ((slope.norm(dim=1) - 1) ** 2).mean()
            total = total + self.critic(m, fake[m].detach(), a).mean() - self.critic(m, x[m], a).mean() + 10 * penalty
        return total

    def update(self, group: str, gradients) -> None:
        for name, gradient in zip(self.names[group], gradients, strict=True):
            self.w[name].grad = torch.zeros_like(self.w[name]) if gradient is None else gradient
        self.adam[group].step()

    def gradients(self, group: str, loss):
        return grad(loss, [self.w[n] for n in self.names[group]], retain_graph=True, allow_unused=True)

    def step(self, x, labels, noise, mixes, strength: float) -> dict[str, float]:
        a = x["class_embedding"]
        fake = {m: self.dense(f"generators.{m}", torch.cat([a, z], 1)) for m, z in zip(MODALITIES, noise, strict=True)}
        for k in range(5):
            critic_loss = self.critic_loss(x, fake, a, mixes[2 * k : 2 * k + 2])
            self.update("critics", self.gradients("critics", critic_loss))
        real = [self.dense(f"regressors.{m}", x[m]) for m in MODALITIES]
        cycled = [self.dense(f"regressors.{m}", fake[m]) for m in MODALITIES]
        original = sum(((a - r) ** 2).mean() for r in real)
        cycle = sum(((a - r) ** 2).mean() for r in cycled)
        adv_real, adv_syn = self.adversarial(real, strength), self.adversarial(cycled, strength)
        align_real, align_syn = (
            self.weight * cs_alignment(*pair, labels) if self.weight else torch.zeros(()) for pair in (real, cycled)
        )
        realism = sum(self.critic(m, fake[m], a).mean() for m in MODALITIES)
        losses = {
            "generators": -realism + 0.1 * (cycle + 0.01 * adv_syn),
            "regressors": original + align_real + 0.01 * adv_real + 0.01 * (cycle + 0.01 * adv_syn + align_syn),
            "modality_classifier": adv_syn + adv_real,
        }
        found = {group: self.gradients(group, loss) for group, loss in losses.items()}
        for group, gradients in found.items():
            self.update(group, gradients)
        return {"critic": critic_loss.item(), **{group: loss.item() for group, loss in losses.items()}}


def min_max(x, low=None, high=None):
    low, high = (x.min(0) if low is None else low), (x.max(0) if high is None else high)
    return (x - low) / np.where(high > low, high - low, 1)


def standardised(module: JFSE, batch):
    names = (*MODALITIES, "class_embedding")
    return {n: (batch[n] - getattr(module, f"{n}_mean")) / getattr(module, f"{n}_scale") for n in names}


def scaled_by_batch(module: JFSE, batch):
    return {n: torch.from_numpy(min_max(batch[n].numpy())) for n in (*MODALITIES, "class_embedding")}


CASES = {
    "honest, weight 1": ({"dropout": 0.0}, 1.0, standardised),
    "honest, weight .3": ({"dropout": 0.0, "alignment_weight": 0.3}, 0.3, standardised),
    "honest, none": ({"dropout": 0.0, "alignment": None}, 0.0, standardised),
    "as published": ({"preset": "as_published"}, 1e-4, scaled_by_batch),
    "as published, weight 2": ({"preset": "as_published", "alignment_weight": 2.0}, 2.0, scaled_by_batch),
}


@pytest.mark.parametrize("case", CASES)
def test_training_is_that_of_the_formulas(case, tmp_path):
    """Every weight and gradient after four steps over two epochs, the second with a reversal strength above 0."""
    arguments, weight, prepare = CASES[case]
    recorder, dm = Recorder(), prepared()
    module = fit(
        tmp_path,
        dm,
        epochs=2,
        trainer_arguments={"precision": "64-true", "limit_train_batches": 2, "callbacks": [recorder]},
        **arguments,
    )
    plain = PlainJFSE(recorder.initial, weight, "preset" in arguments, 1e-3)
    losses = []
    for epoch, batch, draws in recorder.steps:
        assert [tuple(x.shape) for x in draws.normal] == [(16, 300)] * 2  # noise: one draw per modality and batch
        assert [tuple(x.shape) for x in draws.uniform] == [(16, 1)] * 10
        strength = 2 / (1 + math.exp(-10 * epoch / 2)) - 1
        losses.append(plain.step(prepare(module, batch), batch["label"], draws.normal, draws.uniform, strength))
    assert [epoch for epoch, _, _ in recorder.steps] == [0, 0, 1, 1]
    for name, parameter in module.named_parameters():
        for found, wanted in ((recorder.gradients[name], plain.w[name].grad), (parameter, plain.w[name])):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
        # A critic's last bias adds the same to real and fake.
        moved = (parameter - recorder.initial[name]).abs().max() > 1e-4
        assert moved != name.endswith("score.bias"), name
    logged = module.trainer.callback_metrics  # means over the last epoch
    for key, name in (("critic", "critic"), ("generator", "generators"), ("regressor", "regressors")):
        assert float(logged[f"train/{key}"]) == pytest.approx(np.mean([step[name] for step in losses[2:]]), rel=1e-5)


def recorded(folder, seed: int) -> list[Draws]:
    recorder = Recorder()
    fit(folder, data(), seed=seed, trainer_arguments={"limit_train_batches": 2, "callbacks": [recorder]})
    return [draws for _, _, draws in recorder.steps]


def test_noise_is_normal_mixes_are_uniform_and_both_are_new_in_every_batch_and_run(tmp_path):
    first, second = recorded(tmp_path, seed=0)
    for draws in (first, second):
        mixes = torch.cat(draws.uniform)
        assert mixes.min() >= 0
        assert mixes.max() <= 1
        assert len({tuple(x.flatten().tolist()) for x in draws.uniform}) == 10
        assert torch.cat(draws.normal).std().item() == pytest.approx(1, abs=0.03)
        assert not torch.equal(*draws.normal)
    for other in (second, recorded(tmp_path, seed=1)[0]):
        assert not torch.equal(first.normal[0], other.normal[0])


@pytest.mark.parametrize("preset", ["honest", "as_published"])
def test_four_adam_optimisers_with_beta1_one_half(preset):
    module = JFSE(DIMS, "kl", preset, width=16)
    optimisers = module.configure_optimizers()
    assert len(optimisers) == 4
    assert all(isinstance(o, torch.optim.Adam) for o in optimisers)
    assert {(o.param_groups[0]["lr"], *o.param_groups[0]["betas"]) for o in optimisers} == {(1e-4, 0.5, 0.999)}
    trained = [id(p) for o in optimisers for group in o.param_groups for p in group["params"]]
    assert sorted(trained) == sorted(id(p) for p in module.parameters())


def test_reversal_follows_the_schedule_over_the_epochs(tmp_path):
    found = []

    class Watch(Callback):
        def on_train_epoch_start(self, trainer, module) -> None:
            """The gradient of a regressor's output on the way back tells the strength: compare with a plain one."""
            x = torch.randn(2, 3, 4, requires_grad=True)
            module.modality_classifier.loss(*x, module._reversal_strength()).backward()
            reversed_, x.grad = x.grad, None
            scores = module.modality_classifier.layers(x.flatten(0, 1))
            (2 * F.cross_entropy(scores, torch.tensor([0, 0, 0, 1, 1, 1]))).backward()
            found.append(float(-(reversed_ / x.grad).median()))

    fit(tmp_path, data(), None, epochs=5, trainer_arguments={"limit_train_batches": 1, "callbacks": [Watch()]})
    expected = [2 / (1 + math.exp(-10 * epoch / 5)) - 1 for epoch in range(5)]
    assert found == pytest.approx(expected, abs=1e-5)
    assert found[0] == 0
    assert found[-1] > 0.99


# Presets --------------------------------------------------------------------------------------------------------


def test_standardisation_takes_its_statistics_from_training_rows_only(tmp_path):
    def shift(drawn: FeatureSet) -> None:
        for x in drawn.features.values():
            x[drawn.split == "test"] += 1000

    trained = [fit(tmp_path, dm, dropout=0.0) for dm in (prepared(), prepared(change=shift))]
    assert_same_weights(*trained)
    dm = prepared()
    rows = dm.indices("train")
    for name in MODALITIES:
        x = dm.data.features[name][rows]
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
    module = fit(tmp_path, dm, preset="as_published")
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


def test_a_constant_feature_column_is_harmless(tmp_path):
    def flatten(drawn: FeatureSet) -> None:
        for x in drawn.features.values():
            x[:, 0] = 3.0

    for preset in ("honest", "as_published"):
        module = fit(tmp_path, prepared(change=flatten), preset=preset)
        assert all(tensor.isfinite().all() for tensor in module.state_dict().values())


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
    dm = prepared(width=24, as_published=True)  # wide enough that no two rectified outputs are equal
    module = model(dm, "kl", preset="as_published")
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


@pytest.mark.parametrize(("alignment", "least"), [(None, 0.85), ("cs", 0.6), ("kl", 0.6)])
def test_validation_map_rises_far_above_chance_on_easy_data(alignment, least, tmp_path):
    dm = Synthetic(**EASY, batch_size=16)
    module = fit(tmp_path, dm, alignment, epochs=6, width=32, learning_rate=5e-3)
    assert float(module.trainer.callback_metrics["val/average/MAP"]) > least  # chance: 0.25


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
@pytest.mark.parametrize("preset", ["honest", "as_published"])
def test_bf16_mixed_trains_on_the_cpu(preset, tmp_path):
    module = fit(tmp_path, data(), epochs=2, preset=preset, trainer_arguments={"precision": "bf16-mixed"})
    assert all(value.isfinite() for value in module.trainer.callback_metrics.values())
    assert {p.dtype for p in module.parameters()} == {torch.float32}


# Refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dims",
    [
        {"image": 8, "text": 6},
        {"image": 8, "class_embedding": 5},
        {"image": 8, "text": 6, "audio": 7, "class_embedding": 5},
        {},
    ],
)
def test_other_than_two_modalities_and_a_class_embedding_are_refused(dims):
    with pytest.raises(ValueError, match="two modalities and 'class_embedding'"):
        JFSE(dims)


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'published'.*honest.*as_published"):
        JFSE(DIMS, preset="published", width=16)


def test_an_unknown_loss_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"'cmpm_k'.*cmpm_kl"):
        JFSE(DIMS, "cmpm_k", width=16)


# Same numbers again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(dropout, tmp_path):
    first, second, other = (fit(tmp_path, data(), seed=seed, dropout=dropout) for seed in (3, 3, 4))
    assert_same_weights(first, second)
    assert not torch.equal(first.regressors["image"][1].weight, other.regressors["image"][1].weight)


@pytest.mark.parametrize("preset", ["honest", "as_published"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(preset, tmp_path):
    """Bit for bit, with the preset's dropout, from any state of the random numbers at the time of resumption."""
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    whole = fit(
        tmp_path, data(), epochs=3, preset=preset, trainer_arguments={"callbacks": [keep], "enable_checkpointing": True}
    )
    for epoch in (0, 1):
        resumed = model(data(), seed=99, preset=preset)
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
        a, b = batch.two(self)
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
