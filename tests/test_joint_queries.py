"""Queries of several modalities at once, against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_ranking import bits, plain_measures

from lightning_modules.metrics import CrossModalRetrieval, retrieval_scores
from lightning_modules.metrics.directions import parse_joint_query

NAMES = ("text", "video", "motion")
JOINT = (("text", "video"), "motion")
SCORES = ("cosine", "multilinear", "volume")


def drawn(count: int = 60, width: int = 9, seed: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Embeddings of three modalities about common centres, labels and ids."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 12, (count,), generator=generator)
    centres = torch.randn(12, width, generator=generator)[labels]
    rows = {name: centres + 1.5 * torch.randn(count, width, generator=generator) for name in NAMES}
    return rows, labels, torch.randperm(count, generator=generator) * 3


def unit(rows: torch.Tensor) -> np.ndarray:
    rows = rows.double().numpy()
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)


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


def plain_map(scores: np.ndarray, query_labels: np.ndarray, labels: np.ndarray) -> float:
    order = np.argsort(-scores, axis=1)
    relevant = query_labels[:, None] == labels[None]
    return np.mean([plain_measures(hits[place])["AP"] for hits, place in zip(relevant, order, strict=True)])


def evaluate(rows, labels, ids, score, directions=(JOINT,), batch: int = 17, **given) -> CrossModalRetrieval:
    metric = CrossModalRetrieval(directions, score=score)
    for part in torch.arange(len(ids)).split(batch):
        metric.update({name: x[part] for name, x in rows.items()}, labels[part], ids[part], **given)
    return metric


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("queries", [("text", "video"), NAMES])
def test_scores_are_those_of_the_definition(score, queries):
    rows, labels, _ = drawn()
    gallery, of_gallery, _ = drawn(80, seed=1)
    query = {name: rows[name].split(13) for name in queries}  # in blocks
    found = retrieval_scores(query, gallery["motion"], labels, of_gallery, score=score)
    scores = plain_scores([rows[name] for name in queries], gallery["motion"], score)
    expected = [
        plain_measures((of_gallery == label).numpy()[np.argsort(-line)], (1, 5, 10))
        for label, line in zip(labels, scores, strict=True)
    ]
    for name, values in found.items():
        np.testing.assert_allclose(values, [one[name] for one in expected], atol=1e-12, err_msg=name)


@pytest.mark.parametrize("score", SCORES)
def test_the_metric_names_joint_directions_and_averages_the_others(score):
    rows, labels, ids = drawn()
    directions = [("text", "motion"), ("motion", "text"), JOINT]
    found = evaluate(rows, labels, ids, score, directions).compute()
    joint = plain_map(
        plain_scores([rows["text"], rows["video"]], rows["motion"], score), labels.numpy(), labels.numpy()
    )
    assert found["text+video->motion/MAP"].item() == pytest.approx(joint, abs=1e-9)
    single = plain_map(unit(rows["text"]) @ unit(rows["motion"]).T, labels.numpy(), labels.numpy())
    assert found["text->motion/MAP"].item() == pytest.approx(single, abs=1e-9)  # by cosine, whatever the score
    mean = (found["text->motion/MAP"] + found["motion->text/MAP"]) / 2
    assert found["average/MAP"].item() == pytest.approx(mean.item(), abs=1e-12)


@pytest.mark.parametrize("score", SCORES)
def test_order_batches_and_chunks_change_no_bit(score):
    rows, labels, ids = drawn()
    rows["motion"][20:40] = rows["motion"][:20]  # ties
    expected = bits(evaluate(rows, labels, ids, score, batch=60).compute())
    order = torch.randperm(60, generator=torch.Generator().manual_seed(5))
    shuffled = {name: x[order] for name, x in rows.items()}
    assert bits(evaluate(shuffled, labels[order], ids[order], score, batch=7).compute()) == expected
    query = {name: rows[name] for name in ("text", "video")}
    whole = retrieval_scores(query, rows["motion"], labels, labels, score=score)
    parts = retrieval_scores(query, rows["motion"].split(11), labels, labels, chunk_elements=130, score=score)
    assert bits(parts) == bits(whole)


def test_items_that_lack_a_modality_do_not_ask_and_are_counted():
    rows, labels, ids = drawn()
    metric = CrossModalRetrieval([JOINT])
    metric.update({"motion": rows["motion"]}, labels, ids)
    metric.update({"text": rows["text"][:50]}, labels[:50], ids[:50])
    metric.update({"video": rows["video"][20:]}, labels[20:], ids[20:])
    with pytest.warns(UserWarning, match="30 of 60 items lack one of text, video"):
        found = metric.compute()
    assert metric.sizes() == {"text+video->motion": (30, 60)}
    both = slice(20, 50)
    scores = plain_scores([rows["text"][both], rows["video"][both]], rows["motion"], "cosine")
    expected = plain_map(scores, labels[both].numpy(), labels.numpy())
    assert found["text+video->motion/MAP"].item() == pytest.approx(expected, abs=1e-9)
    assert torch.equal(metric.average_precisions()["text+video->motion"][0], ids[both].sort().values)


def test_queries_are_put_together_by_item_where_entries_have_ids_of_their_own():
    """Two texts per item, and equal texts of two items count once in the gallery, yet both items ask by theirs."""
    rows, labels, _ = drawn(20)
    labels[3], rows["text"][3] = labels[2], rows["text"][2]
    item = torch.arange(20)
    text = torch.cat([rows["text"], torch.randn(20, 9)])
    ids = {"text": torch.cat([item, item + 20]), "video": item + 100, "motion": item}
    ids["text"][3] = 2
    metric = CrossModalRetrieval([JOINT, (("video", "motion"), "text")])
    metric.update(
        {**rows, "text": text},
        {"text": labels.repeat(2), "video": labels, "motion": labels},
        ids,
        items={"text": item.repeat(2), "video": item, "motion": item},
    )
    assert metric.sizes() == {"text+video->motion": (20, 20), "video+motion->text": (20, 39)}
    expected = plain_map(
        plain_scores([rows["text"], rows["video"]], rows["motion"], "cosine"), labels.numpy(), labels.numpy()
    )
    assert metric.compute()["text+video->motion/MAP"].item() == pytest.approx(expected, abs=1e-9)


def test_only_items_that_are_queries_in_every_modality_ask():
    rows, labels, ids = drawn()
    metric = CrossModalRetrieval([JOINT])
    metric.update(rows, labels, ids, is_query={**dict.fromkeys(NAMES, ids >= 0), "video": ids > 60})
    assert metric.sizes() == {"text+video->motion": (int((ids > 60).sum()), 60)}


def test_volume_zero_everywhere_is_chance_and_a_zero_item_has_volume_zero():
    rows, labels, _ = drawn()
    chance = retrieval_scores(torch.zeros(60, 9), rows["motion"], labels, labels)
    for other in (rows["text"] * 2, -rows["text"], torch.zeros(60, 9)):
        query = {"text": rows["text"], "video": other}
        assert bits(retrieval_scores(query, rows["motion"], labels, labels, score="volume")) == bits(chance)
    gallery, target = rows["motion"].clone(), torch.arange(60)
    gallery[7] = 0
    query = {"text": rows["text"], "video": rows["video"]}
    first = retrieval_scores(query, gallery, torch.full((60,), 7), target, score="volume")["first_rank"]
    assert torch.equal(first, torch.ones(60, dtype=torch.float64))


def test_cosines_of_opposite_vectors_cancel_to_chance():
    rows, labels, _ = drawn()
    query = {"text": rows["text"], "video": -2 * rows["text"]}
    chance = retrieval_scores(torch.zeros(60, 9), rows["motion"], labels, labels)
    assert bits(retrieval_scores(query, rows["motion"], labels, labels)) == bits(chance)


@pytest.mark.parametrize(
    ("directions", "score", "said"),
    [
        ([(("text", "motion"), "motion")], "cosine", "directions must be"),
        ([(("text", "text"), "motion")], "cosine", "directions must be"),
        ([((), "motion")], "cosine", "directions must be"),
        ([JOINT], "mean", "unknown score 'mean'"),
    ],
)
def test_construction_refuses_what_is_no_joint_direction(directions, score, said):
    with pytest.raises(ValueError, match=said):
        CrossModalRetrieval(directions, score=score)


def test_items_that_cannot_be_put_together_are_refused():
    rows, labels, ids = drawn()
    metric = CrossModalRetrieval([JOINT])
    metric.update({"text": rows["text"], "motion": rows["motion"]}, labels, ids)
    metric.update({"video": rows["video"]}, labels, ids + 1000)
    with pytest.raises(ValueError, match=r"text\+video->motion: no item has all of text, video"):
        metric.compute()
    metric = CrossModalRetrieval([JOINT])
    metric.update(rows, {name: labels + (name == "video") for name in NAMES}, ids)
    with pytest.raises(ValueError, match="different labels in text and video"):
        metric.compute()
    with pytest.raises(ValueError, match="video: expected integer or bool labels"):
        retrieval_scores({"text": rows["text"], "video": rows["video"][:9]}, rows["motion"], labels, labels)


@pytest.mark.parametrize("name", ["text->motion", "text+video", "text+audio->motion", "text+motion->motion", ""])
def test_a_name_that_is_no_joint_query_is_refused(name):
    with pytest.raises(ValueError, match=r"joint query .*text, video, motion"):
        parse_joint_query(name, NAMES)


def test_the_name_of_a_joint_query_is_read():
    assert parse_joint_query("text+video->motion", NAMES) == JOINT
