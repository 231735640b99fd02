"""Training with part of the pairs: which items stay paired, and what is handed out as unpaired samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_items import N, Tiny, with_modality

from datamodules import FeatureDataModule, RetrievalData, Synthetic
from datamodules.items import Modality
from datamodules.splits import split_paired


@given(st.integers(1, 40), st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 5))
def test_it_divides_the_items_and_a_smaller_share_is_part_of_a_larger_one(
    count: int, first: float, second: float, seed: int
) -> None:
    index = np.arange(count) * 3
    small, large = (split_paired(index, fraction, seed) for fraction in sorted((first, second)))
    for fraction, (paired, unpaired) in zip(sorted((first, second)), (small, large), strict=True):
        assert len(paired) == max(round(fraction * count), 1)
        np.testing.assert_array_equal(np.union1d(paired, unpaired), index)
        assert not np.intersect1d(paired, unpaired).size
    assert np.isin(small[0], large[0]).all()


@pytest.mark.parametrize("kind", [Synthetic, Tiny])
def test_training_batches_hold_the_paired_items_alone_and_evaluation_is_unchanged(
    kind: type[FeatureDataModule] | type[RetrievalData],
) -> None:
    whole, part = kind(validation_fraction=0.25), kind(validation_fraction=0.25, paired_fraction=0.4)
    train = whole.indices("train")
    assert not whole.indices("unpaired").size
    assert len(part.indices("train")) == round(0.4 * len(train))
    np.testing.assert_array_equal(np.union1d(part.indices("train"), part.indices("unpaired")), train)
    for split in ("validation", *whole.test_splits):
        np.testing.assert_array_equal(part.indices(split), whole.indices(split))
    seen = torch.cat([batch["id"] for batch in part.train_dataloader()])
    assert set(seen.tolist()) <= set(part.indices("train").tolist())


def test_unpaired_features_are_the_rows_of_the_other_training_items() -> None:
    data = Synthetic(paired_fraction=0.4)
    for name in data.modalities:
        rows, mask = data.unpaired_entries(name)
        assert mask is None
        np.testing.assert_array_equal(rows, data.data.vectors[name][data.indices("unpaired")].astype(np.float32))


def captions_of(data: Tiny, items: np.ndarray) -> list[str]:
    text = data.data.modalities["text"]
    return [text.entries[i] for i in np.flatnonzero(np.isin(text.owners(), items))]


@pytest.mark.parametrize("fraction", [0.4, 1.0])
def test_of_several_captions_all_those_of_training_items_are_unpaired_entries(fraction: float) -> None:
    """Of modalities with one entry per item, those of unpaired items alone."""
    data = Tiny(paired_fraction=fraction)
    train, unpaired = data.indices("train"), data.indices("unpaired")
    texts, mask = data.unpaired_entries("text")
    assert mask is None
    assert texts == captions_of(data, np.union1d(train, unpaired))
    assert len(texts) > len(train) + len(unpaired)
    steps, mask = data.unpaired_entries("motion")
    assert steps.shape[:2] == mask.shape
    assert len(steps) == len(unpaired) == len(data.unpaired_entries("code")[0])


def test_captions_of_items_with_one_each_are_unpaired_where_the_items_are() -> None:
    """Several captions of test items or of unpaired ones change nothing."""
    plain = Tiny(paired_fraction=0.4)
    owner = np.repeat(np.arange(N), np.where(np.isin(np.arange(N), plain.indices("train")), 1, 2))
    texts = Modality([f"caption {i} of item {item}" for i, item in enumerate(owner)], owner)
    data = Tiny(with_modality("text", texts), paired_fraction=0.4)
    np.testing.assert_array_equal(data.indices("train"), plain.indices("train"))
    assert data.unpaired_entries("text")[0] == captions_of(data, data.indices("unpaired"))
    for name in data.modalities:
        assert len(Tiny(with_modality("text", Modality(["one"] * N))).unpaired_entries(name)[0]) == 0, name
