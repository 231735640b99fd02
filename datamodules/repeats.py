"""Rows of paired features that stand several times: an image beside each of its captions."""

import hashlib
from collections.abc import Mapping

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

CAPTIONS = 10  # of one image at most, as those of CUB-200; a label with more rows is a class


def repeated_rows(
    features: Mapping[str, np.ndarray], label: np.ndarray, index: np.ndarray, said: str | None = None
) -> dict[str, np.ndarray]:
    """Modalities of which a sample stands several times, as images with several captions do -> `first_of_equal`.

    They are those where at most half of the rows differ, bit for bit, and equal ones always have equal labels. Chance
    repeats, such as empty texts or short binary vectors, are fewer or differ in label.

    Where equal labels always have equal rows, in the whole data, a label is an image with its captions, or a class of
    which every item has the same text, such as the vector of the class's name. The data do not say which. It is taken
    for an image where no label has more than 10 rows, and none has rows beside those looked at, for an image stands in
    one part. Else it is taken for a class, and its rows count apart.

    Args:
        features: modality -> (N, d) rows.
        label: (N,) integers or (N, C) bool.
        index: (n,) rows to look at.
        said: what they are, such as "pairs.npz: the 50 test rows", to say what was found and to warn of rows that
            repeat and count apart; None: say nothing.
    """
    kind = np.unique(label, axis=0, return_inverse=True)[1].reshape(-1)
    inside, found = kind[index], {}
    for name, rows in features.items():
        first = first_of_equal(rows, index)
        different, one_label = len(np.unique(first)), bool((kind[first] == inside).all())
        again = len(index) - len(set(zip(first.tolist(), inside.tolist(), strict=True)))
        few = 0 < 2 * different <= len(index)
        of_class = few and one_label and _of_class(rows, kind, index)
        if few and one_label and not of_class:
            found[name] = first
            why = f": each counts once, as one {name} with several partners."
        elif few and not one_label:
            why = (
                f", and equal ones have several labels, so each counts as another {name}; if they are one {name} "
                "with several partners, give its rows one label: it then counts once."
            )
        elif 10 * again > len(index):
            why = "one for each label, as class names are" if of_class else "more than half of their number"
            why = (
                f", {why}, so each row is drawn and counts as another {name}; if equal rows are one {name}, keep one "
                "pair of each."
            )
        else:
            continue
        if said:
            say = rank_zero_info if name in found else rank_zero_warn
            say(f"{said} of {name} are {different} different ones{why}")
    return found


def _of_class(rows: np.ndarray, kind: np.ndarray, index: np.ndarray) -> bool:
    """Whether the labels of some rows have one row each in the whole data, and are classes rather than images."""
    whole = np.flatnonzero(np.isin(kind, kind[index]))
    each = np.unique(kind[whole], return_counts=True)[1]
    image = each.max() <= CAPTIONS and len(whole) == len(index)
    first = first_of_equal(rows, whole)
    return not image and len(set(zip(first.tolist(), kind[whole].tolist(), strict=True))) == len(each)


def first_of_equal(rows: np.ndarray, index: np.ndarray, label: np.ndarray | None = None) -> np.ndarray:
    """(n,) for each row that an index names, the first that it names with the same numbers, bit for bit (and label)."""
    first: dict[bytes, int] = {}
    found = np.empty_like(index)
    for place, row in enumerate(index.tolist()):
        key = hashlib.blake2b(np.ascontiguousarray(rows[row]), digest_size=16).digest()
        found[place] = first.setdefault(key if label is None else key + label[row].tobytes(), row)
    return found


def samples_of_rows(
    features: Mapping[str, np.ndarray], label: np.ndarray, index: np.ndarray, said: str | None = None
) -> np.ndarray:
    """(n,) for each row that an index names, a row that stands for its sample: itself, where no modality repeats.

    Rows are one sample where they are equal in a modality of `repeated_rows`, which describes the arguments, directly
    or by way of others.
    """
    sample = index
    for first in repeated_rows(features, label, index, said).values():
        links = coo_array((np.ones(2 * len(index)), (np.tile(index, 2), np.r_[sample, first])), shape=(len(label),) * 2)
        component = connected_components(links, directed=False)[1][index]
        _, leader, group = np.unique(component, return_index=True, return_inverse=True)
        sample = index[leader][group]
    return sample
