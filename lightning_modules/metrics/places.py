"""The places of relevant items, counted: how many items precede each, and how many tie with it.

Nothing is sorted but the keys of a block, where a query has many relevant items: an item's place is the number of
smaller keys, summed over the blocks of the gallery.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_FEW = 16  # thresholds that are counted one by one in less time than sorting takes


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

    def __getitem__(self, which: np.ndarray) -> TieGroups:
        return TieGroups(*(getattr(self, field)[which] for field in self.__dataclass_fields__))


class Places:
    """Counts for every relevant item the items of a gallery with a smaller key, and those with the same.

    Args:
        query: (P,) number of the query of each relevant item.
        item: (P,) its number in the gallery.
        key: (P,) its key; the smallest ranks first.
        queries: how many queries there are.
    """

    def __init__(self, query: np.ndarray, item: np.ndarray, key: np.ndarray, queries: int):
        order = np.lexsort((key, query))
        self.query, self.item, self.key = query[order], item[order], key[order]
        self.first = np.searchsorted(self.query, np.arange(queries + 1))
        self.before, self.size = np.zeros((2, len(query)), dtype=np.int64)

    def add(self, keys: np.ndarray, queries: slice) -> None:
        """Count a block of the gallery for some queries.

        Args:
            keys: (Q, B) keys, whose rows may be sorted here.
            queries: numbers of these queries.
        """
        for row, first, stop in zip(keys, self.first[queries], self.first[queries.start + 1 :], strict=False):
            own = slice(first, stop)
            wanted = self.key[own]
            if first == stop:
                continue
            if len(wanted) <= _FEW:
                before = [np.count_nonzero(row < key) for key in wanted]
                size = [np.count_nonzero(row == key) for key in wanted]
            else:
                row.sort()
                before = row.searchsorted(wanted)
                size = row.searchsorted(wanted, "right") - before
            self.before[own] += before
            self.size[own] += size

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
