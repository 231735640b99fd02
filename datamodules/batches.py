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

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

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
        if self.kind not in ("vector", "sequence"):
            return [self.entries[i] for i in index.tolist()], None
        if isinstance(self.entries, Tensor):
            rows = self.entries[index]
            return rows, torch.ones(rows.shape[:2], dtype=torch.bool) if self.kind == "sequence" else None
        rows = [self.entries[i] for i in index.tolist()]
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
class TrainingItems(Dataset):
    """Items with one entry of every modality each, drawn anew in every epoch where an item has several.

    Args:
        entries: name -> Entries; those named in ``drawn_with`` follow another modality's draw.
        drawn_with: name -> modality whose draw it follows.
        label: labels of the whole data set.
        index: (n,) items of this part.
        seed: of the draws.
        class_embedding: embedding of items' classes, or None.
    """

    entries: Mapping[str, Entries]
    drawn_with: Mapping[str, str]
    label: Tensor
    index: Tensor
    seed: int
    class_embedding: ItemEmbedding | None = None
    epoch: int = field(default=0, init=False)

    def __len__(self) -> int:
        return len(self.index)

    def __getitems__(self, positions: list[int]) -> dict[str, Any]:
        items = self.index[torch.as_tensor(positions)]
        # From seed, epoch and items alone, so that a resumed run draws what an uninterrupted one would have.
        generator = np.random.default_rng((self.seed, self.epoch, *items[:2].tolist()))
        batch: dict[str, Any] = {"label": self.label[items], "id": items, "masks": {}}
        drawn: dict[str, Tensor] = {}
        for name, entries in self.entries.items():
            source = self.drawn_with.get(name, name)
            if source not in drawn:
                offset = torch.from_numpy(generator.random(len(items))) * entries.count[items]
                drawn[source] = entries.first[items] + offset.long()
            batch[name], mask = entries.rows(drawn[source])
            if mask is not None:
                batch["masks"][name] = mask
        if self.class_embedding is not None:
            batch["class_embedding"] = self.class_embedding(items)
        return batch


@dataclass(eq=False)
class EvaluationItems(Dataset):
    """Items with all entries of every modality.

    Args:
        split: name of the part.
        entries: name -> Entries.
        label: labels of the whole data set.
        index: (n,) items of this part.
        ids: modality -> (entries,) id of each entry, where it is not its number: entries of one id count once.
        query: (N,) bool, False for items of the gallery alone; None: all are queries.
        class_embedding: embedding of items' classes, or None.
    """

    split: str
    entries: Mapping[str, Entries]
    label: Tensor
    index: Tensor
    ids: Mapping[str, Tensor] = field(default_factory=dict)
    query: Tensor | None = None
    class_embedding: ItemEmbedding | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __getitems__(self, positions: list[int]) -> dict[str, Any]:
        items = self.index[torch.as_tensor(positions)]
        batch: dict[str, Any] = {"label": {}, "id": {}, "item": {}, "masks": {}, "split": self.split}
        if self.query is not None:
            batch["query"] = {}
        for name, entries in self.entries.items():
            index = entries.of_items(items)
            batch[name], mask = entries.rows(index)
            owner = entries.owner[index]
            batch["label"][name], batch["item"][name] = self.label[owner], owner
            batch["id"][name] = self.ids[name][index] if name in self.ids else index
            if mask is not None:
                batch["masks"][name] = mask
            if self.query is not None:
                batch["query"][name] = self.query[owner]
        if self.class_embedding is not None:
            batch["class_embedding"] = self.class_embedding(items)
        return batch


@dataclass(eq=False)
class ItemEmbedding:
    """The embedding of items' classes: that of the class, or the mean over the classes of an item.

    Args:
        label: (N,) integers or (N, C) bool.
        of_classes: (C, E).
    """

    label: Tensor
    of_classes: Tensor

    def __call__(self, items: Tensor) -> Tensor:
        """(n, E) of some items."""
        label = self.label[items]
        if label.ndim == 1:
            return self.of_classes[label]
        weight = label.to(self.of_classes.dtype)
        return weight @ self.of_classes / weight.sum(dim=1, keepdim=True)
