"""The items of one modality that a metric has gathered, each once or standardised, and the queries that they make."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchmetrics.utilities.prints import rank_zero_warn


@dataclass(frozen=True)
class Items:
    """The entries of one modality, each id once.

    Args:
        blocks: consecutive (rows, D) blocks of their embeddings.
        labels: (N,) or (N, C).
        ids: (N,) integers.
        is_query: (N,) bool.
        owners: (item, id) of every entry, those given twice included, for joint queries; None without such queries.
    """

    blocks: list[Tensor]
    labels: Tensor
    ids: Tensor
    is_query: Tensor
    owners: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def row_of_items(self) -> pd.Series:
        """Item -> the row of its entry, that with the smallest id."""
        item, entry = (values.cpu().numpy() for values in self.owners)
        smallest = pd.Series(entry).groupby(item).min()
        return pd.Series(pd.Index(self.ids.cpu().numpy()).get_indexer(smallest), smallest.index)


def queries_of(direction: str, sides: Mapping[str, Items]) -> tuple[dict[str, list[Tensor]], Tensor, Tensor]:
    """The queries of a direction.

    Args:
        direction: its name, for messages.
        sides: modality of the query -> its items.

    Returns:
        Modality -> blocks of embeddings, whose rows belong together; the labels; and the ids of the queries, or of
        joint queries the items.

    Raises:
        ValueError: there is no query, or an item has different labels in two modalities.
    """
    if len(sides) > 1:
        return _joint_queries(direction, sides)
    ((modality, items),) = sides.items()
    asks = items.is_query
    if not bool(asks.any()):
        raise ValueError(f"{direction}: modality {modality!r} has no query, is_query is False for every item")
    if bool(asks.all()):
        return {modality: items.blocks}, items.labels, items.ids
    parts = asks.split([len(rows) for rows in items.blocks])
    blocks = [rows[part] for rows, part in zip(items.blocks, parts, strict=True)]
    return {modality: blocks}, items.labels[asks], items.ids[asks]


def _joint_queries(direction: str, sides: Mapping[str, Items]) -> tuple[dict[str, list[Tensor]], Tensor, Tensor]:
    known = pd.concat({modality: items.row_of_items() for modality, items in sides.items()}, axis=1).sort_index()
    everywhere, names = known.dropna().astype(np.int64), ", ".join(sides)
    if everywhere.empty:
        raise ValueError(f"{direction}: no item has all of {names}; the ids, or items, must be equal where items are")
    if lacking := len(known) - len(everywhere):
        rank_zero_warn(f"{direction}: {lacking} of {len(known)} items lack one of {names}, and do not ask")
    rows, labels, asks = {}, {}, True
    for modality, items in sides.items():
        chosen = torch.from_numpy(everywhere[modality].to_numpy(copy=True)).to(items.ids.device)
        rows[modality], labels[modality] = torch.cat(items.blocks)[chosen], items.labels[chosen]
        asks = asks & items.is_query[chosen]
    (first, label), *others = labels.items()
    for other, values in others:
        if values.shape[1:] != label.shape[1:] or not torch.equal(values, label):
            raise ValueError(f"{direction}: an item has different labels in {first} and {other}; expected the same")
    if not bool(asks.any()):
        raise ValueError(f"{direction}: there is no query, is_query is False for every item in one of {names}")
    numbers = torch.from_numpy(everywhere.index.to_numpy(copy=True)).to(label.device)
    return {modality: [values[asks]] for modality, values in rows.items()}, label[asks], numbers[asks]


def first_of_each(modality: str, blocks: list[Tensor], labels: Tensor, ids: Tensor, is_query: Tensor) -> Tensor | None:
    """Index of the rows to keep so that each id is there once; None where no id occurs twice.

    Copies may differ in their last bits (they were embedded in other batches): the lexicographically smallest is kept,
    which does not depend on the order of the items.
    """
    _, first, inverse = np.unique(ids.cpu().numpy(), return_index=True, return_inverse=True)
    if len(first) == len(inverse):
        return None
    leader = torch.from_numpy(first[inverse]).to(ids.device)
    copy = torch.nonzero(leader != torch.arange(len(ids), device=ids.device)).flatten()
    original = leader[copy]
    conflict = (labels[copy] != labels[original]).reshape(len(copy), -1).any(dim=1) | (
        is_query[copy] != is_query[original]
    )
    if bool(conflict.any()):
        raise ValueError(
            f"{modality}: id {int(ids[copy][conflict][0])} occurs with different labels or is_query:"
            " ids must be unique within a modality"
        )
    rows = torch.cat(blocks)
    distance = torch.linalg.vector_norm(rows[copy] - rows[original], dim=1)
    if bool((distance > 0.01 * torch.linalg.vector_norm(rows[original], dim=1)).any()):
        rank_zero_warn(f"{modality}: copies of one id differ by more than 1%; one is kept. Are the ids unique?")
    for item in torch.unique(original[distance > 0]).tolist():
        candidates = torch.nonzero(leader == item).flatten().cpu().numpy()
        smallest = np.lexsort(rows[candidates].cpu().numpy().T[::-1])[0]
        first[inverse[item]] = candidates[smallest]
    return torch.from_numpy(first).to(ids.device)


def standardise(rows: Tensor) -> Tensor:
    """Z-score every column: (x - mean) / standard deviation; a constant column becomes 0.

    It uses statistics of the evaluated set, as the public code of JFSE does, which an honest evaluation may not. The
    divisor of the variance (n here) scales all columns alike and cannot change a cosine. NumPy adds row after row: the
    same rows in the same order give the same bits.

    Args:
        rows: (N, D) embeddings of one modality in float32, at least one.

    Returns:
        (N, D) in float32.
    """
    x = rows.cpu().double().numpy()
    scale = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(scale == 0, 1.0, scale)
    return torch.from_numpy(x).to(rows)
