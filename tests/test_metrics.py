"""The metric over a whole split: directions, batches, ids, queries of one modality and of several, and bad input."""

import doctest

import numpy as np
import pytest
import torch
from test_ranking import KS, assert_plain, bits, clustered, cosines, plain_map, sorted_scores, unit

from lightning_modules.metrics import CrossModalRetrieval, retrieval, retrieval_scores, standardise
from lightning_modules.metrics.directions import parse_joint_query

BOTH = [("image", "text"), ("text", "image")]
NAMES = ("text", "video", "motion")
JOINT = (("text", "video"), "motion")
SCORES = ("cosine", "multilinear", "volume")


def pairs(n: int = 90, width: int = 12) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    image, text, _, labels = clustered(n, n, width)
    ids = torch.randperm(n, generator=torch.Generator().manual_seed(3)) * 7
    return {"image": image + text, "text": text}, labels, ids


def evaluate(embeddings, labels, ids, batch: int = 32, directions=BOTH, **options) -> CrossModalRetrieval:
    metric = CrossModalRetrieval(directions, **options)
    for part in torch.arange(len(ids)).split(batch):
        metric.update({name: rows[part] for name, rows in embeddings.items()}, labels[part], ids[part])
    return metric


def test_metric_averages_the_scores_of_each_direction():
    embeddings, labels, ids = pairs()
    metric = evaluate(embeddings, labels, ids, eleven_point=True)
    result = metric.compute()
    for query, gallery in BOTH:
        scores = retrieval_scores(embeddings[query], embeddings[gallery], labels, labels, gallery_ids=ids)
        expected = {name.replace("AP", "MAP"): values.mean() for name, values in scores.items()}
        expected["MedR"] = np.median(scores["first_rank"])
        del expected["first_rank"]
        found = {name: result[f"{query}->{gallery}/{name}"].item() for name in expected}
        assert found == pytest.approx({name: float(value) for name, value in expected.items()}, abs=1e-12)
    mean = (result["image->text/MAP"] + result["text->image/MAP"]) / 2
    assert result["average/MAP"].item() == pytest.approx(mean.item(), abs=1e-15)
    assert metric.sizes() == {"image->text": (90, 90), "text->image": (90, 90)}
    without = evaluate(embeddings, labels, ids).compute()
    assert bits(without) == bits({name: value for name, value in result.items() if "11-point" not in name})
    assert len(without) == 3 * (2 + 3 * 3)


def test_docstring_example():
    assert doctest.testmod(retrieval).failed == 0
    assert doctest.testmod(retrieval).attempted > 0


@pytest.mark.parametrize("options", [{}, {"protocol": "as_published"}, *({"score": score} for score in SCORES)])
def test_order_and_batches_change_no_bit(options):
    rows, labels, ids = drawn() if "score" in options else pairs()
    rows["text"][40:60] = rows["text"][20:40]  # ties
    options = {**options, "directions": [JOINT] if "score" in options else BOTH}
    expected = bits(evaluate(rows, labels, ids, batch=len(ids), **options).compute())
    for seed, batch in ((0, 1), (1, 13), (2, 64)):
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
        shuffled = {name: x[order] for name, x in rows.items()}
        assert bits(evaluate(shuffled, labels[order], ids[order], batch, **options).compute()) == expected


def test_an_item_given_twice_counts_once_and_every_average_precision_comes_with_its_id():
    embeddings, labels, ids = pairs()
    metric = evaluate(embeddings, labels, ids)
    expected = bits(metric.compute())
    metric.update({name: rows[5:20] for name, rows in embeddings.items()}, labels[5:20], ids[5:20])
    assert bits(metric.compute()) == expected
    assert metric.sizes()["image->text"] == (90, 90)
    order = ids.argsort()
    for query, gallery in BOTH:
        found_ids, found = metric.average_precisions()[f"{query}->{gallery}"]
        ap = retrieval_scores(embeddings[query], embeddings[gallery], labels, labels)["AP"]
        assert torch.equal(found_ids, ids[order])
        assert torch.equal(found, ap[order])


