"""Losses against their NumPy references, their gradients, their registry and their refusals."""

from __future__ import annotations

import inspect
import itertools
import math

import numpy as np
import pytest
import reference
import torch
from loss_cases import BATCH, LABELS, NAMES, WIDTH, as_arrays, assert_matches, make_embeddings
from torch import nn
from torch.autograd import gradcheck

from losses import PairwiseLoss, available_losses, build_loss, registry

# scipy warns from an estimated error of 2e-13 on, far below the tolerance here.
pytestmark = pytest.mark.filterwarnings("ignore:logm result may be inaccurate:RuntimeWarning")

OPTIONS = {"temperature": 0.3, "sigma": 0.6, "ridge": 0.5}  # a value that is no default, by keyword
OTHER_LOSSES = ["cs_clamped", "gcs_clamped", "pairwise"]  # tested against formulas of their own
PAIR_LOSSES = [loss for loss in available_losses() if build_loss(loss).takes_two and loss not in OTHER_LOSSES]
PAIR_CASES = [(name, {}) for name in PAIR_LOSSES] + [
    (name, {key: OPTIONS[key]}) for name in PAIR_LOSSES for key in registry.keywords(name) if key in OPTIONS
]
SCHEMES = ["clockwise", "counterclockwise", "bidirectional", "mixed"]
PAIRWISE = [name for name in PAIR_LOSSES if name != "log_coral"]  # which needs a ridge
OF_PROBABILITIES = ["cmpm_kl", "cs", "gcs", "gram", "infonce", "kernel_cs", "kernel_gcs", "kl", "mil_nce"]


# Values


def test_every_loss_has_a_reference():
    assert set(available_losses()) == {*reference.LOSSES, *OTHER_LOSSES}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize(("name", "keywords"), PAIR_CASES)
def test_two_modality_loss_matches_reference(name, keywords, labels):
    embeddings = make_embeddings()
    output = build_loss(name, **keywords)(embeddings, LABELS[labels])
    assert_matches(output, reference.LOSSES[name](as_arrays(embeddings), LABELS[labels].numpy(), **keywords))


SEVERAL_CASES = [
    *[("gcs", {"temperature": 0.2, "scheme": scheme}, labels) for scheme in SCHEMES for labels in LABELS],
    *[("gcs", {"scheme": scheme, "use_target": False}, None) for scheme in SCHEMES],
    *[("kernel_gcs", {"sigma": sigma}, None) for sigma in (0.2, 1.0)],
    *[("gram", keywords, None) for keywords in ({}, {"anchor": "image", "temperature": 0.3, "label_smoothing": 0.0})],
    ("symile", {"logit_scale": 3.0, "negatives": "shuffled"}, None),
]


@pytest.mark.parametrize(("name", "keywords", "labels"), SEVERAL_CASES)
@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_loss_of_several_modalities_matches_reference(modalities, name, keywords, labels):
    embeddings, given = make_embeddings(modalities), LABELS.get(labels)
    output = build_loss(name, **keywords)(embeddings, given)
    arrays = None if given is None else given.numpy()
    if "negatives" in keywords:
        keywords = {**keywords, "permutations": permutations(embeddings)}
    assert_matches(output, reference.LOSSES[name](as_arrays(embeddings), arrays, **keywords))


def permutations(embeddings) -> dict[str, np.ndarray]:
    """Those of `symile`, by modality."""
    drawn = [torch.randperm(BATCH, generator=torch.Generator().manual_seed(seed)) for seed in range(len(embeddings))]
    return {name: permutation.numpy() for name, permutation in zip(embeddings, drawn, strict=True)}


@pytest.mark.parametrize("modalities", [2, 3])
def test_symile_of_all_negatives_matches_reference(modalities):
    embeddings = make_embeddings(modalities)
    assert_matches(
        build_loss("symile", logit_scale=3.0)(embeddings),
        reference.symile_parts(as_arrays(embeddings), logit_scale=3.0),
    )


@pytest.mark.parametrize("labels", ["positive soft", "one class"])
def test_reverse_kl_matches_reference(labels):
    embeddings, keywords = make_embeddings(), {"temperature": 0.2, "direction": "reverse"}
    expected = reference.kl_parts(as_arrays(embeddings), LABELS[labels].numpy(), **keywords)
    assert_matches(build_loss("kl", **keywords)(embeddings, LABELS[labels]), expected)


