"""The linear methods: each against its formula in NumPy, and on data with a known answer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules.metrics import CrossModalRetrieval
from reproduce.runs.baselines import CCA, GeneralisedCCA, LinearMethod, SemanticMatching, Untrained
from reproduce.runs.multiview import BLM, GMLDA, GMMFA, PLS, MultiviewCCA

Features = dict[str, np.ndarray]
DIMS = {"image": 1, "text": 1}  # whatever they are, the features decide
ITEMS, CLASSES = 60, 4
LABEL = np.arange(ITEMS) % CLASSES


def draw_views(noise: float = 1.0, spread: float = 1.0, image: int = 7, **others: int) -> Features:
    """Views of a latent with class structure, of different widths, scales and offsets."""
    rng = np.random.default_rng(0)
    latent = spread * rng.standard_normal((CLASSES, 3))[LABEL] + rng.standard_normal((ITEMS, 3))
    widths = {"image": image, **(others or {"text": 5})}
    views = {
        name: latent @ rng.standard_normal((3, width)) + noise * rng.standard_normal((ITEMS, width))
        for name, width in widths.items()
    }
    return {**views, "image": 100 * views["image"] + 7}


def embedded_by(model: LinearMethod, features: Features | None = None, label: np.ndarray = LABEL) -> Features:
    features = features or draw_views()
    return model.fit(features, label).embed_features(features)


def standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(axis=0)) / x.std(axis=0)


def assert_same_up_to_signs(found: np.ndarray, expected: np.ndarray, atol: float = 1e-8) -> None:
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=atol)


def scores_of(embedded: Features, label: np.ndarray, **more: bool) -> dict[str, float]:
    metric = CrossModalRetrieval([("image", "text"), ("text", "image")], **more)
    rows = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in embedded.items()}
    metric.update(rows, torch.from_numpy(label), torch.arange(len(label)))
    return {name: float(value) for name, value in metric.compute().items()}


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (CCA, {"ridge": 0.0}),
        (CCA, {"ridge": float("nan")}),
        (CCA, {"components": 0}),
        (GeneralisedCCA, {"ridge": 0}),
        (PLS, {"dimensions": 0}),
        (BLM, {"alpha": 0.0}),
        (BLM, {"alpha": float("nan")}),
        (PLS, {"pca": 1.0}),
        (PLS, {"statistics": "validation"}),
        (MultiviewCCA, {"ridge": 0.0}),
        (GMLDA, {"ridge": float("inf")}),
        (GMMFA, {"within": 0, "ridge": 1.0}),
        (GMMFA, {"between": 1, "ridge": 1.0}),
    ],
)
def test_an_argument_that_a_method_cannot_take_is_named(kind, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind(DIMS, **wrong)


def test_features_of_different_widths_cannot_be_scored_as_they_are():
    with pytest.raises(ValueError, match="image 3, text 2"):
        Untrained({"image": 3, "text": 2})


def test_a_ridge_too_small_for_singular_features_is_named():
    features = draw_views()
    features["image"] = np.hstack([features["image"], features["image"]])
    with pytest.raises(ValueError, match=r"MultiviewCCA.*ridge 1e-30.*raise the ridge"):
        MultiviewCCA(DIMS, ridge=1e-30).fit(features, LABEL)


@settings(max_examples=10, deadline=None)
@given(scale=st.floats(0.01, 100), offset=st.floats(-50, 50))
def test_the_scale_of_a_feature_does_not_matter(scale, offset):
    features = draw_views()
    other = {name: x * scale + offset for name, x in features.items()}
    for model in (SemanticMatching(DIMS, C=0.1), CCA(DIMS, components=1)):
        one, two = embedded_by(model, features), embedded_by(model, other)
        for name in features:
            assert_same_up_to_signs(two[name], one[name], atol=0.02)


# Canonical correlation analysis, also of several views ----------------------------------------------------------------


def test_cca_attains_the_canonical_correlations():
    features = draw_views()
    embedded = embedded_by(CCA(DIMS, components=3, ridge=1e-9), features)
    reached = [np.corrcoef(embedded["image"][:, k], embedded["text"][:, k])[0, 1] for k in range(3)]
    bases = [np.linalg.qr(x - x.mean(axis=0))[0] for x in features.values()]
    # Singular values of Cxx^-1/2 Cxy Cyy^-1/2, which are those of Qx^T Qy for orthonormal bases of both views.
    np.testing.assert_allclose(reached, np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)[:3], atol=1e-6)


def test_cca_correlates_held_out_pairs():
    features = draw_views(noise=0.01)
    train, held_out = ({name: x[part] for name, x in features.items()} for part in (slice(40), slice(40, None)))
    embedded = CCA(DIMS, components=3, ridge=1e-9).fit(train, LABEL[:40]).embed_features(held_out)
    assert [x.shape for x in embedded.values()] == [(20, 3), (20, 3)]
    for image, text in zip(embedded["image"].T, embedded["text"].T, strict=True):
        assert np.corrcoef(image, text)[0, 1] > 0.99


@pytest.mark.parametrize("components", [10, None])
def test_cca_has_no_more_components_than_the_narrower_modality(components):
    assert {x.shape for x in embedded_by(CCA(DIMS, components)).values()} == {(ITEMS, 5)}


def test_cca_with_a_ridge_solves_its_eigenproblem():
    """Its directions solve C_xy (C_yy + r I)^-1 C_yx a = s^2 (C_xx + r I) a, scaled by s^2."""
    ridge = 0.7
    x, y = map(standardised, draw_views().values())
    c_xx, c_yy, c_xy = x.T @ x / ITEMS + ridge * np.eye(7), y.T @ y / ITEMS + ridge * np.eye(5), x.T @ y / ITEMS
    values, vectors = np.linalg.eig(np.linalg.solve(c_xx, c_xy @ np.linalg.solve(c_yy, c_xy.T)))
    order = np.argsort(-values.real)[:5]
    values, vectors = values.real[order], vectors.real[:, order]
    expected = x @ (vectors / np.sqrt(np.einsum("ik,ij,jk->k", vectors, c_xx, vectors)) * values)
    assert_same_up_to_signs(embedded_by(CCA(DIMS, ridge=ridge))["image"], expected)


def test_a_ridge_keeps_cca_from_fitting_noise_where_features_are_as_many_as_items():
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(10), 12)
    latent = rng.standard_normal((10, 20))[label] + 0.8 * rng.standard_normal((120, 20))
    features = {
        name: (latent @ rng.standard_normal((20, width)) / 4 + 1.5 * rng.standard_normal((120, width)))
        for name, width in (("image", 200), ("text", 60))
    }
    test = np.arange(120) % 12 < 4
    train, held_out = ({name: x[part] for name, x in features.items()} for part in (~test, test))

    def score(ridge: float) -> float:
        embedded = CCA(DIMS, ridge=ridge).fit(train, label[~test]).embed_features(held_out)
        return scores_of(embedded, label[test])["average/MAP"]

    assert score(10.0) > score(1e-6) + 0.2


def test_of_two_views_with_a_small_ridge_generalised_cca_is_cca():
    cosines = []
    for kind in (GeneralisedCCA, CCA):
        embedded = embedded_by(kind(DIMS, ridge=1e-8))
        x, z = (e / np.linalg.norm(e, axis=1, keepdims=True) for e in embedded.values())
        cosines.append(x @ z.T)
    np.testing.assert_allclose(*cosines, atol=1e-5)


@pytest.mark.parametrize("width", [6, 40], ids=["more items", "more dimensions"])
def test_common_directions_are_those_of_the_sum_of_projections(width):
    features = draw_views(image=width, text=width + 1, sound=width + 2)
    embedded = embedded_by(GeneralisedCCA(dict.fromkeys(features, 1), ridge=0.5), features)
    projectors = []
    for x in features.values():
        z = standardised(x)
        projectors.append(z @ np.linalg.solve(z.T @ z + ITEMS * 0.5 * np.eye(z.shape[1]), z.T))
    value, vector = np.linalg.eigh(sum(projectors))
    for name, projector in zip(features, projectors, strict=True):
        assert abs(np.corrcoef(projector @ vector[:, -1], embedded[name][:, 0])[0, 1]) > 1 - 1e-8
    assert embedded["image"].shape[1] == (value > 1).sum()


# Semantic matching ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 4])
def test_semantic_matching_gives_posteriors(classes):
    label = LABEL % classes
    for posterior in embedded_by(SemanticMatching(DIMS, C=1.0), draw_views(spread=3), label).values():
        assert posterior.shape == (ITEMS, classes)
        assert (posterior >= 0).all()
        np.testing.assert_allclose(posterior.sum(axis=1), 1, rtol=1e-12)
        assert (posterior.argmax(axis=1) == label).mean() > 0.7


def test_semantic_matching_maximises_the_penalised_likelihood():
    """At the optimum of C sum_i log p(y_i|x_i) - |W|^2/2: the intercept's gradient is 0, and so is W's."""
    features, C = draw_views(), 0.5
    for x, posterior in zip(features.values(), embedded_by(SemanticMatching(DIMS, C=C)).values(), strict=True):
        x = standardised(x)
        residual = np.eye(CLASSES)[LABEL] - posterior
        np.testing.assert_allclose(residual.sum(axis=0), 0, atol=0.02)
        found = x @ (C * x.T @ residual) - np.log(posterior)  # constant along a row, up to the intercepts
        found = found - found.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(found, np.broadcast_to(found[:1], found.shape), atol=0.05)


def test_a_strong_penalty_leaves_the_class_frequencies():
    label = np.where(LABEL == 3, 0, LABEL)
    for posterior in embedded_by(SemanticMatching(DIMS, C=1e-9), label=label).values():
        np.testing.assert_allclose(posterior, np.broadcast_to([0.5, 0.25, 0.25], posterior.shape), atol=1e-3)


def test_semantic_matching_of_several_classes_per_item():
    several = np.eye(6, dtype=bool)[LABEL]
    several[:, 1] |= LABEL == 2  # items of class 2 also belong to class 1
    several[:, 4] = False  # nobody
    several[:, 5] = True  # everybody
    for posterior in embedded_by(SemanticMatching(DIMS, C=1.0), draw_views(spread=3), several).values():
        assert posterior.shape == (ITEMS, 4)
        assert ((posterior > 0) & (posterior < 1)).all()
        assert (posterior[LABEL == 2, 1:3].mean(axis=0) > 0.5).all()
        assert posterior[LABEL == 0, 1].mean() < 0.5
