"""Batches: entries of modalities as padded tensors, one of each per item in training, all of them in evaluation.

A batch maps

- every modality to its entries (n, ...): a tensor, or a list of texts or arrays that nothing has computed features of;
- "masks" to {modality -> (n, T) bool} of the sequences, True where a step is not padding;
- "label" to the class of each entry, (n,) integers or (n, C) bool, and "id" to its number.

In training n is the number of items, and "label" and "id" are tensors. In evaluation modalities may differ in their
number of entries: "label", "id" and "item", the item that an entry belongs to, are mappings modality -> (n,), and
"split" is the name of the part. Where some items are in the gallery alone, "query" maps modality -> (n,) bool. Data
with embeddings of their classes add "class_embedding", (items, E).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from datamodules.items import Modality

Batch = Mapping[str, Any]


class Entries:
    """Entries of one modality as tensors, handed out by number and padded to the longest of those asked for.

    Args:
        modality: the entries; texts and files are handed out as lists, for they have no tensor until a frozen network
            made one.
    """

    def __init__(self, modality: Modality):
        self.owner = torch.from_numpy(modality.owners())
        self.first = torch.searchsorted(self.owner, torch.arange(int(self.owner[-1]) + 1))
        self.count = torch.bincount(self.owner)
        self.kind, self.entries = modality.kind, modality.entries
        if self.kind == "vector":
            self.entries = _tensor(modality.entries)
        if self.kind == "sequence":
            self.entries = [_tensor(entry) for entry in modality.entries]
            if len({len(entry) for entry in self.entries}) == 1:
                self.entries = torch.stack(self.entries)

    def rows(self, index: Tensor) -> tuple[Any, Tensor | None]:
        """Entries by number, (n, ...), and for sequences the mask (n, T), True where a step is not padding."""
        if isinstance(self.entries, Tensor):
            rows = self.entries[index]
            return rows, torch.ones(rows.shape[:2], dtype=torch.bool) if self.kind == "sequence" else None
        rows = [self.entries[i] for i in index.tolist()]
        if self.kind != "sequence":
            return rows, None
        if not rows:
            return self.entries[0].new_zeros(0, 0, *self.entries[0].shape[1:]), torch.zeros(0, 0, dtype=torch.bool)
        length = torch.tensor([len(row) for row in rows])
        mask = torch.arange(int(length.max())) < length[:, None]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), mask

    def of_items(self, items: Tensor) -> Tensor:
        """Numbers of all entries of some items, in the order of the items."""
        count = self.count[items]
        start = self.first[items] - count.cumsum(0) + count
        return torch.repeat_interleave(start, count) + torch.arange(int(count.sum()))


def _tensor(array: np.ndarray) -> Tensor:
    wanted = np.float32 if array.dtype.kind == "f" else array.dtype
    # PyTorch takes no reversed rows, and warns of memory that it may not write to, such as that of a mapped file.
    return torch.from_numpy(np.require(array, wanted, "CW"))


@dataclass(eq=False)
class Part(Dataset):
    """Items of one part, handed out as whole batches.

    Args:
        items: (n,) their numbers in the data set.
        batch: numbers of items (b,), epoch -> their batch.
    """

    items: Tensor
    batch: Callable[[Tensor, int], Batch]
    epoch: int = field(default=0, init=False)

    def __len__(self) -> int:
        return len(self.items)

    def __getitems__(self, positions: list[int]) -> Batch:
        return self.batch(self.items[torch.as_tensor(positions)], self.epoch)


class EpochSampler(DistributedSampler):
    """A distributed sampler that tells the part which epoch it is."""

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.dataset.epoch = epoch


def loader(part: Part, **settings: Any) -> DataLoader:
    """A loader of a part, whose batches are whole already."""
    # By keyword throughout: Lightning rebuilds loaders, and finds only keywords again.
    return DataLoader(part, collate_fn=_unchanged, **settings)


def _unchanged(batch: Batch) -> Batch:
    return batch
