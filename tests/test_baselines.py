"""The linear baselines: on data with a known answer, and on Wikipedia."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import FeatureDataModule, Wikipedia
from lightning_modules.metrics import CrossModalRetrieval
from reproduce.runs.baselines import CCA, SemanticMatching

DIMS = {"image": 1, "text": 1}  # whatever they are, the features decide


def _correlated(items: int, noise: float) -> dict[str, np.ndarray]:
    """Two views of a three-dimensional latent, with different widths, scales and offsets."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((items, 3))
    image = latent @ rng.standard_normal((3, 6)) + noise * rng.standard_normal((items, 6))
    text = latent @ rng.standard_normal((3, 5)) + noise * rng.standard_normal((items, 5))
    return {"image": (100 * image + 7).astype(np.float32), "text": (text - 3).astype(np.float32)}


def _classes(items: int = 60, classes: int = 4) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(1)
    label = np.arange(items) % classes
    features = {}
    for name, width in (("image", 5), ("text", 3)):
        centres = rng.standard_normal((classes, width))
        features[name] = (2 * centres[label] + rng.standard_normal((items, width))).astype(np.float32)
    return features, label


def _canonical_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Singular values of Cxx^-1/2 Cxy Cyy^-1/2, which are those of Qx^T Qy for orthonormal bases of both views."""
    q_x, _ = np.linalg.qr(x - x.mean(axis=0))
    q_y, _ = np.linalg.qr(y - y.mean(axis=0))
    return np.linalg.svd(q_x.T @ q_y, compute_uv=False)


def test_cca_attains_the_canonical_correlations() -> None:
    features = _correlated(items=400, noise=0.5)
    embedded = CCA(DIMS, components=3, ridge=1e-9).fit(features, np.zeros(400)).embed_features(features)
    reached = [np.corrcoef(embedded["image"][:, k], embedded["text"][:, k])[0, 1] for k in range(3)]
    expected = _canonical_correlations(*(x.astype(np.float64) for x in features.values()))[:3]
    np.testing.assert_allclose(reached, expected, atol=1e-3)


def test_cca_correlates_held_out_pairs() -> None:
    features = _correlated(items=300, noise=0.01)
    train = {name: x[:200] for name, x in features.items()}
    embedded = (
        CCA(DIMS, components=3, ridge=1e-9)
        .fit(train, np.zeros(200))
        .embed_features({n: x[200:] for n, x in features.items()})
    )
    assert [x.shape for x in embedded.values()] == [(100, 3), (100, 3)]
    for image, text in zip(embedded["image"].T, embedded["text"].T, strict=True):
        assert np.corrcoef(image, text)[0, 1] > 0.99


def test_cca_has_no_more_components_than_the_narrower_modality() -> None:
    features = _correlated(items=50, noise=0.5)
    for components in (10, None):
        embedded = CCA(DIMS, components).fit(features, np.zeros(50)).embed_features(features)
        assert {x.shape for x in embedded.values()} == {(50, 5)}


def test_cca_with_a_ridge_solves_its_eigenproblem() -> None:
    """Its directions solve C_xy (C_yy + r I)^-1 C_yx a = s^2 (C_xx + r I) a, scaled by s^2."""
    ridge = 0.7
    x, y = (v.astype(np.float64) for v in _correlated(items=80, noise=0.5).values())
    x, y = ((v - v.mean(axis=0)) / v.std(axis=0) for v in (x, y))
    c_xx, c_yy, c_xy = x.T @ x / 80 + ridge * np.eye(6), y.T @ y / 80 + ridge * np.eye(5), x.T @ y / 80
    values, vectors = np.linalg.eig(np.linalg.solve(c_xx, c_xy @ np.linalg.solve(c_yy, c_xy.T)))
    order = np.argsort(-values.real)[:5]
    values, vectors = values.real[order], vectors.real[:, order]
    expected = x @ (vectors / np.sqrt(np.einsum("ik,ij,jk->k", vectors, c_xx, vectors)) * values)
    features = _correlated(items=80, noise=0.5)
    embedded = CCA(DIMS, ridge=ridge).fit(features, np.zeros(80)).embed_features(features)["image"]
    np.testing.assert_allclose(np.abs(embedded), np.abs(expected), atol=1e-8)


def test_a_ridge_keeps_cca_from_fitting_noise_where_features_are_as_many_as_items() -> None:
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
        metric = CrossModalRetrieval([("image", "text"), ("text", "image")])
        rows = {name: torch.from_numpy(x) for name, x in embedded.items()}
        metric.update(rows, torch.from_numpy(label[test]), torch.arange(int(test.sum())))
        return float(metric.compute()["average/MAP"])

    assert score(10.0) > score(1e-6) + 0.2


@pytest.mark.parametrize("wrong", [{"ridge": 0.0}, {"ridge": -1.0}, {"ridge": float("nan")}, {"components": 0}])
def test_cca_names_an_argument_that_it_cannot_take(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CCA(DIMS, **wrong)


@pytest.mark.parametrize("classes", [2, 4])
def test_semantic_matching_gives_posteriors(classes: int) -> None:
    features, label = _classes(classes=classes)
    embedded = SemanticMatching(DIMS, C=1.0).fit(features, label).embed_features(features)
    for posterior in embedded.values():
        assert posterior.shape == (60, classes)
        assert (posterior >= 0).all()
        np.testing.assert_allclose(posterior.sum(axis=1), 1, rtol=1e-12)
        assert (posterior.argmax(axis=1) == label).mean() > 0.7


def test_semantic_matching_maximises_the_penalised_likelihood() -> None:
    """At the optimum of C sum_i log p(y_i|x_i) - |W|^2/2: the intercept's gradient is 0, and so is W's."""
    features, label = _classes()
    C = 0.5
    posterior = SemanticMatching(DIMS, C=C).fit(features, label).embed_features(features)
    for name, x in features.items():
        x = x.astype(np.float64)
        x = (x - x.mean(axis=0)) / x.std(axis=0)
        residual = np.eye(4)[label] - posterior[name]
        np.testing.assert_allclose(residual.sum(axis=0), 0, atol=0.02)
        weight = C * x.T @ residual
        logits = x @ weight
        expected = logits - np.log(posterior[name])  # constant along a row, up to the intercepts
        expected = expected - expected.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(expected, np.broadcast_to(expected[:1], expected.shape), atol=0.05)


def test_a_strong_penalty_leaves_the_class_frequencies() -> None:
    features, label = _classes()
    label = np.where(label == 3, 0, label)
    embedded = SemanticMatching(DIMS, C=1e-9).fit(features, label).embed_features(features)
    for posterior in embedded.values():
        np.testing.assert_allclose(posterior, np.broadcast_to([0.5, 0.25, 0.25], posterior.shape), atol=1e-3)


@settings(max_examples=10, deadline=None)
@given(scale=st.floats(0.01, 100), offset=st.floats(-50, 50))
def test_the_scale_of_a_feature_does_not_matter(scale: float, offset: float) -> None:
    features, label = _classes()
    other = {name: x * scale + offset for name, x in features.items()}
    for model in (SemanticMatching(DIMS, C=0.1), CCA(DIMS, components=1)):
        one, two = model.fit(features, label).embed_features(features), model.fit(other, label).embed_features(other)
        for name in features:
            np.testing.assert_allclose(np.abs(two[name]), np.abs(one[name]), atol=0.02)


def test_semantic_matching_of_several_classes_per_item() -> None:
    features, label = _classes()
    several = np.eye(6, dtype=bool)[label]
    several[:, 1] |= label == 2  # items of class 2 also belong to class 1
    several[:, 4] = False  # nobody
    several[:, 5] = True  # everybody
    embedded = SemanticMatching(DIMS, C=1.0).fit(features, several).embed_features(features)
    for posterior in embedded.values():
        assert posterior.shape == (60, 4)
        assert ((posterior > 0) & (posterior < 1)).all()
        assert posterior[label == 2, 1].mean() > 0.5
        assert posterior[label == 2, 2].mean() > 0.5
        assert posterior[label == 0, 1].mean() < 0.5


def _wikipedia_scores(embed: Callable[[FeatureDataModule], dict[str, np.ndarray]]) -> list[float]:
    """MAP of image->text and text->image over the 693 test pairs, trained on all 2,173 others."""
    root = os.environ.get("CSD_DATA")
    if not root or not (Path(root) / "wikipedia" / "wiki_roph.mat").exists():
        pytest.skip("CSD_DATA names no folder with wikipedia/wiki_roph.mat")
    data = Wikipedia(root, features="roph", validation_fraction=0.0, class_encoder="one-hot")
    assert (len(data.indices("train")), len(data.indices("standard"))) == (2173, 693)
    metric = CrossModalRetrieval([("image", "text"), ("text", "image")])
    rows = {name: torch.from_numpy(x) for name, x in embed(data).items()}
    metric.update(rows, torch.from_numpy(data.arrays("standard")[1]), torch.arange(693))
    scores = metric.compute()
    return [float(scores["image->text/MAP"]), float(scores["text->image/MAP"])]


def test_semantic_matching_on_wikipedia() -> None:
    def embed(data: FeatureDataModule) -> dict[str, np.ndarray]:
        return SemanticMatching(DIMS, C=0.01).fit(*data.arrays("train")).embed_features(data.arrays("standard")[0])

    assert _wikipedia_scores(embed) == pytest.approx([0.374, 0.373], abs=0.003)


def test_cca_on_wikipedia() -> None:
    """The known numbers are those of ten projections, each of unit variance over the training items."""

    def embed(data: FeatureDataModule) -> dict[str, np.ndarray]:
        features, label = data.arrays("train")
        model = CCA(DIMS, components=10, ridge=1e-6).fit(features, label)
        train, test = model.embed_features(features), model.embed_features(data.arrays("standard")[0])
        return {name: test[name] / train[name].std(axis=0) for name in test}

    assert _wikipedia_scores(embed) == pytest.approx([0.283, 0.257], abs=0.003)
