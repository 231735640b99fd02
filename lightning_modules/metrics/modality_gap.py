"""How far apart two modalities lie in the joint space, measured in three ways."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import combinations

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.preprocessing import normalize

from losses.kernel import kernel_cs_divergence

GAP_METRICS = ("centroid distance", "linear separability", "kernel CS")
FOLDS = 5
SIGMA = 1.0


def modality_gap(embeddings: Mapping[str, np.ndarray], items: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The gap between modalities, mean over all pairs of them; of unit vectors x of one and z of the other.

    - centroid distance: | mean x - mean z |, 0 to 2;
    - linear separability: share of held-out entries of which a logistic regression tells the modality, mean over the
      two modalities; five folds, an item's entries in one of them; 0.5 where they cannot be told apart;
    - kernel CS: log mean k(x, x') + log mean k(z, z') - 2 log mean k(x, z), Gaussian kernel of bandwidth 1.

    Args:
        embeddings: modality -> (n, D).
        items: modality -> (n,), the item of each row.

    Returns:
        Metric -> value.

    Raises:
        ValueError: fewer than two modalities, or fewer than five items.

    Source: centroid distance of Liang et al., NeurIPS 2022 ("Mind the gap"); kernel CS of Yin et al., arXiv 2502.17028.
    """
    if len(embeddings) < 2 or len(np.unique(np.concatenate(list(items.values())))) < FOLDS:
        counted = ", ".join(f"{name} {len(rows)}" for name, rows in embeddings.items())
        raise ValueError(f"the modality gap takes two modalities or more and {FOLDS} items, got {counted or 'none'}")
    unit = {name: normalize(np.asarray(rows, dtype=np.float64)) for name, rows in embeddings.items()}
    found = [_gap(unit[a], unit[b], items[a], items[b]) for a, b in combinations(unit, 2)]
    return {name: float(np.mean([gap[name] for gap in found])) for name in GAP_METRICS}


def _gap(x: np.ndarray, z: np.ndarray, of_x: np.ndarray, of_z: np.ndarray) -> dict[str, float]:
    rows, groups = np.concatenate([x, z]), np.concatenate([of_x, of_z])
    modality = np.repeat([0, 1], [len(x), len(z)])
    classifier = LogisticRegression(class_weight="balanced", max_iter=200)
    with warnings.catch_warnings():  # 200 steps tell as much as the optimum would
        warnings.simplefilter("ignore", ConvergenceWarning)
        told = cross_val_predict(classifier, rows, modality, groups=groups, cv=GroupKFold(FOLDS)) == modality
    return {
        "centroid distance": float(np.linalg.norm(x.mean(axis=0) - z.mean(axis=0))),
        "linear separability": float((told[: len(x)].mean() + told[len(x) :].mean()) / 2),
        "kernel CS": float(kernel_cs_divergence(torch.from_numpy(x), torch.from_numpy(z), SIGMA)),
    }
