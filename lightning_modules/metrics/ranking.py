"""Per-query retrieval measures, with the expected value over exact ties."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import hypergeom
from torch import Tensor

from lightning_modules.metrics.scoring import SCORES, probes_of, unit_rows

Rows = Tensor | Sequence[Tensor]  # of embeddings: all, or consecutive blocks of them

_KEYS = 2**25  # scores held at once (128 MiB): one chunk of queries against the whole gallery
_SLICE = 2**20  # scores worked on at once: what stays in the processor's cache


def retrieval_scores(
    query: Rows | Mapping[str, Rows],
    gallery: Rows,
    query_labels: Tensor,
    gallery_labels: Tensor,
    ks: Sequence[int] = (1, 5, 10),
    chunk_elements: int = _KEYS,
    score: str = "cosine",
) -> dict[str, Tensor]:
    """Rank the gallery by score for every query and measure each ranking.

    With R relevant items in the gallery, hits(n) of them in the first n places and rel(n) = 1 where place n holds one:
    AP = sum_n rel(n) hits(n)/n / R over the whole gallery (0 where R = 0); AP@k the same sum over the first k places
    divided by min(R, k); R@k = [hits(k) > 0]; P@k = hits(k) / k; first_rank =
    the place of the first relevant item, gallery size + 1 without one. Where items tie exactly, each measure is its
    expectation over a uniformly random order of the tied items (McSherry and Najork, "Computing information retrieval
    performance measures efficiently in the presence of tied scores", ECIR 2008), so a constant scorer gets the chance
    value.

    The score of item g for a joint query with unit vectors q_1, ..., q_M is, by name, "cosine": sum_m <q_m, g>;
    "multilinear": sum_d g_d prod_m q_md; "volume": -sqrt(det G), G the Gram matrix of q_1, ..., q_M, g.

    Args:
        query: (Q, D) floating embeddings, or consecutive blocks of their rows; used as float32, a zero vector has
            cosine 0. Of joint queries a mapping modality -> such embeddings, whose rows belong together.
        gallery: (G, D) likewise.
        query_labels: (Q,) integer classes, or (Q, C) multi-hot labels, where sharing one label makes an item relevant.
        gallery_labels: (G,) or (G, C), of the same kind.
        ks: cut-offs, in places.
        chunk_elements: scores held at once; it bounds the memory and cannot change a result.
        score: "cosine", "multilinear" (Saporta et al., NeurIPS 2024, Symile) or "volume" (Cicchetti et al., ICLR 2025,
            GRAM).

    Returns:
        Measure -> (Q,) float64 tensor on the CPU: ``AP``, ``first_rank``, ``R@k``, ``P@k``, ``AP@k[min(R,k)]``.

    Raises:
        ValueError: shapes that do not fit, an empty side, a value that is not finite, a cut-off below 1, an unknown
            score.
    """
    check_cutoffs(ks)
    check_score(score)
    queries = query if isinstance(query, Mapping) else {"query": query}
    sides = {name: _blocks_of(rows, name) for name, rows in queries.items()}
    if not sides:
        raise ValueError("query: a joint query has embeddings of one modality or more, got none")
    gallery = _blocks_of(gallery, "gallery")
    _check_sides(sides, gallery, query_labels, gallery_labels)
    n_gallery = len(gallery_labels)
    reciprocals = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, n_gallery + 1))])
    chunk_rows = max(1, chunk_elements // n_gallery)
    slice_rows = max(1, min(chunk_rows, _SLICE // n_gallery))
    parts: list[dict[str, np.ndarray]] = []
    for chunks in zip(*(_regrouped(blocks, chunk_rows) for blocks in sides.values()), strict=True):
        start, rows = chunks[0][0], [rows for _, rows in chunks]
        labels = query_labels[start : start + len(rows[0])]
        keys = _sorted_keys(rows, score, gallery, labels, gallery_labels)
        for first in range(0, len(keys), slice_rows):
            part = keys[first : first + slice_rows]
            parts.append(_measures(_tie_groups(part), len(part), n_gallery, ks, reciprocals))
    return {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]}


def check_cutoffs(ks: Sequence[int]) -> None:
    """Refuse cut-offs below 1 with a ValueError."""
    bad = [k for k in ks if isinstance(k, bool) or not isinstance(k, int) or k < 1]
    if bad:
        raise ValueError(f"ks must be integers of at least 1, got {bad}")


def check_score(score: str) -> None:
    """Refuse an unknown score with a ValueError."""
    if score not in SCORES:
        raise ValueError(f"unknown score {score!r}: expected one of {SCORES}")


def is_finite(values: Tensor) -> bool:
    """Whether no entry is infinite or NaN, without a temporary of the size of ``values``; True for an empty tensor."""
    return values.numel() == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(values))).all())


def _blocks_of(embeddings: Tensor | Sequence[Tensor], side: str) -> list[Tensor]:
    blocks = [embeddings] if isinstance(embeddings, Tensor) else list(embeddings)
    for block in blocks:
        if block.ndim != 2 or not block.is_floating_point():
            raise ValueError(f"{side}: expected floating (rows, D) embeddings, got {block.dtype} {tuple(block.shape)}")
    blocks = [block.detach() for block in blocks if len(block)]
    if not blocks:
        raise ValueError(f"{side}: there are no items")
    return blocks


def _check_sides(
    query: Mapping[str, list[Tensor]], gallery: list[Tensor], query_labels: Tensor, gallery_labels: Tensor
) -> None:
    widths = {block.shape[1] for blocks in (*query.values(), gallery) for block in blocks}
    if len(widths) > 1:
        raise ValueError(f"query and gallery embeddings must have one width, got {sorted(widths)}")
    sides = [(name, blocks, query_labels) for name, blocks in query.items()]
    for side, blocks, labels in (*sides, ("gallery", gallery, gallery_labels)):
        rows = sum(len(block) for block in blocks)
        if labels.ndim not in (1, 2) or labels.is_floating_point() or len(labels) != rows:
            raise ValueError(
                f"{side}: expected integer or bool labels of shape ({rows},) or ({rows}, classes),"
                f" got {labels.dtype} {tuple(labels.shape)}"
            )
        if not all(is_finite(block.to(torch.float32)) for block in blocks):
            raise ValueError(f"{side}: an embedding is not finite in float32")
    if query_labels.shape[1:] != gallery_labels.shape[1:]:
        raise ValueError(
            "query and gallery labels must both be classes, or multi-hot over the same classes, got shapes"
            f" {tuple(query_labels.shape)} and {tuple(gallery_labels.shape)}"
        )


def _regrouped(blocks: Sequence[Tensor], rows: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (index of the first row, block) with ``rows`` rows in each block but the last."""
    start, held = 0, []
    for block in blocks:
        while len(block):
            wanted = rows - sum(len(part) for part in held)
            held.append(block[:wanted])
            block = block[wanted:]
            if sum(len(part) for part in held) == rows:
                yield start, torch.cat(held)
                start, held = start + rows, []
    if held:
        yield start, torch.cat(held)


def _sorted_keys(
    query: Sequence[Tensor], score: str, gallery: Sequence[Tensor], query_labels: Tensor, gallery_labels: Tensor
) -> np.ndarray:
    """(Q, G) int32 keys in ranking order: the negated score in the upper bits, 0 for a relevant item in the lowest.

    Sorting these keys sorts score and relevance together, without an argsort and a gather.
    """
    device = query[0].device if query[0].device.type == "cuda" else torch.device("cpu")
    probes = probes_of([rows.to(device) for rows in query], score)
    query_labels, gallery_labels = query_labels.to(device), gallery_labels.to(device)
    keys = torch.empty(len(query_labels), len(gallery_labels), dtype=torch.int32, device=device)
    for start, block in _regrouped(gallery, max(1, min(8192, 2 * _SLICE // len(query_labels)))):
        stop = start + len(block)
        part = keys[:, start:stop]
        part.copy_(probes.keys(unit_rows(block.to(device))).round_())
        part.mul_(2).add_(_irrelevant(query_labels, gallery_labels[start:stop]))
    if device.type == "cuda":
        return torch.sort(keys, dim=1).values.cpu().numpy()
    ranked = keys.numpy()
    ranked.sort(axis=1)  # in half the time of torch.sort
    return ranked


def _irrelevant(query_labels: Tensor, gallery_labels: Tensor) -> Tensor:
    if query_labels.ndim == 1:
        return query_labels[:, None] != gallery_labels[None, :]
    return (query_labels.bool().float() @ gallery_labels.bool().float().T) == 0


@dataclass(frozen=True)
class _TieGroups:
    """The groups of tied items that hold a relevant one, by query and place; without a mixed tie, single items.

    Each field is an array with one entry per group: the query, the number of items ranked strictly before the group,
    the number of relevant ones among those, and the number of items and of relevant items in it.
    """

    query: np.ndarray
    before: np.ndarray
    hits: np.ndarray
    size: np.ndarray
    relevant: np.ndarray

    def __getitem__(self, which: np.ndarray) -> _TieGroups:
        return _TieGroups(*(getattr(self, field)[which] for field in self.__dataclass_fields__))


def _tie_groups(keys: np.ndarray) -> _TieGroups:
    n_gallery, flat_keys = keys.shape[1], keys.reshape(-1)
    place = np.flatnonzero((flat_keys & 1) == 0)
    query, before = np.divmod(place, n_gallery)
    size, relevant = np.ones_like(place), np.ones_like(place)
    key = flat_keys[place]
    # In a tie the relevant items sort first: a group is mixed where its last relevant item precedes a tied irrelevant.
    following = flat_keys[np.minimum(place + 1, flat_keys.size - 1)]
    last = np.flatnonzero((following == (key | 1)) & (before + 1 < n_gallery))
    if len(last):
        index = np.arange(len(place))
        opens = np.ones(len(place), dtype=bool)
        opens[1:] = (key[1:] != key[:-1]) | (query[1:] != query[:-1])
        first_of = np.maximum.accumulate(np.where(opens, index, 0))
        first = first_of[last]
        closes = np.ones(keys.shape, dtype=bool)
        np.not_equal(keys[:, 1:] >> 1, keys[:, :-1] >> 1, out=closes[:, :-1])
        ends = np.flatnonzero(closes)
        size[first] = ends[np.searchsorted(ends, place[last])] + 1 - place[first]
        relevant[first] = last - first + 1
        mixed = np.zeros(len(place), dtype=bool)
        mixed[first] = True
        kept = ~mixed[first_of] | (first_of == index)
        query, before, size, relevant = query[kept], before[kept], size[kept], relevant[kept]
    hits = np.cumsum(relevant) - relevant
    hits -= hits[np.searchsorted(query, query)]
    return _TieGroups(query, before, hits, size, relevant)


def _measures(
    groups: _TieGroups, n_query: int, n_gallery: int, ks: Sequence[int], reciprocals: np.ndarray
) -> dict[str, np.ndarray]:
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


def _per_query(groups: _TieGroups, values: np.ndarray, n_query: int) -> np.ndarray:
    # bincount adds one after the other, so a query's sum does not depend on the queries beside it.
    return np.bincount(groups.query, weights=values, minlength=n_query)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)


def _precision_sum(groups: _TieGroups, taken: np.ndarray, reciprocals: np.ndarray) -> np.ndarray:
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


def _hit_probability(opening: _TieGroups, k: int, n_query: int) -> np.ndarray:
    """Probability of a relevant item in the first k places: 1 - C(t-r, m) / C(t, m) in each query's first group."""
    result = np.zeros(n_query)
    top = opening[opening.before < k]
    taken = np.minimum(k - top.before, top.size)
    probability = np.ones(len(taken))
    cut = np.flatnonzero(taken < top.size)
    if len(cut):
        part = top[cut]
        probability[cut] = 1.0 - hypergeom.pmf(0, part.size, part.relevant, taken[cut])
    result[top.query] = probability
    return result
