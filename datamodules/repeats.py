"""Entries and whole items that a data set has more than once, found by a digest of their content."""

from __future__ import annotations

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
    """Items of several splits that are the same.

    Args:
        items: name -> split.
        modality: the one in which they have an entry in common; None where they are the same in all of them.
    """

    items: dict[str, str]
    modality: str | None = None


@dataclass(frozen=True)
class Repeats:
    """What occurs more than once.

    Args:
        entries: modality -> number of test items with an entry that a training item has too.
        pairs: number of test items that are a training item again, in all modalities.
        across: items that stand in several splits, group by group: those that are the same in all modalities, then
            those that share a file or a sequence (a photograph, a sound, a motion). Texts and features are not looked
            at alone: those of two items may honestly be the same.
        within: number of items that are an earlier one of their own split again, in all modalities.
    """

    entries: dict[str, int]
    pairs: int
    across: list[Repeated]
    within: int


def find_repeats(data: ItemSet) -> Repeats:
    """Compare all items by content; one that lacks a modality is compared in the others alone, and never as a whole.

    An item is the same as another where each of its modalities has the same entries, in the same order.
    """
    contents = _contents(data)
    train, test = (np.flatnonzero(data.split == split).tolist() for split in ("train", "test"))
    entries = {}
    for name, digests in contents.items():
        known = {digest for item in train for digest in digests[item]}
        entries[name] = sum(not known.isdisjoint(digests[item]) for item in test)
    wholes = enumerate(zip(*contents.values(), strict=True))
    repeated = _groups((tuple(map(tuple, whole)), item) for item, whole in wholes if all(whole))
    splits = [data.split[group].tolist() for group in repeated]
    across = [(group, None) for group in repeated] + _sharing(data, contents, repeated)
    return Repeats(
        entries=entries,
        pairs=sum(found.count("test") for found in splits if "train" in found),
        across=[_named(data, *group) for group in across if len(set(data.split[group[0]].tolist())) > 1],
        within=sum(len(found) - len(set(found)) for found in splits),
    )


def _sharing(
    data: ItemSet, contents: dict[str, list[list[bytes]]], repeated: list[list[int]]
) -> list[tuple[list[int], str]]:
    """Items that have a file or a sequence in common, and its modality; those apart that are the same as a whole."""
    found = []
    whole = {item: number for number, group in enumerate(repeated) for item in group}
    for name, modality in data.modalities.items():
        if modality.kind not in ("text", "vector"):
            items = enumerate(contents[name])
            groups = _groups((digest, item) for item, digests in items for digest in dict.fromkeys(digests))
            found += [(group, name) for group in groups if len({whole.get(item, -1 - item) for item in group}) > 1]
    return found


def _groups(keyed: Iterable[tuple[Hashable, int]]) -> list[list[int]]:
    """Items that have a key in common, two or more; every group once."""
    groups: dict[Hashable, list[int]] = {}
    for key, item in keyed:
        groups.setdefault(key, []).append(item)
    return [list(group) for group in dict.fromkeys(tuple(group) for group in groups.values() if len(group) > 1)]


def _named(data: ItemSet, group: list[int], modality: str | None) -> Repeated:
    return Repeated(dict(zip([data.names[item] for item in group], data.split[group].tolist(), strict=True)), modality)


def _contents(data: ItemSet) -> dict[str, list[list[bytes]]]:
    """Modality -> digests of every item's entries."""
    return {name: _of_items(modality, len(data)) for name, modality in data.modalities.items()}


def _of_items(modality: Modality, items: int) -> list[list[bytes]]:
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
    if few and not one_label:
        rank_zero_warn(
            f"{said}, and equal ones have several labels, so each counts as another {name}; if they are one {name} "
            "with several partners, give its rows one label: it then counts once."
        )
    elif few and not of_class:
        rank_zero_info(f"{said}: each counts once, as one {name} with several partners.")
    elif many:
        why = (
            "one for each label, as class names are"
            if of_class
            else "more than half of their number, too many for one with several partners each"
        )
        rank_zero_warn(
            f"{said}, {why}, so each row is drawn and counts as another {name}; if equal rows are one {name}, "
            "keep one pair of each."
        )


def first_of_equal(rows: np.ndarray, index: np.ndarray, label: np.ndarray | None = None) -> np.ndarray:
    """(n,) for each row that an index names, the first that it names with the same numbers, bit for bit (and label)."""
    first: dict[tuple[bytes, bytes], int] = {}
    labels = (b"" if label is None else label[i].tobytes() for i in index.tolist())
    keys = zip(map(_digest, map(rows.__getitem__, index.tolist())), labels, strict=True)
    return np.array([first.setdefault(key, i) for key, i in zip(keys, index.tolist(), strict=True)], dtype=int)


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
