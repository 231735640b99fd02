"""The digest of what a model is trained on and chosen by: it follows these items alone, and all of them."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny_items import Tiny, TinyPairs, feature_set, item_set

from datamodules import ItemSet
from datamodules.files.media import read_image
from datamodules.items import Files, Modality


def pairs(multi_hot: bool = False) -> ItemSet:
    """Rows 0, 1 and 2 are of training, validation and test; features of an image stand column by column."""
    data = feature_set(multi_hot, class_embedding=np.eye(7), unpaired={"text": np.ones((2, 3))})
    image = Modality(np.asfortranarray(data.vectors["image"]))
    split = np.array(["train", "validation", "test"])[np.arange(len(data)) % 3]
    return replace(data, modalities={**data.modalities, "image": image}, split=split)


def with_new_test_items(data: ItemSet) -> ItemSet:
    """Ten more test items, in front, of a class that no other item has and that is the first by name."""
    features = {name: np.concatenate([array[:10] + 1, array]) for name, array in data.vectors.items()}
    label = np.concatenate([np.zeros(10, dtype=int), data.label + 1]) if data.label.ndim == 1 else None
    if label is None:
        label = np.pad(data.label, ((10, 0), (1, 0)))
        label[:10, 0] = True
    split, names = np.concatenate([np.full(10, "test"), data.split]), ("0", *data.class_names)
    return ItemSet.of_features(features, label, split, names, data.origin, np.eye(8, 7, -1), data.unpaired)


@pytest.mark.parametrize("fraction", [0, 0.15])
@pytest.mark.parametrize("multi_hot", [False, True])
def test_new_test_features_leave_it(multi_hot, fraction):
    data = pairs(multi_hot)
    before, after = (TinyPairs(x, validation_fraction=fraction) for x in (data, with_new_test_items(data)))
    assert before.learned_digest == after.learned_digest
    assert before.digest != after.digest


def changed(data: ItemSet, name: str, item: int) -> ItemSet:
    """Another first entry of an item, in a modality of texts or vectors; or another label."""
    if name == "label":
        label = data.label.copy()
        label[item] = (label[item] + 1) % 3
        return replace(data, label=label)
    modality = data.modalities[name]
    entry = int(np.flatnonzero(modality.owners() == item)[0])
    entries = modality.entries.copy()
    entries[entry] = "another" if name == "text" and modality.kind == "text" else entries[entry] + 1e-5
    return replace(data, modalities={**data.modalities, name: replace(modality, entries=entries)})


CHANGES = {
    **{f"{name} of a training row": (lambda x, n=name: changed(x, n, 0), True) for name in ("image", "label")},
    "image of a validation row": (lambda data: changed(data, "image", 1), True),
    **{f"{name} of a test row": (lambda x, n=name: changed(x, n, 2), False) for name in ("image", "label")},
    "training row into test": (lambda data: replace(data, split=np.array(["test", *data.split[1:]])), True),
    "test row into training": (lambda data: replace(data, split=np.array([*data.split[:-1], "train"])), True),
    "class name": (lambda data: replace(data, class_names=tuple("abcdefx")), True),
    "class vectors": (lambda data: replace(data, class_embedding=np.eye(7) * 2), True),
    "unpaired samples": (lambda data: replace(data, unpaired={"text": np.zeros((2, 3))}), True),
}


@pytest.mark.parametrize("case", CHANGES)
def test_it_follows_training_and_validation_features_alone(case):
    change, follows = CHANGES[case]
    before, after = (TinyPairs(data).learned_digest for data in (pairs(), change(pairs())))
    assert (before != after) == follows


def test_published_settings_choose_by_the_test_items_and_follow_them():
    before, after = (
        TinyPairs(x, protocol="as_published").learned_digest for x in (pairs(), with_new_test_items(pairs()))
    )
    assert before != after


@pytest.mark.parametrize(("name", "item", "follows"), [(n, i, i == 0) for n in ("text", "code") for i in (0, 2)])
def test_it_follows_the_entries_of_training_items_alone(name, item, follows):
    before, after = (Tiny(data).learned_digest for data in (item_set(), changed(item_set(), name, item)))
    assert (before != after) == follows


def with_pictures(folder, changed: int | None = None) -> ItemSet:
    folder.mkdir()
    data = item_set()
    paths = tuple(folder / f"{i}.png" for i in range(len(data)))
    for i, path in enumerate(paths):
        Image.new("L", (2, 2), 99 if i == changed else i).save(path)
    return replace(data, modalities={**data.modalities, "image": Modality(Files(paths, read_image))})


@pytest.mark.parametrize(("item", "follows"), [(None, False), (2, False), (0, True), (1, True)])
def test_it_follows_the_files_of_training_items_alone(item, follows, tmp_path):
    """Item 2 is a test item; the folder does not matter."""
    sets = with_pictures(tmp_path / "a"), with_pictures(tmp_path / "b", item)
    before, after = (Tiny(data).learned_digest for data in sets)
    assert (before != after) == follows


def test_a_test_item_less_leaves_it_and_a_training_item_less_does_not():
    data = item_set()
    digests = [Tiny(d).learned_digest for d in (data, data.without({"item-2"}), data.without({"item-1"}))]
    assert digests[0] == digests[1] != digests[2]
