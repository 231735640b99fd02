"""Linear methods that a deep model must beat: canonical correlation analysis and semantic matching."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
from sklearn.cross_decomposition import CCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

Features = Mapping[str, np.ndarray]


class LinearCCA:
    """Projections of both modalities with maximal correlation and unit variance, on standardised features.

    Means and variances are those of the training items.

    Args:
        components: number of projections.

    Source: Hotelling, 1936; for retrieval Rasiwasia et al., ACM Multimedia 2010.
    """

    def __init__(self, components: int):
        self.components = components

    def fit(self, features: Features, label: np.ndarray) -> LinearCCA:
        """Fit on paired (N, d) features; labels are not used."""
        self.modalities = tuple(features)
        limit = min(len(label), *(x.shape[1] for x in features.values()))
        # 2000 steps of its power iteration: the default of 500 stops early on some components.
        self.cca = CCA(n_components=min(self.components, limit), max_iter=2000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.cca.fit(*self._double(features))
        self.scales = [projected.std(axis=0) for projected in self.cca.transform(*self._double(features))]
        return self

    def embed(self, features: Features) -> dict[str, np.ndarray]:
        """(N, components) projections per modality."""
        projected = self.cca.transform(*self._double(features))
        return {
            name: x / np.where(scale > 0, scale, 1)
            for name, x, scale in zip(self.modalities, projected, self.scales, strict=True)
        }

    def _double(self, features: Features) -> list[np.ndarray]:
        return [features[name].astype(np.float64) for name in self.modalities]


class SemanticMatching:
    """Class posteriors of one logistic regression per modality, on features standardised by the training items.

    With several classes per item, posteriors of one binary regression per class.

    Args:
        C: inverse strength of the L2 penalty.

    Source: Rasiwasia et al., ACM Multimedia 2010.
    """

    def __init__(self, C: float):
        self.C = C

    def fit(self, features: Features, label: np.ndarray) -> SemanticMatching:
        """Fit on (N, d) features and (N,) integers or (N, C) bool."""
        self.scalers = {name: StandardScaler().fit(x.astype(np.float64)) for name, x in features.items()}
        self.classifiers = {name: self._classifiers(self._scaled(name, x), label) for name, x in features.items()}
        return self

    def embed(self, features: Features) -> dict[str, np.ndarray]:
        """(N, classes) posteriors per modality."""
        return {name: self._posteriors(name, self._scaled(name, x)) for name, x in features.items()}

    def _scaled(self, name: str, x: np.ndarray) -> np.ndarray:
        return self.scalers[name].transform(x.astype(np.float64))

    def _classifiers(self, x: np.ndarray, label: np.ndarray) -> list[LogisticRegression]:
        # A class without an item, or with nothing but items, cannot be told apart: it has no posterior.
        targets = [label] if label.ndim == 1 else [y for y in label.T if 0 < y.sum() < len(y)]
        return [LogisticRegression(C=self.C, max_iter=2000).fit(x, y) for y in targets]

    def _posteriors(self, name: str, x: np.ndarray) -> np.ndarray:
        posteriors = [classifier.predict_proba(x) for classifier in self.classifiers[name]]
        return posteriors[0] if len(posteriors) == 1 else np.stack([p[:, 1] for p in posteriors], axis=1)


BASELINES = {"CCA": LinearCCA, "semantic matching": SemanticMatching}
