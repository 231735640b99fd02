"""The nearest rows of a gallery, exactly and by faiss, and the order of equal ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules import search


def random_rows(count: int, dim: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(count, dim, generator=generator), dim=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 1000))
def test_the_nearest_are_those_of_a_whole_sort_and_ties_go_by_row(count, k, seed):
    draw = np.random.default_rng(seed)
    gallery = draw.integers(-1, 2, (count, 2)).astype(np.float32)  # few values: many ties, and exact products
    query = np.array([1.0, 2.0], dtype=np.float32)
    order = np.argsort(-(gallery @ query), kind="stable")[:k]
    index = search._faiss_index(torch.from_numpy(gallery))
    for cosine, row in (
        search.nearest(torch.from_numpy(gallery), torch.from_numpy(query), k),
        search.nearest_by_faiss(index, torch.from_numpy(query), k),
    ):
        np.testing.assert_array_equal(row, order)
        np.testing.assert_array_equal(cosine, (gallery @ query)[order])


@pytest.mark.parametrize("count", [7, 1001])
def test_equal_entries_have_one_cosine_and_stand_in_the_order_of_their_rows(count):
    """A matrix product may round the cosines of equal rows differently, by where they stand."""
    rows = random_rows(1, 384).expand(count, -1).contiguous()
    query = torch.nn.functional.normalize(torch.arange(384.0).cos(), dim=0)
    index = search._faiss_index(rows)
    for k in (5, count, count + 3):
        for cosine, row in (search.nearest(rows, query, k), search.nearest_by_faiss(index, query, k)):
            assert row.tolist() == list(range(min(k, count)))
            assert cosine.unique().numel() == 1


def test_equal_entries_stand_in_order_in_the_lists_of_a_large_gallery(monkeypatch):
    monkeypatch.setattr(search, "FLAT_UP_TO", 500)
    rows = random_rows(200).repeat(10, 1)
    index = search._faiss_index(rows)
    _, row = search.nearest_by_faiss(index, rows[3], 4)
    assert row.tolist() == [3, 203, 403, 603]


def test_the_flat_index_of_faiss_finds_what_the_exact_search_finds():
    rows = random_rows(700)
    index = search._faiss_index(rows)
    for query in random_rows(720)[::90]:
        for k in (1, 10, 700):
            (cosine, row), (expected, place) = search.nearest_by_faiss(index, query, k), search.nearest(rows, query, k)
            assert torch.equal(row, place)
            assert torch.equal(cosine, expected)


def test_a_large_gallery_is_searched_in_lists_that_hold_every_row(monkeypatch):
    monkeypatch.setattr(search, "FLAT_UP_TO", 500)
    rows = random_rows(4000)
    index = search._faiss_index(rows)
    recalled = 0
    for number in range(0, 4000, 200):
        cosine, row = search.nearest_by_faiss(index, rows[number], 4000)
        assert row[0] == number  # a row lies in the list that its own query looks through first
        assert 10 < len(row) < 1000, "about a sixteenth of the rows is compared"
        torch.testing.assert_close(cosine, rows[row] @ rows[number], rtol=0, atol=1e-5)
        assert len(set(row.tolist())) == len(row)
        recalled += len(row)
    assert recalled > 20 * 100
