"""Divergences on log-probabilities: values, properties and edge cases."""

import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import assert_close
from torch.autograd import gradcheck

from losses.divergence import clamped_divergence, cs_divergence, exp_, gcs_divergence, kl_divergence

INF = float("inf")
HALF = [torch.float16, torch.bfloat16]
PRECISIONS = [torch.float64, torch.float32, *HALF]

properties = settings(max_examples=60, deadline=None, derandomize=True)


def gcs_of(*arguments: torch.Tensor) -> torch.Tensor:
    return gcs_divergence(list(arguments))


# divergence, number of arguments, reference
FORMULAS = [(cs_divergence, 2, reference.cs), (kl_divergence, 2, reference.kl)]
FORMULAS += [(gcs_of, count, lambda *ps: reference.gcs(ps)) for count in (2, 3, 4, 6)]


def random_log_probabilities(count: int, shape: tuple[int, ...] = (5, 7), spread: float = 2.0, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (spread * torch.randn(shape, generator=generator, dtype=torch.float64)).log_softmax(-1) for _ in range(count)
    ]


@st.composite
def log_measures(draw, count: int | None = None, zeros: bool = True):
    """`count` unnormalised log-measures over 1..6 points, some points with no mass, none of them empty."""
    count = draw(st.integers(2, 5)) if count is None else count
    size = draw(st.integers(1, 6))
    finite = st.floats(-20, 20)
    entry = st.one_of(finite, finite, st.just(-INF)) if zeros else finite
    rows = [draw(st.lists(entry, min_size=size, max_size=size)) for _ in range(count)]
    for row in rows:
        if max(row) == -INF:
            row[draw(st.integers(0, size - 1))] = draw(finite)
    return [torch.tensor(row, dtype=torch.float64) for row in rows]


# Values and gradients


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 4), (3, 1)])
@pytest.mark.parametrize(("divergence", "count", "formula"), FORMULAS)
def test_values_match_the_formulas(shape, divergence, count, formula):
    logs = random_log_probabilities(count, shape)
    found = divergence(*logs)
    assert found.shape == shape[:-1]
    assert_close(found, formula(*(log.exp().numpy() for log in logs)))


def test_values_with_zero_entries_match_the_formulas():
    p = np.array([[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 1.0, 0.0]])
    q = np.array([[0.1, 0.0, 0.9, 0.0], [0.0, 0.3, 0.3, 0.4], [0.0, 0.5, 0.5, 0.0]])
    r = np.array([[0.7, 0.1, 0.1, 0.1], [0.0, 0.0, 1.0, 0.0], [0.2, 0.2, 0.2, 0.4]])
    log_p, log_q, log_r = (torch.from_numpy(x).log() for x in (p, q, r))
    assert_close(cs_divergence(log_p, log_q), reference.cs(p, q))
    assert_close(gcs_of(log_p, log_q, log_r), reference.gcs([p, q, r]))
    with np.errstate(invalid="ignore"):
        expected = reference.kl(p, r)
    assert expected[1] == INF  # the prediction misses target mass
    assert_close(kl_divergence(log_p, log_r), expected)


@pytest.mark.parametrize(("divergence", "count"), [(gcs_of, 2), (gcs_of, 4), (kl_divergence, 2)])
def test_gradcheck(divergence, count):
    assert gradcheck(divergence, [x.requires_grad_() for x in random_log_probabilities(count, (3, 4), seed=1)])


@pytest.mark.parametrize("count", [2, 4])
def test_gradcheck_with_zero_entries_in_one_argument(count):
    """The finite arguments keep their exact gradient, the entries of zero mass get zero."""
    *logs, target = random_log_probabilities(count, (2, 4), seed=2)
    target[0, 1:] = -INF
    target[1, 2] = -INF
    logs = [x.requires_grad_() for x in logs]
    assert gradcheck(lambda *args: gcs_of(*args, target), logs)
    target.requires_grad_()
    gcs_of(*logs, target).sum().backward()
    assert torch.isfinite(target.grad).all()
    assert (target.grad[target.isinf()] == 0).all()


