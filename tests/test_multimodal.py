"""Batches and splits of items of several raw modalities."""

import numpy as np
import pytest
import tiny_items
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_items import N, Tiny, drawn, epoch_of, item_set, with_modality

from datamodules import DataError, RetrievalData
from datamodules.items import Modality
from datamodules.noisy_labels import noisy_labels, resample
from datamodules.splits import carve_groups

# Training batches ---------------------------------------------------------------------------------------------------


def test_training_batch_pads_sequences_and_masks_say_where():
    module = Tiny()
    content, seen = module.content, []
    for batch in epoch_of(module, 0):
        ids, mask = batch["id"].tolist(), batch["masks"]["motion"]
        seen += ids
        assert set(batch["masks"]) == {"motion"}
        assert mask.dtype == torch.bool
        assert mask.shape == batch["motion"].shape[:2]
        assert mask.any(dim=0).all(), "no step is padding for every item"
        assert batch["motion"].dtype == batch["code"].dtype == torch.float32
        assert (batch["motion"][~mask] == 0).all()
        np.testing.assert_array_equal(batch["label"], content.label[ids])
        np.testing.assert_allclose(batch["code"], content.modalities["code"].entries[ids], rtol=1e-6)
        for row, item in enumerate(ids):
            expected = content.modalities["motion"].entries[item]
            assert mask[row].tolist() == [True] * len(expected) + [False] * (mask.shape[1] - len(expected))
            np.testing.assert_allclose(batch["motion"][row, : len(expected)], expected, rtol=1e-6)
            assert batch["text"][row].endswith(f"of item {item}")
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(module.indices("train").tolist())


def test_sequences_of_one_length_have_a_full_mask():
    motion = Modality(np.zeros((N, 7, 2, 3), dtype=np.float16))
    batch = epoch_of(Tiny(with_modality("motion", motion)), 0)[0]
    assert batch["motion"].shape == (5, 7, 2, 3)
    assert batch["masks"]["motion"].shape == (5, 7)
    assert batch["masks"]["motion"].all()


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31), epoch=st.integers(0, 50))
def test_draws_depend_on_seed_epoch_and_items_alone(seed, epoch):
    expected = drawn(Tiny(shuffle_seed=seed), epoch)
    used = Tiny(shuffle_seed=seed)
    drawn(used, epoch + 1)
    assert drawn(used, epoch) == expected
    assert drawn(used, epoch + 1) != expected
    assert drawn(Tiny(shuffle_seed=seed + 1), epoch) != expected


def test_every_caption_is_drawn_in_the_long_run_and_evenly():
    module = Tiny(batch_size=1)
    rows = [row for epoch in range(150) for row in drawn(module, epoch)]
    for item in module.indices("train").tolist():
        texts = [text for owner, text in rows if owner == item]
        counts = [texts.count(text) for text in sorted(set(texts))]
        assert len(counts) == item % 3 + 1
        assert min(counts) > 0.6 * len(texts) / len(counts), counts


# Labels of training batches -----------------------------------------------------------------------------------------


def trained_on(module: Tiny) -> dict[int, int]:
    """Training item -> its label in the batches."""
    pairs = [zip(b["id"].tolist(), b["label"].tolist(), strict=True) for e in range(8) for b in epoch_of(module, e)]
    return {item: label for pair in pairs for item, label in pair}


def labels_of(module: Tiny, loaders: list) -> dict[int, int]:
    """Item -> its label in evaluation batches."""
    batches = [(b["item"][name], b["label"][name]) for loader in loaders for b in loader for name in module.modalities]
    return {
        item: label for items, labels in batches for item, label in zip(items.tolist(), labels.tolist(), strict=True)
    }


@pytest.mark.parametrize("labels", ["class", "instance", "clusters-3", "merged-2", "flips-50"])
def test_training_and_validation_items_have_the_labels_asked_for_and_test_items_their_classes(labels):
    module = Tiny(labels=labels, validation_fraction=0.25)
    trained, validated = trained_on(module), labels_of(module, [module.val_dataloader()])
    assert set(trained) == set(module.indices("train").tolist())
    assert set(validated) == set(module.indices("validation").tolist())
    noisy = trained | validated
    classes = {item: int(module.content.label[item]) for item in noisy}
    assert (noisy == classes) == (labels == "class")
    counts = {"instance": len(noisy), "clusters-3": 3, "merged-2": 2}
    assert len(set(noisy.values())) == counts.get(labels, len(set(noisy.values())))
    tested = labels_of(module, [*module.test_dataloader(), module.predict_dataloader()])
    assert tested == {item: int(module.content.label[item]) for item in tested}


@pytest.mark.parametrize("labels", ["clusters-3", "merged-2", "flips-50"])
def test_noisy_labels_are_drawn_by_their_own_seed_alone(labels):
    drawn = [
        trained_on(Tiny(labels=labels, label_seed=seed, shuffle_seed=shuffle))
        for seed, shuffle in ((0, 0), (0, 1), (1, 0), (2, 0))
    ]
    assert drawn[0] == drawn[1]
    assert labels == "clusters-3" or len({tuple(sorted(d.items())) for d in drawn}) > 1


CLASSES = np.arange(400) % 8
MANY = item_set(
    modalities={name: Modality(np.zeros((400, 1), dtype=np.float32)) for name in ("x", "y")},
    label=CLASSES,
    split=np.full(400, "train"),
    names=[f"item {i}" for i in range(400)],
    group=None,
    class_names=None,
)


@settings(deadline=None, max_examples=20)
@given(per_cent=st.integers(1, 99), seed=st.integers(0, 99))
def test_flips_are_so_many_wrong_labels_in_training_and_in_validation(per_cent, seed):
    train, others = np.split(np.random.default_rng(seed).permutation(400), [300])
    label = noisy_labels(MANY, train, others, f"flips-{per_cent}", seed)
    for part in (train, others):
        assert (label[part] != CLASSES[part]).sum() == round(per_cent / 100 * len(part))
    assert set(label) <= set(range(8))


