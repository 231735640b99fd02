"""Classical methods for two views: each against its formula in NumPy, and Wikipedia's published numbers."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from real_data import DATA, require
from scipy import sparse
from scipy.linalg import eig
from scipy.spatial.distance import cdist
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from test_linear_methods import (
    CLASSES,
    DIMS,
    ITEMS,
    LABEL,
    Features,
    assert_same_up_to_signs,
    draw_views,
    embedded_by,
    scores_of,
    standardised,
)

from datamodules import FeatureDataModule, Wikipedia
from datamodules.datasets.wikipedia import FEATURE_FILES
from reproduce.results.compare import AGREE
from reproduce.results.published import load_published
from reproduce.runs.baselines import CCA, SemanticMatching
from reproduce.runs.config import model_class, resolve
from reproduce.runs.multiview import BLM, GMLDA, GMMFA, PLS, MultiviewCCA, nearest_across, nearest_within
from reproduce.runs.spec import read_file


def _scatter(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Between-class and within-class scatter, per item, and class means, by the definition."""
    same = LABEL[:, None] == LABEL
    weight = same / same.sum(axis=1, keepdims=True)
    means = np.stack([x[c == LABEL].mean(axis=0) for c in range(CLASSES)])
    return x.T @ weight @ x / ITEMS, x.T @ (np.eye(ITEMS) - weight) @ x / ITEMS, means


