"""Scores of gallery items as fixed-point numbers, for queries of one modality and joint queries of several.

Unit vectors are rounded to multiples of 2**-26, so that every product and every partial sum of a dot product is a
multiple of 2**-52 below 2, which float64 holds exactly. The order in which BLAS adds them, and with it the chunk size,
the order of the items, the number of threads and of processes, then cannot change a score; an ordinary matrix product
depends on the shape of the chunk in its last bits, which makes and breaks ties. The rounding moves a cosine by about
6e-9, a tenth of the spacing of float32 just below 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

SCORES = ("cosine", "multilinear", "volume")
SCORE_BITS = 29  # a score is one of 2**-29, and fits an int32 with its sign

_UNIT_BITS = 26  # a unit vector's entry is an integer multiple of 2**-26
_DEPENDENT = 1e-6  # a unit vector that lies this near the span of others is in it: what float32 cannot tell
_CACHED = 2**15  # numbers worked on at once: they stay in the processor's cache, and in the thread that asks


@dataclass(frozen=True)
class Probes:
    """What gallery items are multiplied with to get their keys, the negated scores in units of 2**-29.

    Keys are float64 here, and not yet rounded. Gallery items are rows as ``unit_rows`` gives them.

    Args:
        vectors: (J, Q, D) float64: one vector per query, or an orthonormal basis of the span of a joint query.
        spanning: None where a key is minus the dot product; else (Q, 1) float64 for keys by volume, 0 where a query's
            vectors depend on one another, so that every volume is 0.
    """

    vectors: Tensor
    spanning: Tensor | None = None

    def __len__(self) -> int:
        return self.vectors.shape[1]

    def keys(self, queries: slice, gallery: Tensor) -> np.ndarray:
        """(q, B) keys of gallery items (B, D) for some of the queries."""
        products = [_product(vectors[queries], gallery) for vectors in self.vectors]
        if self.spanning is None:
            return products[0].cpu().numpy()
        # The squared volume is that of the query times the squared distance of the item from the query's span.
        near = sum(product.square_() for product in products)
        kept = self.spanning[queries] * (gallery != 0).any(dim=1)
        return kept.sub_(near).mul_(2.0**SCORE_BITS).cpu().numpy()

    def pair_keys(self, query: Tensor, gallery: Tensor) -> Tensor:
        """(P,) keys of P queries, by number, each with one gallery item of (P, D)."""
        products = [torch.einsum("pd,pd->p", vectors[query], gallery)[:, None] for vectors in self.vectors]
        if self.spanning is None:
            return products[0][:, 0]
        near = sum(product.square() for product in products)
        kept = self.spanning[query] * (gallery != 0).any(dim=1, keepdim=True)
        return ((kept - near) * 2.0**SCORE_BITS)[:, 0]


def unit_rows(rows: Tensor) -> Tensor:
    """Rows scaled to length 2**26 and rounded to integers, in float64; a zero row stays zero."""
    unit = torch.empty(rows.shape, dtype=torch.float64, device=rows.device)
    step = max(1, _CACHED // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        part = unit[start : start + step]
        part.copy_(rows[start : start + step].to(torch.float32))
        _scale(part).round_()
    return unit


def probes_of(query: Sequence[Tensor], score: str) -> Probes:
    """What scores a gallery for queries.

    Of a joint query the sum of the cosines is the dot product with the sum of its unit vectors, and the multilinear
    product that with their product; neither's length changes a ranking, so that it is ranked by a cosine.

    Args:
        query: (Q, D) floating embeddings, one tensor per modality of the query.
        score: "cosine", "multilinear" or "volume".
    """
    units = [unit_rows(rows) for rows in query]
    if score == "volume":
        return _basis([_scale(rows).mul_(2.0**-_UNIT_BITS) for rows in units])
    joined = units[0]
    if len(units) > 1:
        joined = sum(units) if score == "cosine" else reduce(torch.mul, [rows * 2.0**-_UNIT_BITS for rows in units])
        _scale(joined).round_()
    # A power of two scales exactly, here from units of 2**-52 to 2**-29; the best score is to sort first.
    return Probes(joined.mul_(-(2.0 ** (SCORE_BITS - 2 * _UNIT_BITS)))[None])


def _product(queries: Tensor, gallery: Tensor) -> Tensor:
    if queries.device.type == "cuda":
        return queries @ gallery.T
    return torch.from_numpy(queries.numpy() @ gallery.numpy().T)  # OpenBLAS, in some two thirds of the time


def _scale(rows: Tensor) -> Tensor:
    """Scale float64 rows to length 2**26, in place."""
    length = rows.square().sum(dim=1, keepdim=True).sqrt()
    return rows.mul_(torch.where(length > 0, 2.0**_UNIT_BITS / length, 0.0))


def _basis(units: Sequence[Tensor]) -> Probes:
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
    return Probes(rounded * spanning, spanning)
