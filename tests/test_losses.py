"""Losses against their NumPy references, their gradients and precision, and what follows from their formulas."""

import inspect
import math

import pytest
import reference
import torch
from loss_cases import (
    BATCH,
    LABELS,
    OF_PAIRS,
    OPTIONS,
    SCHEMES,
    as_arrays,
    assert_close,
    assert_gradients_are_differentiable,
    assert_matches,
    expected_parts,
    forms,
    labels_for,
    make_embeddings,
)
from torch.autograd import gradcheck
from torch.utils.checkpoint import checkpoint

from losses import PairwiseLoss, available_losses, build_loss, fused, registry
from losses.common import matching

# scipy warns from an estimated error of 2e-13 on, far below the tolerance here.
pytestmark = pytest.mark.filterwarnings("ignore:logm result may be inaccurate:RuntimeWarning")

RAW = ("mmd", "coral", "log_coral")  # losses of the raw embeddings
OF_DIRECTIONS = [name for name in available_losses() if name not in RAW]
MODALITIES = {name: 2 if name in OF_PAIRS else 3 for name in available_losses()}


# Values


def test_every_loss_has_a_reference():
    assert set(available_losses()) == set(reference.LOSSES)


@pytest.mark.parametrize(
    ("name", "keywords", "modalities", "labels"),
    [(name, keywords, count, labels) for name, keywords, count in forms() for labels in labels_for(name, keywords)],
)
def test_loss_matches_reference(name, keywords, modalities, labels):
    embeddings, loss = make_embeddings(modalities), build_loss(name, **keywords).double()
    assert_matches(loss(embeddings, LABELS.get(labels)), expected_parts(name, keywords, embeddings, labels))


@pytest.mark.parametrize("sigma", reference.JFSE_SIGMAS)
def test_mmd_of_close_samples_at_every_bandwidth(sigma):
    """Distances of the order of the bandwidth, where the kernel is neither 0 nor 1."""
    embeddings = {name: x * math.sqrt(sigma) for name, x in make_embeddings().items()}
    assert_matches(build_loss("mmd", sigma=sigma)(embeddings), reference.mmd_parts(as_arrays(embeddings), sigma=sigma))


@pytest.mark.parametrize(("name", "count"), [*((name, MODALITIES[name]) for name in OF_DIRECTIONS), ("gram", 4)])
def test_zero_vector_has_cosine_zero(name, count):
    embeddings = make_embeddings(count)
    embeddings["text"][2] = 0.0
    embeddings["image"][4] = 0.0
    leaves = {key: x.clone().requires_grad_() for key, x in embeddings.items()}
    output = build_loss(name).double()(leaves, LABELS["integer"])
    assert_matches(output, expected_parts(name, {}, embeddings, "integer"))
    output.total.backward()
    assert all(torch.isfinite(x.grad).all() for x in leaves.values())


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_very_short_and_very_long_vectors_have_their_direction(size):
    """Their squares underflow or overflow in float32. The gradient is that of other lengths, over the factor."""
    embeddings = {key: x.float().requires_grad_() for key, x in make_embeddings().items()}
    changed = {**embeddings, "text": (embeddings["text"].detach() * size).requires_grad_()}
    one, other = (build_loss("cs")(each, LABELS["integer"]).total for each in (embeddings, changed))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=0)
    (of_one,), (of_other,) = (torch.autograd.grad(x, y["text"]) for x, y in ((one, embeddings), (other, changed)))
    torch.testing.assert_close(of_one, of_other * size, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["kl", "cs", "cmpm_kl", "gcs"])
def test_target_weights_count_in_the_precision_of_the_embeddings_and_get_no_gradient(name, dtype):
    given, embeddings = LABELS["soft"].to(dtype).requires_grad_(), make_embeddings()
    output = build_loss(name)({key: x.requires_grad_() for key, x in embeddings.items()}, given)
    output.total.backward()
    assert_close(output.total, build_loss(name)(embeddings, given.detach().double()).total)
    assert given.grad is None


@pytest.mark.parametrize(("name", "keywords", "count"), forms())
def test_a_loss_says_whether_its_value_depends_on_the_labels(name, keywords, count):
    loss, embeddings = build_loss(name, **keywords), make_embeddings(count)
    kinds = ("one class", "positive soft" if keywords.get("direction") == "reverse" else "integer")
    one, other = (loss(embeddings, LABELS[kind]).total for kind in kinds)
    assert loss.uses_labels == bool(one != other)


