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

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

Batch = Mapping[str, Any]


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
