"""Entries of raw modalities as padded tensors, and items made of them: in training one entry each, later all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.items import Modality


class Entries:
    """Entries of one modality as tensors, handed out by number and padded to the longest of those asked for.

    Args:
        modality: the entries; texts and files are handed out as lists, for they have no tensor until a front end made
            one.
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
        if self.kind in ("text", "file"):
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


def _tensor(array: np.ndarray) -> Tensor:
    wanted = array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
    return torch.from_numpy(np.ascontiguousarray(wanted))


class TrainingItems(Dataset):
    """Items with one entry of every modality each, drawn anew in every epoch where an item has several.

    Args:
        entries: name -> Entries; those named in ``drawn_with`` follow another modality's draw.
        drawn_with: name -> modality whose draw it follows.
        label: (N,) labels of the whole data set.
        index: (n,) items of this part.
        seed: of the draws.
    """

    def __init__(
        self, entries: Mapping[str, Entries], drawn_with: Mapping[str, str], label: Tensor, index: Tensor, seed: int
    ):
        self.entries, self.drawn_with, self.label, self.index, self.seed = entries, drawn_with, label, index, seed
        self.epoch = 0

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
        return batch


class EvaluationItems(Dataset):
    """Items with all entries of every modality; labels and ids are mappings, for modalities differ in number.

    Args:
        entries: name -> Entries.
        label: (N,) labels of the whole data set.
        index: (n,) items of this part.
    """

    def __init__(self, entries: Mapping[str, Entries], label: Tensor, index: Tensor):
        self.entries, self.label, self.index = entries, label, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitems__(self, positions: list[int]) -> dict[str, Any]:
        items = self.index[torch.as_tensor(positions)]
        batch: dict[str, Any] = {"label": {}, "id": {}, "masks": {}, "item": {}}
        for name, entries in self.entries.items():
            rows = [
                torch.arange(n) + first for first, n in zip(entries.first[items], entries.count[items], strict=True)
            ]
            index = torch.cat(rows)
            batch[name], mask = entries.rows(index)
            owner = entries.owner[index]
            batch["label"][name], batch["id"][name], batch["item"][name] = self.label[owner], index, owner
            if mask is not None:
                batch["masks"][name] = mask
        return batch
