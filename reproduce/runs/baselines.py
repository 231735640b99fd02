"""Linear methods that a deep model must beat: canonical correlation analysis, semantic matching, and no training.

They are fitted at once, on all training items; as modules they are configured, run and scored as the other models.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from scipy.linalg import cholesky, eigh, solve_triangular, svd
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from datamodules import RetrievalData
from lightning_modules.base import Batch, RetrievalModule

Features = Mapping[str, np.ndarray]


class LinearMethod(RetrievalModule):
    """A method that is fitted on the training items when a training starts, and takes no steps.

    Args:
        dims: modality -> width, of paired features.
    """

    closed_form = True
    alignment = None
    unit_variance = True  # whether features are scaled to it, or centred alone

    def __init__(self, dims: Mapping[str, int]):
        super().__init__([name for name in dims if name != "class_embedding"], protocol="honest")
        self.scalers: dict[str, StandardScaler] = {}
        self.projections: dict[str, np.ndarray] = {}

    @abstractmethod
    def fit(self, features: Features, label: np.ndarray) -> Self:
        """Fit on (N, d) features and (N,) integers or (N, C) bool; returns itself."""

    def project(self, name: str, features: np.ndarray) -> np.ndarray:
        """(N, D) embeddings of (N, d) features of one modality."""
        return self._scaled(name, features) @ self.projections[name]

    def prepare_training(self, data: RetrievalData) -> None:
        super().prepare_training(data)
        self.fit(*data.arrays("train"))

    def embed(self, batch: Batch) -> dict[str, torch.Tensor]:
        embedded = self.embed_features({name: batch[name].cpu().numpy() for name in self.modalities})
        return {name: torch.from_numpy(x) for name, x in embedded.items()}

    def embed_features(self, features: Features) -> dict[str, np.ndarray]:
        """(N, D) embeddings of (N, d) features of every modality."""
        return {name: self.project(name, x) for name, x in features.items()}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing is left to train."""

    def configure_optimizers(self) -> None:
        """There is nothing to optimise."""

    def _fit_scalers(self, features: Features) -> dict[str, np.ndarray]:
        for name, x in features.items():
            self.scalers[name] = StandardScaler(with_std=self.unit_variance).fit(x.astype(np.float64))
        return {name: self._scaled(name, x) for name, x in features.items()}

    def _scaled(self, name: str, x: np.ndarray) -> np.ndarray:
        return self.scalers[name].transform(x.astype(np.float64))


class Untrained(LinearMethod):
    """Features scored as they are, which have to lie in one space already, as those of one CLIP do.

    Raises:
        ValueError: the modalities have features of different widths.
    """

    remark = "nothing is trained: the features as they are"

    def __init__(self, dims: Mapping[str, int]):
        super().__init__(dims)
        if len({dims[name] for name in self.modalities}) > 1:
            widths = ", ".join(f"{name} {dims[name]}" for name in self.modalities)
            raise ValueError(f"features as they are need one width, and theirs are {widths}; train a model instead")

    def fit(self, features: Features, label: np.ndarray) -> Self:
        return self

    def project(self, name: str, features: np.ndarray) -> np.ndarray:
        return features


class CCA(LinearMethod):
    """Canonical correlation analysis with a ridge, on features standardised by the training items.

    U, s, V = svd((C_xx + r I)^-1/2 C_xy (C_yy + r I)^-1/2), with C the covariances of the training items. An item is
    embedded by x (C_xx + r I)^-1/2 U s^2: a direction counts by its squared correlation, so that those fitted to noise
    do not outweigh the others.

    Args:
        components: number of directions, those of the largest correlations; None for all.
        ridge: r, in units of the variance of a feature.

    Raises:
        ValueError: ``ridge`` is not above 0, or ``components`` is below 1.

    Source: Hotelling, 1936; with a ridge Vinod, Journal of Econometrics 4(2), 1976; for retrieval Rasiwasia et al., ACM
    Multimedia 2010; scaled by correlations Gong et al., IJCV 106(2), 2014.
    """

    def __init__(self, dims: Mapping[str, int], components: int | None = None, ridge: float = 1.0):
        super().__init__(dims)
        if not ridge > 0 or (components is not None and components < 1):
            raise ValueError(f"ridge is {ridge} and components {components}; expected above 0, and 1 or more or None")
        self.components, self.ridge = components, ridge

    def fit(self, features: Features, label: np.ndarray) -> Self:
        """Fit on paired (N, d) features; labels are not used."""
        x, y = self._fit_scalers(features).values()
        lower_x, lower_y = (ridged_cholesky(rows, self.ridge) for rows in (x, y))
        between = solve_triangular(lower_x, x.T @ y / len(x), lower=True)
        between = solve_triangular(lower_y, between.T, lower=True).T
        # By QR: the faster divide and conquer now and then does not converge.
        left, correlations, right = svd(between, full_matrices=False, lapack_driver="gesvd")
        kept = slice(self.components)
        weight = correlations[kept] ** 2
        sides = ((lower_x, left[:, kept]), (lower_y, right.T[:, kept]))
        self.projections = {
            name: solve_triangular(lower.T, directions) * weight
            for name, (lower, directions) in zip(features, sides, strict=True)
        }
        return self