def test_modalities_may_come_apart_and_differ_in_size():
    image, text, image_labels, text_labels = clustered(15, 75)
    metric = CrossModalRetrieval(BOTH)
    labels = {"image": image_labels, "text": text_labels[:40]}
    metric.update({"image": image, "text": text[:40]}, labels, {"image": torch.arange(15), "text": torch.arange(40)})
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
    queries = (embeddings["image"][unseen], embeddings["text"], labels[unseen], labels)
    expected = retrieval_scores(*queries)["AP"].mean().item()
    assert metric.compute()["image->text/MAP"].item() == pytest.approx(expected, abs=1e-12)
    assert metric.sizes()["image->text"] == (int(unseen.sum()), 90)
    assert torch.equal(metric.average_precisions()["image->text"][0], ids[unseen].sort().values)
    nobody = CrossModalRetrieval(BOTH)
    nobody.update(embeddings, labels, ids, is_query=torch.zeros(90, dtype=torch.bool))
    with pytest.raises(ValueError, match="image->text: modality 'image' has no query"):
        nobody.compute()


def test_as_published_is_the_z_score_of_the_evaluated_items():
    embeddings, labels, ids = pairs()
    embeddings["text"][:, 3] = 0.1  # a constant column
    embeddings["text"][:, 4] = embeddings["text"][:, 4] * 1e-4 + 50
    scored = {}
    for name, rows in embeddings.items():
        values = rows.double().numpy()
        constant = values.max(axis=0) == values.min(axis=0)
        expected = np.where(constant, 0.0, (values - values.mean(axis=0)) / np.where(constant, 1.0, values.std(axis=0)))
        scored[name] = standardise(rows)
        np.testing.assert_allclose(scored[name], expected, rtol=1e-5, atol=1e-6)
    published = evaluate(embeddings, labels, ids, protocol="as_published").compute()
    assert bits(published) == bits(evaluate(scored, labels, ids).compute())
    assert published["image->text/MAP"] != evaluate(embeddings, labels, ids).compute()["image->text/MAP"]


def test_half_precision_embeddings_are_scored_in_float32():
    embeddings, labels, ids = pairs()
    halves = {name: rows.bfloat16() for name, rows in embeddings.items()}
    floats = {name: rows.float() for name, rows in halves.items()}
    assert bits(evaluate(halves, labels, ids).compute()) == bits(evaluate(floats, labels, ids).compute())


# Queries of several modalities ---------------------------------------------------------------------------------------


