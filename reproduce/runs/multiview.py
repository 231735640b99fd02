"""Classical methods for two views as one generalised eigenproblem, each by its own matrices (Sharma et al., 2012)."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
from scipy import sparse
from scipy.linalg import LinAlgError, block_diag, eigh
from scipy.sparse.csgraph import laplacian
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import kneighbors_graph
from sklearn.preprocessing import StandardScaler

from datamodules import RetrievalData
from datamodules.errors import check_choice
from reproduce.runs.baselines import Features, LinearMethod

STATISTICS = ("train", "centred", "test")
DISTANCES = 256  # MiB of those between items at a time
ZERO = 1e-7  # an eigenvalue below this share of the largest: its direction is an accident of rounding


class MultiviewMethod(LinearMethod):
    """Linear projections v_1, v_2 of two views; v = [v_1; v_2] solves A v = lambda B v.

    A = [[A_1, alpha Z_1^T Z_2], [alpha Z_2^T Z_1, A_2]] and B = diag(B_1, gamma B_2) + ridge I, with what a method sets
    for A_i (d_i, d_i), B_i (d_i, d_i) and Z_i (m, d_i): its `matrices`. All are means over the training items, so that
    ridge has the unit of a feature's variance. An item is embedded by its products with the v_i of the largest lambda,
    of length 1 in B.

    Args:
        dimensions: number of directions, at most the width of the narrower view, of BLM that of both together; those
            of eigenvalue 0, which are arbitrary, are left out.
        alpha: weight of the pairs.
        ridge: added to the diagonal of B, where B_i alone may be singular.
        pca: the views are first projected on the fewest principal components of the training items with this share of
            their variance; None: they are not.
        statistics: "train" standardises features by the training items; "centred" subtracts their mean alone; "test"
            standardises the items that are evaluated by themselves, as public code does, and is for comparison with
            published numbers only.

    Raises:
        ValueError: an argument outside its range; on fitting, a B that is not positive definite.

    Source: A. Sharma, A. Kumar, H. Daume III, D. W. Jacobs, "Generalized Multiview Analysis: A Discriminative Latent
    Space", CVPR 2012, section 3, with their mu = 1.
    """

    balanced: ClassVar[bool] = False  # gamma = tr(B_1) / tr(B_2), by which both views weigh the same; else 1
    ridged: ClassVar[bool] = False  # whether B_i may be singular, so that the ridge has to be above 0
    stacked: ClassVar[bool] = False  # whether there are more directions than the narrower view is wide

    def __init__(
        self,
        dims: Mapping[str, int],
        dimensions: int = 10,
        alpha: float = 1.0,
        ridge: float = 0.0,
        pca: float | None = None,
        statistics: Literal["train", "centred", "test"] = "train",
    ):
        super().__init__(dims)
        check_choice("statistics", statistics, STATISTICS)
        if dimensions < 1:
            raise ValueError(f"dimensions is {dimensions}; expected 1 or more")
        if not 0 < alpha < float("inf"):
            raise ValueError(f"alpha is {alpha}; expected a number above 0")
        if self.ridged and not 0 < ridge < float("inf"):
            raise ValueError(f"ridge is {ridge}; expected a number above 0")
        if pca is not None and not 0 < pca < 1:
            raise ValueError(f"pca is {pca}; expected a share of the variance between 0 and 1, or None")
        self.dimensions, self.alpha, self.ridge, self.pca = dimensions, alpha, ridge, pca
        self.statistics, self.unit_variance = statistics, statistics != "centred"
        self.own_scalers: dict[str, StandardScaler] = {}

    @abstractmethod
    def matrices(self, x: np.ndarray, classes: sparse.csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A_i, B_i and Z_i of one view.

        Args:
            x: (N, d) centred features of the training items.
            classes: (N, C), 1 where an item is of a class; every class has an item.
        """

    def prepare_evaluation(self, data: RetrievalData) -> None:
        super().prepare_evaluation(data)
        if self.statistics == "test":
            features = data.arrays(data.test_splits[0])[0]
            self.own_scalers = {name: StandardScaler().fit(x.astype(np.float64)) for name, x in features.items()}

    def fit(self, features: Features, label: np.ndarray) -> Self:
        scaled = self._fit_scalers(features)
        components = {name: np.eye(x.shape[1]) for name, x in scaled.items()}
        if self.pca is not None:
            solver = PCA(self.pca, svd_solver="full")
            components = {name: solver.fit(x).components_.T for name, x in scaled.items()}
        views = [x @ components[name] for name, x in scaled.items()]
        classes = self.classes(label)
        (a1, b1, z1), (a2, b2, z2) = (self.matrices(x, classes) for x in views)
        across = self.alpha * z1.T @ z2
        traces = np.trace(b1), np.trace(b2)
        gamma = traces[0] / traces[1] if self.balanced and min(traces) > 0 else 1.0
        vectors = self._largest(np.block([[a1, across], [across.T, a2]]), block_diag(b1, gamma * b2), len(a1))
        blocks = np.split(vectors, [len(a1)])
        self.projections = {name: components[name] @ v for name, v in zip(features, blocks, strict=True)}
        return self

    def classes(self, label: np.ndarray) -> sparse.csr_array:
        """(N, C) memberships of (N,) integers or (N, C) bool, without classes that have no item."""
        if label.ndim == 2:
            return sparse.csr_array(label[:, label.any(axis=0)].astype(np.float64))
        place = np.unique(label, return_inverse=True)[1]
        return sparse.csr_array((np.ones(len(label)), (np.arange(len(label)), place)))

    def _largest(self, a: np.ndarray, b: np.ndarray, first: int) -> np.ndarray:
        """Eigenvectors of the largest eigenvalues, as columns, largest first."""
        most = len(a) if self.stacked else min(first, len(a) - first)
        count = min(self.dimensions, most)
        try:
            values, vectors = eigh(a, b + self.ridge * np.eye(len(b)), subset_by_index=[len(a) - count, len(a) - 1])
        except LinAlgError as error:
            raise ValueError(
                f"{type(self).__name__}: B is not positive definite with ridge {self.ridge} ({error}); raise the ridge"
            ) from error
        return vectors[:, values > ZERO * values[-1]][:, ::-1]

    def project(self, name: str, features: np.ndarray) -> np.ndarray:
        scaler = self.own_scalers.get(name, self.scalers[name])
        return scaler.transform(features.astype(np.float64)) @ self.projections[name]


