"""A data set as items of several modalities, with labels, splits and names; checked once when read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from datamodules.errors import DataError
from datamodules.files.rows import check_matrix, hash_rows, name_twice, not_finite, row_names
from datamodules.modalities import Files, Modality

SPLITS = ("train", "validation", "test")
# Keys of a batch beside its modalities.
RESERVED = ("label", "id", "item", "masks", "split", "query", "class_embedding")
NETWORKS = nn.ModuleDict()  # of a model, by modality: none can be called as one of its attributes


@dataclass(frozen=True)
class ItemSet:
    """N items with their modalities, labels and splits.

    Args:
        modalities: name -> Modality; two or more. Items without an entry of one are seen to by `complete`.
        label: (N,) integers: items of equal label match each other. Or (N, C) bool, several classes per item: items
            match that share one.
        split: (N,) strings, each "train", "validation" or "test".
        names: (N,) what messages and results call each item, each another.
        origin: the file or folder the items were read from, for messages.
        group: (N,) integers: items of one group (a subject, say) stay together when a validation part is carved;
            by default every item is a group.
        class_names: names of the labels 0, 1, ..., where the data set has names for its classes.
        class_embedding: (C, E) floating array that came with the data, or None.
        unpaired: modality -> (n, d) floating array of samples to train on that belong to no item: they have no partner,
            label or split.

    Raises:
        DataError: row counts differ, two items or classes share a name, a label has none of the class names or an item
            no class, a text or sequence is empty, a value is not finite in float32, shapes differ, there are unpaired
            samples of no modality, or a modality's name is reserved.
    """

    modalities: dict[str, Modality]
    label: np.ndarray
    split: np.ndarray
    names: Sequence[str]
    origin: str
    group: np.ndarray | None = None
    class_names: Sequence[str] | None = None
    class_embedding: np.ndarray | None = None
    unpaired: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of_features(
        cls,
        features: Mapping[str, np.ndarray],
        label: np.ndarray,
        split: np.ndarray,
        class_names: Sequence[str],
        origin: str,
        **others: Any,
    ) -> ItemSet:
        """Paired features: row i of every array (N, d) describes item i, which is called "row i".

        Args:
            features: modality -> (N, d) floating array.
            label, split, class_names, origin: as of the class.
            **others: of the class, such as ``class_embedding`` and ``unpaired``.

        Raises:
            DataError: an array is no matrix of floating numbers, or as of the class.
        """
        rows = {name: len(array) for name, array in features.items()} | {"label": len(label), "split": len(split)}
        if len(set(rows.values())) > 1:
            counts = ", ".join(f"{name} {count}" for name, count in rows.items())
            raise DataError(f"{origin}: row counts differ ({counts}); row i of every array must be the same item.")
        for name, array in features.items():
            check_matrix(array, f"{origin}: {name}")
        modalities = {name: Modality(array) for name, array in features.items()}
        return cls(modalities, label, split, row_names(len(label)), origin, class_names=class_names, **others)

    def __post_init__(self) -> None:
        if fault := next(self._faults(), None):
            raise DataError(f"{self.origin}: {fault}")

    def __len__(self) -> int:
        return len(self.label)

    def _faults(self) -> Iterator[str]:
        """What is wrong; of what comes first, that which follows takes for granted that it is not."""
        if len(self.modalities) < 2 or set(self.modalities) & set(RESERVED):
            yield (
                f"modalities are {', '.join(map(repr, self.modalities)) or 'none'}; expected two or more, none of them "
                f"called {', '.join(RESERVED)}."
            )
        # Scores are called "image->text/MAP", joint queries "image+text->audio", and networks by the modality.
        if bad := [name for name in self.modalities if not name or set("./>+") & set(name) or hasattr(NETWORKS, name)]:
            yield (
                f"a modality is called {bad[0]!r}; rename it, without any of . / > + and not as an attribute of "
                "PyTorch's modules, such as type."
            )
        rows = {"label": len(self.label), "split": len(self.split), "names": len(self.names)}
        if len(set(rows.values())) > 1 or not len(self):
            yield f"row counts are {rows}; expected one of each per item, and an item."
        for what, names in (("items", self.names), ("classes", self.class_names or ())):
            if (twice := name_twice(names)) is not None:
                yield f"two {what} are called {twice!r}; give each a name of its own."
        if unknown := sorted(set(np.unique(self.split).tolist()) - set(SPLITS)):
            yield f"split {unknown[0]!r} is unknown; each item is one of {', '.join(SPLITS)}."
        yield from self._faults_of_labels()
        for name, modality in self.modalities.items():
            yield from self._faults_of(name, modality)
        yield from self._faults_of_matrices()

    def _faults_of_labels(self) -> Iterator[str]:
        label, classes = self.label, None if self.class_names is None else len(self.class_names)
        has = f"labels have shape {label.shape} and type {label.dtype}"
        if label.ndim == 2:
            if label.shape[1] != classes or label.dtype != bool:
                yield f"multi-hot {has}; expected (items, {classes} classes) bool."
            bare = np.flatnonzero(~label.any(axis=1))
            if bare.size:
                yield (
                    f"{bare.size} item(s) have no class, first row {bare[0]}; remove them, since nothing can match "
                    "them."
                )
            return
        if label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
            yield f"{has}; expected (items,) integers."
        outside = np.flatnonzero((label < 0) | (label >= classes)) if classes is not None else np.arange(0)
        if outside.size:
            yield (
                f"label {label[outside[0]]} in row {outside[0]} has no name; there are {classes} class names, for "
                f"labels 0 to {classes - 1}."
            )

    def _faults_of(self, name: str, modality: Modality) -> Iterator[str]:
        owners, count = modality.owners(), len(modality.entries)
        if len(owners) != count or (np.diff(owners) < 0).any():
            yield f"{name} has {count} entries and {len(owners)} owners; expected an owner per entry, ascending."
        if len(owners) and (owners[0] < 0 or owners[-1] >= len(self)):
            yield f"{name} has an entry of item {owners[-1]}; there are {len(self)} items."
        if isinstance(modality.entries, Files):
            return
        if modality.kind == "vector":
            bad = not_finite(modality.entries)
            if bad.size:
                yield (
                    f"{name} is NaN or infinite in {bad.size} row(s), the first of {self.names[owners[bad[0]]]}; "
                    "remove them, items from every modality, or extract their features again."
                )
            return
        for owner, entry in zip(owners, modality.entries, strict=True):
            if reason := _fault(entry, modality):
                yield f"{name} of item {self.names[owner]} {reason}."

    def _faults_of_matrices(self) -> Iterator[str]:
        """Of the class embedding and the unpaired samples."""
        matrices = {} if self.class_embedding is None else {"class_embedding": self.class_embedding}
        for name, array in self.unpaired.items():
            if name not in self.vectors:
                yield f"unpaired samples of {name!r}; the vectors are {', '.join(self.vectors)}."
            matrices[f"unpaired_{name}"] = array
        for name, array in matrices.items():
            check_matrix(array, f"{self.origin}: {name}")
            if name == "class_embedding":
                classes = len(self.class_names or ())
                fits, wanted = len(array) == classes, f"({classes} classes, E)"
            else:
                width = self.vectors[name.removeprefix("unpaired_")].shape[1]
                fits, wanted = array.shape[1] == width, f"(rows, {width}) with a row or more"
            bad = not_finite(array).size
            if not fits or not len(array) or bad:
                yield (
                    f"{name} has shape {array.shape} and {bad} row(s) that are NaN or infinite; expected finite "
                    f"numbers of shape {wanted}."
                )

    @property
    def vectors(self) -> dict[str, np.ndarray]:
        """Modality -> (n, d) array, of those that are vectors."""
        return {name: modality.entries for name, modality in self.modalities.items() if modality.kind == "vector"}

    def has_class(self, classes: np.ndarray) -> np.ndarray:
        """(N,) bool, True where the item belongs to one of the classes."""
        return self.label[:, classes].any(axis=1) if self.label.ndim == 2 else np.isin(self.label, classes)

    def missing(self) -> dict[str, list[str]]:
        """Modality -> names of the items without an entry of it."""
        return {
            name: [self.names[item] for item in np.setdiff1d(np.arange(len(self)), modality.owners())]
            for name, modality in self.modalities.items()
        }

    def select(self, modalities: Sequence[str]) -> ItemSet:
        """The same items with the named modalities, in that order."""
        unpaired = {name: array for name, array in self.unpaired.items() if name in modalities}
        return replace(self, modalities={name: self.modalities[name] for name in modalities}, unpaired=unpaired)

    def complete(self, on_missing: Literal["refuse", "drop"]) -> ItemSet:
        """These items where none lacks a modality; otherwise refused, or without the items that lack one.

        Raises:
            DataError: items lack a modality and ``on_missing`` is "refuse", or none is left.
        """
        lacking = {name: items for name, items in self.missing().items() if items}
        if not lacking:
            return self
        said = "; ".join(f"{name} is missing from {len(items)}: {listed(items)}" for name, items in lacking.items())
        if on_missing == "refuse":
            raise DataError(f"{self.origin}: {said}. Complete them, or set on_missing to 'drop'.")
        gone = {name for items in lacking.values() for name in items}
        rank_zero_warn(f"{self.origin}: {said}; {len(gone)} of {len(self)} items are left out.")
        return self.without(gone)

    def without(self, names: set[str]) -> ItemSet:
        """The same set without the named items.

        Raises:
            DataError: no item is left.
        """
        kept = np.array([name not in names for name in self.names])
        if not kept.any():
            raise DataError(f"{self.origin}: no item is left, {len(names)} are left out.")
        return replace(
            self,
            modalities={name: modality.of_kept(kept) for name, modality in self.modalities.items()},
            label=self.label[kept],
            split=self.split[kept],
            names=[name for name in self.names if name not in names],
            group=None if self.group is None else self.group[kept],
        )

    def digest(self, parts: Sequence[np.ndarray] | None = None) -> str:
        """sha256 over the data: two sets with the same digest hold the same.

        Args:
            parts: items of some parts, which have none in common, each ascending: then over these alone, and over the
                names and embeddings of their classes; whatever the numbers of their classes are, which may be others
                where there are other classes elsewhere. By default over all items, with their splits and groups.
        """
        sha = hashlib.sha256()
        for part in [None] if parts is None else parts:
            sha.update(f"{len(self) if part is None else len(part)}".encode())
            for name, modality in self.modalities.items():
                sha.update(f"{name}{modality.digest(part)}".encode())
        if parts is None:
            groups = np.arange(len(self)) if self.group is None else self.group
            for array in (self.split.astype("U10"), groups.astype(np.int64)):
                sha.update(np.ascontiguousarray(array).tobytes())
            numbers, classes = self.label.astype(np.int64), np.arange(len(self.class_names or ()))
        elif self.label.ndim == 2:
            label = self.label[np.concatenate(parts)]
            classes = np.flatnonzero(label.any(axis=0))
            numbers = label[:, classes]
        else:
            classes, numbers = np.unique(self.label[np.concatenate(parts)], return_inverse=True)
        sha.update(f"{numbers.shape}".encode() + np.ascontiguousarray(numbers).tobytes())
        if self.class_names is not None:
            sha.update("\0".join(self.class_names[c] for c in classes).encode())
        if self.class_embedding is not None:
            hash_rows(sha, self.class_embedding, classes)
        for name, array in sorted(self.unpaired.items()):
            sha.update(name.encode())
            hash_rows(sha, array, np.arange(len(array)))
        return sha.hexdigest()


def _fault(entry: str | np.ndarray, modality: Modality) -> str:
    if isinstance(entry, str):
        return "" if entry.strip() else "is an empty text"
    if len(entry) == 0:
        return "is of zero length"
    if entry.shape[1:] != modality.shape:
        return f"has shape {entry.shape}; expected (T, ...) with {modality.shape}"
    return "" if np.isfinite(entry).all() else "is NaN or infinite somewhere"


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + f" and {len(names) - most} more" * (len(names) > most)
