"""Per-query retrieval measures, with the expected value over exact ties."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits
from torch import Tensor

from lightning_modules.metrics.measures import eleven_point, measures_of
from lightning_modules.metrics.places import Places, compares
from lightning_modules.metrics.scoring import SCORES, Keys, rows_of

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
    if not sides:
        raise ValueError("query: a joint query has embeddings of one modality or more, got none")
    if embedded:  # a modality may have any name, "gallery" too
        blocks = {side: _checked_blocks(side, rows) for side, rows in sides.items()}
        items = _checked_blocks("gallery", gallery)
    else:
        blocks, items = {"similarity": _checked_blocks("similarity", similarity, embedded=False)}, []
    n_gallery = sum(map(len, items)) if embedded else len(gallery_labels)
    _check_widths(blocks, items, n_gallery)
    _check_labels(blocks, query_labels, gallery_labels, n_gallery)
    if gallery_ids is not None and gallery_ids.shape != (n_gallery,):
        raise ValueError(f"gallery_ids: expected shape ({n_gallery},), got {tuple(gallery_ids.shape)}")
    relevance = Relevance(query_labels, gallery_labels)
    tie_break = None if gallery_ids is None else _hashed(gallery_ids)
    mean_count, most, measured = *relevance.counts(), []
    piece = max(1, min(_ITEMS * chunk_elements // _KEYS, _NUMBERS // max(1, blocks[next(iter(blocks))][0].shape[1])))
    # Rows are sorted whole where so many items are relevant that searching the keys of all in every piece would cost
    # more; in a small gallery as soon as they are not compared one by one.
    few = compares(most, tie_break)
    whole = not embedded or mean_count > piece / 8 or (n_gallery <= 4 * piece and not few)
    if few or whole:  # all threads have some of a small gallery
        piece = min(piece, max(1, n_gallery // (2 * torch.get_num_threads())))
    rows = max(chunk_elements // 8 // n_gallery, 256)
    rows = min(rows, chunk_elements // n_gallery) if whole else int(chunk_elements / (16 * mean_count + _ITEMS))
    with _threads(several=len(query_labels) * n_gallery >= _SLICE) as run:
        ranking = _Ranking(relevance, n_gallery, tuple(ks), run, tie_break, _harmonic_numbers(n_gallery))
        for chunk in _slices(len(query_labels), max(rows, 1)):
            parts = [rows_of(side, chunk) for side in blocks.values()]
            if not embedded:
                wide = torch.float64 if parts[0].dtype == torch.float64 else torch.float32
                measured += ranking.sorted(-parts[0].to("cpu", wide).numpy(), chunk.start)
                continue
            device = parts[0].device if parts[0].device.type == "cuda" else torch.device("cpu")
            keys = Keys([part.to(device) for part in parts], score, items)
            measured += (ranking.filled if whole else ranking.counted)(keys, chunk.start, piece)
    return {name: torch.from_numpy(np.concatenate([part[name] for part in measured])) for name in measured[0]}


class Relevance:
    """Lists the gallery items that are relevant to queries: those of their class, or with one of their labels.

    Args:
        query: (Q,) integer classes, or (Q, C) multi-hot labels.
        gallery: (G,) or (G, C), of the same kind.
    """

    def __init__(self, query: Tensor, gallery: Tensor):
        labels = np.concatenate([query.cpu().numpy(), gallery.cpu().numpy()])
        if labels.ndim == 1:
            classes, of_row = np.unique(labels, return_inverse=True)
            entries = (np.ones(len(labels), dtype=bool), of_row, np.arange(len(labels) + 1))
            hot = csr_array(entries, shape=(len(labels), len(classes)))
        else:
            hot = csr_array(labels != 0)
        self.query, self.gallery = hot[: len(query)], hot[len(query) :].T.tocsr()

    def counts(self) -> tuple[float, float]:
        """Relevant items of a query, on average and at most; one that shares several labels counts for each."""
        each = self.query @ self.gallery.sum(axis=1)
        return float(each.mean()), float(each.max())

    def pairs(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """(P,) numbers of queries, from the first of these, and (P,) of the items that are relevant to them."""
        return (self.query[rows] @ self.gallery).nonzero()


Measured = dict[str, np.ndarray]
Run = Callable[[Callable[[slice], Measured | None], Iterable[slice]], Iterable]


class _Ranking(NamedTuple):
    """Measures the rankings of chunks of queries.

    Args:
        relevance: of all queries and items.
        n_gallery: number of items.
        ks: cut-offs, in places.
        run: a ``map`` in those threads that multiply, sort and count.
        tie_break: (G,) numbers that order tied items, or None.
        reciprocals: (G + 1,) sums of the first reciprocals.
    """

    relevance: Relevance
    n_gallery: int
    ks: tuple[int, ...]
    run: Run
    tie_break: np.ndarray | None
    reciprocals: np.ndarray

    def sorted(self, keys: np.ndarray, start: int) -> list[Measured]:
        """Measures of the queries from number ``start`` on, whose keys (Q, G) are here."""

        def measure(part: slice) -> Measured:
            query, item = self.relevance.pairs(slice(start + part.start, start + part.stop))
            own = keys[part]
            places = Places(query, item, own[query, item], len(own), self.tie_break)
            places.add(own, slice(0, len(own)))
            return self._measures(places, len(own))

        return list(self.run(measure, _slices(len(keys), max(1, _SLICE // self.n_gallery))))

    def filled(self, keys: Keys, start: int, piece: int) -> list[Measured]:
        """The same, where they are computed first, so many items at once."""
        whole = np.empty((len(keys), self.n_gallery), dtype=np.int32)

        def fill(items: slice) -> None:
            for queries, part, _ in keys.of_items(items):
                whole[queries, items] = part

        list(self.run(fill, _slices(self.n_gallery, piece)))
        return self.sorted(whole, start)

    def counted(self, keys: Keys, start: int, piece: int) -> list[Measured]:
        """The same, where those of the relevant items are computed first, and the others compared with them."""
        query, item = self.relevance.pairs(slice(start, start + len(keys)))
        places = Places(query, item, keys.of_pairs(query, item), len(keys), self.tie_break)
        near = places.few and keys.single is not None

        def count(items: slice) -> None:
            for queries, part, exact in keys.of_items(items, near):
                places.add(part, queries, items.start, exact, keys.slack if near else 0)

        list(self.run(count, _slices(self.n_gallery, piece)))
        return [self._measures(places, len(keys))]

    def _measures(self, places: Places, n_query: int) -> Measured:
        found = measures_of(places.tie_groups(), n_query, self.n_gallery, self.ks, self.reciprocals)
        return found if self.tie_break is None else found | eleven_point(*places.broken_ties(), n_query)


@contextmanager
def _threads(several: bool) -> Iterator[Run]:
    """A ``map`` in as many threads as ``torch.get_num_threads`` says, in which a matrix product has one of them.

    NumPy lets them run at once. The threads of BLAS wait for one another at every product, and spin meanwhile.
    """
    count = torch.get_num_threads() if several else 1
    if count == 1:
        yield map
        return
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(count) as pool:
        yield pool.map


def _slices(rows: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _harmonic_numbers(count: int) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, count + 1))])


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


def check_embeddings(side: str, rows: Tensor, finite: bool = True) -> None:
    """Refuse anything but a floating (rows, D) tensor, and one that is not finite in float32, with a ValueError."""
    if rows.ndim != 2 or not rows.is_floating_point():
        raise ValueError(f"{side}: expected floating (rows, D) embeddings, got {rows.dtype} {tuple(rows.shape)}")
    # Without a temporary of the size of the rows.
    if finite and rows.numel() and not torch.isfinite(torch.stack(torch.aminmax(rows.to(torch.float32)))).all():
        raise ValueError(f"{side}: an embedding is not finite in float32")


def check_labels(side: str, labels: Tensor, rows: int) -> None:
    """Refuse anything but classes or multi-hot labels of so many rows with a ValueError."""
    if labels.ndim not in (1, 2) or labels.is_floating_point() or len(labels) != rows:
        raise ValueError(
            f"{side}: expected integer or bool labels of shape ({rows},) or ({rows}, classes),"
            f" got {labels.dtype} {tuple(labels.shape)}"
        )


def _checked_blocks(side: str, rows: Rows, embedded: bool = True) -> list[Tensor]:
    """The blocks that have a row."""
    blocks = [rows] if isinstance(rows, Tensor) else list(rows)
    for block in blocks:
        check_embeddings(side, block, finite=embedded)
        if not embedded and bool(block.isnan().any()):
            raise ValueError("similarity: a number is NaN; give -inf to what is not to be found")
    blocks = [block.detach() for block in blocks if len(block)]
    if not blocks:
        raise ValueError(f"{side}: there are no items")
    return blocks


def _check_widths(blocks: Mapping[str, list[Tensor]], items: list[Tensor], n_gallery: int) -> None:
    widths = {block.shape[1] for side in (*blocks.values(), items) for block in side}
    if items and len(widths) > 1:
        raise ValueError(f"query and gallery embeddings must have one width, got {sorted(widths)}")
    if not items and widths != {n_gallery}:
        shapes = [tuple(block.shape) for block in blocks["similarity"]]
        raise ValueError(f"similarity: expected shape (queries, {n_gallery}), got {', '.join(map(str, shapes))}")


def _check_labels(blocks: Mapping[str, list[Tensor]], query: Tensor, gallery: Tensor, n_gallery: int) -> None:
    for side, rows in blocks.items():
        check_labels(side, query, sum(map(len, rows)))
    check_labels("gallery", gallery, n_gallery)
    if query.shape[1:] != gallery.shape[1:]:
        raise ValueError(
            "query and gallery labels must both be classes, or multi-hot over the same classes, got shapes"
            f" {tuple(query.shape)} and {tuple(gallery.shape)}"
        )
