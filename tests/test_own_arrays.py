"""Arrays of one's own: objects of pandas, texts, rows and cells of MATLAB, what is refused by array and row; memory."""

import os
import tracemalloc

import numpy as np
import pytest
import scipy.io
import torch
from own_cases import (
    CLASSES,
    LAYOUTS,
    ROWS,
    TEST,
    TRAIN,
    WRITERS,
    dump,
    joined,
    make_parts,
    read,
    save,
    write_dscmr,
    write_jfse,
    write_npz,
)
from test_pickled_features import Call

from datamodules import DataError, ItemSet, OwnData
from datamodules.files import matlab
from lightning_modules.networks.encoders.base import mean_and_variance

NAMES = np.array(["ant", "bumblebee", "cat"])
PARTS = joined()
LABEL = PARTS["label"]
NAN = PARTS["text"].copy()
NAN[7, 2] = np.nan


def objects(values) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = list(values)
    return array


def refused(path, *facts: str, **settings) -> None:
    with pytest.raises(DataError) as error:
        read(path, **settings)
    for fact in facts:
        assert fact in str(error.value)


# Python objects -----------------------------------------------------------------------------------------------------


def test_texts_and_numbers_of_pandas_are_read(tmp_path):
    image = PARTS["image"]
    changes = {"label": NAMES[LABEL], "split": PARTS["split"], "class_names": NAMES}
    columns = {name: objects(array.tolist()) for name, array in changes.items()}
    data = read(save(tmp_path, image=objects(image), text=image.astype(object), **columns))  # a column of vectors
    np.testing.assert_array_equal(data.label, LABEL)
    assert data.class_names == tuple(NAMES.tolist())
    np.testing.assert_array_equal(data.split, PARTS["split"])
    for name in ("image", "text"):
        np.testing.assert_array_equal(data.vectors[name], image)
    np.testing.assert_array_equal(read(save(tmp_path, label=LABEL.astype(object))).label, LABEL)


@pytest.mark.parametrize("name", ["label", "split", "image"])
def test_mixed_objects_are_refused_by_array_and_row(tmp_path, name):
    array = objects(["train"] * 15)
    array[3] = float("nan")  # what pandas puts where a text is missing
    facts = (f"pairs.npz, {name}", "str (first in row 0)", "float (first in row 3)", ".astype(str)")
    refused(save(tmp_path, **{name: array}), *facts)


def test_no_code_of_an_object_array_or_of_a_pytorch_file_is_run(tmp_path):
    marker = tmp_path / "executed"
    file = save(tmp_path, label=objects([Call(os.system, f"touch {marker}")] * 15))
    refused(file, "pairs.npz, label: refused", ".astype(str)")
    assert not marker.exists()
    np.load(file, allow_pickle=True)["label"]
    assert marker.exists()
    torch.save({"image": np.zeros((3, 2)), "model": torch.nn.Linear}, tmp_path / "model.pt")
    refused(tmp_path / "model.pt", "model.pt: cannot be read as a PyTorch file")


# MATLAB -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "classes"),
    [
        (lambda y: NAMES[y].tolist(), NAMES),  # char matrix, padded with blanks
        (lambda y: objects(NAMES[y].tolist())[:, None], NAMES),  # cells
        (lambda y: objects(NAMES[y].tolist())[None], NAMES),
        (lambda y: objects(y.tolist())[:, None], None),
        (lambda y: y, None),  # one row
        (lambda y: y[:, None], None),
        (lambda y: np.eye(3)[y], None),
        (lambda y: np.eye(3)[y].T, None),
        (lambda y: np.eye(6)[y].T, None),  # square in test alone
        (lambda y: np.eye(6)[y], None),
        # Padded to another length in each part.
        (lambda y: [["a", "b", "cc"][c] for c in y % (2 + (len(y) == TRAIN))], ["a", "b", "cc"]),
    ],
)
def test_labels_of_matlab(tmp_path, label, classes):
    data = read(write_dscmr(tmp_path, make_parts(), label))
    assert data.class_names == tuple(["class 0", "class 1", "class 2"] if classes is None else classes)
    if "cc" not in data.class_names:
        np.testing.assert_array_equal(data.label, LABEL)


def test_matlab_files_that_are_not_what_they_should_be_are_refused(tmp_path):
    write_dscmr(tmp_path, make_parts())
    file = tmp_path / "train_txt.mat"
    scipy.io.savemat(file, {"features": np.eye(3)})
    refused(tmp_path, "train_txt.mat: holds features; expected the variable train_txt")
    scipy.io.savemat(file, {"train_txt": np.array(["a", 1], dtype=object)})
    refused(tmp_path, "train_txt.mat, train_txt: holds object")
    WRITERS["h5"](tmp_path, make_parts()).rename(tmp_path / "features.mat")
    refused(tmp_path / "features.mat", "features.mat: is HDF5 that MATLAB did not write", "features.h5")


