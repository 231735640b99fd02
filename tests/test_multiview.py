"""Classical methods for two views: each against its formula in NumPy, and Wikipedia's published numbers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.linalg import eig
from scipy.spatial.distance import cdist
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA

from datamodules import FeatureDataModule, Wikipedia
from lightning_modules.metrics import CrossModalRetrieval
from reproduce.results.compare import AGREE
from reproduce.results.published import load_published
from reproduce.runs.baselines import CCA
from reproduce.runs.checks import load_table
from reproduce.runs.config import model_class, resolve
from reproduce.runs.multiview import BLM, GMLDA, GMMFA, PLS, MultiviewCCA, nearest_across, nearest_within

DIMS = {"image": 1, "text": 1}  # whatever they are, the features decide
ITEMS, CLASSES = 60, 4


def _views(image: int = 7, text: int = 5) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Two views of a latent with class structure, of different scales and offsets."""
    rng = np.random.default_rng(0)
    label = np.arange(ITEMS) % CLASSES
    latent = rng.standard_normal((CLASSES, 3))[label] + rng.standard_normal((ITEMS, 3))
    x = latent @ rng.standard_normal((3, image)) + rng.standard_normal((ITEMS, image))
    y = latent @ rng.standard_normal((3, text)) + rng.standard_normal((ITEMS, text))
    return {"image": 100 * x + 7, "text": y - 3}, label


def _standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(axis=0)) / x.std(axis=0)


def _expected(blocks: list, across: np.ndarray, gamma: float, ridge: float, count: int) -> tuple:
    """Directions of the stacked eigenproblem by NumPy and `eig`, both signs and lengths as they come."""
    (a1, b1), (a2, b2) = blocks
    a = np.vstack([np.hstack([a1, across]), np.hstack([across.T, a2])])
    zero = np.zeros_like(across)
    b = np.vstack([np.hstack([b1, zero]), np.hstack([zero.T, gamma * b2])]) + ridge * np.eye(len(a))
    values, vectors = eig(np.linalg.solve(b, a))
    vectors = vectors.real[:, np.argsort(-values.real)[:count]]
    vectors = vectors / np.sqrt(np.einsum("ik,ij,jk->k", vectors, b, vectors))
    return vectors[: len(a1)], vectors[len(a1) :]


