"""Half of the classes kept out of training, for data of raw modalities."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules import SyntheticItems
from datamodules.splits import seen_unseen


def module(**kwargs) -> SyntheticItems:
    return SyntheticItems(class_split="zero-shot", validation_fraction=0.25, **kwargs)


def test_training_and_validation_see_one_half_of_the_classes_and_each_test_split_holds_one() -> None:
    data = module(class_seed=3)
    label = data.data.label
    classes = np.unique(label)
    seen, unseen = (set(classes[half].tolist()) for half in seen_unseen(len(classes), 3))
    assert data.test_splits == ("seen", "unseen")
    for split, allowed in (("train", seen), ("validation", seen), ("seen", seen), ("unseen", unseen)):
        assert set(label[data.indices(split)].tolist()) == allowed, split
    tested = np.concatenate([data.indices("seen"), data.indices("unseen")])
    np.testing.assert_array_equal(np.sort(tested), np.flatnonzero(data.data.split == "test"))


def test_loaders_follow_the_splits() -> None:
    data = module()
    trained = torch.cat([batch["id"] for batch in data.train_dataloader()])
    assert set(trained.tolist()) <= set(data.indices("train").tolist())
    loaders = data.test_dataloader()
    for split, loader in zip(data.test_splits, loaders, strict=True):
        first = data.modalities[0]
        items = torch.cat([batch["item"][first] for batch in loader])
        np.testing.assert_array_equal(np.unique(items), data.indices(split))
    predicted = torch.cat([batch["item"][data.modalities[0]] for batch in data.predict_dataloader()])
    np.testing.assert_array_equal(np.unique(predicted), data.indices("unseen"))


def test_the_seed_draws_the_classes_and_the_standard_split_has_them_all() -> None:
    assert not np.array_equal(module(class_seed=0).indices("unseen"), module(class_seed=1).indices("unseen"))
    standard = SyntheticItems()
    assert len(standard.test_splits) == 1
    np.testing.assert_array_equal(
        standard.indices(standard.test_splits[0]), np.flatnonzero(standard.data.split == "test")
    )


def test_an_unknown_class_split_is_refused() -> None:
    with pytest.raises(ValueError, match="class_split is 'half'"):
        SyntheticItems(class_split="half")
