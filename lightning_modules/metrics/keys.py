"""Keys of gallery items for a chunk of queries: numbers of which the smallest ranks first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from lightning_modules.metrics.scoring import Probes, unit_rows
from lightning_modules.metrics.threads import Threads

_ROWS = 8192  # gallery items that are scaled, or pairs that are scored, at once
_PRODUCTS = 2**21  # scores in float64 at once
_CACHED = 2**17  # and of these, what stays in the processor's cache


class KeysOfEmbeddings:
    """Keys by a score of embeddings, rounded to int32.

    Args:
        probes: of the queries.
        gallery: consecutive (rows, D) blocks.
        threads: those that round.
    """

    def __init__(self, probes: Probes, gallery: Sequence[Tensor], threads: Threads):
        self.probes, self.gallery, self.threads = probes, gallery, threads
        self.device, self.items = probes.vectors.device, sum(map(len, gallery))

    def __len__(self) -> int:
        return len(self.probes)

    def blocks(self, columns: int) -> Iterator[np.ndarray]:
        """(Q, B) keys of the gallery, in blocks of some so many items, each in the memory of the one before."""
        step = max(1, min(columns, _ROWS, _PRODUCTS // len(self)))
        columns = self.items if columns >= self.items else columns - columns % step
        products, memory = np.empty((len(self), step)), np.empty((len(self), columns), dtype=np.int32)
        for start, rows in regrouped(self.gallery, step):
            first, stop = start % columns, start % columns + len(rows)
            if not first:
                keys = memory[:, : self.items - start]
            out = products if len(rows) == step else np.empty((len(self), len(rows)))
            self._round(self.probes.keys(unit_rows(rows.to(self.device)), out), keys[:, first:stop])
            if stop == keys.shape[1]:
                yield keys

    def _round(self, products: np.ndarray, keys: np.ndarray) -> None:
        def work(part: slice) -> None:
            rounded = np.rint(products[part], out=products[part])
            np.copyto(keys[part], rounded, casting="unsafe")  # rounding to integers at once takes thirty times as long

        self.threads.run(work, len(products), max(1, _CACHED // products.shape[1]))

    def of_pairs(self, query: np.ndarray, item: np.ndarray) -> np.ndarray:
        """(P,) keys of P queries, by number, each with one item, by number."""
        keys, start = np.empty(len(item), dtype=np.int32), 0
        order = np.argsort(item, kind="stable")
        for rows in self.gallery:
            first, stop = np.searchsorted(item, (start, start + len(rows)), sorter=order)
            for part in np.split(order[first:stop], range(_ROWS, stop - first, _ROWS)):
                chosen = rows[torch.from_numpy(item[part] - start).to(rows.device)]
                of_query = torch.from_numpy(query[part]).to(self.device)
                keys[part] = self.probes.pair_keys(of_query, unit_rows(chosen.to(self.device))).round_().cpu().numpy()
            start += len(rows)
        return keys


class KeysOfSimilarity:
    """Keys by given similarities: their negatives.

    Args:
        similarity: (Q, G) floating.
    """

    def __init__(self, similarity: Tensor):
        wide = torch.float64 if similarity.dtype == torch.float64 else torch.float32
        self.keys = -similarity.to("cpu", wide).numpy()

    def __len__(self) -> int:
        return len(self.keys)

    def blocks(self, columns: int) -> Iterator[np.ndarray]:
        """The keys of the whole gallery, whatever is asked for."""
        yield self.keys


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