def _scatter(x: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Between-class and within-class scatter, per item, and class means, by loops over the definition."""
    weight = np.zeros((ITEMS, ITEMS))
    for k in range(ITEMS):
        for other in range(ITEMS):
            if label[k] == label[other]:
                weight[k, other] = 1 / (label == label[k]).sum()
    means = np.stack([x[label == c].mean(axis=0) for c in range(CLASSES)])
    return x.T @ weight @ x / ITEMS, x.T @ (np.eye(ITEMS) - weight) @ x / ITEMS, means


def _margins(x: np.ndarray, label: np.ndarray, within: int, between: int) -> tuple[np.ndarray, np.ndarray]:
    """W_w and W_b of marginal Fisher analysis, by loops over the definition."""
    distance, own, across = cdist(x, x), np.zeros((ITEMS, ITEMS)), np.zeros((ITEMS, ITEMS))
    for k in range(ITEMS):
        same = [i for i in np.argsort(distance[k]) if label[i] == label[k] and i != k]
        own[k, same[:within]] = own[same[:within], k] = 1
    pairs = [(distance[k, i], k, i) for k in range(ITEMS) for i in range(ITEMS) if label[k] != label[i]]
    for _, k, i in sorted(pairs)[:between]:
        across[k, i] = across[i, k] = 1
    return own, across


def _degrees_less(weight: np.ndarray) -> np.ndarray:
    return np.diag(weight.sum(axis=1)) - weight


def _reference(name: str, x: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A_i, B_i and Z_i by the formulas."""
    covariance, identity, zero = x.T @ x / ITEMS, np.eye(x.shape[1]), np.zeros((x.shape[1],) * 2)
    between, within, means = _scatter(x, label)
    own, across = _margins(x, label, 3, 20)
    rows, classes = x / np.sqrt(ITEMS), means / np.sqrt(CLASSES)
    return {
        "PLS": (zero, identity, rows),
        "BLM": (covariance, identity, rows),
        "CCA": (covariance, covariance, rows),
        "GMLDA": (between, within, classes),
        "GMMFA": (x.T @ _degrees_less(across) @ x / ITEMS, x.T @ _degrees_less(own) @ x / ITEMS, classes),
    }[name]


METHODS = {
    "PLS": lambda: PLS(DIMS, 4),
    "BLM": lambda: BLM(DIMS, 9, alpha=2.0),
    "CCA": lambda: MultiviewCCA(DIMS, ridge=0.1, dimensions=4),
    "GMLDA": lambda: GMLDA(DIMS, ridge=0.1, alpha=5.0, dimensions=CLASSES - 1),
    "GMMFA": lambda: GMMFA(DIMS, ridge=0.1, alpha=5.0, dimensions=4, within=3, between=20),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_solves_the_eigenproblem_of_its_matrices(name: str) -> None:
    features, label = _views()
    model = METHODS[name]()
    embedded = model.fit(features, label).embed_features(features)
    views = [_standardised(x) for x in features.values()]
    (a1, b1, z1), (a2, b2, z2) = (_reference(name, x, label) for x in views)
    gamma = np.trace(b1) / np.trace(b2) if name.startswith("GM") else 1.0
    sides = _expected([(a1, b1), (a2, b2)], model.alpha * z1.T @ z2, gamma, model.ridge, model.dimensions)
    for found, x, directions in zip(embedded.values(), views, sides, strict=True):
        np.testing.assert_allclose(np.abs(found), np.abs(x @ directions), atol=1e-8)


def test_pls_gives_the_singular_vectors_of_the_cross_covariance() -> None:
    features, label = _views()
    embedded = PLS(DIMS, 5).fit(features, label).embed_features(features)
    x, y = (_standardised(view) for view in features.values())
    left, _, right = np.linalg.svd(x.T @ y)
    for found, view, directions in ((embedded["image"], x, left[:, :5]), (embedded["text"], y, right.T)):
        np.testing.assert_allclose(np.abs(found), np.abs(view @ directions) / np.sqrt(2), atol=1e-8)


def test_blm_of_equal_weights_is_pca_of_both_views_as_one() -> None:
    features, label = _views()
    embedded = BLM(DIMS, 6).fit(features, label).embed_features(features)
    both = np.hstack([_standardised(x) for x in features.values()])
    scores = PCA(6).fit_transform(both)
    np.testing.assert_allclose(np.abs(embedded["image"] + embedded["text"]), np.abs(scores), atol=1e-8)


def test_cca_has_the_directions_of_the_other_cca_without_its_weights() -> None:
    features, label = _views()
    one = MultiviewCCA(DIMS, ridge=1e-9, dimensions=3).fit(features, label).embed_features(features)
    two = CCA(DIMS, components=3, ridge=1e-9).fit(features, label).embed_features(features)
    for name in features:
        other = two[name] / two[name].std(axis=0)
        np.testing.assert_allclose(np.abs(one[name] / one[name].std(axis=0)), np.abs(other), atol=1e-5)


def test_directions_of_eigenvalue_zero_are_left_out() -> None:
    features, label = _views()
    embedded = GMLDA(DIMS, ridge=0.1, dimensions=5).fit(features, label).embed_features(features)
    assert {x.shape[1] for x in embedded.values()} == {CLASSES - 1}


def test_every_item_a_class_of_its_own_needs_no_label() -> None:
    features, label = _views()
    arguments = {"ridge": 1.0, "between": 20, "own_classes": True, "dimensions": 3}
    one = GMMFA(DIMS, **arguments).fit(features, label).embed_features(features)
    two = GMMFA(DIMS, **arguments).fit(features, np.zeros(ITEMS, int)).embed_features(features)
    assert all(np.array_equal(one[name], two[name]) for name in features)


@pytest.mark.parametrize("model", [GMLDA(DIMS, ridge=0.1), GMMFA(DIMS, ridge=0.1, within=3, between=20)])
def test_labels_of_one_class_each_may_be_given_as_several(model: GMLDA) -> None:
    features, label = _views()
    several = np.hstack([np.eye(CLASSES, dtype=bool)[label], np.zeros((ITEMS, 1), bool)])  # and a class of nobody
    one, two = (model.fit(features, y).embed_features(features) for y in (label, several))
    for name in features:
        np.testing.assert_allclose(np.abs(one[name]), np.abs(two[name]), atol=1e-8)
    several[::3, 0] = True
    assert all(np.isfinite(x).all() for x in model.fit(features, several).embed_features(features).values())


def test_neighbours_within_and_across_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    features, label = _views()
    x = _standardised(features["image"])
    own, across = _margins(x, label, 3, 20)
    classes = sparse.csr_array(np.eye(CLASSES)[label])
    monkeypatch.setattr("reproduce.runs.multiview.DISTANCES", 0.003)  # a few rows of distances at a time
    assert np.array_equal(nearest_within(x, classes, 3).toarray(), own)
    assert np.array_equal(nearest_across(x, classes, 20).toarray(), across)
    assert nearest_across(x, classes, 10**6).sum() == (label[:, None] != label[None]).sum()


def test_principal_components_come_before_the_method() -> None:
    features, label = _views()
    embedded = PLS(DIMS, 2, pca=0.9).fit(features, label).embed_features(features)
    scores = {name: PCA(0.9, svd_solver="full").fit_transform(_standardised(x)) for name, x in features.items()}
    assert all(scores[name].shape[1] < features[name].shape[1] for name in features)
    left, _, right = np.linalg.svd(scores["image"].T @ scores["text"])
    for name, directions in {"image": left, "text": right.T}.items():
        expected = scores[name] @ directions[:, :2] / np.sqrt(2)
        np.testing.assert_allclose(np.abs(embedded[name]), np.abs(expected), atol=1e-8)


def test_centred_features_keep_their_scales() -> None:
    features, label = _views()
    embedded = PLS(DIMS, 2, statistics="centred").fit(features, label).embed_features(features)
    x, y = (view - view.mean(axis=0) for view in features.values())
    left = np.linalg.svd(x.T @ y)[0]
    np.testing.assert_allclose(np.abs(embedded["image"]), np.abs(x @ left[:, :2]) / np.sqrt(2), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "wrong", "names"),
    [
        (PLS, {"dimensions": 0}, "dimensions"),
        (BLM, {"alpha": 0.0}, "alpha"),
        (BLM, {"alpha": float("nan")}, "alpha"),
        (PLS, {"pca": 1.0}, "pca"),
        (PLS, {"statistics": "validation"}, "statistics"),
        (MultiviewCCA, {"ridge": 0.0}, "ridge"),
        (GMLDA, {"ridge": float("inf")}, "ridge"),
        (GMMFA, {"ridge": 1.0, "within": 0}, "within"),
        (GMMFA, {"ridge": 1.0, "between": 1}, "between"),
    ],
)
def test_an_argument_that_a_method_cannot_take_is_named(kind: type, wrong: dict, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        kind(DIMS, **wrong)


def test_a_ridge_too_small_for_singular_features_is_named() -> None:
    features, label = _views()
    features["image"] = np.hstack([features["image"], features["image"]])
    with pytest.raises(ValueError, match=r"MultiviewCCA.*ridge 1e-30.*raise the ridge"):
        MultiviewCCA(DIMS, ridge=1e-30).fit(features, label)


# On Wikipedia, beside what others published --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wikipedia() -> FeatureDataModule:
    root = os.environ.get("CSD_DATA")
    if not root or not (Path(root) / "wikipedia" / "raw_features.mat").exists():
        pytest.skip("CSD_DATA names no folder with wikipedia/raw_features.mat")
    return Wikipedia(root, features="sift-lda", validation_fraction=0.0, class_encoder="one-hot")


def _scores(data: FeatureDataModule, embedded: dict[str, np.ndarray]) -> dict[str, float]:
    metric = CrossModalRetrieval([("image", "text"), ("text", "image")], eleven_point=True)
    rows = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in embedded.items()}
    metric.update(rows, torch.from_numpy(data.arrays("standard")[1]), torch.arange(693))
    return {name: float(value) for name, value in metric.compute().items()}


PAGE = Path(__file__).parents[1] / "docs" / "published.md"
# Row -> metric, published numbers, ours and the verdict, as the page has them.
VERDICTS = {
    cells[0]: cells[1:]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 5 and cells[0].endswith(")")
}


def test_eleven_points_are_measured_of_the_methods_that_ask_for_them() -> None:
    table = load_table("table2")
    dataset = next(one for one in table.datasets if one.features == "sift-lda")
    asked = {
        method.method
        for method in table.methods
        if resolve(table, table.scales["quick"], dataset, method, {}, 0, 1, 2)["evaluate"].get("eleven_point")
    }
    assert asked == {name for name in VERDICTS if name.endswith("(GMA)")}


def test_every_row_with_the_settings_of_a_source_has_its_verdict() -> None:
    named = [method for method in load_table("table2").methods if method.method in VERDICTS]
    assert {method.method for method in named} == set(VERDICTS)
    published = load_published()
    of_sources = set(published[published["comparable"] & (published["source"] != "jfse")]["method"])
    assert of_sources == set(VERDICTS)


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdicts_are_those_of_the_numbers(wikipedia: FeatureDataModule, name: str) -> None:
    [method] = [method for method in load_table("table2").methods if method.method == name]
    model = model_class(method.model)(DIMS, **method.init_args)
    model.prepare_evaluation(wikipedia)
    embedded = model.fit(*wikipedia.arrays("train")).embed_features(wikipedia.arrays("standard")[0])
    metric, *shown, verdict = VERDICTS[name]
    published, here = (np.array([float(number) for number in cell.split(", ")]) for cell in shown)
    rows = load_published().query("comparable and method == @name").set_index("direction")["value"]
    assert list(published) == [rows["image->text"], rows["text->image"]]
    scores = _scores(wikipedia, embedded)
    found = np.array([scores[f"image->text/{metric}"], scores[f"text->image/{metric}"]])
    np.testing.assert_allclose(found, here, atol=0.0001 if metric == "MAP" else 0.0006)
    if "four digits" in verdict:
        np.testing.assert_allclose(found, published, atol=0.0001)
    else:
        assert ("agrees to 0.01" in verdict) == (np.abs(found - published).max() <= AGREE)


def test_pls_of_tong_is_a_regression_of_images_on_texts(wikipedia: FeatureDataModule) -> None:
    """Fitted on components divided by the root of their deviation, and applied to components that are not."""
    train, test = (wikipedia.arrays(split)[0] for split in ("train", "standard"))
    solvers = {name: PCA(0.95, svd_solver="full").fit(_standardised(x)) for name, x in train.items()}
    fitted, applied = (
        {name: solvers[name].transform(_standardised(x)) for name, x in part.items()} for part in (train, test)
    )
    text, image = (x / np.sqrt((x / np.sqrt(len(x))).std(axis=0)) for x in (fitted["text"], fitted["image"]))
    model = PLSRegression(8, scale=False).fit(text, image)
    lengths = np.linalg.norm(model.x_rotations_, axis=0)
    embedded = {
        "text": applied["text"] @ (model.x_rotations_ / lengths),
        "image": applied["image"] @ (model.y_loadings_ * lengths),
    }
    scores = _scores(wikipedia, embedded)
    assert [scores["image->text/MAP"], scores["text->image/MAP"]] == pytest.approx([0.2477, 0.2047], abs=0.0001)