def drawn(count: int = 60, width: int = 9, seed: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Embeddings of three modalities about common centres, labels and ids."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 12, (count,), generator=generator)
    centres = torch.randn(12, width, generator=generator)[labels]
    rows = {name: centres + 1.5 * torch.randn(count, width, generator=generator) for name in NAMES}
    return rows, labels, torch.randperm(count, generator=generator) * 3


def plain_scores(query: list[torch.Tensor], gallery: torch.Tensor, score: str) -> np.ndarray:
    """The definition, query by query and item by item."""
    units, items = [unit(rows) for rows in query], unit(gallery)
    found = np.empty((len(units[0]), len(items)))
    for i in range(len(found)):
        own = [rows[i] for rows in units]
        for j, item in enumerate(items):
            vectors = np.stack([*own, item])
            found[i, j] = {
                "cosine": sum(vector @ item for vector in own),
                "multilinear": np.prod(vectors, axis=0).sum(),
                "volume": -np.sqrt(abs(np.linalg.det(vectors @ vectors.T))),
            }[score]
    return found


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("queries", [("text", "video"), NAMES])
def test_joint_scores_are_those_of_the_definition(score, queries):
    rows, labels, _ = drawn()
    gallery, of_gallery, _ = drawn(80, seed=1)
    query = {name: rows[name].split(13) for name in queries}  # in blocks
    found = retrieval_scores(query, gallery["motion"], labels, of_gallery, score=score)
    scores = plain_scores([rows[name] for name in queries], gallery["motion"], score)
    assert_plain(found, scores, (labels[:, None] == of_gallery).numpy(), (1, 5, 10))
    sides = (gallery["motion"].split(11), labels, of_gallery)
    assert bits(retrieval_scores(query, *sides, chunk_elements=130, score=score)) == bits(found)


@pytest.mark.parametrize("score", SCORES)
def test_the_metric_names_joint_directions_and_averages_the_others(score):
    rows, labels, ids = drawn()
    directions = [("text", "motion"), ("motion", "text"), JOINT]
    found = evaluate(rows, labels, ids, directions=directions, score=score).compute()
    joint = plain_map(plain_scores([rows["text"], rows["video"]], rows["motion"], score), labels, labels)
    assert found["text+video->motion/MAP"].item() == pytest.approx(joint, abs=1e-9)
    single = plain_map(cosines(rows["text"], rows["motion"]), labels, labels)
    assert found["text->motion/MAP"].item() == pytest.approx(single, abs=1e-9)  # by cosine, whatever the score
    mean = (found["text->motion/MAP"] + found["motion->text/MAP"]) / 2
    assert found["average/MAP"].item() == pytest.approx(mean.item(), abs=1e-12)


@pytest.mark.parametrize("name", ["gallery", "similarity"])
def test_a_modality_may_have_any_name(name):
    """Alone, in a joint query and as what is found, with the numbers of the same modality under another name."""
    rows, labels, ids = drawn()

    def found(called: str) -> list[torch.Tensor]:
        directions = [(called, "motion"), ("motion", called), ((called, "text"), "motion")]
        given = {called: rows["video"], "text": rows["text"], "motion": rows["motion"]}
        return list(evaluate(given, labels, ids, directions=directions).compute().values())

    assert found(name) == found("video")
    infinite = {name: rows["video"] * torch.inf, "text": rows["text"]}
    with pytest.raises(ValueError, match="not finite"):
        retrieval_scores(infinite, rows["motion"], labels, labels)


def test_items_that_lack_a_modality_do_not_ask_and_are_counted():
    rows, labels, ids = drawn()
    metric = CrossModalRetrieval([JOINT])
    for name, part in {"motion": slice(None), "text": slice(50), "video": slice(20, None)}.items():
        metric.update({name: rows[name][part]}, labels[part], ids[part])
    with pytest.warns(UserWarning, match="30 of 60 items lack one of text, video"):
        found = metric.compute()
    assert metric.sizes() == {"text+video->motion": (30, 60)}
    both = slice(20, 50)
    scores = plain_scores([rows["text"][both], rows["video"][both]], rows["motion"], "cosine")
    expected = plain_map(scores, labels[both], labels)
    assert found["text+video->motion/MAP"].item() == pytest.approx(expected, abs=1e-9)
    assert torch.equal(metric.average_precisions()["text+video->motion"][0], ids[both].sort().values)


def test_queries_are_put_together_by_item_where_entries_have_ids_of_their_own():
    """Two texts per item, and equal texts of two items count once in the gallery, yet both items ask by theirs."""
    rows, labels, _ = drawn(20)
    labels[3], rows["text"][3] = labels[2], rows["text"][2]
    item = torch.arange(20)
    ids = {"text": torch.cat([item, item + 20]), "video": item + 100, "motion": item}
    ids["text"][3] = 2
    metric = CrossModalRetrieval([JOINT, (("video", "motion"), "text")])
    metric.update(
        {**rows, "text": torch.cat([rows["text"], torch.randn(20, 9)])},
        {"text": labels.repeat(2), "video": labels, "motion": labels},
        ids,
        items={"text": item.repeat(2), "video": item, "motion": item},
    )
    assert metric.sizes() == {"text+video->motion": (20, 20), "video+motion->text": (20, 39)}
    expected = plain_map(plain_scores([rows["text"], rows["video"]], rows["motion"], "cosine"), labels, labels)
    assert metric.compute()["text+video->motion/MAP"].item() == pytest.approx(expected, abs=1e-9)


def test_only_items_that_are_queries_in_every_modality_ask():
    rows, labels, ids = drawn()
    metric = CrossModalRetrieval([JOINT])
    metric.update(rows, labels, ids, is_query={**dict.fromkeys(NAMES, ids >= 0), "video": ids > 60})
    assert metric.sizes() == {"text+video->motion": (int((ids > 60).sum()), 60)}
    assert torch.equal(metric.average_precisions()["text+video->motion"][0], ids[ids > 60].sort().values)


def test_what_tells_nothing_is_chance_and_a_zero_item_has_volume_zero():
    rows, labels, _ = drawn()
    chance = bits(retrieval_scores(torch.zeros(60, 9), rows["motion"], labels, labels))
    alike = {"volume": (rows["text"] * 2, -rows["text"], torch.zeros(60, 9)), "cosine": (-2 * rows["text"],)}
    for score, others in alike.items():
        for other in others:
            query = {"text": rows["text"], "video": other}
            assert bits(retrieval_scores(query, rows["motion"], labels, labels, score=score)) == chance
    gallery, target = rows["motion"].clone(), torch.arange(60)
    gallery[7] = 0
    query = {"text": rows["text"], "video": rows["video"]}
    first = retrieval_scores(query, gallery, torch.full((60,), 7), target, score="volume")["first_rank"]
    assert torch.equal(first, torch.ones(60, dtype=torch.float64))


def test_a_long_gallery_with_zero_items_is_counted_by_volume_as_it_is_sorted():
    generator = torch.Generator().manual_seed(0)
    query = {name: torch.randn(4, 5, generator=generator) for name in ("text", "video")}
    gallery, labels = torch.randn(20_000, 5, generator=generator), torch.arange(20_000) % 5_000  # four are relevant
    gallery[[0, 9_000]] = 0  # of the first query's items the first, of no query's
    given = (query, gallery, torch.arange(4), labels)
    counted = retrieval_scores(*given, KS, score="volume")
    assert bits(counted) == bits(sorted_scores(*given, score="volume"))
    assert counted["first_rank"][0] == 1.5  # either of the two
    assert (counted["first_rank"][1:] > 2).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ids": {**dict.fromkeys(NAMES, torch.arange(60)), "video": torch.arange(60) + 1000}}, "no item has all of"),
        ({"labels": {name: torch.arange(60) + (name == "video") for name in NAMES}}, "different labels in text and"),
        ({"is_query": {name: torch.arange(60) % 3 == place for place, name in enumerate(NAMES)}}, "there is no query"),
    ],
)
def test_items_that_cannot_be_put_together_are_refused(change, said):
    metric = CrossModalRetrieval([JOINT])
    metric.update(**{"embeddings": drawn()[0], "labels": torch.arange(60), "ids": torch.arange(60), **change})
    with pytest.raises(ValueError, match=rf"text\+video->motion: .*{said}"):
        metric.compute()


