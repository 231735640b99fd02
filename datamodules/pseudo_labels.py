"""Labels for training without classes: clusters of what was recorded of the items."""

from __future__ import annotations

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from datamodules.errors import DataError
from datamodules.items import ItemSet, Modality

STEPS, COMPONENTS = 16, 32


def cluster_items(data: ItemSet, index: np.ndarray, clusters: int) -> np.ndarray:
    """Cluster of each of the given items, by k-means on what was recorded of them alone.

    An item's vector joins its modalities of vectors and sequences. Each gives the item's first entry, a sequence
    resampled to 16 steps by linear interpolation; standardised over the given items, reduced to at most 32 principal
    components and scaled to a total variance of one, so that a modality does not count for its size. Texts and files,
    which have no fixed length, are left out, and so are labels and all other items.

    Args:
        data: the items.
        index: (n,) items to cluster.
        clusters: K, from 2 to n.

    Returns:
        (n,) integers, 0 to K - 1.

    Raises:
        DataError: there are fewer items than clusters, or no modality of vectors or sequences.
    """
    recorded = {name: m for name, m in data.modalities.items() if m.kind in ("vector", "sequence")}
    if not recorded:
        raise DataError(
            f"{data.origin}: clusters need a modality of vectors or sequences beside {', '.join(data.modalities)}."
        )
    if len(index) < clusters:
        raise DataError(f"{data.origin}: {clusters} clusters need as many training items; there are {len(index)}.")
    vectors = np.concatenate([_principal(_fixed_length(modality, index)) for modality in recorded.values()], axis=1)
    return KMeans(clusters, n_init=10, random_state=0).fit_predict(vectors).astype(np.int64)


def _fixed_length(modality: Modality, index: np.ndarray) -> np.ndarray:
    """(n, d) first entries of the items, sequences resampled and laid out flat."""
    entries = [modality.entries[first] for first in np.searchsorted(modality.owners(), index)]
    if modality.kind == "sequence":
        entries = [resample(entry, STEPS) for entry in entries]
    return np.stack([np.ravel(entry) for entry in entries]).astype(np.float64)


def resample(sequence: np.ndarray, steps: int) -> np.ndarray:
    """(T, ...) to (steps, ...), linearly interpolated at even distances from the first step to the last."""
    position = np.linspace(0, len(sequence) - 1, steps)
    before = position.astype(np.int64)
    after = np.minimum(before + 1, len(sequence) - 1)
    share = (position - before).reshape(-1, *[1] * (sequence.ndim - 1))
    return (1 - share) * sequence[before] + share * sequence[after]


def _principal(rows: np.ndarray) -> np.ndarray:
    standardised = StandardScaler().fit_transform(rows)
    components = PCA(min(COMPONENTS, *rows.shape), svd_solver="full").fit_transform(standardised)
    total = components.var(axis=0).sum()
    return components / np.sqrt(total) if total > 0 else components