def test_kl_gradient_with_zero_target_entries():
    log_prediction = random_log_probabilities(1, (2, 4), seed=3)[0].requires_grad_()
    target = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    kl_divergence(target.log(), log_prediction).sum().backward()
    assert_close(log_prediction.grad, -target.numpy())


# Properties


@properties
@given(log_measures(), st.randoms(use_true_random=False), st.lists(st.floats(-20, 20), min_size=5, max_size=5))
def test_gcs_is_not_negative_and_depends_on_neither_order_nor_scale(logs, random, shifts):
    value = gcs_divergence(logs)
    assert value >= -1e-12
    assert not value.isnan()
    assert_close(gcs_divergence(random.sample(logs, len(logs))), value)
    scaled = [log + shift for log, shift in zip(logs, shifts, strict=False)]
    assert_close(gcs_divergence(scaled), value, atol=4e-12)
    assert_close(cs_divergence(*logs[:2]), gcs_divergence(logs[1::-1]))


@properties
@given(log_measures(count=1), st.lists(st.floats(-10, 10), min_size=2, max_size=5))
def test_zero_between_proportional_measures(logs, shifts):
    assert_close(gcs_divergence([logs[0] + shift for shift in shifts]), 0.0, atol=4e-12)


@properties
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6), st.floats(0.5, 2), st.integers(0, 5), st.integers(2, 5))
def test_positive_unless_proportional(logits, change, position, count):
    log_p = torch.tensor(logits, dtype=torch.float64)
    log_q = log_p.clone()
    log_q[position % len(logits)] += change
    assert gcs_divergence([log_p] * (count - 1) + [log_q]) > 1e-6


@properties
@given(log_measures(count=2, zeros=False))
def test_kl_of_normalised_distributions_is_not_negative(logs):
    log_p, log_q = (log.log_softmax(0) for log in logs)
    assert kl_divergence(log_p, log_q) >= -1e-12
    assert_close(kl_divergence(log_p, log_p), 0.0)


# Edge cases


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_disjoint_or_empty_arguments_in_every_precision(dtype):
    """Disjoint supports, and a distribution without any mass."""
    for p, q in (([0.0, -INF], [-INF, 0.0]), ([-INF, -INF], [0.0, 0.0]), ([-INF, -INF], [-INF, -INF])):
        log_p, log_q = (torch.tensor(x, dtype=dtype, requires_grad=True) for x in (p, q))
        value = cs_divergence(log_p, log_q)
        value.backward()
        assert value == INF
        assert (log_p.grad == 0).all()
        assert (log_q.grad == 0).all()


PAIR = [
    [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [0.0, 0.0, 1.0]],
    [[0.0, 1.0, 0.0], [0.0, 0.5, 0.5], [0.0, 1.0, 0.0], [0.4, 0.6, 0.0]],
]
TRIPLE = [
    [[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]],
    [[0.0, 0.5, 0.5], [0.1, 0.9, 0.0]],
    [[0.5, 0.0, 0.5], [0.3, 0.3, 0.4]],
]


@pytest.mark.parametrize(("measures", "disjoint"), [(PAIR, [True, False, False, True]), (TRIPLE, [True, False])])
def test_disjoint_rows_are_infinite_without_gradient_and_the_others_as_they_are_on_their_own(measures, disjoint):
    """Of three: in row 0 every two overlap, and the three together do not."""
    measures, mask = [torch.tensor(rows, dtype=torch.float64) for rows in measures], torch.tensor(disjoint)
    logs = [m.log().requires_grad_() for m in measures]
    value = gcs_divergence(logs)
    assert (value[mask] == INF).all()
    assert torch.isfinite(value[~mask]).all()
    value.sum().backward()
    alone = [m[~mask].log().requires_grad_() for m in measures]
    gcs_divergence(alone).sum().backward()
    for log, other in zip(logs, alone, strict=True):
        assert (log.grad[mask] == 0).all()
        assert torch.isfinite(other.grad).all()
        assert_close(log.grad[~mask], other.grad)


