"""Table 1: what its numbers mean."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import reference
import torch

from losses import build_loss
from reproduce.measurements import numerics
from reproduce.measurements.numerics import DIVERGENCES, GRID, PRECISIONS, assess, draw_inputs, run_grid, summarise


@pytest.fixture(scope="module")
def outcomes() -> numerics.Outcomes:
    return run_grid(range(1), {**GRID, "batches": [8]})


# Inputs and truth


def test_inputs_are_unit_vectors_whose_pairs_lie_at_every_angle():
    embeddings, targets = draw_inputs(0, 256)
    assert list(targets) == GRID["targets"]
    for x in embeddings.values():
        torch.testing.assert_close(x.norm(dim=1), torch.ones(256, dtype=torch.float64))
    for other in ("b", "c"):
        cosine = (embeddings["a"] * embeddings[other]).sum(1)
        counts = torch.histc(cosine, bins=4, min=-1, max=1)
        assert (counts > 32).all()
    off_diagonal = targets["saturated"][~torch.eye(256, dtype=torch.bool)]
    assert 0 < off_diagonal.min() < off_diagonal.max() < 1e-8


def test_inputs_depend_on_the_seed_alone():
    for first, again in zip(draw_inputs(3, 8), draw_inputs(3, 8), strict=True):
        assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(draw_inputs(3, 8)[0]["a"], draw_inputs(4, 8)[0]["a"])


@pytest.mark.parametrize("method", DIVERGENCES)
def test_every_loss_and_its_truth_see_the_same_logits(method):
    """At a magnitude where epsilon hardly matters, the loss in float64 is the truth to a fraction of a percent."""
    embeddings, targets = draw_inputs(0, 8)
    divergence = DIVERGENCES[method]
    scaled = {name: 2 * embeddings[name] for name in list(embeddings)[: divergence.modalities]}
    value = divergence.build(2)(scaled, targets["uniform"]).total
    exact = divergence.build(2, exact=True)(scaled, targets["uniform"]).total
    torch.testing.assert_close(value, exact, rtol=1e-3, atol=0)


def test_the_truth_of_cmpm_is_kl_without_epsilon():
    embeddings, targets = draw_inputs(0, 8)
    pair = {name: 10 * embeddings[name] for name in ("a", "b")}
    q = targets["saturated"].double()
    value = DIVERGENCES["CMPM-KL"].build(10, exact=True)(pair, q).total
    arrays = {name: x.numpy() for name, x in pair.items()}
    sides = zip(reference.both_directions(arrays), reference.true_matching(q.numpy()), strict=True)
    expected = sum(reference.kl(reference.softmax(x @ reference.unit_rows(z).T), q).mean() for (_, x, z), q in sides)
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    assert build_loss("cmpm_kl")(pair, q).total < 0.7 * expected
    assert DIVERGENCES["CMPM-KL"].build(10, exact=True)(pair, targets["one-hot"]).total == math.inf


# What is counted


def test_an_outcome_by_hand():
    exact = torch.tensor([[3.0, 0.0], [4.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    found = assess(1.5, torch.tensor([[3.0, 0.0], [0.0, 0.0], [1.0, 0.0]]), 2.0, exact)
    assert (found.finite_value, found.finite_gradient, found.live, found.alive) == (True, True, 1, 2)
    assert found.error == 0.25
    assert found.gradient_error == pytest.approx(math.sqrt(17) / 5)


def test_an_outcome_that_is_not_finite():
    exact = torch.ones(2, 2, dtype=torch.float64)
    found = assess(math.nan, torch.tensor([[1.0, math.nan], [1.0, 1.0]]), 2.0, exact)
    assert (found.finite_value, found.finite_gradient, found.live, found.alive) == (False, False, 1, 2)
    assert found.error is None
    assert found.gradient_error is None


def test_an_infinite_truth_counts_for_no_error():
    found = assess(18.0, torch.ones(2, 2), math.inf, torch.full((2, 2), math.nan, dtype=torch.float64))
    assert (found.finite_value, found.finite_gradient, found.live, found.alive) == (True, True, 0, 0)
    assert (found.error, found.gradient_error, found.exact_is_finite) == (None, None, False)


def test_a_gradient_too_small_for_the_precision_is_not_expected_of_it():
    exact = torch.full((1, 2), 1e-9, dtype=torch.float64)
    assert assess(1.0, torch.zeros(1, 2).half(), 1.0, exact).alive == 0
    assert assess(1.0, torch.zeros(1, 2).bfloat16(), 1.0, exact).alive == 1


def test_a_summary_by_hand():
    first = assess(1.5, torch.ones(1, 2), 2.0, torch.ones(1, 2, dtype=torch.float64))
    found = summarise([first, replace(first, finite_value=False, error=None, live=0), replace(first, error=0.75)])
    assert found == {
        "finite values": pytest.approx(2 / 3),
        "finite gradients": 1.0,
        "live gradients": pytest.approx(2 / 3),
        "relative error": 0.5,
        "largest relative error": 0.75,
        "gradient error": 0.0,
    }


# What the table says


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", numerics.LOG_SPACE)
def test_losses_in_log_space_are_finite_and_exact_at_every_magnitude(outcomes, method, precision):
    for magnitude in GRID["magnitudes"]:
        found = summarise(outcomes[method, precision, magnitude])
        assert found["finite values"] == found["finite gradients"] == found["live gradients"] == 1
        assert found["largest relative error"] < 1e-5
        # A logit is known to eps times its magnitude in float32, whatever the embeddings are rounded to.
        known = magnitude * torch.finfo(torch.float32).eps
        assert found["gradient error"] < 10 * known + torch.finfo(PRECISIONS[precision]).eps


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", ["CS, clamped", "GCS, clamped"])
def test_clamped_losses_saturate_and_then_overflow(outcomes, method, precision):
    assert summarise(outcomes[method, precision, 1])["largest relative error"] < 1e-5
    saturated = summarise(outcomes[method, precision, 30])
    assert saturated["finite gradients"] == 1
    assert saturated["relative error"] > 0.01
    assert summarise(outcomes[method, precision, 1_000])["finite gradients"] == 0


def test_products_in_ordinary_space_underflow_though_the_denominator_is_bounded(outcomes):
    assert summarise(outcomes["CS, ordinary space", "float32", 10])["largest relative error"] < 1e-4
    found = [outcome.finite_value for outcome in outcomes["CS, ordinary space", "float32", 10_000]]
    # One-hot, multi-positive, uniform and saturated: only a target that is positive everywhere is met by every softmax.
    assert found == [False, False, True, True]


@pytest.mark.parametrize("method", DIVERGENCES)
def test_hyperparameters_are_what_the_constructor_takes(method):
    loss = DIVERGENCES[method].build(1)
    names = DIVERGENCES[method].hyperparameters
    assert type(loss)(**{name: getattr(loss, name) for name in names}).extra_repr() == loss.extra_repr()
    assert set(names) == {name for name in vars(loss) if name[0] != "_" and name != "training"}