def test_order_of_the_mapping_is_the_order_of_the_ring():
    embeddings = make_embeddings(4)
    reordered = {name: embeddings[name] for name in ("text", "image", "audio", "video")}
    loss = build_loss("gcs", scheme="clockwise")
    output = loss(reordered, LABELS["integer"])
    assert_matches(output, expected_parts("gcs", {"scheme": "clockwise"}, reordered, "integer"))
    assert abs(output.total - loss(embeddings, LABELS["integer"]).total) > 1e-6


# Gradients


@pytest.mark.parametrize(
    ("name", "keywords", "modalities", "labels"),
    [
        (name, keywords, count, labels)
        for name, keywords, count in forms()
        for labels in labels_for(name, keywords)
        if labels in ("integer", "soft", "positive soft") and keywords.get("divergence", "cs") == "cs"
    ],
)
def test_gradcheck(name, keywords, modalities, labels):
    loss, embeddings = build_loss(name, **keywords).double(), make_embeddings(modalities, seed=1)
    leaves = [x.requires_grad_() for x in embeddings.values()]
    assert gradcheck(lambda *each: loss(dict(zip(embeddings, each, strict=True)), LABELS[labels]).total, leaves)


@pytest.mark.parametrize("name", ["kl", "cs", "gcs", "cmpm_kl", "gram"])
def test_gradients_are_differentiable(name):
    loss, embeddings = build_loss(name), make_embeddings(MODALITIES[name], seed=1, batch=4, width=3)
    leaves = [x.requires_grad_() for x in embeddings.values()]
    labels = torch.tensor([0, 1, 0, 2])
    assert_gradients_are_differentiable(
        lambda *each: loss(dict(zip(embeddings, each, strict=True)), labels).total, leaves
    )


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", available_losses())
def test_a_loss_inside_a_checkpoint_is_the_loss(monkeypatch, name, large):
    """At once, or in blocks of two rows."""
    if large:
        monkeypatch.setattr(fused, "LIMIT_BYTES", 0)
        monkeypatch.setitem(fused.BLOCK_ENTRIES, "cpu", 13)
    loss, embeddings = build_loss(name).double(), make_embeddings(MODALITIES[name])
    leaves = [x.requires_grad_() for x in embeddings.values()]

    def total(*each):
        return loss(dict(zip(embeddings, each, strict=True)), LABELS["integer"]).total

    plain, inside = total(*leaves), checkpoint(total, *leaves, use_reentrant=False)
    assert torch.equal(inside, plain)
    wanted = [*leaves, *loss.parameters()]
    for one, other in zip(torch.autograd.grad(inside, wanted), torch.autograd.grad(plain, wanted), strict=True):
        assert torch.equal(one, other)


def test_a_product_is_differentiated_twice_where_its_gradient_is_zero():
    x, z = (torch.tensor([row], dtype=torch.float64, requires_grad=True) for row in ([1.0, 0.0], [0.0, 1.0]))
    [slope] = torch.autograd.grad(matching.product(x, z).square().sum(), x, create_graph=True)
    found = torch.stack([torch.autograd.grad(each, x, retain_graph=True)[0][0] for each in slope[0]])
    assert_close(found, [[0, 0], [0, 2]])  # of (x . z)^2, 2 z z^T


def test_log_coral_with_fewer_items_than_dimensions():
    """The ridge makes every eigenvalue outside the sample's span equal; the gradient stays exact."""
    embeddings = make_embeddings(batch=3, width=6)
    loss = build_loss("log_coral", ridge=0.3)
    assert_matches(loss(embeddings), reference.log_coral_parts(as_arrays(embeddings), ridge=0.3))
    leaves = [x.requires_grad_() for x in embeddings.values()]
    assert gradcheck(lambda a, b: loss({"image": a, "text": b}).total, leaves)


# One-hot targets: every item its own class


@pytest.mark.parametrize(("name", "modalities"), [("kl", 2), ("mil_nce", 2), ("cs", 2), ("gcs", 3)])
def test_with_one_hot_targets_it_is_a_share_of_infonce_at_that_share_of_its_temperature(name, modalities):
    """Half of it at half the temperature for CS, a quarter for GCS over three modalities, all of whose pairs it has."""
    embeddings, labels = make_embeddings(modalities), torch.arange(BATCH)
    loss = build_loss(name, temperature=0.4)
    factor = loss.effective_factor(modalities)
    infonce = build_loss("pairwise", divergence="infonce", temperature=0.4 / factor)
    assert_close(loss(embeddings, labels).total, infonce(embeddings, labels).total / factor)


def test_mil_nce_leaves_further_positives_where_they_are_once_it_has_one():
    """Pairs are equal and all else is at right angles, also the two items of a class."""
    gradients = {}
    for name in ("mil_nce", "kl"):
        leaf = torch.eye(3, dtype=torch.float64).requires_grad_()
        build_loss(name, temperature=0.05)(
            {"image": torch.eye(3).double(), "text": leaf}, torch.tensor([0, 0, 1])
        ).total.backward()
        gradients[name] = leaf.grad.norm()
    assert gradients["mil_nce"] < 1e-6
    assert gradients["kl"] > 1