@pytest.mark.parametrize(("divergence", "count"), [(gcs_of, 2), (gcs_of, 3), (kl_divergence, 2)])
@pytest.mark.parametrize("place", range(2))
def test_nan_stays_in_its_row(divergence, count, place):
    logs = [log.float() for log in random_log_probabilities(count, (5, 40))]
    logs[place][1, 3] = torch.nan
    assert divergence(*logs).isnan().tolist() == [False, True, False, False, False]


EXTREMES = 1e4 * torch.tensor(
    [[1, -1, 0, 3e-4], [-1, 1, 1, -1], [0, 0, 0, 0], [1, 1, 1, 1], [-1, -1, -1, -1], [1, 0, 0, 0]]
)
ONE_HOT = torch.eye(4)[[1, 0, 2, 3, 0, 1]].log()


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("count", [2, 3, 4])
def test_saturated_distributions_stay_finite_and_exact(dtype, count):
    """Saturated, uniform and one-hot rows, met in different combinations by every argument."""
    last = ONE_HOT.to(dtype, copy=True) if count % 2 == 0 else torch.zeros(6, 4, dtype=dtype)
    logits = [EXTREMES.roll(shift, 0) for shift in range(count - 2)] + [EXTREMES.flip(0)]
    leaves = [x.requires_grad_() for x in [*(x.to(dtype).log_softmax(-1) for x in logits), last]]
    expected = gcs_of(*(x.detach().double() for x in leaves))
    value = gcs_of(*leaves)
    assert torch.isfinite(value).all()
    rounding = torch.finfo(value.dtype).eps
    assert_close(value.double(), expected, rtol=8 * rounding, atol=1e4 * torch.finfo(torch.float32).eps)
    value.float().sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exponentials_are_exact_down_to_the_least_number(dtype):
    tiny, rounding = torch.finfo(dtype).tiny, torch.finfo(dtype).eps
    x = torch.cat([torch.linspace(2 * math.log(tiny * rounding), 0, 4001, dtype=dtype), torch.tensor([-INF])])
    found = exp_(x.clone(), 0.5).double()
    assert_close(found, np.exp(0.5 * x.double().numpy()), rtol=-math.log(tiny) * rounding, atol=2 * tiny * rounding)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("log_target", [ONE_HOT, torch.full((6, 4), 0.25).log()], ids=["one-hot", "uniform"])
def test_forward_kl_of_saturated_predictions_is_finite(dtype, log_target):
    prediction = EXTREMES.to(dtype).log_softmax(-1).requires_grad_()
    value = kl_divergence(log_target.to(dtype), prediction)
    value.float().sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(prediction.grad).all()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("divergence", "count"), [(gcs_of, 2), (gcs_of, 4), (kl_divergence, 2)])
def test_half_precision_input_is_reduced_in_float32(dtype, divergence, count):
    logs = [x.to(dtype) for x in random_log_probabilities(count, (8, 512))]
    value, full = divergence(*logs), divergence(*(x.float() for x in logs))
    assert_close(value.float(), full, rtol=torch.finfo(value.dtype).eps, atol=1e-6)


def test_arguments_that_do_not_fit_are_refused_and_others_broadcast():
    p, q = random_log_probabilities(2)
    with pytest.raises(ValueError, match="two"):
        gcs_divergence([p])
    for divergence in (cs_divergence, kl_divergence):
        with pytest.raises(ValueError, match=r"7.*8"):
            divergence(p, torch.zeros(5, 8))
    assert_close(cs_divergence(p, q[0]), cs_divergence(p, q[:1].expand_as(p)))
    assert_close(kl_divergence(p[0], q), kl_divergence(p[:1].expand_as(q), q))


# The clamped form


def test_clamped_gradient_vanishes_below_epsilon():
    logits = torch.tensor([[40.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    (exact,) = torch.autograd.grad(gcs_divergence([logits.log_softmax(1), target.log()]).sum(), logits)
    (dead,) = torch.autograd.grad(clamped_divergence([logits.softmax(1), target], 1e-8).sum(), logits)
    assert exact.abs().max() > 0.9
    assert dead.abs().max() < 1e-12
