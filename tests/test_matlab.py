"""MATLAB files of both kinds: structs, sparse and empty matrices, labels in every cell, and what holds no numbers."""

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from own_cases import matlab73

from datamodules.errors import DataError
from datamodules.files.matlab import read_mat

WORDS = np.array([[0, 2, 0], [0, 0, 0], [1, 0, 3], [0, 0, 4]], dtype=float)
LABELS = np.array([3, 1, 3, 2])


def test_of_version_5_sparse_matrices_are_dense_and_structs_stand_for_their_fields(tmp_path):
    path = tmp_path / "old.mat"
    scipy.io.savemat(path, {"words": scipy.sparse.csc_array(WORDS), "info": {"labels": LABELS, "more": {"x": WORDS}}})
    found = read_mat(path)
    assert list(found) == ["words", "labels", "x"]
    np.testing.assert_array_equal(found["words"], WORDS)
    np.testing.assert_array_equal(found["labels"].ravel(), LABELS)
    np.testing.assert_array_equal(found["x"], WORDS)


def test_of_version_7_3_too_and_empty_matrices_are_left_out(tmp_path):
    none, void = np.zeros((4, 2)), np.empty((0, 7))
    sparse = {"words": scipy.sparse.csc_array(WORDS), "none": scipy.sparse.csc_array(none)}
    found = read_mat(matlab73(tmp_path / "new.mat", {**sparse, "info": {"labels": LABELS}, "void": void}))
    assert set(found) == {"words", "none", "labels"}
    np.testing.assert_array_equal(found["words"], WORDS)
    np.testing.assert_array_equal(found["none"], none)
    np.testing.assert_array_equal(found["labels"].ravel(), LABELS)


def test_labels_that_every_cell_repeats_are_taken_once(tmp_path):
    cells = np.empty((1, 2), dtype=object)
    cells[0] = [LABELS, LABELS]
    scipy.io.savemat(tmp_path / "views.mat", {"Y": cells})
    np.testing.assert_array_equal(read_mat(tmp_path / "views.mat")["Y"].ravel(), LABELS)


def test_a_class_that_holds_no_numbers_is_refused_with_what_to_convert_it_by(tmp_path):
    path = matlab73(tmp_path / "new.mat", {"names": np.arange(6)})
    with h5py.File(path, "r+") as opened:
        opened["names"].attrs["MATLAB_class"] = np.bytes_("string")
    with pytest.raises(DataError, match=r"new\.mat, names: .*'string'.*cellstr"):
        read_mat(path)
