"""Labels to train on that are not the true classes: instances, clusters, classes that are merged, labels flipped."""

import re

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datamodules.errors import DataError
from datamodules.items import ItemSet, Modality

STEPS, COMPONENTS = 16, 32
FORMS = "class, instance, clusters-K or merged-K with K at least 2, or flips-P with P per cent, above 0 and below 100"


def parse_labels(labels: str) -> tuple[str, int]:
    """The kind of labels, and its number.

    Args:
        labels: "class", "instance", "clusters-K", "merged-K" or "flips-P".

    Raises:
        ValueError: another text, or a number outside its range.
    """
    found = re.fullmatch(r"(class|instance)|(clusters|merged|flips)-(\d{1,9})", labels)
    kind, number = (found[1] or found[2], int(found[3] or 0)) if found else ("", 0)
    if not kind or (kind in ("clusters", "merged") and number < 2) or (kind == "flips" and not 0 < number < 100):
        raise ValueError(f"labels is {labels!r}; expected {FORMS}.")
    return kind, number


def noisy_labels(data: ItemSet, train: np.ndarray, others: np.ndarray, labels: str, seed: int) -> np.ndarray:
    """Labels of training items, and of validation items by the same rule, in place of their classes.

    - "instance": every item another.
    - "clusters-K": k-means on the vectors and sequences of the training items; others get the nearest centre.
    - "merged-K": the C classes in a drawn order; the class in place i becomes class i mod K. Wrong positives alone.
    - "flips-P": P per cent of the training items, and of the others, drawn, each get one of the C - 1 other classes,
      every one as likely.

    Args:
        data: the items.
        train: (n,) training items.
        others: (m,) items that are labelled as noisily.
        labels: as above.
        seed: of the draws, and of k-means.

    Returns:
        (N,) integers, -1 for all other items.

    Raises:
        DataError: items of several classes, fewer classes than K, one class alone; for clusters fewer training items
            than K, or no modality of vectors or sequences.
    """
    kind, number = parse_labels(labels)
    index = np.concatenate([train, others])
    label = np.full(len(data), -1)
    if kind == "instance":
        label[index] = index
        return label
    if kind == "clusters":
        label[train], label[others] = _clusters(data, train, others, number, seed)
        return label
    if data.label.ndim == 2:
        raise DataError(f"{data.origin}: its items have several classes, and {labels} needs one of each.")
    classes, label[index] = np.unique(data.label[index], return_inverse=True)
    if len(classes) < (number if kind == "merged" else 2):
        raise DataError(f"{data.origin}: {labels} needs more than the {len(classes)} classes of its training items.")
    rng = np.random.default_rng((seed, len(classes)))
    if kind == "merged":
        label[index] = rng.permutation(len(classes))[label[index]] % number
        return label
    for part in (train, others):
        flipped = rng.permutation(part)[: round(number / 100 * len(part))]
        label[flipped] = (label[flipped] + rng.integers(1, len(classes), size=len(flipped))) % len(classes)
    return label


def _clusters(
    data: ItemSet, train: np.ndarray, others: np.ndarray, number: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster of each training item, by k-means on what was recorded of them alone; and the nearest of each other.

    An item's vector joins its modalities of vectors and sequences. Each gives the item's first entry, a sequence
    resampled to 16 steps by linear interpolation; standardised over the training items, reduced to at most 32 principal
    components and scaled to a total variance of one, so that a modality does not count for its size. Texts and files,
    which have no fixed length, are left out, and so are labels and all other items.
    """
    recorded = [m for m in data.modalities.values() if m.kind in ("vector", "sequence")]
    if not recorded:
        raise DataError(
            f"{data.origin}: clusters need a modality of vectors or sequences beside {', '.join(data.modalities)}."
        )
    if len(train) < number:
        raise DataError(f"{data.origin}: {number} clusters need as many training items; there are {len(train)}.")
    pairs = [_principal(_fixed_length(m, train), _fixed_length(m, others)) for m in recorded]
    fitted, beside = (np.concatenate(part, axis=1) for part in zip(*pairs, strict=True))
    means = KMeans(number, n_init=10, random_state=seed).fit(fitted)
    return means.labels_.astype(np.int64), means.predict(beside).astype(np.int64) if len(others) else others


def _fixed_length(modality: Modality, index: np.ndarray) -> np.ndarray:
    """(n, d) first entries of the items, sequences resampled and laid out flat."""
    entries = [modality.entries[first] for first in np.searchsorted(modality.owners(), index)]
    if modality.kind == "sequence":
        entries = [resample(entry, STEPS) for entry in entries]
    return np.array([np.ravel(entry) for entry in entries], dtype=np.float64)


def resample(sequence: np.ndarray, steps: int) -> np.ndarray:
    """(T, ...) to (steps, ...), linearly interpolated at even distances from the first step to the last."""
    position = np.linspace(0, len(sequence) - 1, steps)
    before = position.astype(np.int64)
    after = np.minimum(before + 1, len(sequence) - 1)
    share = (position - before).reshape(-1, *[1] * (sequence.ndim - 1))
    return (1 - share) * sequence[before] + share * sequence[after]


def _principal(rows: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reduction = make_pipeline(StandardScaler(), PCA(min(COMPONENTS, *rows.shape), svd_solver="full"))
    components = reduction.fit_transform(rows)
    scale = np.sqrt(components.var(axis=0).sum()) or 1.0
    beside = reduction.transform(others) if len(others) else np.zeros((0, components.shape[1]))
    return components / scale, beside / scale