class PLS(MultiviewMethod):
    """Partial least squares: A_i = 0, B_i = I, Z_i = X_i / sqrt(N); the singular vectors of the cross-covariance.

    Its directions are the same for every alpha and ridge.
    """

    def matrices(self, x: np.ndarray, classes: sparse.csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        width = x.shape[1]
        return np.zeros((width, width)), np.eye(width), x / np.sqrt(len(x))


class BLM(MultiviewMethod):
    """Bilinear model: A_i = X_i^T X_i / N, B_i = I, Z_i = X_i / sqrt(N); for alpha = 1 the PCA of both views as one.

    Its directions are the same for every ridge.

    Source: J. B. Tenenbaum, W. T. Freeman, Neural Computation 12(6), 2000, as Sharma et al. write it.
    """

    stacked = True

    def matrices(self, x: np.ndarray, classes: sparse.csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return x.T @ x / len(x), np.eye(x.shape[1]), x / np.sqrt(len(x))


class MultiviewCCA(MultiviewMethod):
    """Canonical correlation analysis: A_i = B_i = X_i^T X_i / N, Z_i = X_i / sqrt(N).

    Without a ridge A_i = 0 gives the same directions, with eigenvalues less by 1. Unlike `baselines.CCA` directions are
    not weighted by their correlations.
    """

    ridged = True

    def matrices(self, x: np.ndarray, classes: sparse.csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        covariance = x.T @ x / len(x)
        return covariance, covariance, x / np.sqrt(len(x))


class GMLDA(MultiviewMethod):
    """Generalised multiview linear discriminant analysis.

    A_i = X_i^T W X_i / N and B_i = X_i^T (D - W) X_i / N, with W_kl the sum of 1 / N_c over the classes c of both k and
    l, and D its row sums (I where an item has one class); Z_i = the C class means / sqrt(C).
    """

    balanced = ridged = True

    def matrices(self, x: np.ndarray, classes: sparse.csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        counts = classes.sum(axis=0)
        means = (classes.T @ x) / counts[:, None]
        between = (means * counts[:, None]).T @ means / len(x)
        degree = classes.sum(axis=1)[:, None]
        return between, (x * degree).T @ x / len(x) - between, means / np.sqrt(len(means))


class GMMFA(MultiviewMethod):
    """Generalised multiview marginal Fisher analysis.

    A_i = X_i^T (S_b - W_b) X_i / N and B_i = X_i^T (S_w - W_w) X_i / N, Z_i = the C class means / sqrt(C). W_w joins an
    item with its nearest ones of its class, W_b the nearest pairs of items without a common class; S are their degrees.

    Args:
        within: k1, the nearest items of its class that an item is joined with.
        between: k2, the entries of W_b: a pair is two.
        own_classes: whether every item is taken for a class of its own, so that no label is used.
        **kwargs: those of MultiviewMethod.

    Source: S. Yan et al., IEEE TPAMI 29(1), 2007, for one view.
    """

    balanced = ridged = True

    def __init__(
        self,
        dims: Mapping[str, int],
        ridge: float,
        within: int = 500,
        between: int = 2200,
        own_classes: bool = False,
        **kwargs: Any,
    ):
        super().__init__(dims, ridge=ridge, **kwargs)
        if within < 1 or between < 2:
            raise ValueError(f"within is {within} and between {between}; expected 1 or more, and 2 or more")
        self.within, self.between, self.own_classes = within, between, own_classes

    def classes(self, label: np.ndarray) -> sparse.csr_array:
        return super().classes(np.arange(len(label)) if self.own_classes else label)

    def matrices(self, x: np.ndarray, classes: sparse.csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        means = (classes.T @ x) / classes.sum(axis=0)[:, None]
        graphs = nearest_across(x, classes, self.between), nearest_within(x, classes, self.within)
        a, b = (x.T @ (laplacian(graph) @ x) / len(x) for graph in graphs)
        return a, b, means / np.sqrt(len(means))


def nearest_within(x: np.ndarray, classes: sparse.csr_array, count: int) -> sparse.csr_array:
    """(N, N), 1 where one of two items is among the nearest of the other within a class.

    Args:
        x: (N, d) features.
        classes: (N, C) memberships.
        count: of the nearest of each item.
    """
    found = sparse.csr_array((len(x), len(x)))
    columns = classes.tocsc()
    for place in range(columns.shape[1]):
        items = columns.indices[columns.indptr[place] : columns.indptr[place + 1]]
        if len(items) > 1:
            graph = kneighbors_graph(x[items], min(count, len(items) - 1)).tocoo()
            found = found.maximum(_symmetric(items[graph.row], items[graph.col], len(x)))
    return found


def nearest_across(x: np.ndarray, classes: sparse.csr_array, count: int) -> sparse.csr_array:
    """(N, N), 1 for the nearest pairs of items without a common class: ``count`` entries, two of a pair."""
    found, start = [], 0
    for chunk in pairwise_distances_chunked(x, working_memory=DISTANCES):
        same = (classes[start : start + len(chunk)] @ classes.T).tocoo()
        chunk[same.row, same.col] = np.inf
        kept = np.argpartition(chunk, min(count, chunk.size) - 1, axis=None)[:count]
        here, there = np.unravel_index(kept, chunk.shape)
        found.append((chunk[here, there], here + start, there))
        start += len(chunk)
    distance, row, column = map(np.concatenate, zip(*found, strict=True))
    nearest = np.argsort(distance, kind="stable")[:count]
    nearest = nearest[np.isfinite(distance[nearest])]
    return _symmetric(row[nearest], column[nearest], len(x))


def _symmetric(row: np.ndarray, column: np.ndarray, size: int) -> sparse.csr_array:
    graph = sparse.csr_array((np.ones(len(row)), (row, column)), shape=(size, size))
    return graph.maximum(graph.T)
