"""A large batch in blocks of rows has the value, gradient and refusals of the whole, in memory linear in the batch."""

import pytest
import torch
from loss_cases import LABELS, SCHEMES, make_embeddings
from torch import Tensor

from benchmarks.harness import STATUS, fresh
from benchmarks.losses import Case, timed_step
from losses import available_losses, build_loss, fused

OVER_ROWS = [name for name in available_losses() if build_loss(name).over_rows]


def value_and_gradients(loss, embeddings: dict[str, Tensor], labels: Tensor) -> list[Tensor]:
    leaves = {name: x.clone().requires_grad_() for name, x in embeddings.items()}
    output = loss(leaves, labels)
    wanted = [*leaves.values(), *loss.parameters()]
    return [output.total.detach(), *output.parts.values(), *torch.autograd.grad(3 * output.total, wanted)]


@pytest.fixture
def blocks(monkeypatch) -> None:
    """Every batch is large, and a block is two rows of six, or a row of a larger batch."""
    monkeypatch.setattr(fused, "LIMIT_BYTES", 0)
    monkeypatch.setitem(fused.BLOCK_ENTRIES, "cpu", 13)


CASES = [
    *[(name, {}) for name in OVER_ROWS],
    *[("gcs", {"scheme": scheme, "use_target": use}) for scheme in SCHEMES for use in (True, False)],
    *[(name, {"temperature": 0.003}) for name in OVER_ROWS if name in ("cs", "gcs", "kl", "mil_nce")],
    *[("pairwise", {"divergence": name}) for name in ("cs", "infonce")],
    ("symile", {"negatives": "shuffled"}),
]


@pytest.mark.parametrize("labels", ["integer", "multi-hot", "soft"])
@pytest.mark.parametrize(("name", "keywords"), CASES)
def test_blocks_are_the_whole(request, name, keywords, labels):
    loss, embeddings = build_loss(name, **keywords), make_embeddings(2 if build_loss(name).takes_two else 3)
    expected = value_and_gradients(loss, embeddings, LABELS[labels])
    request.getfixturevalue("blocks")
    for one, other in zip(value_and_gradients(loss, embeddings, LABELS[labels]), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
    with torch.no_grad():
        torch.testing.assert_close(loss(embeddings, LABELS[labels]).total, expected[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "keywords", "columns"),
    [
        ("gcs", {}, 6),
        ("pairwise", {"divergence": "cs"}, 6),
        ("symile", {"negatives": "shuffled"}, 6),
        ("symile", {}, 6 * 8),  # an item's products with all pairs of the others, from those of all numbers
        ("kernel_gcs", {}, None),  # no mean over rows
        ("pairwise", {"divergence": "mmd"}, None),
    ],
)
def test_matrices_up_to_a_limit_are_computed_at_once(monkeypatch, name, keywords, columns):
    """Three modalities of six items and eight numbers in float64: 2 x 3 matrices."""
    calls, limit = [], 2 * 3 * 6 * (columns or 0) * 8
    monkeypatch.setattr(fused, "by_blocks", lambda *_: calls.append(1) or (torch.zeros(()), {}))
    for less in (0, 1):
        monkeypatch.setattr(fused, "LIMIT_BYTES", limit - less)
        build_loss(name, **keywords)(make_embeddings(3, width=8), LABELS["integer"])
        assert len(calls) == (less if columns else 0)


@pytest.mark.usefixtures("blocks")
def test_only_some_embeddings_may_need_a_gradient():
    embeddings = make_embeddings()
    embeddings["text"].requires_grad_()
    build_loss("cs")(embeddings, LABELS["integer"]).total.backward()
    assert embeddings["text"].grad.isfinite().all()
    assert embeddings["image"].grad is None


@pytest.mark.usefixtures("blocks")
def test_second_derivatives_are_refused_rather_than_wrong():
    embeddings = {name: x.requires_grad_() for name, x in make_embeddings().items()}
    total = build_loss("cs")(embeddings, LABELS["integer"]).total
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(total, embeddings["image"], create_graph=True)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", OVER_ROWS)
def test_a_backward_pass_under_autocast_is_that_in_full_precision(request, name, large):
    """Manual optimisation calls it inside the autocast region."""
    if large:
        request.getfixturevalue("blocks")
    loss, count = build_loss(name), 2 if build_loss(name).takes_two else 3
    embeddings = {key: x.float() for key, x in make_embeddings(count).items()}
    expected = value_and_gradients(loss, embeddings, LABELS["integer"])
    with torch.autocast("cpu", torch.bfloat16):
        found = value_and_gradients(loss, embeddings, LABELS["integer"])
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", ["cs", "gcs", "kl"])
def test_a_weight_may_be_as_small_as_its_type_allows(request, name, large):
    """Target weights of 1e-38 beside weights of one."""
    weights = torch.full((6, 6), 1e-38) + torch.eye(6)
    weights[2] = 1e-38
    embeddings = make_embeddings()
    expected = value_and_gradients(build_loss(name), embeddings, weights.double())
    if large:
        request.getfixturevalue("blocks")
    found = value_and_gradients(build_loss(name), {key: x.float() for key, x in embeddings.items()}, weights)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="the peak of a process is read from Linux's /proc")
def test_the_peak_of_a_process_is_a_fifth_of_its_similarity_matrices():
    """Of those that one block after the other is: without blocks the peak is several times all of them."""
    peak = fresh(timed_step, case=Case("GCS", 2, 16_384, 4))["peak MiB"]
    assert peak < 2 * 4 * 16_384**2 / 2**20 / 5
