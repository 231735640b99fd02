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

import torch
from torch import Tensor

SCORES = ("cosine", "multilinear", "volume")

_UNIT_BITS = 26  # a unit vector's entry is an integer multiple of 2**-26
SCORE_BITS = 29  # a score is one of 2**-29: with its sign it fills 31 bits
_DEPENDENT = 1e-6  # a unit vector that lies this near the span of others is in it: what float32 cannot tell


@dataclass(frozen=True)
class Probes:
    """What gallery items are multiplied with to get their keys, the negated scores in units of 2**-29.

    Args:
        vectors: (J, Q, D) float64: one vector per query, or an orthonormal basis of the span of a joint query.
        spanning: None where a key is minus the dot product; else (Q, 1) float64 for keys by volume, 0 where a query's
            vectors depend on one another, so that every volume is 0.
    """

    vectors: Tensor
    spanning: Tensor | None = None

    def keys(self, gallery: Tensor) -> Tensor:
        """(Q, B) keys in float64, not yet rounded, of gallery items (B, D) as ``unit_rows`` gives them."""
        if self.spanning is None:
            return self._products(self.vectors[0], gallery)
        # The squared volume is that of the query times the squared distance of the item from the query's span.
        near = sum(self._products(vectors, gallery).square_() for vectors in self.vectors)
        return (self.spanning * (gallery != 0).any(dim=1)).sub_(near).mul_(2.0**SCORE_BITS)

    @staticmethod
    def _products(vectors: Tensor, gallery: Tensor) -> Tensor:
        if vectors.device.type == "cuda":
            return vectors @ gallery.T
        return torch.from_numpy(vectors.numpy() @ gallery.numpy().T)  # OpenBLAS, in some two thirds of the time


def unit_rows(rows: Tensor) -> Tensor:
    """Rows scaled to length 2**26 and rounded to integers, in float64; a zero row stays zero."""
    return _scaled(rows.to(torch.float32).to(torch.float64)).round_()


def probes_of(query: Sequence[Tensor], score: str) -> Probes:
    """What scores a gallery for queries.

    Of a joint query the sum of the cosines is the dot product with the sum of its unit vectors, and the multilinear
    product that with their product; neither's length changes a ranking, so that it is ranked by a cosine.

    Args:
        query: (Q, D) floating embeddings, one tensor per modality of the query.
        score: "cosine", "multilinear" or "volume".
    """
    if score == "volume":
        return _basis([_scaled(unit_rows(rows)).mul_(2.0**-_UNIT_BITS) for rows in query])
    units = [unit_rows(rows) for rows in query]
    joined = units[0]
    if len(units) > 1:
        joined = sum(units) if score == "cosine" else reduce(torch.mul, [rows * 2.0**-_UNIT_BITS for rows in units])
        joined = _scaled(joined).round_()
    # A power of two scales exactly, here from units of 2**-52 to 2**-29; the best score is to sort first.
    return Probes(joined.mul_(-(2.0 ** (SCORE_BITS - 2 * _UNIT_BITS)))[None])


def _scaled(rows: Tensor) -> Tensor:
    """Rows scaled to length 2**26 in place."""
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
