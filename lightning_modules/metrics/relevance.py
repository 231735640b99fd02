"""Which gallery items are relevant to a query: those of its class, or with one of its labels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

_MASK = 2**20  # entries of a mask held at once


class Relevance:
    """Lists the relevant items of queries.

    Args:
        query: (Q,) integer classes, or (Q, C) multi-hot labels.
        gallery: (G,) or (G, C), of the same kind.
    """

    def __init__(self, query: Tensor, gallery: Tensor):
        self.by_class = query.ndim == 1
        self.size = len(gallery)
        if self.by_class:
            labels = gallery.cpu().numpy()
            self.order = np.argsort(labels, kind="stable")
            labels, query = labels[self.order], query.cpu().numpy()
            self.first, self.stop = (np.searchsorted(labels, query, side) for side in ("left", "right"))
        else:
            self.query, self.gallery = _words(query), _words(gallery)

    def mean_count(self) -> float:
        """Relevant items of a query on average; of multi-hot labels that of some 64 queries."""
        if self.by_class:
            return float((self.stop - self.first).mean())
        some = self.query[:: max(1, len(self.query) // 64)]
        return sum(np.count_nonzero(mask) for _, mask in self._masks(some)) / len(some)

    def pairs(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """(P,) numbers of queries, from the first of these, and (P,) of the items that are relevant to them."""
        if self.by_class:
            first, count = self.first[rows], self.stop[rows] - self.first[rows]
            query = np.repeat(np.arange(len(first)), count)
            within = np.arange(len(query)) - np.repeat(np.cumsum(count) - count, count)
            return query, self.order[first[query] + within]
        found = [(*np.nonzero(mask), start) for start, mask in self._masks(self.query[rows])]
        return np.concatenate([query for query, _, _ in found]), np.concatenate([i + start for _, i, start in found])

    def _masks(self, query: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        step = max(1, _MASK // max(1, len(query)))
        for start in range(0, self.size, step):
            items = self.gallery[start : start + step]
            mask = np.zeros((len(query), len(items)), dtype=bool)
            for word in range(query.shape[1]):
                mask |= (query[:, word, None] & items[:, word]) != 0
            yield start, mask


def _words(labels: Tensor) -> np.ndarray:
    """Multi-hot labels (n, C) as the bits of (n, ceil(C / 64)) integers."""
    hot = labels.cpu().numpy() != 0
    return np.packbits(np.pad(hot, ((0, 0), (0, -hot.shape[1] % 64))), axis=1).view(np.uint64)
