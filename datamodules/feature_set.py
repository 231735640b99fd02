"""A paired data set whose features fit in memory, checked once when it is read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from datamodules.errors import DataError

SPLITS = ("train", "validation", "test")
# Keys of a batch beside its modalities.
RESERVED = ("label", "id", "class_embedding", "query", "split")


@dataclass(frozen=True)
class FeatureSet:
    """Paired features of N items with class labels and the split each item belongs to.

    Args:
        features: modality name -> (N, d) floating array, row i of every modality describing item i; two or more.
        label: (N,) integers in 0..C-1, or (N, C) bool for several classes per item.
        split: (N,) strings, each "train", "validation" or "test".
        class_names: the C class names, in label order.
        origin: the file or folder the items were read from, for messages.
        class_embedding: (C, E) floating array that came with the data, or None.
        unpaired: modality name -> (n, d) floating array of samples to train on that belong to no item: they have no
            partner, label or split. Modalities may differ in n; none is needed.

    Raises:
        DataError: row counts differ, an array has the wrong shape or type, a value is not finite in float32, a label
            lies outside the class list, an item has no class, a class is listed twice, a split name is unknown, or
            there are unpaired samples of no modality.
    """

    features: dict[str, np.ndarray]
    label: np.ndarray
    split: np.ndarray
    class_names: tuple[str, ...]
    origin: str
    class_embedding: np.ndarray | None = None
    unpaired: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_rows()
        for name, array in self.features.items():
            self._check_array(name, array)
        for name, array in self.unpaired.items():
            self._check_unpaired(name, array)
        self._check_class_names()
        self._check_labels()
        unknown = sorted(set(self.split.tolist()) - set(SPLITS))
        if unknown:
            raise DataError(f"{self.origin}: split {unknown[0]!r} is unknown; each item is one of {', '.join(SPLITS)}.")

    def __len__(self) -> int:
        return len(self.label)

    def _check_rows(self) -> None:
        reserved = sorted(set(self.features) & set(RESERVED))
        if len(self.features) < 2 or reserved:
            raise DataError(
                f"{self.origin}: modalities are {', '.join(map(repr, self.features)) or 'none'}; expected two or more, "
                f"none of them called {', '.join(RESERVED)}."
            )
        rows = {name: len(array) for name, array in self.features.items()}
        rows |= {"label": len(self.label), "split": len(self.split)}
        if len(set(rows.values())) > 1:
            counts = ", ".join(f"{name} {count}" for name, count in rows.items())
            raise DataError(f"{self.origin}: row counts differ ({counts}); row i of every array must be the same item.")
        if len(self.label) == 0:
            raise DataError(f"{self.origin}: no items.")

    def _check_array(self, name: str, array: np.ndarray) -> None:
        if array.ndim != 2 or array.shape[1] == 0 or not np.issubdtype(array.dtype, np.floating):
            raise DataError(
                f"{self.origin}: {name} has shape {array.shape} and type {array.dtype}; "
                "expected (rows, feature dimension) of floating point."
            )
        with np.errstate(over="ignore"):  # beyond float32, the type of a batch, counts as infinite
            finite = [np.isfinite(rows.astype(np.float32, copy=False)).all(axis=1) for rows in _pieces(array)]
        bad = np.flatnonzero(~np.concatenate(finite)) if finite else np.arange(0)
        if bad.size:
            raise DataError(
                f"{self.origin}: {name} is NaN or infinite in {bad.size} row(s), first row {bad[0]}; "
                "remove them, items from every modality, or extract their features again."
            )

    def _check_unpaired(self, name: str, array: np.ndarray) -> None:
        if name not in self.features:
            raise DataError(
                f"{self.origin}: unpaired samples of {name!r}; the modalities are {', '.join(self.features)}."
            )
        self._check_array(f"unpaired_{name}", array)
        width = self.features[name].shape[1]
        if array.shape[1] != width or not len(array):
            raise DataError(
                f"{self.origin}: unpaired_{name} has shape {array.shape}; expected (rows, {width}), as wide as {name} "
                "and with a row or more."
            )

    def _check_class_names(self) -> None:
        twice = sorted(name for name, count in Counter(self.class_names).items() if count > 1)
        if twice:
            raise DataError(
                f"{self.origin}: class {twice[0]!r} is listed more than once; give each class its own name."
            )
        if self.class_embedding is None:
            return
        self._check_array("class_embedding", self.class_embedding)
        if len(self.class_embedding) != len(self.class_names):
            raise DataError(
                f"{self.origin}: class_embedding has {len(self.class_embedding)} rows; "
                f"expected one for each of the {len(self.class_names)} classes."
            )

    def _check_labels(self) -> None:
        count = len(self.class_names)
        if self.label.ndim == 2:
            if self.label.shape[1] != count or self.label.dtype != bool:
                raise DataError(
                    f"{self.origin}: multi-hot labels have shape {self.label.shape} and type {self.label.dtype}; "
                    f"expected (items, {count}) bool."
                )
            bare = np.flatnonzero(~self.label.any(axis=1))
            if bare.size:
                raise DataError(
                    f"{self.origin}: {bare.size} item(s) have no class, first row {bare[0]}; remove them, "
                    "since nothing can match them."
                )
            return
        if self.label.ndim != 1 or not np.issubdtype(self.label.dtype, np.integer):
            raise DataError(
                f"{self.origin}: labels have shape {self.label.shape} and type {self.label.dtype}; expected (items,) "
                f"integers 0..{count - 1}."
            )
        bad = np.flatnonzero((self.label < 0) | (self.label >= count))
        if bad.size:
            raise DataError(
                f"{self.origin}: label {self.label[bad[0]]} in row {bad[0]} lies outside the class list 0..{count - 1}."
            )

    @cached_property
    def digest(self) -> str:
        """sha256 over every array and class name: two sets with the same digest hold the same data."""
        sha = hashlib.sha256()
        arrays = {**self.features, "label": self.label, "split": self.split.astype("U10")}
        if self.class_embedding is not None:
            arrays["class_embedding"] = self.class_embedding
        arrays |= {f"unpaired_{name}": array for name, array in self.unpaired.items()}
        for name, array in sorted(arrays.items()):
            sha.update(f"{name}{array.dtype}{array.shape}".encode())
            for rows in _pieces(array):
                sha.update(np.ascontiguousarray(rows))
        sha.update("\0".join(self.class_names).encode())
        return sha.hexdigest()

    def digest_of(self, parts: Sequence[np.ndarray]) -> str:
        """sha256 over some parts alone, with the names of their classes, and over the unpaired samples.

        Args:
            parts: rows of each part.
        """
        sha = hashlib.sha256(f"{[len(part) for part in parts]}".encode())
        rows = np.concatenate(parts)
        label = self.label[rows]
        # Classes that stand in other parts alone may be there or not, and so change the numbers of these.
        classes = np.flatnonzero(label.any(axis=0)) if label.ndim == 2 else np.unique(label)
        label = label[:, classes] if label.ndim == 2 else np.searchsorted(classes, label)
        _add(sha, "label", label)
        if self.class_embedding is not None:
            _add(sha, "class_embedding", self.class_embedding, classes)
        for name, array in sorted(self.features.items()):
            _add(sha, name, array, rows)
        for name, array in sorted(self.unpaired.items()):
            _add(sha, f"unpaired_{name}", array)
        sha.update("\0".join(self.class_names[c] for c in classes).encode())
        return sha.hexdigest()


def _add(sha: Any, name: str, array: np.ndarray, rows: np.ndarray | None = None) -> None:
    rows = np.arange(len(array)) if rows is None else rows
    sha.update(f"{name}{array.dtype}{len(rows)}{array.shape[1:]}".encode())
    for piece in _pieces(rows):
        sha.update(np.ascontiguousarray(array[piece]))


def _pieces(array: np.ndarray, rows: int = 512) -> Iterator[np.ndarray]:
    """Some rows at a time: what is made of an array of many gigabytes should not be as large again."""
    return (array[start : start + rows] for start in range(0, len(array), rows))