def test_a_matlab_file_that_ends_the_process_which_reads_it_is_refused_by_name(tmp_path, monkeypatch):
    write_dscmr(tmp_path, make_parts())
    monkeypatch.setattr(matlab, "TRIAL", ("-c", "import os, sys; os.path.getsize(sys.argv[1]); os.abort()"))
    refused(tmp_path, "train_img.mat: cannot be read as a MATLAB file", "ends the process", "write it again")


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"label": np.zeros(15) + 0.5}, ["labels are float64"]),
        ({"label": np.full(15, np.nan)}, ["labels are float64"]),
        ({"label": np.zeros((15, 2, 2))}, ["labels are float64 of shape"]),
        ({"label": np.full((15, 3), 2)}, ["zeros and ones only"]),
        ({"label": np.zeros((15, 3), dtype=bool)}, ["no class"]),
        ({"label": np.zeros(14, dtype=int)}, ["label has 14 rows but image has 15"]),
        ({"label": np.zeros(15, dtype="datetime64[s]")}, ["labels are datetime64"]),
        ({"label": np.eye(15)[np.roll(np.arange(15), 1)]}, ["as many classes as items"]),
        ({"label": np.array(["a"] * 9 + ["3"] * 6)}, ["numbers in the test part (3) and texts in the train part (a)"]),
        ({"label": np.r_[LABEL[:9] % 2, LABEL[9:]]}, ["1 of 3 test classes without a training item, first 'class 2'"]),
        ({"image": np.array([{}] * 15)}, ["image: holds object of shape (15,) with dict"]),
        ({"image": np.zeros(15)}, ["expected numbers of shape"]),
        ({"image": np.zeros((15, 2, 2))}, ["expected numbers of shape"]),
        ({"text": np.array([["a"]] * 15)}, ["expected numbers of shape"]),
        ({"text": NAN}, ["text is NaN or infinite in 1 row(s), the first of row 7"]),
        ({"text": np.full((15, 2), 1e300)}, ["NaN or infinite"]),
        ({"text": np.zeros((14, 2))}, ["text has 14 rows but label has 15"]),
        ({"class_names": np.arange(3)}, ["class_names: holds int64"]),
        ({"class_names": np.array(["a", "a", "b"])}, ["two classes are called 'a'"]),
        ({"class_names": np.array(list("abcd")), "label": np.eye(3, dtype=int)[LABEL]}, ["4 classes"]),
        ({"class_names": np.array(list("abcd")), "label": np.array(["a", "b", "z"])[LABEL]}, ["'z' is not among"]),
        ({"class_names": np.array(list("ab"))}, ["run from 0 to 2, and there are 2 classes"]),
        ({"class_embedding": np.ones((CLASSES - 1, 7))}, ["there are 2 classes"]),
        ({"split": np.full(15, "train")}, ["split", "15 train", "items of test", "set split to random"]),
        ({"split": np.full(15, "validation")}, ["split", "15 validation", "items of test"]),
        ({"split": np.full(15, "test")}, ["split", "15 test", "train or validation"]),
        ({"split": np.arange(15) % 2}, ["split", "int64", "np.where(split == 1, 'test', 'train')"]),
        ({"split": np.arange(15) % 2 == 1}, ["split", "bool", "np.where"]),
        ({"split": np.array(["train"] * 10 + ["held out"] * 5)}, ["'held out' is unknown", "train, validation, test"]),
    ],
)
def test_bad_arrays_are_refused_by_name(tmp_path, changes, facts):
    refused(save(tmp_path, **changes), "pairs.npz", *facts)


def test_rows_that_differ_without_labels_are_refused_and_columns_that_agree_are_pointed_out(tmp_path):
    alone = ("label", "split")
    refused(save(tmp_path, alone, text=np.zeros((14, 4))), "text has 14 rows but image has 15")
    turned = {name: PARTS[name].T for name in ("image", "text")}
    refused(save(tmp_path, alone, **turned), "columns agree (image (5, 15), text (4, 15))", "transpose")
    refused(save(tmp_path, ("text",)), "modalities are 'image'; expected two or more")


@pytest.mark.parametrize(
    ("name", "message"),
    [(".", "no features in a known layout"), ("note.txt", "no known form")],
)
def test_unknown_places_list_the_accepted_forms(tmp_path, name, message):
    (tmp_path / "note.txt").write_text("hello")
    forms = (".npz", ".mat", ".csv", "train_img_files.pkl", "train_img_lab.mat")
    refused(tmp_path / name, message, str(tmp_path / name), *forms)


def test_a_path_where_nothing_is_is_refused_by_name(tmp_path):
    refused(tmp_path / "x", str(tmp_path / "x"), "does not exist")


def test_several_data_sets_in_one_folder_are_refused(tmp_path):
    write_jfse(tmp_path, make_parts())
    write_npz(tmp_path, make_parts())
    refused(tmp_path, "JFSE pickles, pairs.npz")
    assert len(read(tmp_path / "pairs.npz")) == TRAIN + TEST


# Layouts of other authors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "missing"), [("jfse", "test_txt_files.pkl"), ("jfse", "train_labels.pkl"), ("dscmr", "test_img_lab.mat")]
)
def test_a_missing_file_of_a_layout_is_named(tmp_path, layout, missing):
    LAYOUTS[layout](tmp_path, make_parts())
    (tmp_path / missing).unlink()
    refused(tmp_path, f"lacks {missing}; add")


