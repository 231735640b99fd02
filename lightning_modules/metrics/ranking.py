"""Per-query retrieval measures, with the expected value over exact ties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_modules.metrics.keys import KeysOfEmbeddings, keys_of_similarity, regrouped
from lightning_modules.metrics.measures import eleven_point, measures_of
from lightning_modules.metrics.places import Places
from lightning_modules.metrics.relevance import Relevance
from lightning_modules.metrics.scoring import SCORES, probes_of
from lightning_modules.metrics.threads import Threads

Rows = Tensor | Sequence[Tensor]  # all of them, or consecutive blocks

_KEYS = 2**25  # scores held at once (128 MiB)
_SLICE = 2**20  # scores worked on at once by a thread
_ITEMS = 4096  # gallery items of which a thread computes keys at once,
_NUMBERS = 2**21  # and their numbers


def retrieval_scores(
    query: Rows | Mapping[str, Rows] | None = None,
    gallery: Rows | None = None,
    query_labels: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    ks: Sequence[int] = (1, 5, 10),
    chunk_elements: int = _KEYS,
    score: str = "cosine",
    similarity: Rows | None = None,
    gallery_ids: Tensor | None = None,
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
        similarity: in place of query and gallery (Q, G) scores, such as a cross-encoder's, or consecutive blocks of
            their rows; the largest ranks first, -inf last. Used as they are, half precision as float32.
        gallery_ids: (G,) different integers. Where they are given there are two measures more, which need an order of
            tied items: it is that of a hash of the ids.

    Returns:
        Measure -> (Q,) float64 tensor on the CPU: ``AP``, ``first_rank``, ``R@k``, ``P@k``, ``AP@k[min(R,k)]``, and
        with gallery_ids ``AP 11-point`` and ``AP 11-point plain``
        (:func:`~lightning_modules.metrics.measures.eleven_point`).

    Raises:
        ValueError: shapes that do not fit, an empty side, an embedding that is not finite, a similarity that is NaN, a
            cut-off below 1, an unknown score.
    """
    check_cutoffs(ks)
    check_score(score)
    embedded = query is not None and gallery is not None
    if embedded == (similarity is not None) or query_labels is None or gallery_labels is None:
        raise ValueError("expected query and gallery, or similarity alone, and query_labels and gallery_labels")
    sides = query if isinstance(query, Mapping) else {"query": query}
    if not embedded:
        sides = {"similarity": similarity}
    elif not sides:
        raise ValueError("query: a joint query has embeddings of one modality or more, got none")
    blocks = {name: _blocks_of(rows, name) for name, rows in sides.items()}
    items = _blocks_of(gallery, "gallery") if embedded else []
    n_gallery = sum(map(len, items)) if embedded else len(gallery_labels)
    labelled = [(name, sum(map(len, side)), query_labels) for name, side in blocks.items()]
    _check_labels([*labelled, ("gallery", n_gallery, gallery_labels)])
    if embedded:
        _check_embeddings([*blocks.items(), ("gallery", items)])
    else:
        _check_similarity(blocks["similarity"], n_gallery)
    if gallery_ids is not None and gallery_ids.shape != (n_gallery,):
        raise ValueError(f"gallery_ids: expected shape ({n_gallery},), got {tuple(gallery_ids.shape)}")
    tie_break = None if gallery_ids is None else _hashed(gallery_ids)
    relevance = Relevance(query_labels, gallery_labels)
    mean_count, measured = relevance.mean_count(), []
    piece = max(1, min(_ITEMS * chunk_elements // _KEYS, _NUMBERS // max(1, blocks[next(iter(blocks))][0].shape[1])))
    # Rows are sorted whole where the gallery is small, or where so many items are relevant that searching the keys of
    # all in every piece would cost more.
    whole = not embedded or n_gallery <= 4 * piece or mean_count > piece / 8
    rows = max(chunk_elements // 8 // n_gallery, 256)
    rows = min(rows, chunk_elements // n_gallery) if whole else int(chunk_elements / (16 * mean_count + _ITEMS))
    with Threads(several=len(query_labels) * n_gallery >= _SLICE) as threads:
        ranking = _Ranking(relevance, n_gallery, tuple(ks), threads, tie_break)
        for chunk in zip(*(regrouped(side, max(rows, 1)) for side in blocks.values()), strict=True):
            start, parts = chunk[0][0], [part for _, part in chunk]
            if not embedded:
                measured += ranking.sorted(keys_of_similarity(parts[0]), start)
                continue
            device = parts[0].device if parts[0].device.type == "cuda" else torch.device("cpu")
            keys = KeysOfEmbeddings(probes_of([part.to(device) for part in parts], score), items)
            measured += (ranking.filled if whole else ranking.counted)(keys, start, piece)
    return {name: torch.from_numpy(np.concatenate([part[name] for part in measured])) for name in measured[0]}


@dataclass(frozen=True)
class _Ranking:
    """Measures the rankings of chunks of queries.

    Args:
        relevance: of all queries and items.
        n_gallery: number of items.
        ks: cut-offs, in places.
        threads: those that multiply, sort and count.
        tie_break: (G,) numbers that order tied items, or None.
    """

    relevance: Relevance
    n_gallery: int
    ks: tuple[int, ...]
    threads: Threads
    tie_break: np.ndarray | None

    def __post_init__(self) -> None:
        harmonic = np.cumsum(1.0 / np.arange(1, self.n_gallery + 1))
        object.__setattr__(self, "reciprocals", np.concatenate([[0.0], harmonic]))

    def sorted(self, keys: np.ndarray, start: int) -> list[dict[str, np.ndarray]]:
        """Measures of the queries from number ``start`` on, whose keys (Q, G) are here."""

        def measure(part: slice) -> dict[str, np.ndarray]:
            query, item = self.relevance.pairs(slice(start + part.start, start + part.stop))
            own = keys[part]
            places = Places(query, item, own[query, item], len(own), self.tie_break)
            places.add(own, slice(0, len(own)))
            return self._measures(places, len(own))

        return self.threads.run(measure, len(keys), max(1, _SLICE // self.n_gallery))

    def filled(self, keys: KeysOfEmbeddings, start: int, piece: int) -> list[dict[str, np.ndarray]]:
        """The same, where they are computed first, so many items at once."""
        whole = np.empty((len(keys), self.n_gallery), dtype=np.int32)

        def fill(items: slice) -> None:
            for queries, part, _ in keys.of_items(items):
                whole[queries, items] = part

        self.threads.run(fill, self.n_gallery, piece)
        return self.sorted(whole, start)

    def counted(self, keys: KeysOfEmbeddings, start: int, piece: int) -> list[dict[str, np.ndarray]]:
        """The same, where those of the relevant items are computed first, and the others compared with them."""
        query, item = self.relevance.pairs(slice(start, start + len(keys)))
        places = Places(query, item, keys.of_pairs(query, item), len(keys), self.tie_break)
        in_single = places.few and keys.single is not None

        def count(items: slice) -> None:
            for queries, part, exact in keys.near_items(items) if in_single else keys.of_items(items):
                places.add(part, queries, items.start, exact, keys.slack if in_single else 0)

        self.threads.run(count, self.n_gallery, piece)
        return [self._measures(places, len(keys))]

    def _measures(self, places: Places, n_query: int) -> dict[str, np.ndarray]:
        found = measures_of(places.tie_groups(), n_query, self.n_gallery, self.ks, self.reciprocals)
        return found if self.tie_break is None else found | eleven_point(*places.broken_ties(), n_query)


def _hashed(ids: Tensor) -> np.ndarray:
    """A different number for every integer, without any order of theirs (SplitMix64)."""
    mixed = ids.cpu().numpy().astype(np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


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


def _check_embeddings(sides: Sequence[tuple[str, list[Tensor]]]) -> None:
    widths = {block.shape[1] for _, blocks in sides for block in blocks}
    if len(widths) > 1:
        raise ValueError(f"query and gallery embeddings must have one width, got {sorted(widths)}")
    for side, blocks in sides:
        if not all(is_finite(block.to(torch.float32)) for block in blocks):
            raise ValueError(f"{side}: an embedding is not finite in float32")


def _check_similarity(blocks: list[Tensor], items: int) -> None:
    for block in blocks:
        if block.shape[1] != items:
            raise ValueError(f"similarity: expected shape (queries, {items}), got {tuple(block.shape)}")
        if bool(block.isnan().any()):
            raise ValueError("similarity: a number is NaN; give -inf to what is not to be found")


def _check_labels(sides: Sequence[tuple[str, int, Tensor]]) -> None:
    for side, rows, labels in sides:
        if labels.ndim not in (1, 2) or labels.is_floating_point() or len(labels) != rows:
            raise ValueError(
                f"{side}: expected integer or bool labels of shape ({rows},) or ({rows}, classes),"
                f" got {labels.dtype} {tuple(labels.shape)}"
            )
    shapes = [tuple(labels.shape) for _, _, labels in sides]
    if len({shape[1:] for shape in shapes}) > 1:
        raise ValueError(
            "query and gallery labels must both be classes, or multi-hot over the same classes, got shapes"
            f" {shapes[0]} and {shapes[-1]}"
        )
