"""Keys of gallery items for a chunk of queries: numbers of which the smallest ranks first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from lightning_modules.metrics.scoring import SCORE_BITS, Probes, unit_rows

Exact = Callable[[np.ndarray, np.ndarray], np.ndarray]

_SCORES = 2**20  # scores in float64 at once, of a thread
_PAIRS = 8192  # of a query and an item, scored at once


class KeysOfEmbeddings:
    """Keys by a score of embeddings, rounded to int32.

    Args:
        probes: of the queries.
        gallery: consecutive (rows, D) blocks.
    """

    def __init__(self, probes: Probes, gallery: Sequence[Tensor]):
        self.probes, self.gallery, self.device = probes, gallery, probes.vectors.device
        self.stops = np.cumsum([len(rows) for rows in gallery])
        # A dot product of D entries in float32, whatever the order of the sum, is within D u / (1 - D u) |x| |y| of the
        # exact one (Higham, Accuracy and Stability, section 3.1), u = 2**-24; both roundings to float32, that of the
        # key and that of the bounds in float32 come on top.
        n = (probes.vectors.shape[2] + 4) * 2.0**-24
        self.slack = 2.0**SCORE_BITS * n / (1 - n) + 64
        self.single = probes.vectors[0].numpy().astype(np.float32) if self._multiplies_once() else None

    def __len__(self) -> int:
        return len(self.probes)

    def _multiplies_once(self) -> bool:
        return self.device.type != "cuda" and self.probes.spanning is None and self.probes.vectors.shape[2] < 2**16

    def near_items(self, items: slice) -> Iterator[tuple[slice, np.ndarray, Exact]]:
        """As ``of_items``, in half the time: keys in float32, off by less than ``slack``, and what computes exact ones.

        That takes numbers of some of these queries and of some of these items, counted from the first of each.
        """
        unit = unit_rows(self._rows(items).to(self.device))
        single, step = unit.numpy().astype(np.float32), max(1, _SCORES // len(unit))
        for start in range(0, len(self), step):
            queries = slice(start, min(start + step, len(self)))
            every = cache(partial(self.probes.keys, queries, unit))
            yield queries, self.single[queries] @ single.T, partial(self._exact, queries.start, unit, every)

    def _exact(self, start: int, unit: Tensor, every: Callable, query: np.ndarray, item: np.ndarray) -> np.ndarray:
        if len(query) > _PAIRS:  # then those of every pair take no longer
            return np.rint(every()[query, item])
        chosen = unit[torch.from_numpy(item)]
        return self.probes.pair_keys(torch.from_numpy(query + start), chosen).round_().numpy()

    def of_items(self, items: slice) -> Iterator[tuple[slice, np.ndarray, None]]:
        """Some of the queries and their (q, B) keys of consecutive items, then the next queries."""
        unit = unit_rows(self._rows(items).to(self.device))
        step = len(self) if self.device.type == "cuda" else max(1, _SCORES // len(unit))
        for start in range(0, len(self), step):
            queries = slice(start, min(start + step, len(self)))
            products = self.probes.keys(queries, unit)
            rounded = np.rint(products, out=products)  # to int32 at once it would take thirty times as long
            yield queries, rounded.astype(np.int32), None

    def of_pairs(self, query: np.ndarray, item: np.ndarray) -> np.ndarray:
        """(P,) keys of P queries, by number, each with one item, by number."""
        keys, start = np.empty(len(item), dtype=np.int32), 0
        order = np.argsort(item, kind="stable")
        for rows, block_stop in zip(self.gallery, self.stops, strict=True):
            first, stop = np.searchsorted(item, (start, block_stop), sorter=order)
            for part in np.split(order[first:stop], range(_PAIRS, stop - first, _PAIRS)):
                chosen = rows[torch.from_numpy(item[part] - start).to(rows.device)]
                of_query = torch.from_numpy(query[part]).to(self.device)
                keys[part] = self.probes.pair_keys(of_query, unit_rows(chosen.to(self.device))).round_().cpu().numpy()
            start = block_stop
        return keys

    def _rows(self, items: slice) -> Tensor:
        starts = self.stops - [len(rows) for rows in self.gallery]
        blocks = range(np.searchsorted(self.stops, items.start, "right"), np.searchsorted(starts, items.stop))
        parts = [self.gallery[i][max(0, items.start - starts[i]) : items.stop - starts[i]] for i in blocks]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def keys_of_similarity(similarity: Tensor) -> np.ndarray:
    """Keys by given similarities (Q, G): their negatives."""
    wide = torch.float64 if similarity.dtype == torch.float64 else torch.float32
    return -similarity.to("cpu", wide).numpy()


def regrouped(blocks: Sequence[Tensor], rows: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (index of the first row, block) with ``rows`` rows in each block but the last."""
    start, held = 0, []
    for block in blocks:
        while len(block):
            wanted = rows - sum(len(part) for part in held)
            held.append(block[:wanted])
            block = block[wanted:]
            if sum(len(part) for part in held) == rows:
                yield start, held[0] if len(held) == 1 else torch.cat(held)
                start, held = start + rows, []
    if held:
        yield start, torch.cat(held)
