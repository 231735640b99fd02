"""Which items are held out for validation and which classes are unseen: pure functions of labels and seed."""

import numpy as np

from datamodules.errors import DataError


def carve_validation(label: np.ndarray, index: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide training items into a training and a validation part, class by class.

    Of n items of a class, round(fraction n), at least one and at most n - 1, go to validation. The draw of a class
    depends on the seed and the class alone, so that leaving other classes out does not change it. An item of several
    classes counts for the rarest of them.

    Args:
        label: (N,) integers or (N, C) bool, of the whole data set.
        index: (n,) rows to divide.
        fraction: share of the items, 0 < fraction < 1.
        seed: 0 or more.

    Returns:
        Rows that stay in training and rows held out, both ascending.
    """
    stratum = label[index]
    if stratum.ndim == 2:
        frequency = stratum.sum(axis=0)
        stratum = np.where(stratum, frequency, len(index) + 1).argmin(axis=1)
    held_out = [np.arange(0)]
    order = np.argsort(stratum, kind="stable")
    classes, first = np.unique(stratum[order], return_index=True)
    for c, items in zip(classes, np.split(index[order], first[1:]), strict=True):
        count = min(max(round(fraction * len(items)), 1), len(items) - 1)
        held_out.append(np.random.default_rng((seed, int(c))).permutation(items)[:count])
    validation = np.sort(np.concatenate(held_out))
    return np.setdiff1d(index, validation), validation


def carve_groups(group: np.ndarray, index: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide training items into a training and a validation part, whole groups at a time.

    Of n groups round(fraction n), at least one and at most n - 1, go to validation.

    Args:
        group: (N,) integers, of the whole data set.
        index: (n,) rows to divide.
        fraction: share of the groups, 0 < fraction < 1.
        seed: 0 or more.

    Returns:
        Rows that stay in training and rows held out, both ascending.

    Raises:
        DataError: the items belong to one group.
    """
    groups = np.unique(group[index])
    if len(groups) < 2:
        raise DataError(f"all {len(index)} training items belong to one group; set validation_fraction to 0.")
    count = min(max(round(fraction * len(groups)), 1), len(groups) - 1)
    held_out = np.isin(group[index], np.random.default_rng(seed).permutation(groups)[:count])
    return np.sort(index[~held_out]), np.sort(index[held_out])


def split_paired(index: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training items whose pairing is known, and those whose modalities count as unpaired samples.

    Args:
        index: (n,) items, ascending.
        fraction: share that stays paired, above 0, at most 1; at least one item does.
        seed: 0 or more. A smaller share under the same seed is part of a larger one.

    Returns:
        The paired and the unpaired part of ``index``, ascending.
    """
    order = np.random.default_rng((seed, len(index))).permutation(index)
    count = max(round(fraction * len(index)), 1)
    return np.sort(order[:count]), np.sort(order[count:])


def seen_unseen(num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the seen half of the classes and the unseen rest (zero-shot protocol of JFSE; no public list exists).

    Args:
        num_classes: C; of an odd number the seen half is the larger.
        seed: 0 or more.

    Returns:
        Class numbers of the seen and of the unseen half, both ascending.

    Raises:
        DataError: fewer than two classes.
    """
    if num_classes < 2:
        raise DataError(f"zero-shot needs at least 2 classes, one seen and one unseen; the data have {num_classes}.")
    order = np.random.default_rng(seed).permutation(num_classes)
    half = (num_classes + 1) // 2
    return np.sort(order[:half]), np.sort(order[half:])
