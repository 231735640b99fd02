"""Splits, batches, and what is refused."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_items import TinyPairs as Tiny
from tiny_items import feature_set

from datamodules import DataError
from datamodules.splits import carve_validation, seen_unseen

# Splits -------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    label=st.lists(st.integers(0, 4), min_size=1, max_size=80), fraction=st.floats(0.01, 0.9), seed=st.integers(0, 10)
)
def test_validation_is_a_stratified_part_of_the_training_items(label, fraction, seed):
    label = np.array(label)
    index = np.flatnonzero(np.arange(len(label)) % 4 != 3)
    train, validation = carve_validation(label, index, fraction, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), index)
    for c in np.unique(label[index]):
        count, held_out = (label[index] == c).sum(), (label[validation] == c).sum()
        assert held_out == (0 if count == 1 else np.clip(round(fraction * count), 1, count - 1))
    again = carve_validation(label, index, fraction, seed)
    np.testing.assert_array_equal(validation, again[1])


def test_validation_draw_of_a_class_ignores_the_other_classes():
    label = np.arange(120) % 3
    everything = carve_validation(label, np.arange(120), 0.2, 5)[1]
    alone = carve_validation(label, np.flatnonzero(label == 1), 0.2, 5)[1]
    np.testing.assert_array_equal(everything[label[everything] == 1], alone)
    assert not np.array_equal(everything, carve_validation(label, np.arange(120), 0.2, 6)[1])
    assert len({tuple(everything[label[everything] == c] // 3) for c in range(3)}) == 3, "each has a draw of its own"


def test_multi_hot_items_are_stratified_by_their_rarest_class():
    kinds = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 1]], dtype=bool)  # 50, 10 and 20 items of the three classes
    kind = np.repeat([0, 1, 2], [40, 10, 10])
    for seed in range(5):
        _, validation = carve_validation(kinds[kind], np.arange(60), 0.2, seed)
        assert np.bincount(kind[validation]).tolist() == [8, 2, 2]


@pytest.mark.parametrize(("classes", "sizes"), [(2, (1, 1)), (10, (5, 5)), (7, (4, 3))])
def test_half_of_the_classes_is_seen_the_larger_of_an_odd_number(classes, sizes):
    seen, unseen = seen_unseen(classes, 3)
    assert (len(seen), len(unseen)) == sizes
    assert sorted([*seen, *unseen]) == list(range(classes))
    np.testing.assert_array_equal(seen, seen_unseen(classes, 3)[0])
    assert len({tuple(seen_unseen(classes, seed)[0]) for seed in range(30)}) > 1


# Batches ------------------------------------------------------------------------------------------------------------


def test_batch_holds_the_rows_its_ids_name():
    data = feature_set()
    batch = next(iter(Tiny(data).train_dataloader()))
    row = batch["id"].numpy()
    assert batch.pop("masks") == {}
    numbers = dict.fromkeys(("image", "text", "class_embedding"), torch.float32)
    assert {n: value.dtype for n, value in batch.items()} == {**numbers, "label": torch.int64, "id": torch.int64}
    np.testing.assert_array_equal(batch["image"], data.vectors["image"][row].astype(np.float32))
    np.testing.assert_array_equal(batch["text"], data.vectors["text"][row])
    np.testing.assert_array_equal(batch["label"], data.label[row])
    np.testing.assert_array_equal(batch["class_embedding"], np.eye(7)[data.label[row]])


def test_class_embedding_of_a_multi_hot_item_is_the_mean_over_its_classes():
    embedding = np.random.default_rng(1).normal(size=(7, 4))
    module = Tiny(feature_set(multi_hot=True, class_embedding=embedding), class_encoder="from-data")
    (loader,) = module.test_dataloader()
    batch = next(iter(loader))
    label = batch["label"]["image"]
    assert label.dtype == torch.bool
    expected = np.stack([embedding[row].mean(axis=0) for row in label.numpy()])
    np.testing.assert_allclose(batch["class_embedding"], expected, rtol=0, atol=1e-6)
    assert module.dims == {"image": 5, "text": 3, "class_embedding": 4}
    assert module.train_entries("class_embedding")[0].shape == (len(module.indices("train")), 4)


def test_parts_are_disjoint_and_data_are_read_once():
    module = Tiny(validation_fraction=0.2)
    train, validation, test = (module.indices(name) for name in ("train", "validation", "standard"))
    assert (len(train), len(validation), len(test)) == (112, 28, 70)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation, test])), np.arange(210))
    np.testing.assert_array_equal(np.bincount(module.data.label[validation]), np.full(7, 4))
    list(module.train_dataloader())
    assert len(module.predict_dataloader().dataset) == 70
    assert module.times_read == 1
    assert Tiny(validation_fraction=0.2, split_seed=1).indices("train").tolist() != train.tolist()


def test_without_a_validation_part_everything_but_the_test_items_is_trained_on():
    split = np.array(["train", "validation", "test"])[np.arange(210) % 3]
    module = Tiny(feature_set(split=split), validation_fraction=0)
    np.testing.assert_array_equal(module.indices("train"), np.flatnonzero(split != "test"))
    assert module.val_dataloader() == []
    own = Tiny(feature_set(split=split))
    np.testing.assert_array_equal(own.indices("validation"), np.flatnonzero(split == "validation"))


def test_training_drops_a_short_last_batch_only_where_another_is_left():
    assert {len(batch["id"]) for batch in Tiny(batch_size=50).train_dataloader()} == {50}
    assert [len(batch["id"]) for batch in Tiny(batch_size=500).train_dataloader()] == [len(Tiny().indices("train"))]


def test_arrays_and_train_entries_are_the_rows_of_the_split():
    module, (features, label) = Tiny(), Tiny().arrays("standard")
    index, vectors = module.indices("standard"), module.data.vectors
    np.testing.assert_array_equal(features["image"], vectors["image"][index].astype(np.float32))
    np.testing.assert_array_equal(label, module.data.label[index])
    np.testing.assert_array_equal(module.train_entries("text")[0], vectors["text"][module.indices("train")])
    rows, mask = module.entries_to_fit("text")
    assert rows is module.entries("text").tensors  # of millions of vectors, a copy would be too much
    assert torch.equal(rows[mask], module.train_entries("text")[0])


def test_digest_follows_data_and_encoder():
    assert Tiny().digest == Tiny(batch_size=3).digest
    moved = feature_set()
    moved.vectors["image"][0, 0] += 1e-9
    assert Tiny(moved).digest != Tiny().digest
    from_data = Tiny(feature_set(class_embedding=np.eye(7)), class_encoder="from-data")
    assert from_data.digest != Tiny(feature_set(class_embedding=np.eye(7))).digest


# Zero-shot ----------------------------------------------------------------------------------------------------------


def test_zero_shot_trains_on_seen_classes_and_tests_on_seen_unseen_and_both():
    module = Tiny(class_split="zero-shot", class_seed=2)
    assert [len(half) for half in module.class_halves] == [4, 3]
    seen, unseen = (np.isin(module.data.label, half) for half in module.class_halves)
    fitted = np.concatenate([module.indices("train"), module.indices("validation")])
    np.testing.assert_array_equal(np.sort(fitted), np.flatnonzero(seen & (module.data.split == "train")))
    assert module.test_splits == ("seen", "unseen", "generalised")
    test = module.data.split == "test"
    for loader, rows in zip(module.test_dataloader(), (test & seen, test & unseen, test), strict=True):
        (batch,) = list(loader)
        np.testing.assert_array_equal(batch["id"]["text"], np.flatnonzero(rows))
        assert ("query" in batch) == (batch["split"] == "generalised")
    np.testing.assert_array_equal(batch["query"]["text"], unseen[test])
    other = {tuple(Tiny(class_split="zero-shot", class_seed=seed).class_halves[0]) for seed in range(9)}
    assert len(other) > 1


def test_zero_shot_leaves_out_items_of_both_kinds_and_says_how_many(caplog):
    module = Tiny(feature_set(multi_hot=True), class_split="zero-shot")
    label, (seen, unseen) = module.data.label, module.class_halves
    mixed = label[:, seen].any(axis=1) & label[:, unseen].any(axis=1)
    assert mixed.any()
    with caplog.at_level(logging.INFO):
        parts = [module.indices(name) for name in ("train", "validation", *module.test_splits)]
    assert f"tiny: {mixed.sum()} items with both seen and unseen classes are left out" in caplog.text
    assert not mixed[np.concatenate(parts)].any()
    assert not label[parts[0]][:, unseen].any()


# Refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("batch_size", [0]),
        ("validation_fraction", [1.0, -0.1, float("nan")]),
        ("paired_fraction", [0, -0.5, 1.5]),
        ("class_split", ["few-shot"]),
        ("split_seed", [-1]),
        ("on_missing", ["ignore"]),
        ("labels", ["classes", "clusters", "clusters-1", "clusters-x", "merged-1", "flips-0", "flips-100", ""]),
        ("protocol", ["published"]),
    ],
)
def test_arguments_out_of_range_are_refused_at_once(name, values):
    for value in values:
        with pytest.raises(ValueError, match=f"{name} (is )?{value!r}"):
            Tiny(**{name: value})


def test_class_with_one_training_item_cannot_be_divided():
    label = feature_set().label.copy()
    label[label == 3] = 0
    label[0] = 3
    with pytest.raises(DataError, match=r"class 'd' has one training item: .* set validation_fraction to 0"):
        Tiny(feature_set(label=label)).indices("train")
    assert 0 in Tiny(feature_set(label=label), validation_fraction=0).indices("train")


def test_data_that_do_not_allow_what_is_asked_are_refused():
    one_class = feature_set(label=np.zeros(210, dtype=int), class_names=("a",))
    with pytest.raises(DataError, match="at least 2 classes"):
        Tiny(one_class, class_split="zero-shot").indices("train")
    with pytest.raises(DataError, match="bring no class embedding"):
        _ = Tiny(class_encoder="from-data").class_embedding
    with pytest.raises(DataError, match=r"tiny.npz: no items in the standard part"):
        Tiny(feature_set(split=np.repeat("train", 210))).indices("train")
    with pytest.raises(ValueError, match="'test' is unknown; tiny has train, unpaired, validation, standard"):
        Tiny().indices("test")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"features": {"image": np.zeros((210, 2)), "text": np.zeros((209, 2))}}, "image 210, text 209"),
        ({"features": {"image": np.zeros((210, 2)), "text": np.zeros(210)}}, r"text has shape \(210,\)"),
        ({"features": {"image": np.zeros((210, 2)), "text": np.zeros((210, 2), int)}}, "floating point"),
        ({"features": {"image": np.zeros((210, 2)), "text": np.full((210, 2), 1e300)}}, "infinite in 210 row"),
        ({"label": np.zeros(210)}, "type float64; expected .* integers"),
        ({"label": np.full(210, 7)}, "label 7 in row 0 has no name"),
        ({"label": np.zeros((210, 7), bool)}, r"210 item\(s\) have no class"),
        ({"label": np.ones((210, 6), bool)}, r"expected \(items, 7 classes\) bool"),
        ({"class_names": tuple("aacdefg")}, "two classes are called 'a'"),
        ({"class_embedding": np.eye(6)}, r"class_embedding has shape \(6, 6\) .* \(7 classes, E\)"),
        ({"class_embedding": np.full((7, 2), np.nan)}, r"class_embedding .* 7 row\(s\) that are NaN"),
    ],
)
def test_feature_set_refuses_what_cannot_be_paired_features(changed, message):
    with pytest.raises(DataError, match=message):
        feature_set(**changed)
