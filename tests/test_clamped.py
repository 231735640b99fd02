"""The clamped form of the CS and GCS losses: its formula, and where it departs from the exact divergence."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import LABELS, as_arrays, assert_matches, make_embeddings
from test_losses import SCHEMES

from losses import build_loss
from losses.divergence import clamped_divergence, gcs_divergence

EPSILON = 1e-8


def clamped(ps: list[np.ndarray], epsilon: float = EPSILON) -> np.ndarray:
    """The divergence of distributions whose entries are at least epsilon."""
    return reference.gcs([np.maximum(p, epsilon) for p in ps])


def unshifted_matching(x: np.ndarray, z: np.ndarray, temperature: float) -> np.ndarray:
    """exp(s) / sum exp(s) of the rows."""
    weights = np.exp(reference.unit_rows(x) @ reference.unit_rows(z).T / temperature)
    return weights / weights.sum(1, keepdims=True)


# Values


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("keywords", [{}, {"temperature": 0.02}, {"temperature": 0.3, "epsilon": 1e-2}])
def test_cs_clamped_matches_its_formula(keywords, labels):
    embeddings = make_embeddings()
    output = build_loss("cs_clamped", **keywords)(embeddings, LABELS[labels])
    temperature, epsilon = keywords.get("temperature", 0.1), keywords.get("epsilon", EPSILON)
    parts = {}
    targets = reference.true_matching(LABELS[labels].numpy())
    for (name, x, z), q in zip(reference.both_directions(as_arrays(embeddings)), targets, strict=True):
        parts[name] = clamped([unshifted_matching(x, z, temperature), q], epsilon).mean()
    assert_matches(output, parts)


@pytest.mark.parametrize("use_target", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_gcs_clamped_matches_its_formula(modalities, scheme, use_target):
    embeddings = make_embeddings(modalities)
    loss = build_loss("gcs_clamped", temperature=0.04, scheme=scheme, use_target=use_target)
    arrays, targets, parts = as_arrays(embeddings), reference.true_matching(LABELS["soft"].numpy()), {}
    for name, edges in reference.ring_sets(list(arrays), scheme).items():
        ps = [unshifted_matching(arrays[a], arrays[b], 0.04) for a, b in edges]
        ps += [targets[name in ("counterclockwise", "reversed")]] * use_target
        parts[name] = clamped(ps).mean()
    assert_matches(loss(embeddings, LABELS["soft"]), parts)


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 5), st.integers(0, 10**6))
def test_clamped_divergence_is_exact_where_nothing_is_below_epsilon(count, seed):
    logits = torch.randn(count, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    logs = list(logits.log_softmax(-1))
    value = clamped_divergence([log.exp() for log in logs], EPSILON)
    torch.testing.assert_close(value, gcs_divergence(logs), rtol=1e-10, atol=1e-12)


# Where it departs


@pytest.mark.parametrize("count", [2, 3, 4])
def test_value_saturates_where_the_exact_one_does_not(count):
    """Distributions on a point each, ever sharper: the exact value grows with the logits, the clamped one stays."""
    values = {}
    for logit in (40.0, 80.0):
        logs = list((logit * torch.eye(count, dtype=torch.float64)).log_softmax(-1))
        values[logit] = (gcs_divergence(logs), clamped_divergence([log.exp() for log in logs], EPSILON))
    (exact, saturated), (exact_later, saturated_later) = values.values()
    torch.testing.assert_close(exact_later - exact, torch.tensor(40.0 * (count - 1), dtype=torch.float64))
    torch.testing.assert_close(saturated_later, saturated, rtol=1e-9, atol=0)
    torch.testing.assert_close(saturated, torch.tensor(-(count - 1) * np.log(EPSILON) - np.log(count)))


def test_gradient_vanishes_below_epsilon():
    logits = torch.tensor([[40.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    assert logits.softmax(1)[0, 1] < EPSILON
    (exact,) = torch.autograd.grad(gcs_divergence([logits.log_softmax(1), target.log()]).sum(), logits)
    (dead,) = torch.autograd.grad(clamped_divergence([logits.softmax(1), target], EPSILON).sum(), logits)
    assert exact.abs().max() > 0.9
    assert dead.abs().max() < 1e-12


@pytest.mark.parametrize(("exact", "clamped_form", "modalities"), [("cs", "cs_clamped", 2), ("gcs", "gcs_clamped", 3)])
def test_unshifted_exponential_overflows(exact, clamped_form, modalities):
    embeddings = {name: x.float() for name, x in make_embeddings(modalities).items()}
    embeddings["text"] = embeddings["image"]
    assert build_loss(clamped_form, temperature=1e-3)(embeddings, LABELS["integer"]).total.isnan()
    assert build_loss(exact, temperature=1e-3)(embeddings, LABELS["integer"]).total.isfinite()