@settings(deadline=None, max_examples=20)
@given(number=st.integers(2, 8), seed=st.integers(0, 99))
def test_merged_classes_stay_whole_and_are_of_like_numbers(number, seed):
    label = noisy_labels(MANY, np.arange(300), np.arange(300, 400), f"merged-{number}", seed)
    joined = {(int(c), int(m)) for c, m in zip(CLASSES, label, strict=True)}
    assert len(joined) == 8
    sizes = np.bincount([m for _, m in joined])
    assert len(sizes) == number
    assert sizes.max() - sizes.min() <= 1


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31))
def test_clusters_depend_on_the_recordings_of_training_items_alone(seed):
    """Other texts, other labels and other held-out items leave them as they are."""
    module = Tiny(labels="clusters-4", validation_fraction=0.25)
    held_out = np.setdiff1d(np.arange(N), module.indices("train"))
    rng, changed = np.random.default_rng(seed), tiny_items.modalities()
    changed["text"] = Modality([f"another {i}" for i in range(N)])
    changed["code"].entries[held_out] = 100 * rng.normal(size=(len(held_out), 4))
    for item in held_out:
        changed["motion"].entries[item] = 100 * rng.normal(size=(3, 3))
    other = item_set(modalities=changed, label=rng.permutation(N))
    assert trained_on(Tiny(other, labels="clusters-4", validation_fraction=0.25)) == trained_on(module)


def test_clusters_find_items_that_were_recorded_alike():
    label = np.arange(N) % 4
    rng = np.random.default_rng(0)
    code = 10 * np.eye(4)[label] + 0.1 * rng.normal(size=(N, 4))
    motion = [np.full((2 + i % 5, 3), float(c)) for i, c in enumerate(label)]  # of different lengths
    modalities = {"text": tiny_items.modalities()["text"], "code": Modality(code), "motion": Modality(motion)}
    trained = trained_on(Tiny(item_set(modalities=modalities), labels="clusters-4", validation_fraction=0))
    assert len(set(zip(trained.values(), label[list(trained)], strict=True))) == 4


@settings(deadline=None, max_examples=30)
@given(length=st.integers(1, 12), steps=st.integers(1, 20))
def test_resampling_against_numpy(length, steps):
    sequence = np.random.default_rng(length).normal(size=(length, 2, 3))
    found = resample(sequence, steps)
    for i, j in np.ndindex(2, 3):
        expected = np.interp(np.linspace(0, length - 1, steps), np.arange(length), sequence[:, i, j])
        np.testing.assert_allclose(found[:, i, j], expected, atol=1e-12)


def test_clusters_that_cannot_be_are_refused():
    with pytest.raises(DataError, match="20 clusters need as many training items; there are 16"):
        Tiny(labels="clusters-20", validation_fraction=0).train_dataloader()
    texts = {name: Modality([f"{name} {i}" for i in range(N)]) for name in ("text", "title")}
    with pytest.raises(DataError, match="clusters need a modality of vectors or sequences beside text, title"):
        Tiny(item_set(modalities=texts), labels="clusters-2").train_dataloader()


# Evaluation batches -------------------------------------------------------------------------------------------------


def test_evaluation_carries_every_entry_with_label_id_and_item(monkeypatch):
    monkeypatch.setattr(RetrievalData, "evaluation_batch_size", 3)
    module = Tiny()
    (loader,) = module.test_dataloader()
    batches, content = list(loader), module.content
    assert len(batches) == 3
    for name, modality in content.modalities.items():
        ids, items, labels = (torch.cat([b[key][name] for b in batches]).numpy() for key in ("id", "item", "label"))
        owners = modality.owners()
        np.testing.assert_array_equal(ids, np.flatnonzero(content.split[owners] == "test"))
        np.testing.assert_array_equal(items, owners[ids])
        np.testing.assert_array_equal(labels, content.label[items])
    texts = [text for batch in batches for text in batch["text"]]
    assert texts == [content.modalities["text"].entries[i] for i in ids_of(batches, "text")]
    for batch in batches:
        for row, entry in enumerate(batch["id"]["motion"].tolist()):
            found = batch["motion"][row][batch["masks"]["motion"][row]]
            np.testing.assert_allclose(found, content.modalities["motion"].entries[entry], rtol=1e-6)


def ids_of(batches: list[dict], name: str) -> list[int]:
    return torch.cat([batch["id"][name] for batch in batches]).tolist()


def test_train_entries_are_those_of_training_items():
    module = Tiny(validation_fraction=0)
    rows, mask = module.train_entries("motion")
    lengths = [len(module.content.modalities["motion"].entries[i]) for i in module.indices("train")]
    assert mask.sum(dim=1).tolist() == lengths
    assert len(rows) == len(lengths)
    assert all("item" in text for text in module.train_entries("text")[0])


# Splits -------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(
    group=st.lists(st.integers(0, 6), min_size=2, max_size=40).map(np.array),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 100),
)
def test_carving_groups_is_a_partition_into_whole_groups(group, fraction, seed):
    index = np.arange(len(group))
    groups = np.unique(group)
    if len(groups) < 2:
        with pytest.raises(DataError, match="belong to one group; set validation_fraction to 0"):
            carve_groups(group, index, fraction, seed)
        return
    train, validation = carve_groups(group, index, fraction, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), index)
    assert not set(group[train]) & set(group[validation])
    held_out = len(np.unique(group[validation]))
    assert held_out == min(max(round(fraction * len(groups)), 1), len(groups) - 1)
