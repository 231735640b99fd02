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

from collections.abc import Mapping
from typing import Any

Batch = Mapping[str, Any]
