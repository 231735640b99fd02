"""JFSE: its training step against plain PyTorch, its optimisers and schedule, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from jfse_cases import MODALITIES, data, fit, min_max, prepared
from lightning.pytorch.callbacks import Callback
from torch.autograd import grad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from datamodules import SyntheticItems
from lightning_modules.jfse import JFSE

DIMS = {"image": 8, "text": 6, "class_embedding": 5}


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


def standardised(module: JFSE, batch):
    names = (*MODALITIES, "class_embedding")
    return {n: (batch[n] - getattr(module, f"{n}_mean")) / getattr(module, f"{n}_scale") for n in names}


def scaled_by_batch(module: JFSE, batch):
    return {n: torch.from_numpy(min_max(batch[n].numpy())) for n in (*MODALITIES, "class_embedding")}


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
    module = fit(
        tmp_path,
        dm,
        epochs=2,
        trainer_arguments={"precision": "64-true", "limit_train_batches": 2, "callbacks": [recorder]},
        **arguments,
    )
    plain = PlainJFSE(recorder.initial, weight, "protocol" in arguments, 1e-3)
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


# Refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["image text", "image class_embedding", "image text audio class_embedding", ""])
def test_other_than_two_modalities_and_a_class_embedding_are_refused(names):
    with pytest.raises(ValueError, match="two modalities of vectors and 'class_embedding'"):
        JFSE(dict.fromkeys(names.split(), 5))


def test_items_and_unknown_words_are_refused_with_what_there_is():
    with pytest.raises(ValueError, match=r"vectors.*OwnData.*text, video, motion.*LAVIMO"):
        JFSE(SyntheticItems().dims)
    with pytest.raises(ValueError, match=r"'published'.*honest.*as_published"):
        JFSE(DIMS, protocol="published", width=16)
    with pytest.raises(ValueError, match=r"'cmpm_k'.*cmpm_kl"):
        JFSE(DIMS, "cmpm_k", width=16)
