"""Table 1: what its numbers mean."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import reference
import torch

from losses import build_loss
from reproduce.measurements import numerics
from reproduce.measurements.numerics import DIVERGENCES, GRID, PRECISIONS, assess, draw_inputs, run_grid, summarise


@pytest.fixture(scope="module")
def of() -> Callable[[str, str, int], pd.DataFrame]:
    """The outcomes of a method in a precision at a magnitude."""
    outcomes = run_grid(range(1), {**GRID, "batches": [8]})
    return lambda *key: outcomes[(outcomes[["method", "precision", "magnitude"]] == key).all(axis=1)]


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


@pytest.mark.parametrize(
    ("value", "gradient", "exact_value", "exact_gradient", "finite", "counts", "errors"),
    [
        # by hand
        (
            1.5,
            [[3.0, 0], [0, 0], [1, 0]],
            2.0,
            [[3.0, 0], [4, 0], [0, 0]],
            (1, 1, 1),
            (1, 2),
            (0.25, math.sqrt(17) / 5),
        ),
        # neither value nor gradient is finite
        (math.nan, [[1.0, math.nan], [1, 1]], 2.0, [[1.0, 1], [1, 1]], (0, 0, 1), (1, 2), (math.nan, math.nan)),
        # an infinite truth counts for no error
        (18.0, [[1.0, 1]], math.inf, [[math.nan, 1.0]], (1, 1, 0), (0, 0), (math.nan, math.nan)),
    ],
)
def test_an_outcome(value, gradient, exact_value, exact_gradient, finite, counts, errors):
    exact = torch.tensor(exact_gradient, dtype=torch.float64)
    found = assess(value, torch.tensor(gradient), exact_value, exact)
    assert tuple(found[f"finite {what}"] for what in ("value", "gradient", "truth")) == finite
    assert (found["live"], found["alive"]) == counts
    assert (found["error"], found["gradient error"]) == pytest.approx(errors, nan_ok=True)


def test_a_gradient_too_small_for_the_precision_is_not_expected_of_it():
    exact = torch.full((1, 2), 1e-9, dtype=torch.float64)
    assert assess(1.0, torch.zeros(1, 2).half(), 1.0, exact)["alive"] == 0
    assert assess(1.0, torch.zeros(1, 2).bfloat16(), 1.0, exact)["alive"] == 1


def test_a_summary_by_hand():
    first = assess(1.5, torch.ones(1, 2), 2.0, torch.ones(1, 2, dtype=torch.float64))
    others = [{"finite value": False, "error": math.nan, "live": 0}, {"error": 0.75}]
    assert summarise(pd.DataFrame([first, *({**first, **other} for other in others)])) == {
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
def test_losses_in_log_space_are_finite_and_exact_at_every_magnitude(of, method, precision):
    for magnitude in GRID["magnitudes"]:
        found = summarise(of(method, precision, magnitude))
        assert found["finite values"] == found["finite gradients"] == found["live gradients"] == 1
        assert found["largest relative error"] < 1e-5
        # A logit is known to eps times its magnitude in float32, whatever the embeddings are rounded to.
        known = magnitude * torch.finfo(torch.float32).eps
        assert found["gradient error"] < 10 * known + torch.finfo(PRECISIONS[precision]).eps


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", ["CS, clamped", "GCS, clamped"])
def test_clamped_losses_saturate_and_then_overflow(of, method, precision):
    assert summarise(of(method, precision, 1))["largest relative error"] < 1e-5
    saturated = summarise(of(method, precision, 30))
    assert saturated["finite gradients"] == 1
    assert saturated["relative error"] > 0.01
    assert summarise(of(method, precision, 1_000))["finite gradients"] == 0


def test_products_in_ordinary_space_underflow_though_the_denominator_is_bounded(of):
    assert summarise(of("CS, ordinary space", "float32", 10))["largest relative error"] < 1e-4
    found = list(of("CS, ordinary space", "float32", 10_000)["finite value"])
    # One-hot, multi-positive, uniform and saturated: only a target that is positive everywhere is met by every softmax.
    assert found == [False, False, True, True]
