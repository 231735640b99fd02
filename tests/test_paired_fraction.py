"""Training with part of the pairs: which items stay paired, and what is handed out as unpaired samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_items import Tiny

from datamodules import FeatureDataModule, ItemDataModule, Synthetic
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
    kind: type[FeatureDataModule] | type[ItemDataModule],
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
        np.testing.assert_array_equal(rows, data.data.features[name][data.indices("unpaired")].astype(np.float32))


def test_unpaired_items_hand_out_all_their_entries() -> None:
    data = Tiny(paired_fraction=0.4)
    wanted = data.indices("unpaired")
    texts, mask = data.unpaired_entries("text")
    text = data.data.modalities["text"]
    assert mask is None
    assert texts == [text.entries[i] for i in np.flatnonzero(np.isin(text.owners(), wanted))]
    assert len(texts) > len(wanted)  # some items have several
    steps, mask = data.unpaired_entries("motion")
    assert steps.shape[:2] == mask.shape
    assert len(steps) == len(wanted)


def test_with_all_pairs_in_use_there_are_no_unpaired_entries() -> None:
    data = Tiny()
    for name in data.modalities:
        rows, _ = data.unpaired_entries(name)
        assert len(rows) == 0, name


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5])
@pytest.mark.parametrize("kind", [Synthetic, Tiny])
def test_a_share_outside_its_range_is_refused(kind: type, fraction: float) -> None:
    with pytest.raises(ValueError, match="paired_fraction"):
        kind(paired_fraction=fraction)