@pytest.mark.parametrize("name", ["infonce", "mmd", "coral", "log_coral", "kernel_cs", "kernel_gcs"])
def test_losses_that_need_no_labels(name):
    embeddings = make_embeddings()
    assert_matches(build_loss(name)(embeddings), reference.LOSSES[name](as_arrays(embeddings)))


@pytest.mark.parametrize("sigma", reference.JFSE_SIGMAS)
def test_mmd_of_close_samples_at_every_bandwidth(sigma):
    """Distances of the order of the bandwidth, where the kernel is neither 0 nor 1."""
    embeddings = {name: x * math.sqrt(sigma) for name, x in make_embeddings().items()}
    assert_matches(build_loss("mmd", sigma=sigma)(embeddings), reference.mmd_parts(as_arrays(embeddings), sigma=sigma))


@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_zero_vector_has_cosine_zero(name):
    embeddings = make_embeddings(3 if "gcs" in name else 2)
    embeddings["text"][2] = 0.0
    embeddings["image"][4] = 0.0
    leaves = {key: x.clone().requires_grad_() for key, x in embeddings.items()}
    output = build_loss(name)(leaves, LABELS["integer"])
    assert_matches(output, reference.LOSSES[name](as_arrays(embeddings), LABELS["integer"].numpy()))
    output.total.backward()
    assert all(torch.isfinite(x.grad).all() for x in leaves.values())


def test_order_of_the_mapping_is_the_order_of_the_ring():
    embeddings = make_embeddings(4)
    reordered = {name: embeddings[name] for name in ("text", "image", "audio", "video")}
    output = build_loss("gcs", scheme="clockwise")(reordered, LABELS["integer"])
    expected = reference.gcs_parts(as_arrays(reordered), LABELS["integer"].numpy(), scheme="clockwise")
    assert_matches(output, expected)
    other = build_loss("gcs", scheme="clockwise")(embeddings, LABELS["integer"])
    assert abs(output.total - other.total) > 1e-6


# Gradients


@pytest.mark.parametrize("labels", ["integer", "soft"])
@pytest.mark.parametrize(
    ("name", "keywords", "modalities"),
    [(name, keywords, 2) for name, keywords in PAIR_CASES]
    + [("gcs", {"scheme": scheme}, 3) for scheme in SCHEMES]
    + [("gcs", {"use_target": False}, 3), ("kernel_gcs", {}, 3)]
    + [("gram", {}, modalities) for modalities in (2, 3, 4)]
    + [("symile", {"negatives": negatives}, 3) for negatives in ("all", "shuffled")]
    + [
        pytest.param("pairwise", {"divergence": "cs"}, 3, marks=pytest.mark.slow),
        ("cs_clamped", {}, 2),
        ("gcs_clamped", {}, 3),
        ("kl", {"direction": "reverse", "temperature": 0.5}, 2),
    ],
)
def test_gradcheck(name, keywords, modalities, labels):
    loss, labels = build_loss(name, **keywords), "positive soft" if "direction" in keywords else labels
    embeddings = make_embeddings(modalities, seed=1)

    def total(*tensors):
        return loss(dict(zip(embeddings, tensors, strict=True)), LABELS[labels]).total

    assert gradcheck(total, [x.requires_grad_() for x in embeddings.values()])


def test_log_coral_with_fewer_items_than_dimensions():
    """The ridge makes every eigenvalue outside the sample's span equal; the gradient stays exact."""
    embeddings = make_embeddings(batch=3, width=6)
    loss = build_loss("log_coral", ridge=0.3)
    assert_matches(loss(embeddings), reference.log_coral_parts(as_arrays(embeddings), ridge=0.3))
    leaves = [x.requires_grad_() for x in embeddings.values()]
    assert gradcheck(lambda a, b: loss({"image": a, "text": b}).total, leaves)


@pytest.mark.parametrize(
    ("name", "keywords", "modalities"),
    [(name, {"ridge": 0.1} if name == "log_coral" else {}, 2) for name in PAIR_LOSSES]
    + [("kl", {"direction": "reverse"}, 2), ("gcs", {"use_target": False}, 3), ("kernel_gcs", {}, 3)]
    + [("gram", {}, 3), ("symile", {}, 3), ("symile", {"negatives": "shuffled"}, 3)]
    + [("gcs", {"scheme": scheme}, modalities) for scheme in SCHEMES for modalities in (2, 3)]
    + [("pairwise", {"divergence": name}, 3) for name in PAIRWISE],
)
def test_loss_falls_over_twenty_steps(name, keywords, modalities):
    generator = torch.Generator().manual_seed(3)
    embeddings = {key: nn.Parameter(torch.randn(12, 8, generator=generator)) for key in NAMES[:modalities]}
    labels = torch.arange(12) % 4
    if keywords.get("direction") == "reverse":
        labels = 0.1 + (labels[:, None] == labels).float()
    loss = build_loss(name, **keywords)
    optimiser = torch.optim.Adam(embeddings.values(), lr=0.05)
    totals = []
    for _ in range(20):
        optimiser.zero_grad()
        total = loss(embeddings, labels).total
        total.backward()
        optimiser.step()
        totals.append(total.item())
    assert loss(embeddings, labels).total.item() < 0.95 * totals[0]
    assert np.isfinite(totals).all()


