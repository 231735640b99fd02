"""How far apart two modalities lie in the joint space, measured in three ways."""

import warnings
from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import radius_neighbors_graph
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

from losses.kernel import kernel_cs_divergence

GAP_METRICS = ("centroid distance", "linear separability", "kernel CS")
# What two of them are where there is no gap: they are distances between samples, and these are finite.
BY_CHANCE = ("centroid distance by chance", "kernel CS by chance")
FOLDS = 5
DRAWS = 20
SIGMA = 1.0
SAME = 1e-5  # unit vectors that are no farther apart are of equal entries


def modality_gap(embeddings: Mapping[str, np.ndarray], items: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The gap between modalities, mean over all pairs of them; of unit vectors x of one and z of the other.

    - centroid distance: | mean x - mean z |, 0 to 2;
    - linear separability: share of held-out entries of which a logistic regression on standardised values (C = 1)
      tells the modality, mean over the two modalities; five folds, with an item's entries, and those of all items that
      share an entry with it, such as one text, in one of them; 0.5 where they cannot be told apart;
    - kernel CS: log mean k(x, x') + log mean k(z, z') - 2 log mean k(x, z), Gaussian kernel of bandwidth 1;
    - the first and the third by chance: their mean over 20 draws that shuffle the modalities of an item's entries.

    Args:
        embeddings: modality -> (n, D).
        items: modality -> (n,), the item of each row.

    Returns:
        Metric -> value.

    Raises:
        ValueError: fewer than two modalities, or fewer than five items without an entry in common.

    Source: centroid distance of Liang et al., NeurIPS 2022 ("Mind the gap"); kernel CS of Yin et al., arXiv 2502.17028.
    """
    if len(embeddings) < 2:
        raise ValueError(f"the modality gap takes two modalities or more, got {', '.join(embeddings) or 'none'}")
    unit = {name: normalize(np.asarray(rows, dtype=np.float64)) for name, rows in embeddings.items()}
    found = [_gap(unit[a], unit[b], items[a], items[b]) for a, b in combinations(unit, 2)]
    return {name: float(np.mean([gap[name] for gap in found])) for name in (*GAP_METRICS, *BY_CHANCE)}


def _gap(x: np.ndarray, z: np.ndarray, of_x: np.ndarray, of_z: np.ndarray) -> dict[str, float]:
    rows, item = np.concatenate([x, z]), np.concatenate([of_x, of_z])
    of_second = np.repeat([False, True], [len(x), len(z)])
    distances = _distances(rows, of_second)
    by_chance = [_distances(rows, shuffled) for shuffled in _shuffled(of_second, item)]
    return {
        **distances,
        "linear separability": _separability(rows, of_second, item),
        **{f"{name} by chance": float(np.mean([drawn[name] for drawn in by_chance])) for name in distances},
    }


def _distances(rows: np.ndarray, of_second: np.ndarray) -> dict[str, float]:
    x, z = rows[~of_second], rows[of_second]
    return {
        "centroid distance": float(np.linalg.norm(x.mean(axis=0) - z.mean(axis=0))),
        "kernel CS": float(kernel_cs_divergence(torch.from_numpy(x), torch.from_numpy(z), SIGMA)),
    }


def _shuffled(of_second: np.ndarray, item: np.ndarray) -> Iterator[np.ndarray]:
    """Which entries are of the second modality, were those of an item handed out at random."""
    draw = np.random.default_rng(0)
    sorted_by_item = of_second[np.lexsort((of_second, item))]
    for _ in range(DRAWS):
        shuffled = np.empty_like(of_second)
        shuffled[np.lexsort((draw.random(len(item)), item))] = sorted_by_item
        yield shuffled


def _separability(rows: np.ndarray, of_second: np.ndarray, item: np.ndarray) -> float:
    group = _connected(rows, item)
    if len(np.unique(group)) < FOLDS:
        raise ValueError(
            f"the modality gap takes {FOLDS} items or more that have no entry in common, got {len(np.unique(group))}"
        )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=200))
    with warnings.catch_warnings():  # 200 steps tell as much as the optimum would
        warnings.simplefilter("ignore", ConvergenceWarning)
        told = cross_val_predict(classifier, rows, of_second, groups=group, cv=GroupKFold(FOLDS)) == of_second
    return float((told[of_second].mean() + told[~of_second].mean()) / 2)


def _connected(rows: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Number of the set that each row belongs to, of items that share equal rows, directly or through others."""
    _, of_item = np.unique(item, return_inverse=True)
    values, of_value = np.unique(rows, axis=0, return_inverse=True)
    has = coo_array((np.ones(len(rows)), (of_item, of_value.ravel())))
    # Equal entries that were embedded in different batches may differ in their last digits.
    equal = radius_neighbors_graph(values, SAME, include_self=True)
    return connected_components(has @ equal @ has.T, directed=False)[1][of_item]
