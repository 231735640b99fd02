"""A data set of items in several raw modalities: texts, sequences, vectors, images, sounds, checked once when read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.errors import DataError
from datamodules.feature_set import RESERVED, SPLITS
from datamodules.files.sources import sha256_of

# Further keys of a batch beside its modalities.
MASKS = "masks"


@dataclass(frozen=True)
class Files:
    """Entries of a modality that stand in files of their own, decoded when they are asked for.

    Args:
        paths: one file per entry.
        decode: path -> array; raises DataError, naming the file, where it cannot be read.
    """

    paths: tuple[Path, ...]
    decode: Callable[[Path], np.ndarray]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.decode(self.paths[index])


@dataclass(frozen=True)
class Modality:
    """Entries of one modality.

    Args:
        entries: texts (strings), vectors (n, d), sequences (T_i, ...) of floating arrays that may differ in length, or
            files.
        owner: (n,) item that each entry belongs to, ascending; by default entry i is item i's only one.
        rate: samples per second, for sound.
    """

    entries: Sequence[str] | np.ndarray | Sequence[np.ndarray] | Files
    owner: np.ndarray | None = None
    rate: int | None = None

    def owners(self) -> np.ndarray:
        """(n,) item of each entry."""
        return np.arange(len(self.entries)) if self.owner is None else self.owner

    @property
    def kind(self) -> Literal["text", "vector", "sequence", "file"]:
        if isinstance(self.entries, Files):
            return "file"
        if isinstance(self.entries, np.ndarray) and self.entries.ndim == 2:
            return "vector"
        return "text" if len(self.entries) and isinstance(self.entries[0], str) else "sequence"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a vector or of one step of a sequence; () for text and files."""
        if self.kind in ("text", "file") or not len(self.entries):
            return ()
        return tuple(np.shape(self.entries[0]))[0 if self.kind == "vector" else 1 :]

    def digest(self, items: np.ndarray | None = None) -> str:
        """sha256 over the entries, or those of some items alone; over their files where they stand in files."""
        entries = self.entries.paths if isinstance(self.entries, Files) else self.entries
        owners, rows = self.owners(), np.arange(len(entries))
        if items is not None:
            rows = np.flatnonzero(np.isin(owners, items))
            owners = np.searchsorted(items, owners[rows])
        sha = hashlib.sha256(f"{self.kind}{self.rate}".encode())
        sha.update(np.ascontiguousarray(owners).tobytes())
        for entry in map(entries.__getitem__, rows.tolist()):
            if isinstance(entry, Path):
                sha.update(f"{entry.name}\0{sha256_of(entry)}\n".encode())
            elif isinstance(entry, str):
                sha.update(f"{entry}\0".encode())
            else:
                sha.update(f"{entry.shape}{entry.dtype}".encode() + np.ascontiguousarray(entry).tobytes())
        return sha.hexdigest()


