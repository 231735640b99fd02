"""Scores of gallery items as fixed-point numbers, for queries of one modality and joint queries of several.

Unit vectors are rounded to multiples of 2**-26, so that every product and every partial sum of a dot product is a
multiple of 2**-52 below 2, which float64 holds exactly. The order in which BLAS adds them, and with it the chunk size,
the order of the items, the number of threads and of processes, then cannot change a score; an ordinary matrix product
depends on the shape of the chunk in its last bits, which makes and breaks ties. The rounding moves a cosine by about
6e-9, a tenth of the spacing of float32 just below 1.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial, reduce

import numpy as np
import torch
from torch import Tensor

SCORES = ("cosine", "multilinear", "volume")
SCORE_BITS = 29  # a score is one of 2**-29, and fits an int32 with its sign
Exact = Callable[[np.ndarray, np.ndarray], np.ndarray]

_UNIT_BITS = 26  # a unit vector's entry is an integer multiple of 2**-26
_DEPENDENT = 1e-6  # a unit vector that lies this near the span of others is in it: what float32 cannot tell
_CACHED = 2**15  # numbers worked on at once: they stay in the processor's cache, and in the thread that asks
_SCORES = 2**20  # scores in float64 at once, of a thread
_PAIRS = 8192  # of a query and an item, scored at once


class Keys:
    """Keys of gallery items for some queries: the negated scores in units of 2**-29, so that the smallest ranks first.

    Of a joint query the sum of the cosines is the dot product with the sum of its unit vectors, and the multilinear
    product that with their product; neither's length changes a ranking, so that it is ranked by a cosine. The squared
    volume is that of the query times the squared distance of the item from the query's span.

    Args:
        query: (Q, D) floating embeddings, one tensor per modality of the query; their device computes the keys.
        score: "cosine", "multilinear" or "volume".
        gallery: consecutive (rows, D) blocks.
    """

    def __init__(self, query: Sequence[Tensor], score: str, gallery: Sequence[Tensor]):
        units = [unit_rows(rows) for rows in query]
        # vectors (n, Q, D): one of every query, or an orthonormal basis of what a joint query's vectors span. spanning
        # (Q, 1), for keys by volume: 0 where these vectors depend on one another, so that every volume is 0.
        if score == "volume":
            self.vectors, self.spanning = _basis([_scale(rows).mul_(2.0**-_UNIT_BITS) for rows in units])
        else:
            self.vectors, self.spanning = _joined(units, score)[None], None
        self.gallery, self.device, width = gallery, self.vectors.device, self.vectors.shape[2]
        # A dot product of D entries in float32, whatever the order of the sum, is within D u / (1 - D u) |x| |y| of the
        # exact one (Higham, Accuracy and Stability, section 3.1), u = 2**-24; both roundings to float32, that of the
        # key and that of the bounds in float32 come on top.
        n = (width + 4) * 2.0**-24
        self.slack = 2.0**SCORE_BITS * n / (1 - n) + 64
        once = self.device.type != "cuda" and self.spanning is None and width < 2**16
        self.single = self.vectors[0].numpy().astype(np.float32) if once else None

    def __len__(self) -> int:
        return self.vectors.shape[1]

    def of_items(self, items: slice, near: bool = False) -> Iterator[tuple[slice, np.ndarray, Exact | None]]:
        """Some of the queries and their (q, B) keys of consecutive items, then the next queries.

        Args:
            items: the items.
            near: whether the keys are in float32, in half the time, and off by less than ``slack``; beside them comes
                what computes exact ones, of numbers of queries and of items, counted from the first of each.
        """
        unit = unit_rows(rows_of(self.gallery, items).to(self.device))
        single = unit.numpy().astype(np.float32).T if near else None
        step = len(self) if self.device.type == "cuda" else max(1, _SCORES // len(unit))
        for start in range(0, len(self), step):
            queries = slice(start, min(start + step, len(self)))
            if near:
                every = cache(partial(self._every, queries, unit))
                yield queries, self.single[queries] @ single, partial(self._exact, start, unit, every)
            else:
                yield queries, self._every(queries, unit).astype(np.int32), None

    def of_pairs(self, query: np.ndarray, item: np.ndarray) -> np.ndarray:
        """(P,) keys of P queries, by number, each with one item, by number."""
        keys, start = np.empty(len(item), dtype=np.int32), 0
        order = np.argsort(item, kind="stable")
        for rows in self.gallery:
            first, stop = np.searchsorted(item, (start, start + len(rows)), sorter=order)
            for part in np.split(order[first:stop], range(_PAIRS, stop - first, _PAIRS)):
                held, of_pair = (torch.from_numpy(x) for x in np.unique(item[part] - start, return_inverse=True))
                unit = unit_rows(rows[held.to(rows.device)].to(self.device))
                keys[part] = self._pairs(query[part], unit[of_pair.to(self.device)])
            start += len(rows)
        return keys

    def _every(self, queries: slice, unit: Tensor) -> np.ndarray:
        products = [_product(vectors[queries], unit) for vectors in self.vectors]
        keys = self._keys(products, queries, unit).cpu().numpy()
        return np.rint(keys, out=keys)  # to int32 at once it would take thirty times as long

    def _pairs(self, query: np.ndarray, unit: Tensor) -> np.ndarray:
        query = torch.from_numpy(query).to(self.device)
        products = [(vectors[query] * unit).sum(dim=1, keepdim=True) for vectors in self.vectors]
        return self._keys(products, query, unit, pairs=True)[:, 0].round_().cpu().numpy()

    def _exact(self, start: int, unit: Tensor, every: Callable, query: np.ndarray, item: np.ndarray) -> np.ndarray:
        if len(query) > _PAIRS:  # then those of every pair take no longer
            return every()[query, item]
        return self._pairs(query + start, unit[torch.from_numpy(item)])

    def _keys(self, products: list[Tensor], queries: slice | Tensor, unit: Tensor, pairs: bool = False) -> Tensor:
        if self.spanning is None:
            return products[0]
        near = sum(product.square_() for product in products)
        nonzero = (unit != 0).any(dim=1, keepdim=pairs)
        return (self.spanning[queries] * nonzero).sub_(near).mul_(2.0**SCORE_BITS)


def rows_of(blocks: Sequence[Tensor], rows: slice) -> Tensor:
    """Some rows, by number, of consecutive blocks."""
    sizes = [len(block) for block in blocks]
    stops = np.cumsum(sizes)
    starts = stops - sizes
    inside = range(np.searchsorted(stops, rows.start, "right"), np.searchsorted(starts, rows.stop))
    parts = [blocks[i][max(0, rows.start - starts[i]) : rows.stop - starts[i]] for i in inside]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def unit_rows(rows: Tensor) -> Tensor:
    """Rows scaled to length 2**26 and rounded to integers, in float64; a zero row stays zero."""
    unit = torch.empty(rows.shape, dtype=torch.float64, device=rows.device)
    step = max(1, _CACHED // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        part = unit[start : start + step]
        part.copy_(rows[start : start + step].to(torch.float32))
        _scale(part).round_()
    return unit


def _joined(units: Sequence[Tensor], score: str) -> Tensor:
    joined = units[0]
    if len(units) > 1:
        joined = sum(units) if score == "cosine" else reduce(torch.mul, [rows * 2.0**-_UNIT_BITS for rows in units])
        _scale(joined).round_()
    # A power of two scales exactly, here from units of 2**-52 to 2**-29; the best score is to sort first.
    return joined.mul_(-(2.0 ** (SCORE_BITS - 2 * _UNIT_BITS)))


def _product(queries: Tensor, gallery: Tensor) -> Tensor:
    if queries.device.type == "cuda":
        return queries @ gallery.T
    return torch.from_numpy(queries.numpy() @ gallery.numpy().T)  # OpenBLAS, in some two thirds of the time


def _scale(rows: Tensor) -> Tensor:
    """Scale float64 rows to length 2**26, in place."""
    length = rows.square().sum(dim=1, keepdim=True).sqrt()
    return rows.mul_(torch.where(length > 0, 2.0**_UNIT_BITS / length, 0.0))


def _basis(units: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Gram and Schmidt's orthonormal basis of the unit vectors of every query, twice, for the sake of rounding."""
    basis: list[Tensor] = []
    spanning = torch.ones(len(units[0]), 1, dtype=torch.float64, device=units[0].device)
    for rows in units:
        for other in basis * 2:
            rows = rows - (rows * other).sum(dim=1, keepdim=True) * other
        length = rows.square().sum(dim=1, keepdim=True).sqrt()
        spanning *= length > _DEPENDENT
        basis.append(rows / torch.where(length > 0, length, 1.0))
    rounded = torch.stack(basis).mul_(2.0**_UNIT_BITS).round_().mul_(2.0 ** (-2 * _UNIT_BITS))
    return rounded * spanning, spanning
