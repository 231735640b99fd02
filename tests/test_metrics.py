"""Retrieval measures against scikit-learn, plain loops, and every order of the tied items."""

from __future__ import annotations

import doctest
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torchmetrics.retrieval import RetrievalMAP

from lightning_modules.metrics import CrossModalRetrieval, ranking, retrieval, retrieval_scores
from lightning_modules.metrics.protocol import standardise

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


def test_chunk_size_and_blocks_change_no_bit():
    query, gallery, query_labels, gallery_labels = clustered(70, 300, width=33)
    gallery[100:200] = gallery[:100].round()  # and some ties
    gallery[200:250] = gallery[50:100] * 3
    whole = retrieval_scores(query, gallery, query_labels, gallery_labels, KS)
    for chunk in (1, 300, 1700, 10**9):
        part = retrieval_scores(
            query.split(9), gallery.split(41), query_labels, gallery_labels, KS, chunk_elements=chunk
        )
        assert bits(part) == bits(whole)


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


def test_scores_are_cosines_to_eight_digits_and_both_ways_of_filling_agree():
    query, gallery, *_ = clustered(20, 50, width=700)
    irrelevant = torch.rand(20, 50) < 0.5
    unit = ranking._unit_rows(query) * -(2.0 ** (ranking._SCORE_BITS - 2 * ranking._UNIT_BITS))
    keys = [torch.empty(20, 50, dtype=torch.int32) for _ in range(2)]
    for fill, out in zip((ranking._fill_keys_torch, ranking._fill_keys_numpy), keys, strict=True):
        fill(out, unit, ranking._unit_rows(gallery), irrelevant)
    assert torch.equal(*keys)
    assert torch.equal((keys[0] & 1).bool(), irrelevant)
    np.testing.assert_allclose(
        (keys[0] >> 1) * -(2.0**-ranking._SCORE_BITS), cosines(query, gallery), rtol=0, atol=4e-8
    )


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


# The metric


def pairs(n: int = 90, width: int = 12) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    image, text, _, labels = clustered(n, n, width)
    ids = torch.randperm(n, generator=torch.Generator().manual_seed(3)) * 7
    return {"image": image + text, "text": text}, labels, ids


BOTH = [("image", "text"), ("text", "image")]


def evaluate(embeddings, labels, ids, batch: int = 32, **options) -> CrossModalRetrieval:
    metric = CrossModalRetrieval(options.pop("directions", BOTH), **options)
    for start in range(0, len(ids), batch):
        part = slice(start, start + batch)
        metric.update({name: rows[part] for name, rows in embeddings.items()}, labels[part], ids[part])
    return metric


def test_metric_averages_the_scores_of_each_direction():
    embeddings, labels, ids = pairs()
    metric = evaluate(embeddings, labels, ids)
    result = metric.compute()
    for query, gallery in BOTH:
        scores = retrieval_scores(embeddings[query], embeddings[gallery], labels, labels)
        for name, values in scores.items():
            key, value = (
                (name.replace("AP", "MAP"), values.mean()) if name != "first_rank" else ("MedR", np.median(values))
            )
            assert result[f"{query}->{gallery}/{key}"].item() == pytest.approx(float(value), abs=1e-12)
    mean = (result["image->text/MAP"] + result["text->image/MAP"]) / 2
    assert result["average/MAP"].item() == pytest.approx(mean.item(), abs=1e-15)
    assert metric.sizes() == {"image->text": (90, 90), "text->image": (90, 90)}
    assert len(result) == 3 * (2 + 3 * 3)


def test_docstring_example():
    assert doctest.testmod(retrieval).failed == 0
    assert doctest.testmod(retrieval).attempted > 0


@pytest.mark.parametrize("protocol", ["honest", "as_published"])
def test_order_and_batches_change_no_bit(protocol):
    embeddings, labels, ids = pairs()
    embeddings["text"][40:60] = embeddings["text"][20:40]  # ties
    expected = bits(evaluate(embeddings, labels, ids, protocol=protocol, batch=len(ids)).compute())
    for seed, batch in ((0, 1), (1, 13), (2, 64)):
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
        shuffled = {name: rows[order] for name, rows in embeddings.items()}
        assert bits(evaluate(shuffled, labels[order], ids[order], batch, protocol=protocol).compute()) == expected


