"""MATLAB files of both kinds: structs, sparse and empty matrices, labels in every cell, and what holds no numbers."""

from collections.abc import Callable
from pathlib import Path

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


def version_7_3(folder: Path, write: Callable[[h5py.File], None]) -> Path:
    path = matlab73(folder / "new.mat", {})
    with h5py.File(path, "r+") as opened:
        write(opened)
    return path


def put(group: h5py.Group, name: str, kind: str, values: np.ndarray, **attributes: int) -> None:
    """A value of one of MATLAB's classes, whose axes it writes in reverse order."""
    node = group.create_dataset(name, data=np.atleast_2d(values).T)
    node.attrs["MATLAB_class"] = np.bytes_(kind)
    node.attrs.update(attributes)


def put_sparse(group: h5py.Group, name: str, values: np.ndarray) -> None:
    """As MATLAB writes a sparse matrix: by columns, and without data and rows where all is zero."""
    held, node = scipy.sparse.csc_array(values), group.create_group(name)
    node.attrs["MATLAB_class"], node.attrs["MATLAB_sparse"] = np.bytes_("double"), values.shape[0]
    node["jc"] = held.indptr
    if held.nnz:
        node["data"], node["ir"] = held.data, held.indices


def test_of_version_5_sparse_matrices_are_dense_and_structs_stand_for_their_fields(tmp_path):
    path = tmp_path / "old.mat"
    scipy.io.savemat(path, {"words": scipy.sparse.csc_array(WORDS), "info": {"labels": LABELS, "more": {"x": WORDS}}})
    found = read_mat(path)
    assert list(found) == ["words", "labels", "x"]
    np.testing.assert_array_equal(found["words"], WORDS)
    np.testing.assert_array_equal(found["labels"].ravel(), LABELS)
    np.testing.assert_array_equal(found["x"], WORDS)


def test_so_they_are_of_version_7_3(tmp_path):
    def write(opened: h5py.File) -> None:
        put_sparse(opened, "words", WORDS)
        put_sparse(opened, "none", np.zeros((4, 2)))
        info = opened.create_group("info")
        info.attrs["MATLAB_class"] = np.bytes_("struct")
        put(info, "labels", "int64", LABELS)
        put(opened, "void", "double", np.array([0, 7]), MATLAB_empty=1)  # holds its shape in place of values

    found = read_mat(version_7_3(tmp_path, write))
    assert set(found) == {"words", "none", "labels"}
    np.testing.assert_array_equal(found["words"], WORDS)
    np.testing.assert_array_equal(found["none"], np.zeros((4, 2)))
    np.testing.assert_array_equal(found["labels"].ravel(), LABELS)


def test_labels_that_every_cell_repeats_are_taken_once(tmp_path):
    cells = np.empty((1, 2), dtype=object)
    cells[0] = [LABELS, LABELS]
    scipy.io.savemat(tmp_path / "views.mat", {"Y": cells})
    np.testing.assert_array_equal(read_mat(tmp_path / "views.mat")["Y"].ravel(), LABELS)


def test_a_class_that_holds_no_numbers_is_refused_with_what_to_convert_it_by(tmp_path):
    path = version_7_3(tmp_path, lambda opened: put(opened, "names", "string", np.arange(6)))
    with pytest.raises(DataError, match=r"new\.mat, names: .*'string'.*cellstr"):
        read_mat(path)
