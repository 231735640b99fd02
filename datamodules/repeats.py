"""Entries and whole items that a data set has more than once, found by a digest of their content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.features import FeatureSet
from datamodules.items import Files, ItemSet, Modality
from datamodules.sources import sha256_of


@dataclass(frozen=True)
class Repeats:
    """What occurs more than once.

    Args:
        entries: modality -> number of test items with an entry that a training item has too.
        pairs: number of test items that are a training item again, in all modalities.
        across: names of items that are the same in all modalities and stand in several splits, group by group.
        within: number of items that are an earlier one of their own split again, in all modalities.
    """

    entries: dict[str, int]
    pairs: int
    across: list[list[str]]
    within: int


def find_repeats(data: FeatureSet | ItemSet) -> Repeats:
    """Compare all items by content; one that lacks a modality is compared in the others alone, and never as a whole.

    An item is the same as another where each of its modalities has the same entries, in the same order.
    """
    contents = _contents(data)
    train, test = (np.flatnonzero(data.split == split).tolist() for split in ("train", "test"))
    entries = {}
    for name, digests in contents.items():
        known = {digest for item in train for digest in digests[item]}
        entries[name] = sum(not known.isdisjoint(digests[item]) for item in test)
    groups: dict[tuple, list[int]] = {}
    for item, whole in enumerate(zip(*contents.values(), strict=True)):
        if all(whole):
            groups.setdefault(tuple(map(tuple, whole)), []).append(item)
    repeated = [group for group in groups.values() if len(group) > 1]
    names = data.names if isinstance(data, ItemSet) else [f"row {item}" for item in range(len(data))]
    splits = [data.split[group].tolist() for group in repeated]
    return Repeats(
        entries=entries,
        pairs=sum(found.count("test") for found in splits if "train" in found),
        across=[
            [f"{names[item]} ({data.split[item]})" for item in group]
            for group, found in zip(repeated, splits, strict=True)
            if len(set(found)) > 1
        ],
        within=sum(len(found) - len(set(found)) for found in splits),
    )


def _contents(data: FeatureSet | ItemSet) -> dict[str, list[list[bytes]]]:
    """Modality -> digests of every item's entries."""
    if isinstance(data, FeatureSet):
        return {name: [[_digest(row)] for row in array] for name, array in data.features.items()}
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