def ridged_cholesky(rows: np.ndarray, ridge: float) -> np.ndarray:
    """(d, d) lower triangular L, with L L^T the covariance of (N, d) centred rows and a ridge on its diagonal."""
    return cholesky(rows.T @ rows / len(rows) + ridge * np.eye(rows.shape[1]), lower=True)


class GeneralisedCCA(LinearMethod):
    """MAX-VAR generalised CCA with a ridge, on features standardised by the training items.

    The common representation G (N, k) is of the leading eigenvectors of sum_m X_m (X_m^T X_m + n r I)^-1 X_m^T, with
    eigenvalues lambda up to M; an item is embedded by x (C_mm + r I)^-1 X_m^T G / n, C the covariance of the n training
    items. A direction counts by the square of its mean correlation (lambda - 1) / (M - 1), as in `CCA`, which it equals
    for two views and a small ridge; those that correlate with nothing are left out.

    Args:
        dims: modality -> width, of paired features.
        ridge: r, in units of the variance of a feature.

    Raises:
        ValueError: ``ridge`` is not above 0.

    Source: Kettenring, Biometrika 58(3), 1971, MAXVAR; with a ridge Rastogi, Van Durme and Arora, NAACL 2015.
    """

    def __init__(self, dims: Mapping[str, int], ridge: float = 1.0):
        super().__init__(dims)
        if not ridge > 0:
            raise ValueError(f"ridge is {ridge}; expected above 0")
        self.ridge = ridge

    def fit(self, features: Features, label: np.ndarray) -> Self:
        """Fit on paired (N, d) features; labels are not used."""
        views = self._fit_scalers(features)
        lower = {name: ridged_cholesky(x, self.ridge) for name, x in views.items()}
        white = {name: solve_triangular(lower[name], x.T / np.sqrt(len(x)), lower=True).T for name, x in views.items()}
        joint = np.concatenate(list(white.values()), axis=1)
        if joint.shape[1] <= len(joint):
            value, vector = eigh(joint.T @ joint)
        else:  # the same eigenvalues, and joint^T u is an eigenvector for u one of the smaller matrix
            value, vector = eigh(joint @ joint.T)
            vector = joint.T @ vector / np.sqrt(np.maximum(value, np.finfo(float).tiny))
        correlation = (value - 1) / (len(views) - 1)
        kept = np.flatnonzero(correlation > 0)[::-1]
        kept = kept if len(kept) else np.arange(len(value))[-1:]
        weight = np.sqrt(len(views)) * np.maximum(correlation[kept], 0) ** 2
        parts = np.split(vector[:, kept], np.cumsum([x.shape[1] for x in white.values()])[:-1])
        self.projections = {
            name: solve_triangular(lower[name].T, part) * weight for name, part in zip(views, parts, strict=True)
        }
        return self


class SemanticMatching(LinearMethod):
    """Class posteriors of one logistic regression per modality, on features standardised by the training items.

    With several classes per item, posteriors of one binary regression per class.

    Args:
        C: inverse strength of the L2 penalty.

    Source: Rasiwasia et al., ACM Multimedia 2010.
    """

    def __init__(self, dims: Mapping[str, int], C: float):
        super().__init__(dims)
        self.C = C

    def fit(self, features: Features, label: np.ndarray) -> Self:
        # A class without an item, or with nothing but items, cannot be told apart: it has no posterior.
        targets = [label] if label.ndim == 1 else [y for y in label.T if 0 < y.sum() < len(y)]
        self.classifiers = {
            name: [LogisticRegression(C=self.C, max_iter=2000).fit(x, y) for y in targets]
            for name, x in self._fit_scalers(features).items()
        }
        return self

    def project(self, name: str, features: np.ndarray) -> np.ndarray:
        x = self._scaled(name, features)
        posteriors = [classifier.predict_proba(x) for classifier in self.classifiers[name]]
        return posteriors[0] if len(posteriors) == 1 else np.stack([p[:, 1] for p in posteriors], axis=1)
