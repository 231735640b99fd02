"""Forms of arrays in feature files: Python objects of pandas, MATLAB's texts, rows and cells; and their memory."""

import os
import tracemalloc

import numpy as np
import pytest
from own_cases import CLASSES, TRAIN, joined, make_parts, read, save, write_dscmr
from test_pickled_features import Call

from datamodules import OwnData
from datamodules.errors import DataError
from datamodules.items import ItemSet

NAMES = np.array(["ant", "bumblebee", "cat"])
LABEL = joined(make_parts())["label"]


def objects(values) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = list(values)
    return array


# Python objects -------------------------------------------------------------------------------------------------------


def test_texts_and_numbers_of_pandas_are_read(tmp_path):
    image = joined(make_parts())["image"]
    data = read(
        save(
            tmp_path,
            label=objects(NAMES[LABEL].tolist()),
            split=objects(joined(make_parts())["split"].tolist()),
            class_names=objects(NAMES.tolist()),
            image=objects(image),  # a column of vectors
            text=image.astype(object),
        )
    )
    np.testing.assert_array_equal(data.label, LABEL)
    assert data.class_names == tuple(NAMES.tolist())
    np.testing.assert_array_equal(data.split, joined(make_parts())["split"])
    for name in ("image", "text"):
        np.testing.assert_array_equal(data.vectors[name], image)
    data = read(save(tmp_path, label=LABEL.astype(object)))
    np.testing.assert_array_equal(data.label, LABEL)


@pytest.mark.parametrize("name", ["label", "split", "image"])
def test_mixed_objects_are_refused_by_array_and_row(tmp_path, name):
    array = objects(["train"] * 15)
    array[3] = float("nan")  # what pandas puts where a text is missing
    with pytest.raises(DataError) as error:
        read(save(tmp_path, **{name: array}))
    for part in (f"pairs.npz, {name}", "str (first in row 0)", "float (first in row 3)", ".astype(str)"):
        assert part in str(error.value)


def test_no_code_of_an_object_array_is_run(tmp_path):
    marker = tmp_path / "executed"
    file = save(tmp_path, label=objects([Call(os.system, f"touch {marker}")] * 15))
    with pytest.raises(DataError, match=r"pairs\.npz, label: refused.*\.astype\(str\)"):
        read(file)
    assert not marker.exists()
    np.load(file, allow_pickle=True)["label"]
    assert marker.exists()


# MATLAB ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "classes"),
    [
        (lambda y: NAMES[y].tolist(), NAMES),  # char matrix, padded with blanks
        (lambda y: objects(NAMES[y].tolist())[:, None], NAMES),  # cells
        (lambda y: objects(NAMES[y].tolist())[None], NAMES),
        (lambda y: objects(y.tolist())[:, None], ["class 0", "class 1", "class 2"]),
        (lambda y: y, ["class 0", "class 1", "class 2"]),  # one row
        (lambda y: y[:, None], ["class 0", "class 1", "class 2"]),
        (lambda y: np.eye(3)[y], ["class 0", "class 1", "class 2"]),
        (lambda y: np.eye(3)[y].T, ["class 0", "class 1", "class 2"]),
        (lambda y: np.eye(6)[y].T, ["class 0", "class 1", "class 2"]),  # square in test alone
        (lambda y: np.eye(6)[y], ["class 0", "class 1", "class 2"]),
    ],
)
def test_labels_of_matlab(tmp_path, label, classes):
    data = read(write_dscmr(tmp_path, make_parts(), label))
    np.testing.assert_array_equal(data.label, LABEL)
    assert data.class_names == tuple(classes)


def test_padding_is_stripped_where_the_parts_differ_in_their_longest_name(tmp_path):
    def texts(label: np.ndarray) -> list[str]:
        return [["a", "b", "cc"][c] for c in label % (2 + (len(label) == TRAIN))]

    assert read(write_dscmr(tmp_path, make_parts(), texts)).class_names == ("a", "b", "cc")


# The split ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "parts"),
    [
        (np.full(15, "train"), ["15 train", "items of test", "set split to random"]),
        (np.full(15, "validation"), ["15 validation", "items of test"]),
        (np.full(15, "test"), ["15 test", "train or validation"]),
        (np.arange(15) % 2, ["int64", "train, validation or test", "np.where(split == 1, 'test', 'train')"]),
        (np.arange(15) % 2 == 1, ["bool", "np.where"]),
        (np.array(["train"] * 10 + ["held out"] * 5), ["'held out' is unknown", "train, validation, test"]),
    ],
)
def test_splits_that_cannot_be_used_say_what_to_do(tmp_path, split, parts):
    with pytest.raises(DataError) as error:
        read(save(tmp_path, split=split))
    for part in ("pairs.npz", "split", *parts):
        assert part in str(error.value)


# Memory ---------------------------------------------------------------------------------------------------------------


def peak_of(function) -> float:
    """Most memory that NumPy held at a time, in MiB."""
    tracemalloc.start()
    try:
        kept = function()
        assert kept is not None
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", ["float32", "float64", "fortran", "compressed"])
def test_features_are_held_once_while_they_are_read_hashed_and_handed_out(tmp_path, form):
    rows, width = 4_000, 1_024
    image = np.random.default_rng(0).random((rows, width)).astype("f4" if form in ("float32", "fortran") else "f8")
    text, label = image[:, :2].copy(), np.arange(rows) % 4
    write = np.savez_compressed if form == "compressed" else np.savez
    given = np.asfortranarray(image) if form == "fortran" else image
    write(tmp_path / "big.npz", image=given, text=text, label=label, split=np.where(label == 3, "test", "train"))
    data = OwnData(tmp_path / "big.npz", class_encoder="one-hot", validation_fraction=0)
    size = rows * (width + 2) * 4 / 2**20

    def use() -> ItemSet:
        assert len(data.digest) == 64
        data.train_dataloader(), data.test_dataloader()
        for columns in data.train_columns("image"):
            assert columns.shape[1] <= 32
        return data.data

    assert peak_of(use) < 1.3 * size
    np.testing.assert_array_equal(data.data.vectors["image"], image.astype(np.float32))
    assert np.shares_memory(data.entries("image").tensors.numpy(), data.data.vectors["image"])


def test_training_columns_are_the_training_features_in_double(tmp_path):
    member = np.eye(CLASSES, dtype=bool)[LABEL] | np.eye(CLASSES, dtype=bool)[(LABEL + LABEL // 2) % CLASSES]
    for label in (LABEL, member):
        wide = np.random.default_rng(0).random((15, 70))
        data = OwnData(save(tmp_path, image=wide, label=label), class_encoder="one-hot", validation_fraction=0)
        for name in data.dims:
            rows, _ = data.train_entries(name)
            found = np.concatenate([columns.numpy() for columns in data.train_columns(name)], axis=1)
            assert found.dtype == np.float64
            np.testing.assert_array_equal(found, rows.numpy())


def test_thirty_thousand_classes_need_no_matrix_of_classes(tmp_path):
    classes = 30_000
    features = np.random.default_rng(0).random((2 * classes, 2), dtype="f4")
    split = np.tile(["train", "test"], classes)
    np.savez(tmp_path / "many.npz", image=features, text=features, label=np.repeat(np.arange(classes), 2), split=split)
    data = OwnData(tmp_path / "many.npz", class_split="zero-shot", validation_fraction=0)
    assert peak_of(lambda: data.indices("generalised")) < 100  # a matrix of items and classes takes 1,700
    assert [len(data.indices(part)) for part in ("train", "seen", "unseen")] == [15_000] * 3
