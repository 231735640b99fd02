"""A modality: texts, vectors, sequences, images or sounds, of which every item has an entry or several."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from datamodules.files.rows import hash_rows
from datamodules.files.sources import sha256_of


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
        entries: texts (strings), vectors (n, d), sequences (T_i, ...) of floating arrays that may differ in length, one
            array (n, T, ...) where they do not, or files.
        owner: (n,) item that each entry belongs to, ascending; by default entry i is item i's only one.
        rate: samples per second, for sound.
    """

    entries: Sequence[str] | np.ndarray | Sequence[np.ndarray] | Files
    owner: np.ndarray | None = None
    rate: int | None = None

    @classmethod
    def of_each(cls, entries: Sequence[Sequence[Any] | None]) -> Modality:
        """Item by item its entries, such as the captions of every image; None or none where it lacks the modality."""
        counts = [len(of_item or ()) for of_item in entries]
        flat = [entry for of_item in entries for entry in of_item or ()]
        return cls(flat, np.repeat(np.arange(len(entries)), counts))

    def owners(self) -> np.ndarray:
        """(n,) item of each entry."""
        return np.arange(len(self.entries)) if self.owner is None else self.owner

    @property
    def stored(self) -> Sequence[Any]:
        """The entries as they are kept: in the place of each that stands in a file, the file's path."""
        return self.entries.paths if isinstance(self.entries, Files) else self.entries

    @property
    def kind(self) -> Literal["text", "vector", "sequence", "image", "sound"]:
        if isinstance(self.entries, Files):
            return "image" if self.rate is None else "sound"
        if isinstance(self.entries, np.ndarray) and self.entries.ndim == 2:
            return "vector"
        return "text" if len(self.entries) and isinstance(self.entries[0], str) else "sequence"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a vector or of one step of a sequence; () for texts, images and sounds."""
        if self.kind not in ("vector", "sequence") or not len(self.entries):
            return ()
        return tuple(np.shape(self.entries[0]))[0 if self.kind == "vector" else 1 :]

    def of_kept(self, kept: np.ndarray) -> Modality:
        """The entries of some of the items, (N,) bool, which are numbered anew."""
        rows = np.flatnonzero(kept[self.owners()])
        if isinstance(self.entries, np.ndarray):
            entries: Any = self.entries[rows]
        else:
            entries = [self.stored[row] for row in rows]
            entries = replace(self.entries, paths=tuple(entries)) if isinstance(self.entries, Files) else entries
        return Modality(entries, (np.cumsum(kept) - 1)[self.owners()[rows]], self.rate)

    def digest(self, items: np.ndarray | None = None) -> str:
        """sha256 over the entries, or those of some items alone; over their files where they stand in files."""
        owners, rows = self.owners(), np.arange(len(self.entries))
        if items is not None:
            rows = np.flatnonzero(np.isin(owners, items))
            owners = np.searchsorted(items, owners[rows])
        sha = hashlib.sha256(f"{self.kind}{self.rate}".encode())
        sha.update(np.ascontiguousarray(owners).tobytes())
        if self.kind == "vector":
            hash_rows(sha, self.entries, rows)
            return sha.hexdigest()
        for entry in map(self.stored.__getitem__, rows.tolist()):
            if isinstance(entry, Path):
                sha.update(f"{entry.name}\0{sha256_of(entry)}\n".encode())
            elif isinstance(entry, str):
                sha.update(f"{entry}\0".encode())
            else:
                sha.update(f"{entry.shape}{entry.dtype}".encode() + np.ascontiguousarray(entry).tobytes())
        return sha.hexdigest()

    # As tensors -------------------------------------------------------------------------------------------------

    @cached_property
    def first(self) -> Tensor:
        """(N,) the first entry of each item, of a modality that every item has."""
        owner = torch.from_numpy(self.owners())
        return torch.searchsorted(owner, torch.arange(int(owner[-1]) + 1))

    @cached_property
    def count(self) -> Tensor:
        """(N,) number of entries of each item."""
        return torch.bincount(torch.from_numpy(self.owners()))

    @cached_property
    def tensors(self) -> Any:
        """Vectors and sequences as tensors, as one where they are of one length; texts and files stay as they are."""
        if isinstance(self.entries, np.ndarray):
            return _tensor(self.entries)
        if self.kind != "sequence":
            return self.entries
        tensors = [_tensor(entry) for entry in self.entries]
        return torch.stack(tensors) if len({len(entry) for entry in tensors}) == 1 else tensors

    def rows(self, index: Tensor) -> tuple[Any, Tensor | None]:
        """Entries by number, (n, ...), padded to the longest of them, and for sequences the mask (n, T) of what is not.

        Texts and files are a list.
        """
        if isinstance(self.tensors, Tensor):
            rows = self.tensors[index]
            return rows, torch.ones(rows.shape[:2], dtype=torch.bool) if self.kind == "sequence" else None
        rows = [self.tensors[i] for i in index.tolist()]
        if self.kind != "sequence":
            return rows, None
        if not rows:
            return self.tensors[0].new_zeros(0, 0, *self.tensors[0].shape[1:]), torch.zeros(0, 0, dtype=torch.bool)
        length = torch.tensor([len(row) for row in rows])
        return pad_sequence(rows, batch_first=True), torch.arange(int(length.max())) < length[:, None]

    def of_items(self, items: Tensor) -> Tensor:
        """Numbers of all entries of some items, in the order of the items."""
        count = self.count[items]
        start = self.first[items] - count.cumsum(0) + count
        return torch.repeat_interleave(start, count) + torch.arange(int(count.sum()))


def _tensor(array: np.ndarray) -> Tensor:
    wanted = np.float32 if array.dtype.kind == "f" else array.dtype
    # PyTorch takes no reversed rows, and warns of memory that it may not write to, such as that of a mapped file.
    return torch.from_numpy(np.require(array, wanted, "CW"))
