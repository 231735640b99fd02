"""Kernel divergences between samples: values, properties, masks, precision, memory and refusals."""

import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import assert_close, assert_gradients_are_differentiable
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from losses import fused
from losses.kernel import kernel_cs_divergence, kernel_gcs_divergence

both = pytest.mark.parametrize(
    "divergence",
    [lambda each: kernel_cs_divergence(*each[:2], 1.0), lambda each: kernel_gcs_divergence(each, 1.0)],
    ids=["cs", "gcs"],
)
properties = settings(max_examples=50, deadline=None, derandomize=True)


def draw_samples(*rows: int, width: int = 3, seed: int = 0, spread: float = 1.0) -> list[torch.Tensor]:
    """Samples about different points, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return [
        spread * torch.randn(n, width, generator=generator, dtype=torch.float64) + k / 2 for k, n in enumerate(rows)
    ]


@st.composite
def samples(draw, count: int = 2):
    """Samples of 1..5 rows each in one to three dimensions, and a bandwidth."""
    width = draw(st.integers(1, 3))
    row = st.lists(st.floats(-3, 3), min_size=width, max_size=width)
    drawn = [draw(st.lists(row, min_size=1, max_size=5)) for _ in range(count)]
    return [torch.tensor(rows, dtype=torch.float64) for rows in drawn], draw(st.floats(0.5, 3))


# Values


@pytest.mark.parametrize("sigma", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("rows", [(5, 5), (7, 3), (1, 4), (1, 1), (4, 6, 3), (3, 1, 5, 2)])
def test_samples_match_the_formulas(rows, sigma):
    drawn = draw_samples(*rows)
    arrays = [x.numpy() for x in drawn]
    assert_close(kernel_gcs_divergence(drawn, sigma), reference.kernel_gcs(arrays, sigma))
    assert_close(kernel_cs_divergence(*drawn[:2], sigma), reference.kernel_cs(*arrays[:2], sigma))


@pytest.mark.parametrize("distance", [1.0, 50.0, 1e4])
def test_far_samples_have_the_exact_value_and_gradient(distance):
    """One point each: D = |x - y|^2 / sigma^2, where the kernel itself is 0 in every floating type."""
    x = torch.zeros(1, 1, requires_grad=True)
    y = torch.full((1, 1), distance)
    value = kernel_cs_divergence(x, y, 2.0)
    value.backward()
    assert_close(value, distance**2 / 4, rtol=1e-6)
    assert_close(x.grad, [[-distance / 2]], rtol=1e-6)


# Properties


@given(samples(3))
@properties
def test_the_order_of_samples_and_rows_and_repeated_rows_do_not_matter(case):
    """Of two samples the divergence is never negative, zero for equal ones, and twice the generalised one."""
    (x, y, z), sigma = case
    value = kernel_cs_divergence(x, y, sigma)
    assert value >= -1e-12
    assert_close(kernel_gcs_divergence([y, x], sigma), value / 2, atol=1e-11)
    assert_close(kernel_cs_divergence(x, x.flip(0), sigma), 0.0)
    several = kernel_gcs_divergence([x, y, z], sigma)
    changed = [y.repeat_interleave(2, dim=0), z.repeat(3, 1), x.flip(0)]
    assert_close(kernel_cs_divergence(changed[0], changed[2], sigma), value, atol=1e-11)
    assert_close(kernel_gcs_divergence(changed, sigma), several, atol=1e-11)


def test_of_several_samples_the_estimate_may_be_slightly_negative():
    """Integrals of several densities are estimated by means, and nothing is clamped. Found by descending the value."""
    rows = [
        [[-0.29, 0.25], [0.49, -0.07]],
        [[-0.29, 0.25], [0.49, -0.07]],
        [[-0.05, 0.15], [-0.05, 0.15], [1.05, -1.1], [-0.05, 0.15], [1.62, 0.26]],
        [[0.27, 0.02], [0.27, 0.02], [0.27, 0.02], [-0.79, 1.25], [-1.35, -0.09]],
        [[0.76, -0.18], [-8.43, 2.41], [-0.12, 0.15], [-0.11, 0.2]],
    ]
    value = kernel_gcs_divergence([torch.tensor(each, dtype=torch.float64) for each in rows], 1.0)
    assert_close(value, reference.kernel_gcs([np.array(each) for each in rows], 1.0))
    assert -0.03 < value < -0.01


# Gradients, batches and masks


def test_gradcheck_with_equal_points_among_the_samples():
    x, y, z = draw_samples(4, 3, 2)
    y[0] = x[1]
    leaves = [sample.requires_grad_() for sample in (x, y, z)]
    assert gradcheck(lambda a, b: kernel_cs_divergence(a, b, 0.8), leaves[:2])
    assert gradcheck(lambda *each: kernel_gcs_divergence(each, 0.8), leaves)


def test_second_derivatives_are_those_of_differences():
    x, y, z = (sample.requires_grad_() for sample in draw_samples(4, 3, 2))
    mask = torch.tensor([True, False, True])
    assert_gradients_are_differentiable(lambda a, b: kernel_cs_divergence(a, b, 0.8, None, mask), [x, y])
    assert_gradients_are_differentiable(lambda *each: kernel_gcs_divergence(each, 0.8), [x, y, z])


def padded(lengths: list[int], longest: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, longest, 3) with anything in the padding, which need not stand last, and its mask."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(len(lengths), longest, dtype=torch.bool)
    for row, length in enumerate(lengths):
        mask[row, torch.randperm(longest, generator=generator)[:length]] = True
    x = torch.randn(len(lengths), longest, 3, generator=generator, dtype=torch.float64)
    return x.masked_fill(~mask[..., None], float("nan")), mask


def test_a_batch_of_padded_samples_is_each_of_them_alone():
    (x, x_mask), (y, y_mask) = padded([4, 1, 6], 6, 0), padded([2, 5, 3], 7, 1)
    together = kernel_cs_divergence(x, y, 0.9, x_mask, y_mask)
    alone = [reference.kernel_cs(x[i][x_mask[i]].numpy(), y[i][y_mask[i]].numpy(), 0.9) for i in range(3)]
    assert_close(together, alone)
    whole = torch.nan_to_num(x, nan=0.5)
    alone = [reference.kernel_cs(whole[i].numpy(), y[i][y_mask[i]].numpy(), 0.9) for i in range(3)]
    assert_close(kernel_cs_divergence(whole, y, 0.9, None, y_mask), alone)


def test_gradients_of_padding_are_zero_and_those_of_the_rest_exact():
    (x, x_mask), (y, y_mask) = padded([4, 1, 3], 5, 0), padded([2, 4, 3], 4, 1)
    x, y = (torch.nan_to_num(each, nan=0.3).requires_grad_() for each in (x, y))
    assert gradcheck(lambda a, b: kernel_cs_divergence(a, b, 0.9, x_mask, y_mask), [x, y])
    kernel_cs_divergence(x, y, 0.9, x_mask, y_mask).sum().backward()
    assert (x.grad[~x_mask] == 0).all()
    assert (x.grad[x_mask] != 0).any()
    holed = x.detach().masked_fill(~x_mask[..., None], float("nan")).requires_grad_()
    kernel_cs_divergence(holed, y, 0.9, x_mask, y_mask).sum().backward()
    assert torch.equal(holed.grad, x.grad)


def test_leading_dimensions_broadcast():
    x, (y,) = torch.stack(draw_samples(4, 4, 4)), draw_samples(5, seed=1)
    expected = [reference.kernel_cs(sample.numpy(), y.numpy(), 1.0) for sample in x]
    assert_close(kernel_cs_divergence(x, y, 1.0), expected)
    none = torch.zeros(0, 4, 3, requires_grad=True)
    kernel_cs_divergence(none, y, 1.0).sum().backward()
    assert none.grad.shape == none.shape


# Blocks and memory


class Largest(TorchDispatchMode):
    """Keeps the number of elements of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        output = function(*arguments, **(keywords or {}))
        for tensor in output if isinstance(output, tuple | list) else (output,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return output


def memory(divergence, rows: int) -> tuple[int, int]:
    """Bytes kept for the backward pass, and elements of the largest tensor of both passes."""
    drawn = [sample.requires_grad_() for sample in draw_samples(rows, rows, rows)]
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()  # that of a view is kept once
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with Largest() as largest:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            value = divergence(drawn)
        value.backward()
    assert all((sample.grad != 0).any() for sample in drawn[:2])
    return sum(kept.values()), largest.elements


@both
def test_memory_grows_linearly_with_the_rows(monkeypatch, divergence):
    """What is kept grows with the rows; of the kernel matrices only one block exists, whose size does not."""
    monkeypatch.setitem(fused.BLOCK_ENTRIES, "cpu", 1024)
    (few, small), (many, large) = memory(divergence, 64), memory(divergence, 256)
    assert many < 4.1 * few
    assert small == large == 1024


@pytest.mark.parametrize("entries", [1, 16, 30, 70])
def test_blockwise_equals_dense(monkeypatch, entries):
    """Blocks of one row, of a few with a shorter one at the end, and whole matrices of some pairs of samples."""
    drawn = draw_samples(7, 5, 10)
    (x, x_mask), (y, y_mask) = padded([4, 1, 6], 6, 0), padded([2, 5, 3], 7, 1)

    def run(block: int):
        monkeypatch.setitem(fused.BLOCK_ENTRIES, "cpu", block)
        leaves = [sample.clone().requires_grad_() for sample in drawn]
        values = [kernel_gcs_divergence(leaves, 0.8), kernel_cs_divergence(*leaves[1:], 0.8)]
        sum(values).backward()
        masked = kernel_cs_divergence(x, y, 0.8, x_mask, y_mask)
        return [*values, masked, *(leaf.grad for leaf in leaves)]

    for one, other in zip(run(entries), run(1000), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


# Precision


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_float32_is_exact_to_its_rounding(offset):
    x, y = (sample.float() + offset for sample in draw_samples(40, 30))
    expected = reference.kernel_cs(x.double().numpy(), y.double().numpy(), 1.0)
    found = kernel_cs_divergence(x, y, 1.0)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, atol=5e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@both
def test_half_precision_is_reduced_in_float32(divergence, dtype):
    drawn = [sample.to(dtype) for sample in draw_samples(40, 30, 20)]
    torch.testing.assert_close(divergence(drawn), divergence([x.float() for x in drawn]), rtol=1e-6, atol=1e-6)


@both
def test_under_autocast_value_and_gradient_are_those_in_full_precision(divergence):
    """The backward pass within it."""

    def run(mixed: bool) -> list[torch.Tensor]:
        leaves = [sample.float().requires_grad_() for sample in draw_samples(40, 30, 20)]
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            value = divergence(leaves)
            return [value, *torch.autograd.grad(value, leaves, materialize_grads=True)]

    for one, other in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, mask: (x[:, :2], mask), "samples differ in width"),
        (lambda x, mask: (x[0], mask), r"must be a floating \(..., n, D\) tensor with rows, got \(3,\)"),
        (lambda x, mask: (x.long(), mask), "must be a floating"),
        (lambda x, mask: (x[:0], mask[:0]), r"with rows, got \(0, 3\)"),
        (lambda x, mask: (x, mask[:-1]), "the mask of"),
        (lambda x, mask: (x, mask.float()), "the mask of"),
        (lambda x, mask: (x, ~mask), "no row that counts"),
    ],
)
def test_samples_that_do_not_fit_are_refused(change, message):
    x, y = draw_samples(4, 5)
    changed, mask = change(x, torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match=message):
        kernel_cs_divergence(y, changed, 1.0, None, mask)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.inf, math.nan])
def test_one_sample_and_no_bandwidth_are_refused(sigma):
    with pytest.raises(ValueError, match="two samples, got 1"):
        kernel_gcs_divergence(draw_samples(3), 1.0)
    for divergence in (kernel_cs_divergence, lambda x, y, sigma: kernel_gcs_divergence([x, y], sigma)):
        with pytest.raises(ValueError, match="sigma must be positive and finite"):
            divergence(*draw_samples(3, 3), sigma)