def test_an_item_given_twice_counts_once():
    embeddings, labels, ids = pairs()
    metric = evaluate(embeddings, labels, ids)
    expected = bits(metric.compute())
    metric.update({name: rows[5:20] for name, rows in embeddings.items()}, labels[5:20], ids[5:20])
    assert bits(metric.compute()) == expected
    assert metric.sizes()["image->text"] == (90, 90)


def test_of_copies_that_differ_in_rounding_the_same_one_is_kept_in_any_order():
    embeddings, labels, ids = pairs(20, 3)
    copies = {name: rows * (1 + torch.rand(rows.shape) * 1e-3) for name, rows in embeddings.items()}
    both = {name: torch.cat([rows, copies[name]]) for name, rows in embeddings.items()}
    twice = {name: torch.cat([copies[name], rows]) for name, rows in embeddings.items()}
    labels, ids = labels.repeat(2), ids.repeat(2)
    assert bits(evaluate(both, labels, ids).compute()) == bits(evaluate(twice, labels, ids).compute())


def test_ids_that_are_not_unique_are_reported():
    embeddings, labels, ids = pairs(20)
    clashing = CrossModalRetrieval(BOTH)
    clashing.update(embeddings, torch.arange(20), torch.where(ids == ids[1], ids[0], ids))
    with pytest.raises(ValueError, match=f"image: id {ids[0]} occurs with different labels"):
        clashing.compute()
    metric = evaluate(embeddings, labels, ids)
    metric.update({"text": -embeddings["text"][:1]}, labels[:1], ids[:1])
    with pytest.warns(UserWarning, match="text: copies of one id differ"):
        metric.compute()


def test_modalities_may_come_apart_and_differ_in_size():
    image, text, image_labels, text_labels = clustered(15, 75)
    metric = CrossModalRetrieval(BOTH)
    metric.update(
        {"image": image, "text": text[:40]},
        {"image": image_labels, "text": text_labels[:40]},
        {"image": torch.arange(15), "text": torch.arange(40)},
    )
    metric.update({"text": text[40:]}, text_labels[40:], torch.arange(40, 75))
    result = metric.compute()
    assert metric.sizes() == {"image->text": (15, 75), "text->image": (75, 15)}
    expected = retrieval_scores(text, image, text_labels, image_labels)["AP"].mean().item()
    assert result["text->image/MAP"].item() == pytest.approx(expected, abs=1e-12)


def test_items_that_are_no_queries_stay_in_the_gallery():
    embeddings, labels, ids = pairs()
    unseen = labels >= 3
    metric = CrossModalRetrieval(BOTH)
    metric.update(embeddings, labels, ids, is_query={"image": unseen, "text": unseen})
    result = metric.compute()
    expected = (
        retrieval_scores(embeddings["image"][unseen], embeddings["text"], labels[unseen], labels)["AP"].mean().item()
    )
    assert result["image->text/MAP"].item() == pytest.approx(expected, abs=1e-12)
    assert metric.sizes()["image->text"] == (int(unseen.sum()), 90)
    nobody = CrossModalRetrieval(BOTH)
    nobody.update(embeddings, labels, ids, is_query=torch.zeros(90, dtype=torch.bool))
    with pytest.raises(ValueError, match="image->text: modality 'image' has no query"):
        nobody.compute()


def test_the_average_precision_of_every_query_comes_with_its_id():
    embeddings, labels, ids = pairs()
    metric = evaluate(embeddings, labels, ids)
    metric.update({name: rows[5:20] for name, rows in embeddings.items()}, labels[5:20], ids[5:20])
    order = ids.argsort()
    for query, gallery in BOTH:
        found_ids, found = metric.average_precisions()[f"{query}->{gallery}"]
        expected = retrieval_scores(embeddings[query], embeddings[gallery], labels, labels)["AP"]
        assert torch.equal(found_ids, ids[order])
        assert torch.equal(found, expected[order])


