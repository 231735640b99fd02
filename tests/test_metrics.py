"""The metric over a whole split: directions, batches, ids, queries and bad input."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch
from test_ranking import bits, clustered

from lightning_modules.metrics import CrossModalRetrieval, retrieval, retrieval_scores
from lightning_modules.metrics.protocol import standardise


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