def test_a_folder_with_one_table_is_that_table(tmp_path):
    WRITERS["csv"](tmp_path, make_parts())
    (tmp_path / "notes.md").write_text("Read me.", encoding="utf-8")
    assert read(tmp_path).vectors.keys() == {"image", "text"}
    WRITERS["jsonl"](tmp_path, make_parts())
    refused(tmp_path, "features.csv, features.jsonl")


@pytest.mark.parametrize("name", ["labels.csv", "label.pkl", "y.txt"])
def test_labels_beside_arrays_that_are_not_read_are_refused(tmp_path, name):
    WRITERS["npy"](tmp_path, make_parts())
    (tmp_path / "label.npy").rename(tmp_path / name)
    refused(tmp_path, f"{name} beside", "labels.txt")


@pytest.mark.parametrize("form", ["mat", "npz", "csv", "jsonl"])
def test_endings_may_be_in_capitals(tmp_path, form):
    path = WRITERS[form](tmp_path, make_parts())
    path = path.rename(path.with_suffix(path.suffix.upper()))
    assert len(read(path)) == TRAIN + TEST


@pytest.mark.parametrize("name", ["a.b", "image/left", "type", "keys", "training", "a->b", "a+b"])
def test_a_name_that_no_network_can_have_is_refused(tmp_path, name):
    refused(save(tmp_path, drop=("text",), **{name: PARTS["text"]}), repr(name), "rename")


def test_a_modality_that_the_data_do_not_have_is_named_with_those_that_they_have(tmp_path):
    for form in ("npz", "csv"):
        refused(WRITERS[form](tmp_path, make_parts()), "'imge'", "image, text", modalities=["imge", "text"])
    file = save(tmp_path, unpaired_text=PARTS["text"])
    refused(file, "'unpaired_text'; it has image, text.", modalities=["image", "unpaired_text"])


@pytest.mark.parametrize(
    ("name", "value", "facts"),
    [
        ("test_txt_files.pkl", np.zeros((TEST - 1, 4)), ["test part: text has 5 rows but label has 6"]),
        ("test_labels.pkl", [0] * 5, ["test part: text has 6 rows but label has 5"]),
        ("train_txt_files.pkl", np.zeros((TRAIN, 3)), ["text is ", "only the number of rows may differ"]),
        ("train_labels.pkl", ["a"] * TRAIN, ["label is ", "only the number of rows may differ"]),
        *(
            ("train_img_files.pkl", value, ["train_img_files.pkl: "])
            for value in ([[1.0, 2.0], [3.0]], {"features": 1}, [{"a": 1}] * TRAIN, 3.0, ["a"] * TRAIN, None)
        ),
    ],
)
def test_a_pickle_that_does_not_fit_the_others_is_refused(tmp_path, name, value, facts):
    write_jfse(tmp_path, make_parts())
    dump(tmp_path, name, value)
    refused(tmp_path, *facts)


def test_class_embedding_per_item_becomes_one_per_class(tmp_path):
    parts = make_parts()
    write_jfse(tmp_path, parts)
    label, table = parts["train"]["label"], np.random.default_rng(1).standard_normal((CLASSES, 6)).astype(np.float32)
    dump(tmp_path, "train_attribute.pkl", list(table[label]))
    np.testing.assert_array_equal(read(tmp_path).class_embedding, table)
    changed = table[label]
    changed[-1] += 1
    for value, message in ((table, "has 3 rows"), (changed, "row 8 differs")):
        dump(tmp_path, "train_attribute.pkl", value)
        refused(tmp_path, f"train_attribute.pkl: {message}")
    dump(tmp_path, "train_attribute.pkl", list(table[label]))
    for split, rows in ROWS.items():
        dump(tmp_path, f"{split}_labels.pkl", np.ones((rows, CLASSES)))
    with pytest.warns(UserWarning, match="several classes"):
        assert read(tmp_path).class_embedding is None


# Memory -------------------------------------------------------------------------------------------------------------


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
        mean_and_variance(*data.entries_to_fit("image"))
        return data.data

    assert peak_of(use) < 1.3 * size
    np.testing.assert_array_equal(data.data.vectors["image"], image.astype(np.float32))
    assert np.shares_memory(data.entries("image").tensors.numpy(), data.data.vectors["image"])


def test_thirty_thousand_classes_need_no_matrix_of_classes(tmp_path):
    classes = 30_000
    features = np.random.default_rng(0).random((2 * classes, 2), dtype="f4")
    split = np.tile(["train", "test"], classes)
    np.savez(tmp_path / "many.npz", image=features, text=features, label=np.repeat(np.arange(classes), 2), split=split)
    data = OwnData(tmp_path / "many.npz", class_split="zero-shot", validation_fraction=0)
    assert peak_of(lambda: data.indices("generalised")) < 100  # a matrix of items and classes takes 1,700
    assert [len(data.indices(part)) for part in ("train", "seen", "unseen")] == [15_000] * 3
