"""The places of relevant items, counted: how many items precede each, and how many tie with it.

Nothing is sorted but the keys of a block, where a query has many relevant items: an item's place is the number of
smaller keys, summed over the blocks of the gallery.
"""

from dataclasses import dataclass
from threading import Lock
from typing import Self

import numpy as np

from lightning_modules.metrics.scoring import Exact

_FEW = 32  # relevant items of a query that are compared one by one in less time than sorting takes
_CACHED = 2**18  # keys that stay in the processor's cache


@dataclass(frozen=True)
class TieGroups:
    """The groups of tied items that hold a relevant one, by query and place; without a mixed tie, single items.

    Each field is an array with one entry per group: the query, the number of items ranked strictly before the group,
    the number of relevant ones among those, and the number of items and of relevant items in it.
    """

    query: np.ndarray
    before: np.ndarray
    hits: np.ndarray
    size: np.ndarray
    relevant: np.ndarray

    def __getitem__(self, which: np.ndarray) -> Self:
        return type(self)(*(getattr(self, field)[which] for field in self.__dataclass_fields__))


class Places:
    """Counts for every relevant item the items of a gallery with a smaller key, and those with the same.

    Args:
        query: (P,) number of the query of each relevant item.
        item: (P,) its number in the gallery.
        key: (P,) its key; the smallest ranks first.
        queries: how many queries there are.
        tie_break: (G,) different numbers, of which the smaller ranks first where keys are the same; None where ties
            stay ties, which takes less time.
    """

    def __init__(
        self,
        query: np.ndarray,
        item: np.ndarray,
        key: np.ndarray,
        queries: int,
        tie_break: np.ndarray | None = None,
    ):
        order = np.lexsort((key, query))
        self.query, self.item, self.key = query[order], item[order], key[order]
        self.first = np.searchsorted(self.query, np.arange(queries + 1))
        self.before, self.size, self.within = np.zeros((3, len(query)), dtype=np.int64)
        self.tie_break, self._lock = tie_break, Lock()
        self.few = compares(np.diff(self.first).max(), tie_break)

    def add(
        self, keys: np.ndarray, queries: slice, start: int = 0, exact: Exact | None = None, slack: float = 0
    ) -> None:
        """Count a block of the gallery for some queries; several threads may do so at once.

        Args:
            keys: (Q, B) keys; their rows may be sorted here.
            queries: numbers of these queries.
            start: number of the block's first item.
            exact: computes the keys of pairs where ``keys`` may be off by up to ``slack``, for ``few`` alone.
            slack: as said.
        """
        first, stop = self.first[queries.start : queries.stop], self.first[queries.start + 1 : queries.stop + 1]
        if self.few:
            self._compare(keys, first, stop, start, exact, slack)
            return
        ranked = keys if self.tie_break is None else keys.copy()
        ranked.sort(axis=1)
        own = slice(self.first[queries.start], self.first[queries.stop])
        each = [(row, self.key[i:j]) for row, i, j in zip(ranked, first, stop, strict=True)]
        before = np.concatenate([row.searchsorted(key) for row, key in each])
        size = np.concatenate([row.searchsorted(key, "right") for row, key in each]) - before
        within = 0 if self.tie_break is None else self._within(keys, queries.start, own, size, start)
        with self._lock:
            self.before[own] += before
            self.size[own] += size
            self.within[own] += within

    def _within(self, keys: np.ndarray, query: int, own: slice, size: np.ndarray, start: int) -> np.ndarray:
        """Of the items of a block that tie with each relevant one, how many precede it by the tie break."""
        within = np.zeros(len(size), dtype=np.int64)
        for place in np.flatnonzero(size):
            which = own.start + place
            same = np.flatnonzero(keys[self.query[which] - query] == self.key[which])
            within[place] = np.count_nonzero(self.tie_break[start + same] < self.tie_break[self.item[which]])
        return within

    def _compare(
        self, keys: np.ndarray, first: np.ndarray, stop: np.ndarray, start: int, exact: Exact | None, slack: float
    ) -> None:
        """Count for the first relevant item of every query, then for the second, and so on."""
        width = keys.shape[1]
        masks = np.empty((2, max(1, min(len(keys), _CACHED // width)), width), dtype=bool)
        for top in range(0, len(keys), masks.shape[1]):
            rows = slice(top, top + masks.shape[1])
            block, own, left = keys[rows], first[rows], stop[rows]
            for place in range((left - own).max()):
                has = np.flatnonzero(own + place < left)
                which, part = own[has] + place, block if len(has) == len(block) else block[has]
                key = self.key[which]
                smaller = np.less(part, (key - slack).astype(keys.dtype)[:, None], out=masks[0, : len(part)])
                up_to = np.less_equal(part, (key + slack).astype(keys.dtype)[:, None], out=masks[1, : len(part)])
                before = _count(smaller)
                size = _count(up_to) - before
                # Where the relevant item is the only one within the slack, nothing is left to tell apart.
                itself = (self.item[which] >= start) & (self.item[which] < start + width)
                unsure = np.flatnonzero(size > itself) if exact is not None else []
                if len(unsure):
                    row, item = np.divmod(np.flatnonzero(smaller[unsure] ^ up_to[unsure]), width)
                    found = exact(top + has[unsure][row], item) - key[unsure][row]
                    before[unsure] += np.bincount(row[found < 0], minlength=len(unsure))
                    size[unsure] = np.bincount(row[found == 0], minlength=len(unsure))
                with self._lock:
                    self.before[which] += before
                    self.size[which] += size

    def broken_ties(self) -> tuple[np.ndarray, np.ndarray]:
        """The query of every relevant item, and its place from 1 on in the order that the tie break makes."""
        place = self.before + self.within + 1
        order = np.lexsort((place, self.query))
        return self.query[order], place[order]

    def tie_groups(self) -> TieGroups:
        """The groups, once the whole gallery was counted."""
        query, before, size = self.query, self.before, self.size
        index = np.arange(len(query))
        opens = np.ones(len(query), dtype=bool)
        opens[1:] = (before[1:] != before[:-1]) | (query[1:] != query[:-1])
        first_of = np.maximum.accumulate(np.where(opens, index, 0))
        relevant = np.bincount(first_of, minlength=len(query))[first_of]
        mixed = size > relevant
        before = before + np.where(mixed, 0, index - first_of)
        size, relevant = np.where(mixed, size, 1), np.where(mixed, relevant, 1)
        kept = ~mixed | opens
        query, before, size, relevant = query[kept], before[kept], size[kept], relevant[kept]
        hits = np.cumsum(relevant) - relevant
        hits -= hits[np.searchsorted(query, query)]
        return TieGroups(query, before, hits, size, relevant)


def compares(most: float, tie_break: np.ndarray | None) -> bool:
    """Whether places are found by comparing with each relevant item, of at most so many per query, or by sorting."""
    return tie_break is None and most <= _FEW


def _count(mask: np.ndarray) -> np.ndarray:
    """Number of true entries of each row, in a fifth of the time of ``np.count_nonzero`` along an axis."""
    return np.bitwise_count(np.packbits(mask, axis=1)).sum(axis=1, dtype=np.int64)
