"""Networks of adversarial retrieval: shapes, the WGAN-GP critic loss against autograd, gradient reversal."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import grad
from torch.nn import functional as F

from lightning_modules.networks.adversarial import Critic, ModalityClassifier, generator, regressor

PENALTY = 10.0


def critic_and_batch(seed: int, batch: int = 5, feature: int = 4, classes: int = 3, width: int = 6):
    """A critic in float64 and a batch (real, fake, class embedding, mix)."""
    torch.manual_seed(seed)
    critic = Critic(feature, classes, width).double()
    rows = [torch.randn(batch, d, dtype=torch.float64) for d in (feature, feature, classes)]
    return critic, (*rows, torch.rand(batch, 1, dtype=torch.float64))


def wgan_gp(critic: nn.Module, real, fake, class_embedding, mix) -> torch.Tensor:
    """E D(fake) - E D(real) + 10 E( |grad_x D(x, a)| - 1 )^2 at x between real and fake, differentiated twice."""
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    (slope,) = grad(critic(between, class_embedding).sum(), between, create_graph=True)
    penalty = ((slope.norm(dim=1) - 1) ** 2).mean()
    return critic(fake, class_embedding).mean() - critic(real, class_embedding).mean() + PENALTY * penalty


def gradients(loss: torch.Tensor, module: nn.Module) -> list[torch.Tensor]:
    """Gradient of every parameter, zero where the loss does not reach it."""
    found = grad(loss, list(module.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(module.parameters(), found, strict=True)]


def test_critic_is_two_dense_layers_on_the_concatenation():
    critic, (feature, _, a, _) = critic_and_batch(0)
    weight = torch.cat([critic.feature.weight, critic.condition.weight], dim=1)
    hidden = F.leaky_relu(F.linear(torch.cat([feature, a], dim=1), weight, critic.feature.bias), 0.2)
    expected = F.linear(hidden, critic.score.weight, critic.score.bias)[:, 0]
    torch.testing.assert_close(critic(feature, a), expected)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 6),
    feature=st.integers(1, 5),
    classes=st.integers(1, 4),
    width=st.integers(1, 8),
)
def test_critic_loss_and_its_gradient_are_those_of_wgan_gp(seed, batch, feature, classes, width):
    critic, rows = critic_and_batch(seed, batch, feature, classes, width)
    loss, expected = critic.loss(*rows), wgan_gp(critic, *rows)
    # The gradient's norm is taken in float32.
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    for found, wanted in zip(gradients(loss, critic), gradients(expected, critic), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_critic_loss_under_autocast_is_near_the_exact_one(dtype):
    critic, rows = critic_and_batch(3)
    expected = critic.loss(*rows).item()
    critic, rows = critic.float(), [x.float() for x in rows]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = critic.loss(*rows)
    loss.backward()
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    assert loss.item() == pytest.approx(expected, abs=tolerance)
    assert all(p.grad.isfinite().all() for p in critic.parameters() if p.grad is not None)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Identity])
def test_regressor_and_generator_map_to_their_widths(activation):
    torch.manual_seed(0)
    to_class = regressor(7, 32, 5, activation())
    to_feature = generator(5, 300, 32, 7, activation())
    feature, a, noise = torch.randn(64, 7), torch.randn(64, 5), torch.randn(64, 300)
    embedding, synthetic = to_class(feature), to_feature(torch.cat([a, noise], dim=1))
    assert embedding.shape == (64, 5)
    assert synthetic.shape == (64, 7)
    assert [tuple(p.shape) for p in to_class.parameters()] == [(32, 7), (32,), (5, 32), (5,)]
    assert [tuple(p.shape) for p in to_feature.parameters()] == [(32, 305), (32,), (7, 32), (7,)]
    for output in (embedding, synthetic):
        assert bool((output < 0).any()) == (activation is nn.Identity)


@pytest.mark.parametrize(("width", "layers"), [(300, [300, 150, 75, 2]), (384, [384, 192, 96, 2])])
def test_modality_classifier_halves_its_width_twice(width, layers):
    shapes = [tuple(p.shape) for p in ModalityClassifier(width).parameters() if p.ndim == 2]
    assert shapes == list(zip(layers[1:], layers, strict=False))


def plain_cross_entropies(classifier: ModalityClassifier, first, second) -> torch.Tensor:
    """Mean over items of -log softmax of the own modality, both modalities added."""
    own = [classifier.layers(x).softmax(dim=1)[:, k] for k, x in enumerate((first, second))]
    return sum(-p.log().mean() for p in own)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), batch=st.integers(1, 7), width=st.integers(1, 9), strength=st.floats(0, 1))
def test_modality_loss_adds_both_cross_entropies_and_reverses_upstream(seed, batch, width, strength):
    torch.manual_seed(seed)
    classifier = ModalityClassifier(width).double()
    rows = torch.randn(2, batch, width, dtype=torch.float64).unbind()
    inputs = [x.requires_grad_() for x in rows]
    loss, expected = classifier.loss(*inputs, strength), plain_cross_entropies(classifier, *inputs)
    torch.testing.assert_close(loss, expected)
    for found, wanted in zip(gradients(loss, classifier), gradients(expected, classifier), strict=True):
        torch.testing.assert_close(found, wanted)
    fresh = classifier.loss(*inputs, strength), plain_cross_entropies(classifier, *inputs)
    for found, wanted in zip(grad(fresh[0], inputs), grad(fresh[1], inputs), strict=True):
        torch.testing.assert_close(found, -strength * wanted)