@dataclass(frozen=True)
class ItemSet:
    """N items with their modalities, labels and splits.

    Args:
        modalities: name -> Modality; two or more. Items without an entry of one are seen to by `complete`.
        label: (N,) integers: items of equal label match each other.
        split: (N,) strings, each "train", "validation" or "test".
        names: (N,) what messages and results call each item, each another.
        origin: the file or folder the items were read from, for messages.
        group: (N,) integers: items of one group (a subject, say) stay together when a validation part is carved;
            by default every item is a group.
        class_names: names of the labels 0, 1, ..., where the data set has names for its classes.

    Raises:
        DataError: row counts differ, two items share a name, a label has none of the class names, a text or sequence is
            empty, a value is not finite, shapes differ, or a modality's name is reserved.
    """

    modalities: dict[str, Modality]
    label: np.ndarray
    split: np.ndarray
    names: Sequence[str]
    origin: str
    group: np.ndarray | None = field(default=None)
    class_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        reserved = sorted(set(self.modalities) & {*RESERVED, MASKS})
        if len(self.modalities) < 2 or reserved:
            raise DataError(
                f"{self.origin}: modalities are {', '.join(self.modalities) or 'none'}; expected two or more, none of "
                f"them called {', '.join((*RESERVED, MASKS))}."
            )
        rows = {"label": len(self.label), "split": len(self.split), "names": len(self.names)}
        if len(set(rows.values())) > 1 or not len(self.label):
            raise DataError(f"{self.origin}: row counts are {rows}; expected one of each per item, and an item.")
        twice = next((name for name, count in Counter(self.names).items() if count > 1), None)
        if twice is not None:
            raise DataError(f"{self.origin}: two items are called {twice!r}; give each a name of its own.")
        unknown = sorted(set(np.unique(self.split).tolist()) - set(SPLITS))
        if unknown:
            raise DataError(f"{self.origin}: split {unknown[0]!r} is unknown; each item is one of {', '.join(SPLITS)}.")
        if self.class_names is not None and not 0 <= self.label.min() <= self.label.max() < len(self.class_names):
            raise DataError(
                f"{self.origin}: labels run from {self.label.min()} to {self.label.max()} and there are "
                f"{len(self.class_names)} class names; expected labels from 0, with a name each."
            )
        for name, modality in self.modalities.items():
            self._check_modality(name, modality)

    def __len__(self) -> int:
        return len(self.label)

    def _check_modality(self, name: str, modality: Modality) -> None:
        owners = modality.owners()
        if len(owners) != len(modality.entries) or (np.diff(owners) < 0).any():
            raise DataError(
                f"{self.origin}: {name} has {len(modality.entries)} entries and {len(owners)} owners; expected an "
                "owner per entry, ascending."
            )
        if len(owners) and (owners[0] < 0 or owners[-1] >= len(self)):
            raise DataError(f"{self.origin}: {name} has an entry of item {owners[-1]}; there are {len(self)} items.")
        for owner, entry in zip(owners, modality.entries if modality.kind != "file" else (), strict=False):
            reason = _fault(entry, modality)
            if reason:
                raise DataError(f"{self.origin}: {name} of item {self.names[owner]} {reason}.")

    def missing(self) -> dict[str, list[str]]:
        """Modality -> names of the items without an entry of it."""
        return {
            name: [self.names[item] for item in np.setdiff1d(np.arange(len(self)), modality.owners())]
            for name, modality in self.modalities.items()
        }

    def select(self, modalities: Sequence[str] | None) -> ItemSet:
        """The same items with the named modalities, in that order; all of them by default.

        Raises:
            DataError: a modality that the data do not have.
        """
        if modalities is None:
            return self
        absent = [name for name in modalities if name not in self.modalities]
        if absent:
            raise DataError(f"{self.origin} has no modality {absent[0]!r}; it has {', '.join(self.modalities)}.")
        return replace(self, modalities={name: self.modalities[name] for name in modalities})

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
        position = np.cumsum(kept) - 1
        modalities = {}
        for name, modality in self.modalities.items():
            rows = np.flatnonzero(kept[modality.owners()])
            modalities[name] = Modality(_take(modality.entries, rows), position[modality.owners()[rows]], modality.rate)
        return ItemSet(
            modalities,
            self.label[kept],
            self.split[kept],
            [name for name, keep in zip(self.names, kept, strict=True) if keep],
            self.origin,
            None if self.group is None else self.group[kept],
            self.class_names,
        )

    def digest(self) -> str:
        """sha256 over every modality, label, split and group: two sets with the same digest hold the same data."""
        sha = hashlib.sha256()
        for name, modality in self.modalities.items():
            sha.update(f"{name}{modality.digest()}".encode())
        groups = np.arange(len(self)) if self.group is None else self.group
        for array in (self.label.astype(np.int64), self.split.astype("U10"), groups.astype(np.int64)):
            sha.update(np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()

    def digest_of(self, parts: Sequence[np.ndarray]) -> str:
        """sha256 over some parts alone, which have no item in common: their entries, and which of them share a class.

        Args:
            parts: items of each part, ascending.
        """
        sha = hashlib.sha256()
        for part in parts:
            sha.update(f"{len(part)}".encode())
            for name, modality in self.modalities.items():
                sha.update(f"{name}{modality.digest(part)}".encode())
        # Numbers of classes may be others where there are other classes in test.
        _, label = np.unique(self.label[np.concatenate(parts)], return_inverse=True)
        sha.update(label.astype(np.int64).tobytes())
        return sha.hexdigest()


def _fault(entry: str | np.ndarray, modality: Modality) -> str:
    if isinstance(entry, str):
        return "" if entry.strip() else "is an empty text"
    if modality.kind == "sequence" and len(entry) == 0:
        return "is of zero length"
    if entry.shape[modality.kind == "sequence" :] != modality.shape:
        return f"has shape {entry.shape}; expected {'(T, ...) with ' * (modality.kind == 'sequence')}{modality.shape}"
    return "" if np.isfinite(entry).all() else "is NaN or infinite somewhere"


def _take(entries, rows: np.ndarray):
    if isinstance(entries, Files):
        return replace(entries, paths=tuple(entries.paths[row] for row in rows))
    return entries[rows] if isinstance(entries, np.ndarray) else [entries[row] for row in rows]


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + f" and {len(names) - most} more" * (len(names) > most)
