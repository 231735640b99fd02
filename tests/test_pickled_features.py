"""Pickles of features: arrays of every Python, no code from them, and damage that is reported."""

import builtins
import os
import pickle
import struct
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from own_cases import dump

from datamodules.errors import DataError
from datamodules.files.pickles import load_pickle

ARRAYS = hnp.arrays(
    dtype=hnp.floating_dtypes(sizes=(32, 64)) | hnp.integer_dtypes() | hnp.boolean_dtypes(),
    shape=hnp.array_shapes(min_dims=1, max_dims=2, max_side=4),
)


@settings(max_examples=100, deadline=None)
@given(
    array=ARRAYS, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL), form=st.sampled_from(["array", "fortran", "list"])
)
def test_pickles_round_trip(tmp_path_factory, array, protocol, form):
    value = {"array": array, "fortran": np.asfortranarray(array), "list": list(array)}[form]
    file = dump(tmp_path_factory.getbasetemp(), "train_img_files.pkl", value, protocol)
    np.testing.assert_array_equal(load_pickle(file), array)


def python2_pickle(array: np.ndarray) -> bytes:
    """The bytes that Python 2 writes for a list of the array's rows: protocol 2, strings as SHORT_BINSTRING."""

    def string(raw: bytes) -> bytes:
        return b"U" + bytes([len(raw)]) + raw

    def row(values: np.ndarray) -> bytes:
        kind = np.dtype(values.dtype).str
        dtype = b"cnumpy\ndtype\n" + string(kind[1:].encode()) + b"K\x00K\x01\x87R"
        dtype += b"(K\x03" + string(kind[0].encode()) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        new = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R"
        return new + b"(K\x01K" + bytes([len(values)]) + b"\x85" + dtype + b"\x89" + string(values.tobytes()) + b"tb"

    return b"\x80\x02](" + b"".join(row(values) for values in array) + b"e."


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i8"])
def test_python2_pickle(tmp_path, dtype):
    array = np.array([[1.5, -2.0, 200.25], [4.0, 1e9, -6.5]]).astype(dtype)
    file = tmp_path / "train_img_feats.pkl"
    file.write_bytes(python2_pickle(array))
    assert pickle.loads(file.read_bytes(), encoding="latin1")[1].tolist() == array[1].tolist()
    np.testing.assert_array_equal(load_pickle(file), array)


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def payloads(marker: Path) -> dict[str, object]:
    write = f"open({str(marker)!r}, 'w').close()"
    return {
        f"{os.system.__module__}.system": Call(os.system, f"touch {marker}"),
        "builtins.eval": Call(builtins.eval, write),
        "builtins.exec": [np.zeros(2), Call(builtins.exec, write)],
        "builtins.getattr": Call(getattr, np.zeros(2), "tofile"),
        "functools.partial": Call(partial, os.system, f"touch {marker}"),
        "datamodules.files.pickles.load_pickle": Call(load_pickle, marker),
    }


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", payloads(Path("x")))
def test_code_in_pickles_is_refused_and_not_run(tmp_path, name, protocol):
    marker = tmp_path / "executed"
    file = dump(tmp_path, "train_labels.pkl", payloads(marker)[name], protocol)
    with pytest.raises(DataError, match="refused") as error:
        load_pickle(file)
    assert str(file) in str(error.value)
    assert name.removeprefix("builtins.") in str(error.value)
    assert not marker.exists()
    if name.endswith(("system", "eval")):  # the payloads are not harmless
        pickle.loads(file.read_bytes())
        assert marker.exists()


def test_object_arrays_and_damaged_memo_indices_are_refused(tmp_path):
    marker, file = tmp_path / "executed", tmp_path / "train_img_files.pkl"
    inner = np.array([Call(os.system, f"touch {marker}"), None], dtype=object)
    for value in (inner, np.array([1, None], dtype=object), np.zeros(2, dtype="f4,i4")):
        with pytest.raises(DataError, match=r"train_img_files\.pkl"):
            load_pickle(dump(tmp_path, file.name, value))
    assert not marker.exists()
    begin, end = b"\x80\x02]r", b"(K\x00K\x01e."
    file.write_bytes(begin + struct.pack("<I", 1) + end)
    np.testing.assert_array_equal(load_pickle(file), [0, 1])
    file.write_bytes(begin + struct.pack("<I", 2**20) + end)  # which would claim memory
    with pytest.raises(DataError, match="memo index 1048576"):
        load_pickle(file)