def test_the_name_of_a_joint_query_is_read_or_refused():
    assert parse_joint_query("text+video->motion", NAMES) == JOINT
    for name in ("text->motion", "text+video", "text+audio->motion", "text+motion->motion", ""):
        with pytest.raises(ValueError, match=r"joint query .*text, video, motion"):
            parse_joint_query(name, NAMES)


# What does not fit ---------------------------------------------------------------------------------------------------

GOOD = {"embeddings": {"image": torch.ones(3, 4)}, "labels": torch.arange(3), "ids": torch.arange(3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": {"audio": torch.ones(3, 4)}}, "unknown modality 'audio'"),
        ({"embeddings": {"image": torch.ones(3)}}, "image: expected floating"),
        ({"embeddings": {"image": torch.ones(3, 4, dtype=torch.long)}}, "image: expected floating"),
        ({"embeddings": {"image": torch.full((3, 4), torch.inf)}}, "image: an embedding is not finite"),
        ({"embeddings": {"image": torch.full((3, 4), 1e60, dtype=torch.float64)}}, "image: .* not finite in float32"),
        ({"embeddings": {"image": torch.ones(3, 4), "text": torch.ones(2, 4)}}, "text: expected integer or bool"),
        ({"embeddings": {"image": torch.ones(3, 5)}}, "image: embeddings with rows of shape .* in earlier"),
        ({"labels": torch.ones(3)}, "image: expected integer or bool labels"),
        ({"labels": {"text": torch.arange(3)}}, "image: labels has no entry"),
        ({"labels": torch.tensor([[0], [1], [7]])}, "image: labels of two dimensions are multi-hot"),
        ({"labels": torch.eye(3, dtype=torch.bool)}, "image: labels with rows of shape"),
        ({"ids": torch.arange(2)}, "image: expected integer ids"),
        ({"ids": torch.ones(3)}, "image: expected integer ids"),
        ({"is_query": torch.ones(3)}, "image: expected bool is_query"),
        ({"items": torch.ones(3)}, "image: expected integer items"),
    ],
)
def test_a_bad_batch_is_refused_by_name_and_leaves_nothing(change, message):
    metric = CrossModalRetrieval(BOTH)
    metric.update(**GOOD)
    with pytest.raises(ValueError, match=message):
        metric.update(**{**GOOD, **change})
    metric.update({"text": torch.ones(0, 4)}, torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="modality 'text' has no item"):
        metric.compute()
    metric.update({"text": torch.ones(3, 4)}, torch.arange(3), torch.arange(3))
    assert metric.sizes() == {"image->text": (3, 3), "text->image": (3, 3)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": []}, "directions must be"),
        ({"directions": [("image", "image")]}, "directions must be"),
        ({"directions": BOTH + BOTH}, "directions must be"),
        ({"directions": [(("text", "motion"), "motion")]}, "directions must be"),
        ({"directions": [(("text", "text"), "motion")]}, "directions must be"),
        ({"directions": [((), "motion")]}, "directions must be"),
        ({"protocol": "published"}, "unknown protocol 'published'"),
        ({"score": "mean"}, "unknown score 'mean'"),
        ({"ks": (0,)}, "ks must be integers"),
    ],
)
def test_construction_refuses_what_it_does_not_know(options, message):
    with pytest.raises(ValueError, match=message):
        CrossModalRetrieval(**{"directions": BOTH, **options})
