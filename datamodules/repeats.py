"""Entries and whole items that a data set has more than once, found by a digest of their content."""

import hashlib
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from datamodules.files.sources import sha256_of
from datamodules.items import Files, ItemSet, Modality

CAPTIONS = 10  # of one image at most, as those of CUB-200; a label with more rows is a class


@dataclass(frozen=True)
class Repeated:
    """Items that are the same.

    Args:
        items: name -> split.
        modality: the one in which they have an entry in common; None where they are the same in all of them.
    """

    items: dict[str, str]
    modality: str | None = None


def find_repeats(data: ItemSet) -> tuple[dict[str, int], list[Repeated]]:
    """Compare all items by content; one that lacks a modality is compared in the others alone, and never as a whole.

    Returns:
        Modality -> number of test items with an entry that a training item has too, and items that are the same, group
        by group: first those that are so as wholes, with the same entries in the same order in every modality; then
        those of several splits that share a file or a sequence (a photograph, a sound, a motion). Texts and vectors are
        not looked at alone: those of two items may honestly be the same.
    """
    contents = {name: _contents(modality, len(data)) for name, modality in data.modalities.items()}
    train, test = (np.flatnonzero(data.split == split).tolist() for split in ("train", "test"))
    again = {}
    for name, digests in contents.items():
        known = {digest for item in train for digest in digests[item]}
        again[name] = sum(not known.isdisjoint(digests[item]) for item in test)
    items = enumerate(zip(*contents.values(), strict=True))
    wholes = _groups((tuple(map(tuple, of)), item) for item, of in items if all(of))
    whole = {item: number for number, group in enumerate(wholes) for item in group}
    repeated = [_named(data, group) for group in wholes]
    for name, modality in data.modalities.items():
        if modality.kind in ("text", "vector"):
            continue
        for group in _groups((digest, item) for item, digests in enumerate(contents[name]) for digest in set(digests)):
            apart = len({whole.get(item, -1 - item) for item in group}) > 1
            if apart and len(set(data.split[group].tolist())) > 1:
                repeated.append(_named(data, group, name))
    return again, repeated


def _groups(keyed: Iterable[tuple[Hashable, int]]) -> list[list[int]]:
    """Items that have a key in common, two or more; every group once."""
    groups: dict[Hashable, list[int]] = {}
    for key, item in keyed:
        groups.setdefault(key, []).append(item)
    return [list(group) for group in dict.fromkeys(tuple(group) for group in groups.values() if len(group) > 1)]


def _named(data: ItemSet, group: list[int], modality: str | None = None) -> Repeated:
    return Repeated({data.names[item]: str(data.split[item]) for item in group}, modality)


def _contents(modality: Modality, items: int) -> list[list[bytes]]:
    """Digests of every item's entries."""
    digests: list[list[bytes]] = [[] for _ in range(items)]
    entries = modality.entries.paths if isinstance(modality.entries, Files) else modality.entries
    for owner, entry in zip(modality.owners().tolist(), entries, strict=True):
        digests[owner].append(_digest(entry))
    return digests


def _digest(entry: np.ndarray | str | Path) -> bytes:
    if isinstance(entry, Path):
        return bytes.fromhex(sha256_of(entry))
    if isinstance(entry, str):
        return hashlib.sha256(entry.encode()).digest()
    return hashlib.sha256(f"{entry.shape}".encode() + np.ascontiguousarray(entry).tobytes()).digest()


# Rows of paired features that stand several times: an image beside each of its captions -----------------------------


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
        few = 0 < 2 * different <= len(index)
        of_class = few and one_label and _of_class(rows, kind, index)
        if few and one_label and not of_class:
            found[name] = first
        if said:
            again = len(index) - len(set(zip(first.tolist(), inside.tolist(), strict=True)))
            message = f"{said} of {name} are {different} different ones"
            _say(message, name, few, one_label, of_class, 10 * again > len(index))
    return found


def _of_class(rows: np.ndarray, kind: np.ndarray, index: np.ndarray) -> bool:
    """Whether the labels of some rows have one row each in the whole data, and are classes rather than images."""
    whole = np.flatnonzero(np.isin(kind, kind[index]))
    each = np.unique(kind[whole], return_counts=True)[1]
    image = each.max() <= CAPTIONS and len(whole) == len(index)
    first = first_of_equal(rows, whole)
    return not image and len(set(zip(first.tolist(), kind[whole].tolist(), strict=True))) == len(each)


def _say(said: str, name: str, few: bool, one_label: bool, of_class: bool, many: bool) -> None:
    if few and one_label and not of_class:
        rank_zero_info(f"{said}: each counts once, as one {name} with several partners.")
    elif few and not one_label:
        rank_zero_warn(
            f"{said}, and equal ones have several labels, so each counts as another {name}; if they are one {name} "
            "with several partners, give its rows one label: it then counts once."
        )
    elif many:
        why = "one for each label, as class names are" if of_class else "more than half of their number"
        rank_zero_warn(
            f"{said}, {why}, so each row is drawn and counts as another {name}; if equal rows are one {name}, "
            "keep one pair of each."
        )


def first_of_equal(rows: np.ndarray, index: np.ndarray, label: np.ndarray | None = None) -> np.ndarray:
    """(n,) for each row that an index names, the first that it names with the same numbers, bit for bit (and label)."""
    keys = [_sums(rows, index)] + ([] if label is None else [_sums(label.reshape(len(label), -1), index)])
    keys = np.concatenate(keys, axis=1)
    order = np.lexsort(keys.T)  # stable: equal ones stay in the order of the index
    new = np.r_[True, (keys[order[1:]] != keys[order[:-1]]).any(axis=1)][: len(order)]
    first = np.empty_like(index)
    first[order] = index[order[new]][np.cumsum(new) - 1]
    return first


def _sums(rows: np.ndarray, index: np.ndarray) -> np.ndarray:
    """(n, 2) integers that are the same for equal rows: sums of their bits, twice with other random factors.

    Two rows that differ share both for one draw of the factors in 2^64.
    """
    draw, factors, found = np.random.default_rng(0), None, np.empty((len(index), 2), np.uint64)
    step = max(1, 2**15 // max(1, rows.shape[1]))
    for start in range(0, len(index), step):
        piece = np.ascontiguousarray(rows[index[start : start + step]])
        bits = piece.view(np.uint32 if piece.itemsize % 4 == 0 else np.uint8).astype(np.uint64)
        if factors is None:
            factors = draw.integers(2**64, size=(bits.shape[1], 2), dtype=np.uint64)
        found[start : start + step] = bits @ factors
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