def _margins(x: np.ndarray, within: int = 3, between: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """W_w and W_b of marginal Fisher analysis, by loops over the definition."""
    distance, own, across = cdist(x, x), np.zeros((ITEMS, ITEMS)), np.zeros((ITEMS, ITEMS))
    for k in range(ITEMS):
        same = [i for i in np.argsort(distance[k]) if LABEL[i] == LABEL[k] and i != k]
        own[k, same[:within]] = own[same[:within], k] = 1
    pairs = [(distance[k, i], k, i) for k, i in product(range(ITEMS), repeat=2) if LABEL[k] != LABEL[i]]
    for _, k, i in sorted(pairs)[:between]:
        across[k, i] = across[i, k] = 1
    return own, across


def _reference(name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A_i, B_i and Z_i by the formulas."""
    covariance, identity, zero = x.T @ x / ITEMS, np.eye(x.shape[1]), np.zeros((x.shape[1],) * 2)
    between, within, means = _scatter(x)
    own, across = (x.T @ (np.diag(weight.sum(axis=1)) - weight) @ x / ITEMS for weight in _margins(x))
    rows, classes = x / np.sqrt(ITEMS), means / np.sqrt(CLASSES)
    return {
        "PLS": (zero, identity, rows),
        "BLM": (covariance, identity, rows),
        "CCA": (covariance, covariance, rows),
        "GMLDA": (between, within, classes),
        "GMMFA": (across, own, classes),
    }[name]


METHODS = {
    "PLS": lambda: PLS(DIMS, 4),
    "BLM": lambda: BLM(DIMS, 9, alpha=2.0),
    "CCA": lambda: MultiviewCCA(DIMS, ridge=0.1, dimensions=4),
    "GMLDA": lambda: GMLDA(DIMS, ridge=0.1, alpha=5.0, dimensions=CLASSES - 1),
    "GMMFA": lambda: GMMFA(DIMS, ridge=0.1, alpha=5.0, dimensions=4, within=3, between=20),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_solves_the_eigenproblem_of_its_matrices(name):
    model = METHODS[name]()
    views = [standardised(x) for x in draw_views().values()]
    (a1, b1, z1), (a2, b2, z2) = (_reference(name, x) for x in views)
    across = model.alpha * z1.T @ z2
    gamma = np.trace(b1) / np.trace(b2) if name.startswith("GM") else 1.0
    zero = np.zeros_like(across)
    b = np.block([[b1, zero], [zero.T, gamma * b2]]) + model.ridge * np.eye(12)
    values, vectors = eig(np.linalg.solve(b, np.block([[a1, across], [across.T, a2]])))
    vectors = vectors.real[:, np.argsort(-values.real)[: model.dimensions]]
    vectors = vectors / np.sqrt(np.einsum("ik,ij,jk->k", vectors, b, vectors))
    for found, x, directions in zip(embedded_by(model).values(), views, np.split(vectors, [7]), strict=True):
        assert_same_up_to_signs(found, x @ directions)


def _assert_pls(embedded: Features, views: Features, count: int) -> None:
    """That it is the singular vectors of the cross-covariance."""
    left, _, right = np.linalg.svd(views["image"].T @ views["text"])
    for name, directions in {"image": left, "text": right.T}.items():
        assert_same_up_to_signs(embedded[name], views[name] @ directions[:, :count] / np.sqrt(2), atol=1e-6)


def test_pls_gives_the_singular_vectors_of_the_cross_covariance():
    scaled = {name: standardised(x) for name, x in draw_views().items()}
    _assert_pls(embedded_by(PLS(DIMS, 5)), scaled, 5)
    centred = {name: x - x.mean(axis=0) for name, x in draw_views().items()}
    _assert_pls(embedded_by(PLS(DIMS, 2, statistics="centred")), centred, 2)
    components = {name: PCA(0.9, svd_solver="full").fit_transform(x) for name, x in scaled.items()}
    assert all(components[name].shape[1] < x.shape[1] for name, x in scaled.items())
    _assert_pls(embedded_by(PLS(DIMS, 2, pca=0.9)), components, 2)


def test_blm_of_equal_weights_is_pca_of_both_views_as_one():
    embedded = embedded_by(BLM(DIMS, 6))
    both = np.hstack([standardised(x) for x in draw_views().values()])
    assert_same_up_to_signs(embedded["image"] + embedded["text"], PCA(6).fit_transform(both))


def test_cca_has_the_directions_of_the_other_cca_without_its_weights():
    one = embedded_by(MultiviewCCA(DIMS, ridge=1e-9, dimensions=3))
    two = embedded_by(CCA(DIMS, components=3, ridge=1e-9))
    for name in one:
        assert_same_up_to_signs(one[name] / one[name].std(axis=0), two[name] / two[name].std(axis=0), atol=1e-5)


def test_directions_of_eigenvalue_zero_are_left_out():
    assert {x.shape[1] for x in embedded_by(GMLDA(DIMS, ridge=0.1, dimensions=5)).values()} == {CLASSES - 1}


def test_every_item_a_class_of_its_own_needs_no_label():
    model = GMMFA(DIMS, ridge=1.0, between=20, own_classes=True, dimensions=3)
    one, two = embedded_by(model), embedded_by(model, label=np.zeros(ITEMS, int))
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("model", [GMLDA(DIMS, ridge=0.1), GMMFA(DIMS, ridge=0.1, within=3, between=20)])
def test_labels_of_one_class_each_may_be_given_as_several(model):
    several = np.hstack([np.eye(CLASSES, dtype=bool)[LABEL], np.zeros((ITEMS, 1), bool)])  # and a class of nobody
    one, two = embedded_by(model), embedded_by(model, label=several)
    for name in one:
        assert_same_up_to_signs(one[name], two[name])
    several[::3, 0] = True
    assert all(np.isfinite(x).all() for x in embedded_by(model, label=several).values())


def test_neighbours_within_and_across_classes(monkeypatch):
    x = standardised(draw_views()["image"])
    own, across = _margins(x)
    classes = sparse.csr_array(np.eye(CLASSES)[LABEL])
    monkeypatch.setattr("reproduce.runs.multiview.DISTANCES", 0.003)  # a few rows of distances at a time
    assert np.array_equal(nearest_within(x, classes, 3).toarray(), own)
    assert np.array_equal(nearest_across(x, classes, 20).toarray(), across)
    assert nearest_across(x, classes, 10**6).sum() == (LABEL[:, None] != LABEL[None]).sum()


# On Wikipedia, beside what others published ---------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["roph", "sift-lda"])
def wikipedia(request) -> FeatureDataModule:
    require(f"wikipedia/{FEATURE_FILES[request.param]}")
    data = Wikipedia(DATA, features=request.param, validation_fraction=0.0, class_encoder="one-hot")
    assert (len(data.indices("train")), len(data.indices("standard"))) == (2173, 693)
    return data


def _maps(data: FeatureDataModule, embedded: Features) -> list[float]:
    scores = scores_of(embedded, data.arrays("standard")[1])
    return [scores[f"{direction}/MAP"] for direction in ("image->text", "text->image")]


@pytest.mark.parametrize("wikipedia", ["roph"], indirect=True)
def test_semantic_matching_and_cca_give_the_known_numbers_on_wikipedia(wikipedia):
    test = wikipedia.arrays("standard")[0]
    matching = SemanticMatching(DIMS, C=0.01).fit(*wikipedia.arrays("train")).embed_features(test)
    assert _maps(wikipedia, matching) == pytest.approx([0.374, 0.373], abs=0.003)
    # Those of CCA are of ten projections, each of unit variance over the training items.
    cca = CCA(DIMS, components=10, ridge=1e-6).fit(*wikipedia.arrays("train"))
    deviation = {name: x.std(axis=0) for name, x in cca.embed_features(wikipedia.arrays("train")[0]).items()}
    embedded = {name: x / deviation[name] for name, x in cca.embed_features(test).items()}
    assert _maps(wikipedia, embedded) == pytest.approx([0.283, 0.257], abs=0.003)


PAGE = Path(__file__).parents[1] / "docs" / "published.md"
# Row -> metric, published numbers, ours and the verdict, as the page has them.
VERDICTS = {
    cells[0]: cells[1:]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 5 and cells[0].endswith(")")
}


def test_every_row_with_the_settings_of_a_source_has_its_verdict_and_asks_for_its_metric():
    table, published = read_file("table2"), load_published()
    assert {method.method for method in table.methods} >= set(VERDICTS)
    assert set(published[published["comparable"] & (published["source"] != "jfse")]["method"]) == set(VERDICTS)
    dataset = next(one for one in table.datasets if one.features == "sift-lda")
    asked = {
        method.method
        for method in table.methods
        if resolve(table, table.scales["quick"], dataset, method, {}, 0, 1, 2)["evaluate"].get("eleven_point")
    }
    assert asked == {name for name in VERDICTS if name.endswith("(GMA)")}


@pytest.mark.parametrize("name", VERDICTS)
@pytest.mark.parametrize("wikipedia", ["sift-lda"], indirect=True)
def test_the_verdicts_are_those_of_the_numbers(wikipedia, name):
    [method] = [method for method in read_file("table2").methods if method.method == name]
    model = model_class(method.model)(DIMS, **method.init_args)
    model.prepare_evaluation(wikipedia)
    test, label = wikipedia.arrays("standard")
    scores = scores_of(model.fit(*wikipedia.arrays("train")).embed_features(test), label, eleven_point=True)
    metric, *shown, verdict = VERDICTS[name]
    published, here = (np.array([float(number) for number in cell.split(", ")]) for cell in shown)
    rows = load_published().query("comparable and method == @name").set_index("direction")["value"]
    assert list(published) == [rows["image->text"], rows["text->image"]]
    found = np.array([scores[f"image->text/{metric}"], scores[f"text->image/{metric}"]])
    np.testing.assert_allclose(found, here, atol=0.0001 if metric == "MAP" else 0.0006)
    if "four digits" in verdict:
        np.testing.assert_allclose(found, published, atol=0.0001)
    else:
        assert ("agrees to 0.01" in verdict) == (np.abs(found - published).max() <= AGREE)


@pytest.mark.parametrize("wikipedia", ["sift-lda"], indirect=True)
def test_pls_of_tong_is_a_regression_of_images_on_texts(wikipedia):
    """Fitted on components divided by the root of their deviation, and applied to components that are not."""
    train, test = (wikipedia.arrays(split)[0] for split in ("train", "standard"))
    solvers = {name: PCA(0.95, svd_solver="full").fit(standardised(x)) for name, x in train.items()}
    fitted, applied = (
        {name: solvers[name].transform(standardised(x)) for name, x in part.items()} for part in (train, test)
    )
    text, image = (x / np.sqrt((x / np.sqrt(len(x))).std(axis=0)) for x in (fitted["text"], fitted["image"]))
    model = PLSRegression(8, scale=False).fit(text, image)
    lengths = np.linalg.norm(model.x_rotations_, axis=0)
    embedded = {
        "image": applied["image"] @ (model.y_loadings_ * lengths),
        "text": applied["text"] @ (model.x_rotations_ / lengths),
    }
    assert _maps(wikipedia, embedded) == pytest.approx([0.2477, 0.2047], abs=0.0001)
