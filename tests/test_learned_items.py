"""The digest of what a model is trained on and chosen by: it follows these items alone, and all of them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import tiny_items
from PIL import Image
from tiny_items import item_set

from datamodules import FeatureDataModule, ItemSet
from datamodules.files.media import read_image
from datamodules.items import Files, Modality

N = 60


class Tiny(FeatureDataModule):
    dataset = "tiny"
    features = "noise"
    data_kind = "synthetic"

    def __init__(self, content: ItemSet, **kwargs) -> None:
        super().__init__(class_encoder="one-hot", **kwargs)
        self.content = content

    def read(self) -> ItemSet:
        return self.content


def feature_set(multi_hot: bool = False) -> ItemSet:
    """Items of three classes, every third one a test item; features of an image stand column by column."""
    rng = np.random.default_rng(0)
    label = np.arange(N) // 3 % 3
    return ItemSet.of_features(
        features={"image": np.asfortranarray(rng.normal(size=(N, 5))), "text": rng.normal(size=(N, 3))},
        label=np.eye(3, dtype=bool)[label] if multi_hot else label,
        split=np.array(["train", "validation", "test"] * (N // 3)),
        class_names=("a", "b", "c"),
        origin="tiny.npz",
        class_embedding=np.eye(3),
        unpaired={"text": np.ones((2, 3))},
    )


def with_new_test_items(data: ItemSet) -> ItemSet:
    """Ten more test items, in front, of a class that no other item has and that is the first by name."""
    features = {name: np.concatenate([array[:10] + 1, array]) for name, array in data.vectors.items()}
    label = np.concatenate([np.zeros(10, dtype=int), data.label + 1]) if data.label.ndim == 1 else None
    if label is None:
        label = np.zeros((N + 10, 4), dtype=bool)
        label[:10, 0], label[10:, 1:] = True, data.label
    split, names = np.concatenate([np.full(10, "test"), data.split]), ("0", *data.class_names)
    return ItemSet.of_features(features, label, split, names, data.origin, np.eye(4, 3, -1), data.unpaired)


@pytest.mark.parametrize("fraction", [0, 0.15])
@pytest.mark.parametrize("multi_hot", [False, True])
def test_new_test_features_leave_it(multi_hot, fraction):
    first = feature_set(multi_hot)
    second = with_new_test_items(first)
    before, after = (Tiny(data, validation_fraction=fraction) for data in (first, second))
    assert before.learned_digest == after.learned_digest
    assert before.digest != after.digest


def test_published_settings_choose_by_the_test_items_and_follow_them():
    first = feature_set()
    before, after = (Tiny(data, protocol="as_published").learned_digest for data in (first, with_new_test_items(first)))
    assert before != after


def moved(data: ItemSet, row: int) -> ItemSet:
    features = {name: array.copy(order="K") for name, array in data.vectors.items()}
    features["image"][row, 4] += 1e-9
    return replace(data, modalities={name: Modality(array) for name, array in features.items()})


def relabelled(data: ItemSet, row: int) -> ItemSet:
    label = data.label.copy()
    label[row] = (label[row] + 1) % 3
    return replace(data, label=label)


# Rows 0, 1 and 2 are of training, validation and test.
CHANGES: dict[str, tuple[Callable[[ItemSet], ItemSet], bool]] = {
    "training row": (lambda data: moved(data, 0), True),
    "validation row": (lambda data: moved(data, 1), True),
    "test row": (lambda data: moved(data, 2), False),
    "class of a training row": (lambda data: relabelled(data, 0), True),
    "class of a test row": (lambda data: relabelled(data, 2), False),
    "training row into test": (lambda data: replace(data, split=np.array(["test", *data.split[1:]])), True),
    "test row into training": (lambda data: replace(data, split=np.array([*data.split[:-1], "train"])), True),
    "class name": (lambda data: replace(data, class_names=("a", "b", "d")), True),
    "class vectors": (lambda data: replace(data, class_embedding=np.eye(3) * 2), True),
    "unpaired samples": (lambda data: replace(data, unpaired={"text": np.zeros((2, 3))}), True),
}


@pytest.mark.parametrize("case", CHANGES)
def test_it_follows_training_and_validation_features_alone(case):
    change, follows = CHANGES[case]
    before, after = (Tiny(data).learned_digest for data in (feature_set(), change(feature_set())))
    assert (before != after) == follows


def with_picture(data: ItemSet, folder, changed: int | None = None) -> ItemSet:
    folder.mkdir()
    paths = tuple(folder / f"{i}.png" for i in range(len(data)))
    for i, path in enumerate(paths):
        Image.new("L", (2, 2), 99 if i == changed else i).save(path)
    return replace(data, modalities={**data.modalities, "image": Modality(Files(paths, read_image))})


@pytest.mark.parametrize(("item", "follows"), [(None, False), (2, False), (0, True), (1, True)])
def test_it_follows_the_files_of_training_items_alone(item, follows, tmp_path):
    """Item 2 is a test item; the folder does not matter."""
    sets = with_picture(item_set(), tmp_path / "a"), with_picture(item_set(), tmp_path / "b", item)
    before, after = (tiny_items.Tiny(data).learned_digest for data in sets)
    assert (before != after) == follows


@pytest.mark.parametrize("name", ["text", "code"])
@pytest.mark.parametrize(("item", "follows"), [(2, False), (0, True)])
def test_it_follows_the_entries_of_training_items_alone(name, item, follows):
    data = item_set()
    modality = data.modalities[name]
    entries = list(modality.entries)
    entry = int(np.flatnonzero(modality.owners() == item)[0])
    entries[entry] = "another" if name == "text" else entries[entry] + 1
    entries = np.array(entries) if name == "code" else entries
    other = replace(data, modalities={**data.modalities, name: replace(modality, entries=entries)})
    before, after = (tiny_items.Tiny(content).learned_digest for content in (data, other))
    assert (before != after) == follows


def test_a_test_item_less_leaves_it_and_a_training_item_less_does_not():
    data = item_set()
    digests = [tiny_items.Tiny(d).learned_digest for d in (data, data.without({"item-2"}), data.without({"item-1"}))]
    assert digests[0] == digests[1] != digests[2]
