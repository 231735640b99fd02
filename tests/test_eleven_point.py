"""The two 11-point precisions against a plain NumPy reference."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from test_metrics import BOTH, evaluate, pairs
from test_ranking import bits, clustered, cosines

from lightning_modules.metrics import retrieval_scores

NAMES = ("AP 11-point", "AP 11-point plain")


def plain(relevant: np.ndarray) -> tuple[float, float]:
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


@pytest.mark.parametrize(("classes", "items"), [(2, 60), (5, 60), (40, 60), (300, 20_000)])
def test_precisions_are_those_of_the_definition(classes, items):
    query, gallery, query_labels, gallery_labels = clustered(30, items, classes=classes)
    found = retrieval_scores(query, gallery, query_labels, gallery_labels, gallery_ids=torch.arange(items))
    order = np.argsort(-cosines(query, gallery), axis=1)
    relevant = (query_labels[:, None] == gallery_labels).numpy()
    expected = [plain(row[ranked]) for row, ranked in zip(relevant, order, strict=True)]
    for name, values in zip(NAMES, zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(found[name], values, rtol=1e-4 if items > 60 else 1e-9, err_msg=name)
    without = retrieval_scores(query, gallery, query_labels, gallery_labels)
    assert bits(without) == bits({name: x for name, x in found.items() if name not in NAMES})


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
    assert set(first) == {1, 2, 3, 4}
    assert all(70 < first.count(place) < 130 for place in (1, 2, 3, 4))


@pytest.mark.parametrize("classes", [3, 200])
def test_blocks_chunks_and_order_change_no_bit_where_items_tie(classes):
    query, gallery, query_labels, gallery_labels = clustered(20, 400, width=2, classes=classes)
    gallery, ids = gallery.sign(), torch.randperm(400, generator=torch.Generator().manual_seed(0))
    whole = retrieval_scores(query, gallery, query_labels, gallery_labels, gallery_ids=ids)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    for chunk in (1, 1700, 2**25):
        found = retrieval_scores(
            query.split(7),
            gallery[order],
            query_labels,
            gallery_labels[order],
            chunk_elements=chunk,
            gallery_ids=ids[order],
        )
        assert bits(found) == bits(whole)


def test_the_metric_measures_them_where_it_is_asked_to():
    embeddings, labels, ids = pairs()
    found = evaluate(embeddings, labels, ids, eleven_point=True).compute()
    expected = retrieval_scores(embeddings["image"], embeddings["text"], labels, labels, gallery_ids=ids)
    for name in NAMES:
        key = f"image->text/M{name}"
        assert found[key].item() == pytest.approx(expected[name].mean().item(), abs=1e-12)
    assert bits(evaluate(embeddings, labels, ids).compute()) == bits(
        {name: value for name, value in found.items() if "11-point" not in name}
    )
    assert len(BOTH) + 1 == sum(name.endswith("MAP 11-point") for name in found)


def test_ids_of_another_number_are_refused():
    query, gallery, *labels = clustered(3, 5)
    with pytest.raises(ValueError, match=r"gallery_ids: expected shape \(5,\)"):
        retrieval_scores(query, gallery, *labels, gallery_ids=torch.arange(4))
