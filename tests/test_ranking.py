"""Retrieval measures against scikit-learn, plain loops, and every order of the tied items."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torchmetrics.retrieval import RetrievalMAP

from lightning_modules.metrics import ranking, retrieval_scores, scoring

KS = (1, 2, 5, 10)
ELEVEN = ("AP 11-point", "AP 11-point plain")


def clustered(n_query: int, n_gallery: int, width: int = 16, classes: int = 5, seed: int = 0) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=generator)
    labels = [torch.randint(0, classes, (n,), generator=generator) for n in (n_query, n_gallery)]
    query, gallery = (centres[item] + 2 * torch.randn(len(item), width, generator=generator) for item in labels)
    return query, gallery, *labels


def unit(rows: torch.Tensor) -> np.ndarray:
    rows = rows.double().numpy()
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)


def cosines(query: torch.Tensor, gallery: torch.Tensor) -> np.ndarray:
    return unit(query) @ unit(gallery).T


def plain_measures(relevant: np.ndarray, ks=KS) -> dict[str, float]:
    """The measures of one ranking without ties, by the textbook loop."""
    total = int(relevant.sum())
    hits, precision_sum, first, at = 0, 0.0, len(relevant) + 1.0, {}
    for place, hit in enumerate(relevant, start=1):
        if hit:
            hits += 1
            precision_sum += hits / place
            first = min(first, place)
        at[place] = (hits, precision_sum)
    result = {"AP": precision_sum / total if total else 0.0, "first_rank": first}
    for k in ks:
        hits, precision_sum = at[min(k, len(relevant))]
        result[f"R@{k}"], result[f"P@{k}"] = float(hits > 0), hits / k
        result[f"AP@{k}[min(R,k)]"] = precision_sum / min(total, k) if total else 0.0
    return result


def plain_map(scores: np.ndarray, query_labels, labels) -> float:
    relevant = np.asarray(query_labels[:, None] == labels)
    return np.mean([plain_measures(hits[np.argsort(-row)])["AP"] for hits, row in zip(relevant, scores, strict=True)])


def assert_plain(found: dict[str, torch.Tensor], scores: np.ndarray, relevant: np.ndarray, ks=KS) -> None:
    """Whether the measures are those of the textbook loop over the rankings that scores make."""
    for i, order in enumerate(np.argsort(-scores, axis=1, kind="stable")):
        expected = plain_measures(relevant[i][order], ks)
        assert {name: value[i].item() for name, value in found.items()} == pytest.approx(expected, abs=1e-12)


def bits(result: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in result.items()}


def test_average_precision_is_that_of_scikit_learn_and_torchmetrics():
    query, gallery, query_labels, gallery_labels = clustered(60, 400)
    scores = cosines(query, gallery)
    assert (scores < 0).mean() > 0.2
    relevant = query_labels[:, None] == gallery_labels
    expected = [average_precision_score(hit, score) for hit, score in zip(relevant.numpy(), scores, strict=True)]
    ap = retrieval_scores(query, gallery, query_labels, gallery_labels)["AP"].numpy()
    np.testing.assert_allclose(ap, expected, rtol=0, atol=1e-6)
    given = {"target": relevant.flatten(), "indexes": torch.arange(60).repeat_interleave(400)}
    above_zero = torch.from_numpy(scores).flatten() + 2  # others count for nothing there
    assert RetrievalMAP()(above_zero, **given).item() == pytest.approx(ap.mean(), abs=1e-6)


def test_every_measure_is_the_plain_loops_without_ties():
    query, gallery, query_labels, gallery_labels = clustered(50, 30, classes=8)
    gallery_labels[gallery_labels == 3] = 4  # class 3 has no relevant item
    assert (query_labels == 3).any()
    result = retrieval_scores(query, gallery, query_labels, gallery_labels, (*KS, 50))
    assert_plain(result, cosines(query, gallery), (query_labels[:, None] == gallery_labels).numpy(), (*KS, 50))


def test_multi_hot_labels_match_where_they_share_one():
    query, gallery, *_ = clustered(30, 80)
    generator = torch.Generator().manual_seed(1)
    query_labels, gallery_labels = (torch.rand(n, 6, generator=generator) < 0.2 for n in (30, 80))
    result = retrieval_scores(query, gallery, query_labels, gallery_labels.long(), KS)
    assert_plain(result, cosines(query, gallery), (query_labels[:, None] & gallery_labels).any(dim=2).numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_similarity_is_ranked_as_it_is(dtype):
    *_, query_labels, gallery_labels = clustered(50, 90)
    similarity = torch.randn(50, 90, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    similarity = (similarity.argsort(dim=1).argsort(dim=1) / 64 - 0.5).to(dtype)  # without a tie
    if dtype == torch.float64:
        similarity = 1 + similarity * 2.0**-40  # without one in this precision alone
    labels = {"query_labels": query_labels, "gallery_labels": gallery_labels, "ks": KS}
    found = retrieval_scores(similarity=similarity, **labels)
    assert_plain(found, similarity.double().numpy(), (query_labels[:, None] == gallery_labels).numpy())
    assert bits(retrieval_scores(similarity=similarity.split(7), chunk_elements=200, **labels)) == bits(found)
    left_out = torch.arange(90) >= 60  # by a re-ranker
    last, tied = (retrieval_scores(similarity=similarity.masked_fill(left_out, x), **labels) for x in (-torch.inf, -9))
    assert bits(last) == bits(tied)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-2, 2), st.booleans()), min_size=1, max_size=6))
def test_ties_get_the_mean_over_every_order_of_the_tied_items(items):
    scores, relevant = [score for score, _ in items], np.array([hit for _, hit in items])
    ks, cosine = (1, 2, 3, 4, 7), torch.tensor(scores, dtype=torch.float64) / 8
    gallery = torch.stack([cosine, (1 - cosine.square()).sqrt()], dim=1)
    labels = torch.from_numpy(relevant).long()
    result = retrieval_scores(torch.tensor([[1.0, 0.0]]), gallery, torch.tensor([1]), labels, ks)
    # Sorting is stable: the permutations of the items, each sorted by score, are all orders of the ties, equally often.
    orders = [sorted(order, key=lambda i: -scores[i]) for order in itertools.permutations(range(len(scores)))]
    measured = [plain_measures(relevant[order], ks) for order in orders]
    expected = {name: np.mean([one[name] for one in measured]) for name in measured[0]}
    assert {name: value.item() for name, value in result.items()} == pytest.approx(expected, abs=1e-12)


def test_a_constant_scorer_gets_the_chance_value():
    rng = np.random.default_rng(0)
    relevant = np.arange(40) < 7
    query, gallery = torch.zeros(1, 4), torch.randn(40, 4)  # a zero vector has cosine 0 with everything
    result = retrieval_scores(query, gallery, torch.tensor([1]), torch.from_numpy(relevant).long(), KS)
    assert result["P@5"].item() == pytest.approx(7 / 40, abs=1e-12)
    assert result["R@1"].item() == pytest.approx(7 / 40, abs=1e-12)
    assert result["first_rank"].item() == 41 / 8
    drawn = [plain_measures(rng.permutation(relevant)) for _ in range(4000)]
    for name, value in result.items():
        sample = np.array([one[name] for one in drawn])
        assert abs(sample.mean() - value.item()) < 4 * sample.std() / len(sample) ** 0.5 + 1e-12


# What changes no bit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 40, 300])  # many relevant items, some, and few or none
@pytest.mark.parametrize("multi_hot", [False, True])
def test_chunk_size_and_blocks_change_no_bit(classes, multi_hot):
    query, gallery, query_labels, gallery_labels = clustered(20, 300, width=33, classes=classes)
    gallery[100:200] = gallery[:100].round()  # and some ties
    gallery[200:250] = gallery[50:100] * 3
    if multi_hot:
        query_labels, gallery_labels = (torch.nn.functional.one_hot(x, classes) for x in (query_labels, gallery_labels))
    given = {"query_labels": query_labels, "gallery_labels": gallery_labels, "ks": KS}
    whole = retrieval_scores(query, gallery, **given)
    for chunk in (1, 300, 1700, 2**17, 10**9):  # the larger ones count block by block where few items are relevant
        assert bits(retrieval_scores(query.split(9), gallery.split(41), chunk_elements=chunk, **given)) == bits(whole)


@pytest.mark.parametrize("classes", [3, 400])
def test_a_long_gallery_is_counted_in_blocks_as_it_is_sorted(classes):
    query, gallery, query_labels, gallery_labels = clustered(6, 20_000, width=4, classes=classes)
    gallery = gallery.round() + 0.25  # ties across blocks, of relevant and irrelevant items
    found = retrieval_scores(query, gallery, query_labels, gallery_labels, KS)
    assert bits(found) == bits(sorted_scores(query, gallery, query_labels, gallery_labels))
    similarity = torch.from_numpy(np.round(cosines(query, gallery), 7))
    given = retrieval_scores(similarity=similarity, query_labels=query_labels, gallery_labels=gallery_labels, ks=KS)
    for name, values in found.items():
        np.testing.assert_allclose(values, given[name], rtol=1e-5, err_msg=name)


def sorted_scores(*sides, score="cosine"):
    """By the sorted exact keys of all items, as ids make it for the sake of a tie break."""
    found = retrieval_scores(*sides, KS, score=score, gallery_ids=torch.arange(len(sides[1])))
    return {name: values for name, values in found.items() if "11-point" not in name}


@pytest.mark.parametrize("near", [1, 50, 20_000])  # items that only exact scores tell apart
def test_items_that_differ_by_less_than_the_rounding_of_float32_are_ranked_exactly(near):
    query, gallery, query_labels, _ = clustered(70, 20_000, width=32, classes=400)  # more than are compared at once
    gallery[:near] = query[-1] + 1e-6 * torch.randn(near, 32, generator=torch.Generator().manual_seed(3))
    gallery[5_007] = gallery[0]  # a tie across blocks
    gallery[7] = gallery[8]
    labels = torch.where(torch.arange(20_000) % 5_000 == 7, query_labels[-1], -1)  # four relevant items
    found = retrieval_scores(query, gallery, query_labels, labels, KS)
    assert bits(found) == bits(sorted_scores(query, gallery, query_labels, labels))
    assert found["first_rank"][-1] > 1


@pytest.mark.parametrize(("n_query", "n_gallery", "classes"), [(1_200, 900, 5), (60, 20_000, 4_000)])
def test_threads_change_no_bit(n_query, n_gallery, classes):
    data = clustered(n_query, n_gallery, classes=classes)
    assert n_query * n_gallery >= ranking._SLICE  # below, one thread does it all
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = retrieval_scores(*data)
        torch.set_num_threads(3)
        assert bits(retrieval_scores(*data)) == bits(one)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("magnitude", [2.0**-120, 2.0**100])
def test_scale_of_the_embeddings_does_not_matter(magnitude):
    query, gallery, *labels = clustered(10, 60)
    scaled = retrieval_scores(query, gallery * magnitude, *labels)
    assert bits(scaled) == bits(retrieval_scores(query, gallery, *labels))


def test_a_zero_item_has_cosine_zero():
    gallery = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    assert retrieval_scores(gallery[:1], gallery, torch.tensor([1]), torch.tensor([0, 1, 0]))["first_rank"].item() == 2


def test_embeddings_that_are_equal_in_float32_tie():
    gallery = torch.tensor([[0.5, 0.5], [0.5, 0.5 + 2.5e-8]], dtype=torch.float64)
    query, labels = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([1, 0])
    assert retrieval_scores(query, gallery, labels[:1], labels)["first_rank"].item() == 1.5


def test_scores_are_cosines_to_eight_digits():
    query, gallery, *_ = clustered(20, 50, width=700)
    keys = scoring.Keys([query], "cosine", gallery.split(30)).of_pairs(*np.indices((20, 50)).reshape(2, -1))
    found = keys.reshape(20, 50) * -(2.0**-scoring.SCORE_BITS)
    np.testing.assert_allclose(found, cosines(query, gallery), rtol=0, atol=4e-8)
    # Whole numbers, whose sums are exact in any order.
    whole = [np.rint(unit(rows) * 2**26).astype(np.int64) for rows in (query, gallery)]
    np.testing.assert_array_equal(keys.reshape(20, 50), np.rint(whole[0] @ whole[1].T * -(2.0**-23)))


# The two 11-point precisions -----------------------------------------------------------------------------------------


def plain_eleven_points(relevant: np.ndarray) -> tuple[float, float]:
    """Both precisions of one ranking, place by place."""
    total, hits, at = int(relevant.sum()), 0, []
    for place, hit in enumerate(relevant, start=1):
        hits += int(hit)
        at.append((Fraction(hits, max(total, 1)), hits / place))
    if not total:
        return 0.0, 0.0
    recalls = [Fraction(i, 10) for i in range(11)]
    interpolated = [max(precision for recall, precision in at if recall >= r) for r in recalls]
    first = [next(precision for recall, precision in at if recall >= r) for r in recalls]
    return sum(interpolated) / 11, sum(first) / 11


@pytest.mark.parametrize(("classes", "queries", "items"), [(2, 30, 60), (5, 30, 60), (40, 30, 60), (300, 6, 20_000)])
def test_eleven_points_are_those_of_the_definition(classes, queries, items):
    query, gallery, query_labels, gallery_labels = clustered(queries, items, classes=classes)
    found = retrieval_scores(query, gallery, query_labels, gallery_labels, gallery_ids=torch.arange(items))
    order = np.argsort(-cosines(query, gallery), axis=1)
    relevant = (query_labels[:, None] == gallery_labels).numpy()
    expected = [plain_eleven_points(row[ranked]) for row, ranked in zip(relevant, order, strict=True)]
    for name, values in zip(ELEVEN, zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(found[name], values, rtol=1e-4 if items > 60 else 1e-9, err_msg=name)
    without = retrieval_scores(query, gallery, query_labels, gallery_labels)
    assert bits(without) == bits({name: x for name, x in found.items() if name not in ELEVEN})


def test_a_tie_is_broken_by_the_id_whatever_the_order_of_the_items():
    """Of 4 tied items one is relevant: over many ids it is in each of the four places as often."""
    query, labels = torch.ones(1, 2), torch.tensor([1, 0, 0, 0])
    first = []
    for start in range(400):
        ids = torch.arange(start * 4, start * 4 + 4) - 800
        found = [
            retrieval_scores(query, torch.ones(4, 2), labels[:1], labels[o], gallery_ids=ids[o])["AP 11-point"].item()
            for o in (torch.arange(4), torch.tensor([2, 0, 3, 1]))
        ]
        assert found[0] == found[1]
        first.append(round(1 / found[0]))
    assert all(70 < first.count(place) < 130 for place in (1, 2, 3, 4))


def split_mix_64(number: int) -> int:
    """Steele, Lea and Flood, OOPSLA 2014."""
    mixed = (number + 0x9E3779B97F4A7C15) % 2**64
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
    return mixed ^ mixed >> 31


def test_tied_items_stand_in_the_order_of_a_hash_of_their_ids():
    ids, labels = torch.arange(-10, 30), torch.arange(40)
    found = retrieval_scores(torch.ones(40, 2), torch.ones(40, 2), labels, labels, gallery_ids=ids)["AP 11-point"]
    hashes = [split_mix_64(number) for number in ids.tolist()]
    np.testing.assert_allclose(found, [1 / (1 + sorted(hashes).index(each)) for each in hashes], rtol=1e-12)


@pytest.mark.parametrize("classes", [3, 200])
def test_blocks_chunks_and_order_change_no_bit_of_eleven_points_where_items_tie(classes):
    query, gallery, query_labels, gallery_labels = clustered(20, 400, width=2, classes=classes)
    gallery, ids = gallery.sign(), torch.randperm(400, generator=torch.Generator().manual_seed(0))
    whole = retrieval_scores(query, gallery, query_labels, gallery_labels, gallery_ids=ids)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    sides = (query.split(7), gallery[order], query_labels, gallery_labels[order])
    for chunk in (1, 1700, 2**25):
        assert bits(retrieval_scores(*sides, chunk_elements=chunk, gallery_ids=ids[order])) == bits(whole)


def test_ties_across_blocks_of_items_and_of_queries_are_broken_as_at_once():
    query, gallery, *labels = clustered(1_100, 5_000, width=2, classes=400)
    ids = torch.randperm(5_000, generator=torch.Generator().manual_seed(0))
    sides = (query, gallery.sign(), *labels)  # some 1,250 items tie
    blocks, whole = (retrieval_scores(*sides, chunk_elements=chunk, gallery_ids=ids) for chunk in (2**23, 2**25))
    assert bits(blocks) == bits(whole)


# What does not fit ---------------------------------------------------------------------------------------------------

SIDES = {"query": torch.ones(3, 4), "gallery": torch.ones(6, 4)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (SIDES | {"query": torch.zeros(3, 5)}, "one width"),
        (SIDES | {"query": torch.zeros(3, 4, dtype=torch.long)}, "query: expected floating"),
        (SIDES | {"query": torch.zeros(0, 4), "query_labels": torch.zeros(0, dtype=torch.long)}, "there are no items"),
        (SIDES | {"query": {}}, "query: a joint query has"),
        (SIDES | {"query": {"text": torch.ones(3, 4), "video": torch.ones(2, 4)}}, "video: expected integer or bool"),
        (SIDES | {"gallery": torch.full((6, 4), torch.nan)}, "gallery: an embedding is not finite"),
        (SIDES | {"gallery_labels": torch.zeros(5, dtype=torch.long)}, "gallery: expected integer or bool labels"),
        (SIDES | {"gallery_labels": torch.zeros(6)}, "gallery: expected integer or bool labels"),
        (SIDES | {"gallery_labels": torch.zeros(6, 2, dtype=torch.bool)}, "multi-hot over the same classes"),
        (SIDES | {"gallery_ids": torch.arange(4)}, r"gallery_ids: expected shape \(6,\)"),
        (SIDES | {"ks": (1, 0)}, r"ks must be integers of at least 1, got \[0\]"),
        (SIDES | {"ks": (True, 5)}, r"ks must be integers of at least 1, got \[True\]"),
        (SIDES | {"similarity": torch.zeros(3, 6)}, "query and gallery, or similarity alone"),
        ({"query": torch.zeros(3, 2)}, "query and gallery, or similarity"),
        ({"similarity": torch.zeros(3, 5)}, r"similarity: expected shape \(queries, 6\)"),
        ({"similarity": torch.full((3, 6), torch.nan)}, "similarity: a number is NaN"),
        ({"similarity": torch.zeros(4, 6)}, "similarity: expected integer or bool labels"),
    ],
)
def test_scores_refuse_what_does_not_fit(given, message):
    labels = {"query_labels": torch.zeros(3, dtype=torch.long), "gallery_labels": torch.zeros(6, dtype=torch.long)}
    with pytest.raises(ValueError, match=message):
        retrieval_scores(**{**labels, **given})
