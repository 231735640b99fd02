"""Divergences over blocks of rows equal those of whole matrices, whatever the block, the shift or what is kept."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks import fresh
from losses import blocks, build_loss
from losses.base import GatheredBatch
from losses.divergence import gcs_divergence, kl_divergence
from losses.matching import unit
from losses.ring import REVERSED, edge_sets
from losses.target import LabelTarget, WeightTarget

NAMES = ["image", "text", "audio", "video"]


def draw(items: int, modalities: int = 3, dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (items, 6)
    return {name: torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for name in NAMES[:modalities]}


def labels_of(kind: str, items: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if kind == "integer":
        return torch.randint(0, 4, (items,), generator=generator)
    if kind == "multi-hot":
        return (torch.rand(items, 5, generator=generator) > 0.7).long()
    weights = torch.rand(items, items, generator=generator, dtype=torch.float64)
    return weights * (weights > 0.5) + torch.eye(items, dtype=torch.float64)


def plain(name: str, embeddings: dict[str, Tensor], labels: Tensor, temperature: float) -> Tensor:
    """The loss from whole matrices of log-probabilities, by the divergences of plain log-sum-exps."""
    batch = GatheredBatch(embeddings, labels)
    total = torch.zeros((), dtype=next(iter(embeddings.values())).dtype)
    if name == "gcs":
        for scheme_set, edges in edge_sets(batch.modalities, "bidirectional").items():
            log_ps = [batch.log_matching(a, b, temperature) for a, b in edges]
            total = total + gcs_divergence([*log_ps, batch.log_target(scheme_set in REVERSED)]).mean()
        return total
    a, b = list(embeddings)[:2]
    for query, gallery, reverse in ((a, b, False), (b, a, True)):
        log_p, log_q = batch.log_matching(query, gallery, temperature), batch.log_target(reverse)
        total = total + (gcs_divergence([log_p, log_q]) if name == "cs" else kl_divergence(log_q, log_p)).mean()
    return total


def value_and_gradients(total: Tensor, embeddings: dict[str, Tensor]) -> list[Tensor]:
    return [total.detach(), *torch.autograd.grad(total, list(embeddings.values()))]


@pytest.fixture(params=["one block, kept", "blocks, kept", "blocks, computed again"])
def manner(request, monkeypatch) -> str:
    if request.param != "one block, kept":
        monkeypatch.setitem(blocks.BLOCK_ENTRIES, "cpu", 40)  # blocks of two or three rows, the last one shorter
    if "again" in request.param:
        monkeypatch.setattr(blocks, "KEPT_BYTES", 0)
    return request.param


@pytest.mark.parametrize("kind", ["integer", "multi-hot", "soft"])
@pytest.mark.parametrize("temperature", [0.4, 0.01, 0.003])
@pytest.mark.parametrize("name", ["gcs", "cs", "kl"])
def test_blocks_are_the_whole(manner, name, temperature, kind):
    """Temperature 0.003 takes every row's and column's own maximum off, also in float64; 0.4 one shift for all."""
    embeddings = draw(17, 3 if name == "gcs" else 2)
    labels = labels_of(kind, 17)
    found = value_and_gradients(build_loss(name, temperature=temperature)(embeddings, labels).total, embeddings)
    expected = value_and_gradients(plain(name, embeddings, labels, temperature), embeddings)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("scheme", ["clockwise", "counterclockwise", "mixed"])
@pytest.mark.parametrize("temperature", [0.4, 0.003])
def test_every_scheme_has_the_gradient_of_the_whole(manner, scheme, temperature):
    """Clockwise and counterclockwise need the rows alone, as every loss does on several processes."""
    embeddings, labels = draw(11, 3), labels_of("integer", 11)
    found = value_and_gradients(
        build_loss("gcs", temperature=temperature, scheme=scheme)(embeddings, labels).total, embeddings
    )
    batch = GatheredBatch(embeddings, labels)
    sets = edge_sets(batch.modalities, scheme).values()
    log_ps = [[batch.log_matching(a, b, temperature) for a, b in edges] for edges in sets]
    total = sum(gcs_divergence([*each, batch.log_target()]).mean() for each in log_ps)
    for one, other in zip(found, value_and_gradients(total, embeddings), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@given(st.integers(1, 9), st.integers(1, 30), st.integers(1, 4), st.floats(0.005, 2), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_rows_and_columns_of_any_block_size(items, entries, pairs, temperature, seed):
    """The columns' divergences are the rows' of the transposed matrices."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [
        (unit(torch.randn(items, 3, generator=generator)), unit(torch.randn(items, 3, generator=generator)))
        for _ in range(pairs)
    ]
    labels = torch.randint(0, 3, (items,), generator=generator)
    target = LabelTarget(labels, labels, 0, torch.float32)
    before = blocks.BLOCK_ENTRIES["cpu"]
    blocks.BLOCK_ENTRIES["cpu"] = entries
    try:
        rows, columns = blocks.matching_divergences(tensors, temperature, target, "gcs", both=True)
        swapped = [(z, x) for x, z in tensors]
        (again,) = blocks.matching_divergences(swapped, temperature, target, "gcs")
    finally:
        blocks.BLOCK_ENTRIES["cpu"] = before
    scale = 1 / temperature
    torch.testing.assert_close(columns, again, rtol=1e-5, atol=1e-5 * max(scale, 1))
    assert rows.isfinite().all()
    assert (rows > -1e-5 * max(scale, 1)).all()


