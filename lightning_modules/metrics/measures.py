"""The measures of rankings, from the groups of tied items that hold a relevant one."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import hypergeom

from lightning_modules.metrics.places import TieGroups


def measures_of(
    groups: TieGroups, n_query: int, n_gallery: int, ks: Sequence[int], reciprocals: np.ndarray
) -> dict[str, np.ndarray]:
    """The measures of every query, as :func:`~lightning_modules.metrics.ranking.retrieval_scores` defines them.

    Args:
        groups: of tied items with a relevant one, by query and place.
        n_query: number of queries; one without a group has nothing relevant.
        n_gallery: number of items.
        ks: cut-offs, in places.
        reciprocals: (n_gallery + 1,) float64, entry n is 1 + 1/2 + ... + 1/n.

    Returns:
        Measure -> (n_query,) float64.
    """
    total = _per_query(groups, groups.relevant, n_query)
    precisions = _precision_sum(groups, groups.size, reciprocals)
    ap = _ratio(_per_query(groups, precisions, n_query), total)
    opening = groups[np.unique(groups.query, return_index=True)[1]]
    first_rank = np.full(n_query, n_gallery + 1.0)
    first_rank[opening.query] = opening.before + (opening.size + 1) / (opening.relevant + 1)
    result = {"AP": ap, "first_rank": first_rank}
    for k in ks:
        top = groups[groups.before < k]
        taken = np.minimum(k - top.before, top.size)
        result[f"R@{k}"] = _hit_probability(opening, k, n_query)
        result[f"P@{k}"] = _per_query(top, top.relevant * taken / top.size, n_query) / k
        precision_sum = _per_query(top, _precision_sum(top, taken, reciprocals), n_query)
        result[f"AP@{k}[min(R,k)]"] = _ratio(precision_sum, np.minimum(total, k))
    return result


def _per_query(groups: TieGroups, values: np.ndarray, n_query: int) -> np.ndarray:
    # bincount adds one after the other, so a query's sum does not depend on the queries beside it.
    return np.bincount(groups.query, weights=values, minlength=n_query)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)


def _precision_sum(groups: TieGroups, taken: np.ndarray, reciprocals: np.ndarray) -> np.ndarray:
    """Expected sum of the precisions at the relevant items among the first ``taken`` places of each group.

    Place j of a group of t items, r of them relevant, holds a relevant one with probability r/t, and then, on average,
    (j-1)(r-1)/(t-1) of the places before it in the group do: sum_j r/t (h + 1 + (j-1)(r-1)/(t-1)) / (b + j), with b
    items and h hits before the group; ``reciprocals[n]`` is 1 + 1/2 + ... + 1/n.
    """
    single = groups.size == 1
    share = (groups.relevant - 1) / np.where(single, 1, groups.size - 1)
    harmonic = reciprocals[groups.before + taken] - reciprocals[groups.before]
    harmonic[single] = 1.0 / (groups.before[single] + 1)  # the difference loses digits
    constant = groups.hits + 1 - (groups.before + 1) * share
    return groups.relevant / groups.size * (constant * harmonic + share * taken)


def _hit_probability(opening: TieGroups, k: int, n_query: int) -> np.ndarray:
    """Probability of a relevant item in the first k places: 1 - C(t-r, m) / C(t, m) in each query's first group."""
    result = np.zeros(n_query)
    top = opening[opening.before < k]
    taken = np.minimum(k - top.before, top.size)
    result[top.query] = 1.0 - hypergeom.pmf(0, top.size, top.relevant, taken)
    return result


def eleven_point(query: np.ndarray, place: np.ndarray, n_query: int) -> dict[str, np.ndarray]:
    """Mean over the recalls r = 0, .1, ..., 1 of a precision; 0 where nothing is relevant.

    Interpolated it is the largest precision at any place with recall >= r, else that at the first such place, which is
    the first of all for r = 0.

    Args:
        query: (P,) number of the query of each relevant item, ascending.
        place: (P,) its place, from 1 on, ascending within a query.
        n_query: number of queries.

    Source: Sharma et al., CVPR 2012 (GMA), which leaves open which of the two it is.
    """
    first = np.searchsorted(query, np.arange(n_query + 1))
    interpolated, plain = np.zeros((2, n_query))
    for number in np.flatnonzero(np.diff(first)):
        places = place[first[number] : first[number + 1]]
        precision = np.arange(1, len(places) + 1) / places
        hits = np.maximum(-(-np.arange(11) * len(places) // 10), 1)  # by whole numbers: .3 is not 3 / 10 as a float
        interpolated[number] = np.maximum.accumulate(precision[::-1])[::-1][hits - 1].mean()
        plain[number] = (precision[hits - 1][1:].sum() + (places[0] == 1)) / 11
    return {"AP 11-point": interpolated, "AP 11-point plain": plain}
