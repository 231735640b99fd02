"""Entries that a metric is given more than once: which one is kept, and what is no copy."""

import warnings

import pytest
import torch
from test_metrics import evaluate, pairs
from test_ranking import bits

from lightning_modules.metrics.items import first_of_each


def test_of_copies_that_differ_in_rounding_the_same_one_is_kept_in_any_order():
    embeddings, labels, ids = pairs(20, 3)
    copies = {name: rows * (1 + torch.rand(rows.shape) * 1e-3) for name, rows in embeddings.items()}
    both = {name: torch.cat([rows, copies[name]]) for name, rows in embeddings.items()}
    twice = {name: torch.cat([copies[name], rows]) for name, rows in embeddings.items()}
    labels, ids = labels.repeat(2), ids.repeat(2)
    assert bits(evaluate(both, labels, ids).compute()) == bits(evaluate(twice, labels, ids).compute())


def test_ids_that_are_not_unique_are_reported():
    embeddings, labels, ids = pairs(20)
    clashing = evaluate(embeddings, torch.arange(20), torch.where(ids == ids[1], ids[0], ids))
    with pytest.raises(ValueError, match=f"image: id {ids[0]} occurs with different labels"):
        clashing.compute()
    metric = evaluate(embeddings, labels, ids)
    metric.update({"image": embeddings["image"][:1]}, labels[:1], ids[:1], is_query=torch.tensor([False]))
    with pytest.raises(ValueError, match=f"image: id {ids[0]} occurs with different labels or is_query"):
        metric.compute()
    metric = evaluate(embeddings, labels, ids)
    metric.update({"text": -embeddings["text"][:1]}, labels[:1], ids[:1])
    with pytest.warns(UserWarning, match="text: copies of one id differ"):
        metric.compute()


def kept(*rows: list[float], labels: torch.Tensor | None = None, ids: list[int] | None = None) -> list[int] | None:
    """Rows that are kept of copies of one entry, or of entries with these ids."""
    ids = torch.tensor([7] * len(rows) if ids is None else ids)
    labels = torch.zeros(len(rows), dtype=torch.long) if labels is None else labels
    found = first_of_each("text", [torch.tensor(rows)], labels, ids, torch.ones(len(rows), dtype=torch.bool))
    return None if found is None else found.tolist()


@pytest.mark.parametrize("column", range(4))
def test_the_first_column_in_which_copies_differ_decides_which_is_kept(column):
    smaller, larger = [1.0, 1.0, 1.0, 1.0], [1.0] * column + [1.001] + [0.999] * (3 - column)
    assert kept(smaller, larger) == [0]
    assert kept(larger, smaller) == [1]
    assert kept(larger, smaller, larger) == [1]


def test_an_id_that_is_there_once_is_no_copy():
    assert kept([1.0, 0.0], [1.0, 0.0], ids=[3, 4]) is None


def test_one_class_in_which_the_labels_of_one_of_many_copies_differ_is_found():
    labels = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1], [0, 1, 1]]).bool()
    with pytest.raises(ValueError, match="text: id 8 occurs with different labels"):
        kept(*[[1.0, 0.0]] * 4, labels=labels, ids=[7, 8, 7, 8])


@pytest.mark.parametrize(("length", "differ"), [(0.0, False), (0.009, False), (0.011, True)])
def test_copies_that_are_more_than_a_hundredth_apart_are_reported(length, differ):
    """Two entries of zeros are not."""
    rows = ([0.0, 0.0], [0.0, 0.0]) if not length else ([3.0, 4.0], [3.0, 4.0 + 5 * length])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if differ:
            with pytest.raises(UserWarning, match="text: copies of one id differ by more than 1%"):
                kept(*rows)
        else:
            assert kept(*rows) == [0]