# One-hot targets: every item its own class


def cross_entropy(x: np.ndarray, z: np.ndarray, temperature: float) -> np.ndarray:
    """CE of the rows of cos / temperature with the diagonal as the target."""
    return -np.log(np.diag(reference.cosine_matching(x, z, temperature)))


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_cs_with_one_hot_target_is_half_the_cross_entropy_at_half_the_temperature(temperature):
    embeddings = make_embeddings()
    total = build_loss("cs", temperature=temperature)(embeddings, torch.arange(BATCH)).total
    x, z = as_arrays(embeddings).values()
    expected = 0.5 * (cross_entropy(x, z, temperature / 2) + cross_entropy(z, x, temperature / 2)).mean()
    np.testing.assert_allclose(total, expected, rtol=1e-9, atol=1e-12)
    infonce = build_loss("infonce", temperature=temperature / 2)(embeddings).total
    np.testing.assert_allclose(total, 0.5 * infonce, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("temperature", [0.2, 0.8])
def test_gcs_with_one_hot_target_is_a_quarter_of_the_cross_entropies_at_a_quarter_of_the_temperature(
    temperature, scheme
):
    embeddings = make_embeddings(3)
    total = build_loss("gcs", temperature=temperature, scheme=scheme)(embeddings, torch.arange(BATCH)).total
    arrays = as_arrays(embeddings)
    sets = reference.ring_sets(NAMES[:3], scheme).values()
    edges = [(arrays[a], arrays[b]) for edge_set in sets for a, b in edge_set]
    expected = sum(cross_entropy(x, z, temperature / 4).mean() for x, z in edges) / 4
    np.testing.assert_allclose(total, expected, rtol=1e-9, atol=1e-12)


# Small temperatures and low precision


LOW_PRECISION = [(name, {}, 2) for name in ("cs", "gram", "kl", "infonce", "mil_nce")] + [
    ("gcs", {"scheme": scheme}, modalities) for scheme in SCHEMES for modalities in (2, 3)
]


@pytest.mark.parametrize("labels", ["integer", "distinct", "one class", "multi-hot", "soft"])
@pytest.mark.parametrize(("name", "keywords", "modalities"), LOW_PRECISION)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_saturated_matching_is_finite_in_value_and_gradient(dtype, name, keywords, modalities, labels):
    """Temperature 1e-4: logits between -1e4 and 1e4, the pair among the least similar."""
    embeddings = {key: 10 * x.to(dtype) for key, x in make_embeddings(modalities).items()}
    embeddings["text"] = -embeddings["image"]
    leaves = {key: x.clone().requires_grad_() for key, x in embeddings.items()}
    target = LABELS[labels].float() if labels == "soft" else LABELS[labels]
    output = build_loss(name, temperature=1e-4, **keywords)(leaves, target)
    assert torch.isfinite(output.total)
    output.total.backward()
    assert all(torch.isfinite(x.grad).all() and x.grad.dtype == dtype for x in leaves.values())


@pytest.mark.parametrize("temperature", [1e-4, 0.1])
@pytest.mark.parametrize(("name", "keywords", "modalities"), LOW_PRECISION)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_value_is_the_float32_value(dtype, name, keywords, modalities, temperature):
    embeddings = {key: x.to(dtype) for key, x in make_embeddings(modalities).items()}
    loss = build_loss(name, temperature=temperature, **keywords)
    low = loss(embeddings, LABELS["integer"]).total
    full = loss({key: x.float() for key, x in embeddings.items()}, LABELS["integer"]).total
    assert full.dtype == torch.float32
    np.testing.assert_allclose(low.float(), full, rtol=1e-6)


@pytest.mark.parametrize("name", [*OF_PROBABILITIES, "mmd", "coral"])
def test_automatic_mixed_precision_does_not_lower_the_precision_of_a_loss(name):
    embeddings = {key: x.float() for key, x in make_embeddings().items()}
    loss = build_loss(name)
    full = loss(embeddings, LABELS["integer"]).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(embeddings, LABELS["integer"]).total
    np.testing.assert_allclose(mixed, full, rtol=1e-6)


def test_collapsed_embeddings_match_uniformly():
    ones = torch.ones(BATCH, WIDTH, dtype=torch.float64)
    total = build_loss("gcs", use_target=False)(dict.fromkeys(NAMES[:3], ones)).total
    np.testing.assert_allclose(total, 0.0, atol=1e-12)
    total = build_loss("cs")({"image": ones, "text": ones}, torch.arange(BATCH)).total
    np.testing.assert_allclose(total, np.log(BATCH), rtol=1e-12)


# Pairwise


@pytest.mark.parametrize("labels", ["integer", "multi-hot", "soft"])
@pytest.mark.parametrize("modalities", [2, 3, 4])
@pytest.mark.parametrize("name", PAIRWISE)
def test_pairwise_is_the_sum_over_pairs(name, modalities, labels):
    embeddings = make_embeddings(modalities)
    output = build_loss("pairwise", divergence=name)(embeddings, LABELS[labels])
    assert_matches(output, reference.pairwise_parts(as_arrays(embeddings), LABELS[labels].numpy(), name))
    single = build_loss(name)
    pairs = [
        single({a: embeddings[a], b: embeddings[b]}, LABELS[labels]).total
        for a, b in itertools.combinations(embeddings, 2)
    ]
    torch.testing.assert_close(output.total, sum(pairs), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "keywords", [{"divergence": "kl", "temperature": 0.4}, {"divergence": "mmd", "sigma": 3.0}, {}]
)
def test_pairwise_passes_keywords_on(keywords):
    embeddings = make_embeddings(3)
    output = build_loss("pairwise", **keywords)(embeddings, LABELS["integer"])
    keywords = {"divergence": "kl"} | keywords
    assert_matches(output, reference.pairwise_parts(as_arrays(embeddings), LABELS["integer"].numpy(), **keywords))


@pytest.mark.parametrize(("divergence", "keyword"), [("kl", "sigma"), ("mmd", "temperature"), ("coral", "temperature")])
def test_pairwise_refuses_a_keyword_of_another_loss(divergence, keyword):
    with pytest.raises(TypeError, match=keyword):
        build_loss("pairwise", divergence=divergence, **{keyword: 0.5})


@pytest.mark.parametrize("name", [*PAIR_LOSSES, "cs_clamped"])
def test_pairwise_shows_every_keyword_of_the_losses_it_sums(name):
    """Which the command line reads from its signature."""
    shown = inspect.signature(PairwiseLoss).parameters
    assert set(registry.keywords(name)) <= set(shown)
    assert all(shown[keyword].default is None for keyword in registry.keywords(name))
    assert set(registry.keywords("pairwise", name)) == {"divergence", *registry.keywords(name)}


@pytest.mark.parametrize(
    ("name", "said"), [("gcs", "gcs"), ("kernel_gcs", "kernel_gcs"), ("pairwise", "pairwise"), ("corral", "coral")]
)
def test_pairwise_refuses_a_loss_of_several_modalities_and_an_unknown_one(name, said):
    with pytest.raises(ValueError, match=said):
        build_loss("pairwise", divergence=name)


# Effective temperature


@pytest.mark.parametrize(
    ("name", "keywords", "factors"),
    [
        *[(name, {}, {2: 1, 3: 1}) for name in ("kl", "infonce", "mil_nce", "cmpm_kl", "pairwise")],
        *[(name, {}, {2: 2, 3: 2}) for name in ("cs", "cs_clamped")],
        *[(name, {}, {2: 3, 3: 4, 8: 9}) for name in ("gcs", "gcs_clamped")],
        ("gcs", {"use_target": False}, {2: 2, 4: 4}),
        ("pairwise", {"divergence": "cs"}, {2: 2, 5: 2}),
        *[(name, {}, {2: None}) for name in ("mmd", "coral", "log_coral", "kernel_cs", "kernel_gcs", "gram", "symile")],
        ("pairwise", {"divergence": "mmd"}, {3: None}),
    ],
)
def test_effective_temperature_is_the_temperature_over_a_factor_of_the_loss(name, keywords, factors):
    loss = build_loss(name, **keywords)
    assert {modalities: loss.effective_factor(modalities) for modalities in factors} == factors