def test_as_published_is_the_z_score_of_the_evaluated_items():
    embeddings, labels, ids = pairs()
    embeddings["text"][:, 3] = 0.1  # a constant column
    embeddings["text"][:, 4] = embeddings["text"][:, 4] * 1e-4 + 50
    scored = {}
    for name, rows in embeddings.items():
        values = rows.double().numpy()
        spread = values.std(axis=0)
        constant = values.max(axis=0) == values.min(axis=0)
        expected = np.where(constant, 0.0, (values - values.mean(axis=0)) / np.where(constant, 1.0, spread))
        (scored[name],) = standardise([rows])
        np.testing.assert_allclose(scored[name], expected, rtol=1e-5, atol=1e-6)
    published = evaluate(embeddings, labels, ids, protocol="as_published").compute()
    assert bits(published) == bits(evaluate(scored, labels, ids).compute())
    assert published["image->text/MAP"] != evaluate(embeddings, labels, ids).compute()["image->text/MAP"]


def test_half_precision_embeddings_are_scored_in_float32():
    embeddings, labels, ids = pairs()
    halves = {name: rows.bfloat16() for name, rows in embeddings.items()}
    floats = {name: rows.float() for name, rows in halves.items()}
    assert bits(evaluate(halves, labels, ids).compute()) == bits(evaluate(floats, labels, ids).compute())


GOOD = {"embeddings": {"image": torch.ones(3, 4)}, "labels": torch.arange(3), "ids": torch.arange(3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": {"audio": torch.ones(3, 4)}}, "unknown modality 'audio'"),
        ({"embeddings": {"image": torch.ones(3)}}, "image: expected a floating"),
        ({"embeddings": {"image": torch.ones(3, 4, dtype=torch.long)}}, "image: expected a floating"),
        ({"embeddings": {"image": torch.full((3, 4), torch.inf)}}, "image: an embedding is not finite"),
        ({"embeddings": {"image": torch.full((3, 4), 1e60, dtype=torch.float64)}}, "image: .* not finite in float32"),
        (
            {"embeddings": {"image": torch.ones(3, 4), "text": torch.ones(2, 4)}},
            "text: expected integer or bool labels",
        ),
        ({"embeddings": {"image": torch.ones(3, 5)}}, "image: embedding width 5"),
        ({"labels": torch.ones(3)}, "image: expected integer or bool labels"),
        ({"labels": {"text": torch.arange(3)}}, "image: labels has no entry"),
        ({"labels": torch.tensor([[0], [1], [7]])}, "image: labels of two dimensions are multi-hot"),
        ({"labels": torch.eye(3, dtype=torch.bool)}, "image: labels of shape"),
        ({"ids": torch.arange(2)}, "image: expected integer ids"),
        ({"ids": torch.ones(3)}, "image: expected integer ids"),
        ({"is_query": torch.ones(3)}, "image: expected bool is_query"),
    ],
)
def test_a_bad_batch_is_refused_by_name_and_leaves_nothing(change, message):
    metric = CrossModalRetrieval(BOTH)
    metric.update(**GOOD)
    with pytest.raises(ValueError, match=message):
        metric.update(**{**GOOD, **change})
    metric.update({"text": torch.ones(3, 4)}, torch.arange(3), torch.arange(3))
    assert metric.sizes() == {"image->text": (3, 3), "text->image": (3, 3)}


def test_a_modality_without_items_is_named():
    metric = CrossModalRetrieval(BOTH)
    metric.update(**GOOD)
    metric.update({"text": torch.ones(0, 4)}, torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="modality 'text' has no item"):
        metric.compute()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": []}, "directions must be"),
        ({"directions": [("image", "image")]}, "directions must be"),
        ({"directions": BOTH + BOTH}, "directions must be"),
        ({"protocol": "published"}, "unknown protocol 'published'"),
        ({"ks": (0,)}, "ks must be integers"),
    ],
)
def test_construction_refuses_what_it_does_not_know(options, message):
    with pytest.raises(ValueError, match=message):
        CrossModalRetrieval(**{"directions": BOTH, **options})
