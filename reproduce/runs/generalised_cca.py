"""Canonical correlation analysis of two views or more."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.linalg import eigh, solve_triangular

from reproduce.runs.baselines import Features, LinearMethod, ridged_cholesky


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

    def fit(self, features: Features, label: np.ndarray) -> GeneralisedCCA:
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

    def project(self, name: str, features: np.ndarray) -> np.ndarray:
        return self._scaled(name, features) @ self.projections[name]
