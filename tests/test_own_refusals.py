"""Own features that are refused: by file, array and row."""

from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
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

from datamodules import DataError

LABEL = joined()["label"]


# What is refused ----------------------------------------------------------------------------------------------------

NAN = joined()["text"].copy()
NAN[7, 2] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": np.zeros(15) + 0.5}, "labels are float64"),
        ({"label": np.full(15, np.nan)}, "labels are float64"),
        ({"label": np.zeros((15, 2, 2))}, "labels are float64 of shape"),
        ({"label": np.full((15, 3), 2)}, "zeros and ones only"),
        ({"label": np.zeros((15, 3), dtype=bool)}, "no class"),
        ({"label": np.zeros(14, dtype=int)}, "label has 14 rows but image has 15"),
        ({"label": np.zeros(15, dtype="datetime64[s]")}, "labels are datetime64"),
        ({"label": np.eye(15)[np.roll(np.arange(15), 1)]}, "as many classes as items"),
        ({"label": np.array(["a"] * 9 + ["3"] * 6)}, "numbers in the test part (3) and texts in the train part (a)"),
        ({"label": np.r_[LABEL[:9] % 2, LABEL[9:]]}, "1 of 3 test classes without a training item, first 'class 2'"),
        ({"image": np.array([{}] * 15)}, "image: holds object of shape (15,) with dict"),
        ({"image": np.zeros(15)}, "expected numbers of shape"),
        ({"image": np.zeros((15, 2, 2))}, "expected numbers of shape"),
        ({"text": np.array([["a"]] * 15)}, "expected numbers of shape"),
        ({"text": NAN}, "text is NaN or infinite in 1 row(s), the first of row 7"),
        ({"text": np.full((15, 2), 1e300)}, "NaN or infinite"),
        ({"text": np.zeros((14, 2))}, "text has 14 rows but label has 15"),
        ({"class_names": np.arange(3)}, "class_names: holds int64"),
        ({"class_names": np.array(["a", "a", "b"])}, "two classes are called 'a'"),
        ({"class_names": np.array(list("abcd")), "label": np.eye(3, dtype=int)[LABEL]}, "4 classes"),
        ({"class_names": np.array(list("abcd")), "label": np.array(["a", "b", "z"])[LABEL]}, "'z' is not among"),
        ({"class_names": np.array(list("ab"))}, "run from 0 to 2, and there are 2 classes"),
        ({"class_embedding": np.ones((CLASSES - 1, 7))}, "there are 2 classes"),
    ],
)
def test_bad_arrays_are_refused_by_name(tmp_path, changes, message):
    with pytest.raises(DataError, match=r"pairs\.npz") as error:
        read(save(tmp_path, **changes))
    assert message in str(error.value)


def test_rows_that_differ_without_labels_are_refused_and_columns_that_agree_are_pointed_out(tmp_path):
    with pytest.raises(DataError, match=r"text has 14 rows but image has 15"):
        read(save(tmp_path, ("label", "split"), text=np.zeros((14, 4))))
    with pytest.raises(DataError, match=r"columns agree \(image \(5, 15\), text \(4, 15\)\).*transpose"):
        read(save(tmp_path, ("label", "split"), **{name: joined()[name].T for name in ("image", "text")}))
    with pytest.raises(DataError, match="modalities are 'image'; expected two or more"):
        read(save(tmp_path, ("text",)))


@pytest.mark.parametrize(
    ("name", "message"),
    [(".", "no features in a known layout"), ("x", "does not exist"), ("note.txt", "no known form")],
)
def test_unknown_places_list_the_accepted_forms(tmp_path, name, message):
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path / name)
    for said in (tmp_path / name, ".npz", ".mat", ".csv", "train_img_files.pkl", "train_img_lab.mat"):
        assert str(said) in str(error.value)


def test_several_data_sets_in_one_folder_are_refused(tmp_path):
    write_jfse(tmp_path, make_parts())
    write_npz(tmp_path, make_parts())
    with pytest.raises(DataError, match=r"JFSE pickles, pairs\.npz"):
        read(tmp_path)
    assert len(read(tmp_path / "pairs.npz")) == TRAIN + TEST


@pytest.mark.parametrize(
    ("layout", "missing"), [("jfse", "test_txt_files.pkl"), ("jfse", "train_labels.pkl"), ("dscmr", "test_img_lab.mat")]
)
def test_a_missing_file_of_a_layout_is_named(tmp_path, layout, missing):
    LAYOUTS[layout](tmp_path, make_parts())
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=f"lacks {missing}; add"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("test_txt_files.pkl", np.zeros((TEST - 1, 4)), "test part: text has 5 rows but label has 6"),
        ("test_labels.pkl", [0] * 5, "test part: label has 5 rows but text has 6"),
        ("train_txt_files.pkl", np.zeros((TRAIN, 3)), "text is .* only the number of rows may differ"),
        ("train_labels.pkl", ["a"] * TRAIN, "label is .* only the number of rows may differ"),
        *(
            ("train_img_files.pkl", value, r"train_img_files\.pkl: ")
            for value in ([[1.0, 2.0], [3.0]], {"features": 1}, [{"a": 1}] * TRAIN, 3.0, ["a"] * TRAIN, None)
        ),
    ],
)
def test_a_pickle_that_does_not_fit_the_others_is_refused(tmp_path, name, value, message):
    write_jfse(tmp_path, make_parts())
    dump(tmp_path, name, value)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


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
        with pytest.raises(DataError, match=rf"train_attribute\.pkl: {message}"):
            read(tmp_path)
    for split, rows in ROWS.items():
        dump(tmp_path, f"{split}_labels.pkl", np.ones((rows, CLASSES)))
    with pytest.warns(UserWarning, match="several classes"):
        assert read(tmp_path).class_embedding is None


def test_matlab_files_that_are_not_what_they_should_be_are_refused(tmp_path):
    write_dscmr(tmp_path, make_parts())
    file = tmp_path / "train_txt.mat"
    scipy.io.savemat(file, {"features": np.eye(3)})
    with pytest.raises(DataError, match=r"train_txt\.mat: holds features; expected the variable train_txt"):
        read(tmp_path)
    scipy.io.savemat(file, {"train_txt": np.array(["a", 1], dtype=object)})
    with pytest.raises(DataError, match=r"train_txt\.mat, train_txt: holds object"):
        read(tmp_path)


def test_hdf5_that_matlab_did_not_write_is_refused_under_its_name(tmp_path):
    written = WRITERS["h5"](tmp_path, make_parts())
    written.rename(tmp_path / "features.mat")
    with pytest.raises(DataError, match=r"features\.mat: is HDF5 that MATLAB did not write.*features\.h5"):
        read(tmp_path / "features.mat")


def test_code_in_a_pytorch_file_is_not_run(tmp_path):
    import torch

    torch.save({"image": np.zeros((3, 2)), "model": torch.nn.Linear}, tmp_path / "model.pt")
    with pytest.raises(DataError, match=r"model\.pt: cannot be read as a PyTorch file"):
        read(Path(tmp_path / "model.pt"))
