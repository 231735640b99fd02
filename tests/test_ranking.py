"""Retrieval measures against scikit-learn, plain loops, and every order of the tied items."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torchmetrics.retrieval import RetrievalMAP

from lightning_modules.metrics import retrieval_scores, scoring

KS = (1, 2, 5, 10)


def clustered(n_query: int, n_gallery: int, width: int = 16, classes: int = 5, seed: int = 0) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=generator)
    labels = [torch.randint(0, classes, (n,), generator=generator) for n in (n_query, n_gallery)]
    query, gallery = (centres[item] + 2 * torch.randn(len(item), width, generator=generator) for item in labels)
    return query, gallery, *labels


def cosines(query: torch.Tensor, gallery: torch.Tensor) -> np.ndarray:
    unit = [
        rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for rows in (query.double().numpy(), gallery.double().numpy())
    ]
    return unit[0] @ unit[1].T


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


def line(scores: list[int]) -> torch.Tensor:
    """Unit vectors in the plane whose cosine with (1, 0) is score / 8: equal scores tie exactly."""
    cosine = torch.tensor(scores, dtype=torch.float64) / 8
    return torch.stack([cosine, (1 - cosine.square()).sqrt()], dim=1)


def bits(result: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in result.items()}


def test_average_precision_is_scikit_learns_on_cosines_of_both_signs():
    query, gallery, query_labels, gallery_labels = clustered(60, 400)
    scores = cosines(query, gallery)
    assert (scores < 0).mean() > 0.2
    relevant = query_labels[:, None].numpy() == gallery_labels[None].numpy()
    expected = [average_precision_score(hit, score) for hit, score in zip(relevant, scores, strict=True)]
    ap = retrieval_scores(query, gallery, query_labels, gallery_labels)["AP"].numpy()
    np.testing.assert_allclose(ap, expected, rtol=0, atol=1e-6)


def test_torchmetrics_agrees_only_once_the_scores_are_shifted_above_zero():
    query, gallery, query_labels, gallery_labels = clustered(40, 200)
    relevant = (query_labels[:, None] == gallery_labels[None]).flatten()
    scores = torch.from_numpy(cosines(query, gallery)).flatten()
    indexes = torch.arange(40).repeat_interleave(200)
    ours = retrieval_scores(query, gallery, query_labels, gallery_labels)["AP"].mean().item()
    assert RetrievalMAP()(scores + 2, relevant, indexes=indexes).item() == pytest.approx(ours, abs=1e-6)
    assert abs(RetrievalMAP()(scores, relevant, indexes=indexes).item() - ours) > 1e-3


def test_every_measure_is_the_plain_loops_without_ties():
    query, gallery, query_labels, gallery_labels = clustered(50, 30, classes=8)
    gallery_labels[gallery_labels == 3] = 4  # class 3 has no relevant item
    assert (query_labels == 3).any()
    result = retrieval_scores(query, gallery, query_labels, gallery_labels, (*KS, 50))
    order = np.argsort(-cosines(query, gallery), axis=1)
    for i, ranking_of_i in enumerate(order):
        expected = plain_measures((gallery_labels == query_labels[i]).numpy()[ranking_of_i], (*KS, 50))
        assert {name: value[i].item() for name, value in result.items()} == pytest.approx(expected, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-2, 2), st.booleans()), min_size=1, max_size=6))
def test_ties_get_the_mean_over_every_order_of_the_tied_items(items):
    scores, relevant = [score for score, _ in items], np.array([hit for _, hit in items])
    ks = (1, 2, 3, 4, 7)
    result = retrieval_scores(
        torch.tensor([[1.0, 0.0]]),
        line(scores),
        torch.tensor([1]),
        torch.from_numpy(relevant).long(),
        ks,
    )
    # Sorting is stable: the permutations of the items, each sorted by score, are all orders of the ties, equally often.
    orders = [sorted(order, key=lambda i: -scores[i]) for order in itertools.permutations(range(len(scores)))]
    measured = [plain_measures(relevant[order], ks) for order in orders]
    expected = {name: np.mean([one[name] for one in measured]) for name in measured[0]}
    assert {name: value.item() for name, value in result.items()} == pytest.approx(expected, abs=1e-12)


def test_a_constant_scorer_gets_the_chance_value():
    rng = np.random.default_rng(0)
    relevant = np.arange(40) < 7
    query, gallery = torch.zeros(1, 4), torch.randn(40, 4)  # a zero vector has cosine 0 with everything
    labels = torch.from_numpy(relevant).long()
    result = retrieval_scores(query, gallery, torch.tensor([1]), labels, KS)
    assert result["P@5"].item() == pytest.approx(7 / 40, abs=1e-12)
    assert result["R@1"].item() == pytest.approx(7 / 40, abs=1e-12)
    assert result["first_rank"].item() == 41 / 8
    drawn = [plain_measures(rng.permutation(relevant)) for _ in range(4000)]
    for name, value in result.items():
        sample = np.array([one[name] for one in drawn])
        assert abs(sample.mean() - value.item()) < 4 * sample.std() / len(sample) ** 0.5 + 1e-12


@pytest.mark.parametrize("classes", [2, 40, 300])  # many relevant items, some, and few or none
@pytest.mark.parametrize("multi_hot", [False, True])
def test_chunk_size_and_blocks_change_no_bit(classes, multi_hot):
    query, gallery, query_labels, gallery_labels = clustered(70, 300, width=33, classes=classes)
    gallery[100:200] = gallery[:100].round()  # and some ties
    gallery[200:250] = gallery[50:100] * 3
    if multi_hot:
        query_labels, gallery_labels = (torch.nn.functional.one_hot(x, classes) for x in (query_labels, gallery_labels))
    whole = retrieval_scores(query, gallery, query_labels, gallery_labels, KS)
    for chunk in (1, 300, 1700, 2**17, 10**9):  # the first three count block by block where few items are relevant
        part = retrieval_scores(
            query.split(9), gallery.split(41), query_labels, gallery_labels, KS, chunk_elements=chunk
        )
        assert bits(part) == bits(whole)


@pytest.mark.parametrize("classes", [3, 400])
def test_a_long_gallery_is_counted_in_blocks_as_it_is_sorted_whole(classes):
    query, gallery, query_labels, gallery_labels = clustered(6, 20_000, width=4, classes=classes)
    gallery = gallery.round() + 0.25  # ties across blocks, of relevant and irrelevant items
    found = retrieval_scores(query, gallery, query_labels, gallery_labels, KS)
    whole = retrieval_scores(query, gallery, query_labels, gallery_labels, KS, chunk_elements=2**27)
    assert bits(found) == bits(whole)
    similarity = torch.from_numpy(np.round(cosines(query, gallery), 7))
    given = retrieval_scores(similarity=similarity, query_labels=query_labels, gallery_labels=gallery_labels, ks=KS)
    for name, values in found.items():
        np.testing.assert_allclose(values, given[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("near", [50, 20_000])  # some items, or all, are told apart only by exact scores
def test_items_that_differ_by_less_than_the_rounding_of_float32_are_ranked_exactly(near):
    query, gallery, query_labels, _ = clustered(6, 20_000, width=32, classes=400)
    gallery[:near] = query[0] + 1e-6 * torch.randn(near, 32, generator=torch.Generator().manual_seed(3))
    gallery[7] = gallery[8]
    labels = torch.where(torch.arange(20_000) % 5_000 == 7, query_labels[0], -1)  # four relevant items
    found = retrieval_scores(query, gallery, query_labels, labels, KS)
    whole = retrieval_scores(query, gallery, query_labels, labels, KS, chunk_elements=2**27)
    assert bits(found) == bits(whole)
    assert found["first_rank"][0] > 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_similarity_is_ranked_as_it_is(dtype):
    *_, query_labels, gallery_labels = clustered(50, 90)
    generator = torch.Generator().manual_seed(2)
    similarity = torch.randn(50, 90, generator=generator, dtype=torch.float64).to(dtype)
    similarity[:, 60:] = -torch.inf  # what a re-ranker left out
    similarity[:, 60] = -1e4
    labels = {"query_labels": query_labels, "gallery_labels": gallery_labels, "ks": KS}
    found = retrieval_scores(similarity=similarity, **labels)
    for i, (row, label) in enumerate(zip(similarity.double().numpy(), query_labels, strict=True)):
        relevant, order = (gallery_labels == label).numpy(), np.argsort(-row, kind="stable")
        expected = plain_measures(relevant[order])
        assert found["R@10"][i] == expected["R@10"]
        assert found["first_rank"][i].item() == pytest.approx(expected["first_rank"])
    assert bits(retrieval_scores(similarity=similarity.split(7), chunk_elements=200, **labels)) == bits(found)


def test_threads_change_no_bit():
    data = clustered(300, 900, width=200)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = retrieval_scores(*data)
        torch.set_num_threads(3)
        assert bits(retrieval_scores(*data)) == bits(one)
    finally:
        torch.set_num_threads(threads)


def test_scores_are_cosines_to_eight_digits():
    query, gallery, *_ = clustered(20, 50, width=700)
    keys = scoring.probes_of([query], "cosine").keys(slice(None), scoring.unit_rows(gallery))
    np.testing.assert_allclose(keys * -(2.0**-scoring.SCORE_BITS), cosines(query, gallery), rtol=0, atol=4e-8)


@pytest.mark.parametrize("magnitude", [2.0**-120, 2.0**100])
def test_scale_of_the_embeddings_does_not_matter(magnitude):
    query, gallery, *labels = clustered(10, 60)
    assert bits(retrieval_scores(query, gallery * magnitude, *labels)) == bits(
        retrieval_scores(query, gallery, *labels)
    )


def test_multi_hot_labels_match_where_they_share_one():
    query, gallery, *_ = clustered(30, 80)
    generator = torch.Generator().manual_seed(1)
    query_labels, gallery_labels = (torch.rand(n, 6, generator=generator) < 0.2 for n in (30, 80))
    result = retrieval_scores(query, gallery, query_labels, gallery_labels.long(), KS)
    order = np.argsort(-cosines(query, gallery), axis=1)
    for i in range(30):
        relevant = (query_labels[i] & gallery_labels).any(dim=1).numpy()
        assert {name: value[i].item() for name, value in result.items()} == pytest.approx(
            plain_measures(relevant[order[i]]), abs=1e-12
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": torch.zeros(3, 5)}, "one width"),
        ({"query": torch.zeros(3, 4, dtype=torch.long)}, "query: expected floating"),
        ({"query": torch.zeros(0, 4), "query_labels": torch.zeros(0, dtype=torch.long)}, "query: there are no items"),
        ({"gallery": torch.full((6, 4), torch.nan)}, "gallery: an embedding is not finite"),
        ({"gallery_labels": torch.zeros(5, dtype=torch.long)}, "gallery: expected integer or bool labels"),
        ({"gallery_labels": torch.zeros(6)}, "gallery: expected integer or bool labels"),
        ({"gallery_labels": torch.zeros(6, 2, dtype=torch.bool)}, "multi-hot over the same classes"),
        ({"ks": (1, 0)}, r"ks must be integers of at least 1, got \[0\]"),
    ],
)
def test_scores_refuse_what_does_not_fit(change, message):
    labels = {"query_labels": torch.zeros(3, dtype=torch.long), "gallery_labels": torch.zeros(6, dtype=torch.long)}
    with pytest.raises(ValueError, match=message):
        retrieval_scores(**{"query": torch.ones(3, 4), "gallery": torch.ones(6, 4), **labels, **change})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"similarity": torch.zeros(3, 5)}, r"similarity: expected shape \(queries, 6\)"),
        ({"similarity": torch.full((3, 6), torch.nan)}, "similarity: a number is NaN"),
        ({"similarity": torch.zeros(4, 6)}, "similarity: expected integer or bool labels"),
        ({"similarity": torch.zeros(3, 6), "query": torch.zeros(3, 2), "gallery": torch.zeros(6, 2)}, "alone"),
        ({"query": torch.zeros(3, 2)}, "query and gallery, or similarity"),
        ({"query": {}, "gallery": torch.zeros(6, 2)}, "query: a joint query has"),
    ],
)
def test_scores_take_embeddings_or_a_similarity(given, message):
    labels = {"query_labels": torch.zeros(3, dtype=torch.long), "gallery_labels": torch.zeros(6, dtype=torch.long)}
    with pytest.raises(ValueError, match=message):
        retrieval_scores(**given, **labels)