# Small temperatures and low precision


LOW_PRECISION = [(name, {}, 2) for name in ("cs", "gram", "kl", "infonce", "mil_nce")]
LOW_PRECISION += [("gram", {}, modalities) for modalities in (3, 4)]
LOW_PRECISION += [("gcs", {"scheme": scheme}, modalities) for scheme in SCHEMES for modalities in (2, 3)]
LOW_PRECISION += [("symile", {"negatives": negatives}, 3) for negatives in ("all", "shuffled")]


@pytest.mark.parametrize("temperature", [1e-4, 0.1])
@pytest.mark.parametrize("labels", ["integer", "distinct", "one class", "multi-hot", "soft"])
@pytest.mark.parametrize(("name", "keywords", "modalities"), LOW_PRECISION)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_has_the_value_of_float32_and_a_finite_gradient(
    dtype, name, keywords, modalities, labels, temperature
):
    """Temperature 1e-4: logits between -1e4 and 1e4, the pair among the least similar."""
    embeddings = {key: 10 * x.to(dtype) for key, x in make_embeddings(modalities).items()}
    embeddings["text"] = -embeddings["image"]
    leaves = {key: x.clone().requires_grad_() for key, x in embeddings.items()}
    target = LABELS[labels].float() if labels == "soft" else LABELS[labels]
    sharpness = {"logit_scale": 1 / temperature} if name == "symile" else {"temperature": temperature}
    loss = build_loss(name, **sharpness, **keywords)
    total, full = (loss(each, target).total for each in (leaves, {key: x.float() for key, x in embeddings.items()}))
    assert total.isfinite()
    assert full.dtype == torch.float32
    assert_close(total, full, rtol=1e-6)
    total.backward()
    assert all(torch.isfinite(x.grad).all() and x.grad.dtype == dtype for x in leaves.values())


@pytest.mark.parametrize("name", available_losses())
def test_automatic_mixed_precision_does_not_lower_the_precision_of_a_loss(name):
    embeddings = {key: x.float() for key, x in make_embeddings(MODALITIES[name]).items()}
    loss = build_loss(name)
    full = loss(embeddings, LABELS["integer"]).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(embeddings, LABELS["integer"]).total
    torch.testing.assert_close(mixed, full, rtol=1e-6, atol=0)


# Pairwise


@pytest.mark.parametrize("name", OF_PAIRS)
def test_pairwise_shows_and_passes_on_the_keywords_of_a_loss(name):
    """The command line reads them from its signature."""
    shown, keywords = inspect.signature(PairwiseLoss).parameters, registry.keywords(name)
    assert all(shown[keyword].default is None for keyword in keywords)
    assert set(registry.keywords("pairwise", name)) == {"divergence", *keywords}
    given = {keyword: value for keyword, value in OPTIONS.items() if keyword in keywords}
    assert repr(build_loss("pairwise", divergence=name, **given).divergence) == repr(build_loss(name, **given))
    not_given = dict.fromkeys(keywords)
    assert repr(build_loss("pairwise", divergence=name, **not_given).divergence) == repr(build_loss(name))


@pytest.mark.parametrize("name", [*(name for name in available_losses() if name not in OF_PAIRS), "corral"])
def test_pairwise_refuses_a_loss_of_several_modalities_and_an_unknown_one(name):
    with pytest.raises(ValueError, match="coral" if name == "corral" else name):
        build_loss("pairwise", divergence=name)


# Effective temperature


@pytest.mark.parametrize(
    ("name", "keywords", "factors"),
    [
        *[(name, {}, {2: 1, 3: 1}) for name in ("kl", "infonce", "mil_nce", "cmpm_kl", "pairwise", "gcs_product")],
        ("cs", {}, {2: 2, 3: 2}),
        *[(name, {}, {2: 3, 3: 4, 8: 9}) for name in ("gcs", "gcs_clamped")],
        ("gcs", {"use_target": False}, {2: 2, 4: 4}),
        ("pairwise", {"divergence": "cs"}, {2: 2, 5: 2}),
        *[(name, {}, {2: None}) for name in (*RAW, "kernel_cs", "kernel_gcs", "gram", "symile")],
        ("pairwise", {"divergence": "mmd"}, {3: None}),
    ],
)
def test_effective_temperature_is_the_temperature_over_a_factor_of_the_loss(name, keywords, factors):
    loss = build_loss(name, **keywords)
    assert {modalities: loss.effective_factor(modalities) for modalities in factors} == factors