def test_a_weight_may_be_as_small_as_its_type_allows():
    """Target weights of 1e-38 beside weights of one."""
    weights = torch.full((4, 4), 1e-38) + torch.eye(4)
    weights[2] = 1e-38
    embeddings = draw(4, 2, torch.float32)
    for name in ("cs", "gcs", "kl"):
        output = build_loss(name)(embeddings, weights)
        doubled = {key: x.detach().double() for key, x in embeddings.items()}
        expected = build_loss(name)(doubled, weights.double()).total
        torch.testing.assert_close(output.total.double(), expected, rtol=1e-5, atol=1e-5)
        assert all(x.isfinite().all() for x in value_and_gradients(output.total, embeddings))


@pytest.mark.parametrize("target", [LabelTarget, WeightTarget])
def test_log_of_a_target_is_normalised_by_row(target):
    labels = torch.tensor([0, 1, 0])
    made = LabelTarget(labels, labels, 0, torch.float64) if target is LabelTarget else WeightTarget(torch.eye(3) + 1)
    torch.testing.assert_close(made.log().exp().sum(dim=1), torch.ones(3, dtype=made.log().dtype))


@pytest.mark.slow
def test_blocks_of_a_large_batch_are_the_whole_in_float32(monkeypatch):
    """B = 4,096: to 1e-5 relative, in value and gradient, where nothing is kept and where everything is whole."""
    items = 4096
    generator = torch.Generator().manual_seed(0)
    embeddings = {name: torch.randn(items, 16, generator=generator).requires_grad_() for name in NAMES[:3]}
    labels = torch.randint(0, 50, (items,), generator=generator)
    expected = value_and_gradients(plain("gcs", embeddings, labels, 0.1), embeddings)
    monkeypatch.setattr(blocks, "KEPT_BYTES", 0)
    found = value_and_gradients(build_loss("gcs")(embeddings, labels).total, embeddings)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() < 1e-5 * other.norm()


def test_what_is_kept_for_the_backward_pass_grows_linearly(monkeypatch):
    """Beyond the limit only embeddings, and one number per row and column, stay."""
    monkeypatch.setattr(blocks, "KEPT_BYTES", 0)
    monkeypatch.setitem(blocks.BLOCK_ENTRIES, "cpu", 64)
    sizes = []
    for items in (64, 128, 256):
        embeddings = draw(items)
        total = build_loss("gcs")(embeddings, labels_of("integer", items)).total
        sizes.append(_bytes_of_graph(total))
    first, second, third = sizes
    assert second < 2.2 * first
    assert third < 2.2 * second


def _bytes_of_graph(total: Tensor) -> int:
    """Bytes of all tensors that the graph behind a value holds, every storage once."""
    storages, seen, pending = {}, set(), [total.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        pending += [parent for parent, _ in node.next_functions]
        held = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        held += [*getattr(node, "saved_tensors", ()), *vars(node).values()] if hasattr(node, "__dict__") else []
        while held:
            value = held.pop()
            if isinstance(value, list | tuple):
                held += value
            elif type(value).__module__.startswith("losses."):  # what a call computes, and its running sums
                held += vars(value).values()
            elif isinstance(value, Tensor):
                storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
    assert storages
    return sum(storages.values())


@pytest.mark.parametrize("temperature", [0.1, 0.02])  # one shift for all logits, and maxima of their own
@pytest.mark.parametrize("name", ["gcs", "pairwise"])
def test_a_backward_pass_under_autocast_is_that_in_full_precision(manner, name, temperature):
    embeddings = draw(9, dtype=torch.float32)
    loss = build_loss(name, temperature=temperature)
    expected = value_and_gradients(loss(embeddings, labels_of("integer", 9)).total, embeddings)
    with torch.autocast("cpu", torch.bfloat16):
        found = value_and_gradients(loss(embeddings, labels_of("integer", 9)).total, embeddings)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["gcs", "pairwise"])
def test_all_that_a_loss_keeps_stays_below_the_limit(monkeypatch, name):
    """Whatever the limit: three matrices of 64 x 64 in float64 for all pairs, and one more for a ring."""
    embeddings = draw(64)
    sizes = {}
    for matrices in (0, 3, 4):
        monkeypatch.setattr(blocks, "KEPT_BYTES", matrices * 64 * 64 * 8)
        sizes[matrices] = _bytes_of_graph(build_loss(name)(embeddings, labels_of("integer", 64)).total)
    least = sizes[0]
    assert sizes[3] - least == pytest.approx(0 if name == "gcs" else 3 * 64 * 64 * 8, rel=0.1)
    assert sizes[4] - least == pytest.approx((4 if name == "gcs" else 3) * 64 * 64 * 8, rel=0.1)


@pytest.mark.slow
@pytest.mark.skipif(not fresh.STATUS.exists(), reason="the peak of a process is read from Linux's /proc")
def test_the_peak_of_a_process_is_a_tenth_of_its_similarity_matrices():
    arguments = {"modalities": 3, "batch": 16_384, "dim": 4}
    # The smaller of two, for what the allocator holds besides differs between runs.
    peak = min(fresh.measure("large_batch:run_once", arguments)["peak MiB"] for _ in range(2))
    assert peak < 3 * 4 * 16_384**2 / 2**20 / 10


def test_second_derivatives_are_refused_rather_than_wrong():
    embeddings = draw(5, 2)
    total = build_loss("cs")(embeddings, torch.arange(5)).total
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(total, embeddings["image"], create_graph=True)


def test_infonce_needs_no_labels_and_counts_its_pair_alone():
    embeddings = draw(9, 2)
    x, z = (unit(x.detach()) for x in embeddings.values())
    logits = x @ z.T / 0.1
    expected = sum(torch.nn.functional.cross_entropy(s, torch.arange(9)) for s in (logits, logits.T))
    assert math.isclose(build_loss("infonce")(embeddings).total.item(), expected.item(), rel_tol=1e-12)
