"""Readers of published feature layouts: equal content from each, and refusals that name the file."""

from __future__ import annotations

import struct
import warnings

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from feature_pairs_cases import (
    CLASSES,
    ROWS,
    TEST,
    TRAIN,
    WRITERS,
    dump,
    joined,
    make_parts,
    save,
    write_jfse,
    write_npz,
)

from datamodules.datasets.feature_pairs import FeaturePairs
from datamodules.errors import DataError
from datamodules.files.feature_files import load_mat, read_feature_pairs


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_gives_the_same_items(tmp_path, layout):
    parts = make_parts()
    WRITERS[layout](tmp_path, parts)
    data = read_feature_pairs(tmp_path)
    expected = joined(parts)
    for name in ("image", "text"):
        np.testing.assert_array_equal(data.vectors[name], expected[name])
        assert data.vectors[name].dtype == np.float32
    np.testing.assert_array_equal(data.label, expected["label"])
    np.testing.assert_array_equal(data.split, expected["split"])
    assert data.class_names == tuple(f"class {c + (layout in ('acmr', 'dscmr'))}" for c in range(CLASSES))
    assert data.class_embedding is None


# Labels ---------------------------------------------------------------------------------------------------------------


def test_shifted_labels_are_announced(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("datamodules.labels.rank_zero_info", said.append)
    read_feature_pairs(save(tmp_path))
    assert said == []
    data = read_feature_pairs(save(tmp_path, label=joined(make_parts())["label"] + 1))
    np.testing.assert_array_equal(data.label, joined(make_parts())["label"])
    assert len(said) == 1
    assert "pairs.npz" in said[0]
    assert "start at 1" in said[0]


def test_labels_from_one_stay_where_the_class_list_has_a_class_zero(tmp_path):
    label = np.maximum(joined(make_parts())["label"], 1)
    data = read_feature_pairs(save(tmp_path, label=label, class_names=np.array(["a", "b", "c"])))
    np.testing.assert_array_equal(data.label, label)


def test_class_names_as_labels(tmp_path):
    label = joined(make_parts())["label"]
    names = np.array(["whale", "castle", "river"])
    data = read_feature_pairs(save(tmp_path, label=names[label]))
    assert data.class_names == ("castle", "river", "whale")
    assert [data.class_names[c] for c in data.label] == names[label].tolist()
    data = read_feature_pairs(save(tmp_path, label=names[label].astype("S"), class_names=names))
    assert data.class_names == tuple(names)
    np.testing.assert_array_equal(data.label, label)


def test_label_matrix(tmp_path):
    label = joined(make_parts())["label"]
    one_hot = np.eye(CLASSES, dtype=np.uint8)[label]
    np.testing.assert_array_equal(read_feature_pairs(save(tmp_path, label=one_hot)).label, label)
    one_hot[0] = 1
    data = read_feature_pairs(save(tmp_path, label=one_hot))
    assert data.label.dtype == bool
    np.testing.assert_array_equal(data.label, one_hot)


# One .npz file --------------------------------------------------------------------------------------------------------


def test_drawn_split_is_stratified_and_seeded(tmp_path):
    label = np.repeat(np.arange(4), 10)
    features = np.random.default_rng(0).standard_normal((40, 3))
    file = save(tmp_path, ("split",), image=features, text=features, label=label)
    modules = [FeaturePairs(file, test_fraction=0.3, split_seed=seed, class_encoder="one-hot") for seed in (0, 0, 1)]
    first, again, other = (module.indices("standard").tolist() for module in modules)
    assert np.bincount(label[first]).tolist() == [3, 3, 3, 3]
    assert first == again != other


def test_class_embedding_comes_along(tmp_path):
    table = np.random.default_rng(0).standard_normal((CLASSES, 7))
    data = read_feature_pairs(save(tmp_path, class_embedding=table))
    np.testing.assert_array_equal(data.class_embedding, table.astype(np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": np.zeros(15) + 0.5}, "labels are float64"),
        ({"label": np.full(15, np.nan)}, "labels are float64"),
        ({"label": np.zeros((15, 2, 2))}, "labels are float64 of shape"),
        ({"label": np.arange(15) - 1}, "run from -1 to 13"),
        ({"label": np.arange(15) * 1000}, "number the classes"),
        ({"label": np.full((15, 3), 2)}, "zeros and ones only"),
        ({"label": np.zeros((15, 3), dtype=bool)}, "no class"),
        ({"label": np.zeros(14, dtype=int)}, "row counts differ"),
        ({"label": np.zeros(15, dtype="datetime64[s]")}, "labels are datetime64"),
        ({"audio": np.zeros((15, 2)), "depth": np.zeros((15, 2))}, "array audio, depth; FeaturePairs takes two"),
        ({"image": np.array([{}] * 15)}, "image: holds object of shape (15,) with dict"),
        ({"image": np.zeros(15)}, "expected numbers of shape"),
        ({"text": np.array([["a"]] * 15)}, "expected numbers of shape"),
        ({"text": np.full((15, 2), 1e300)}, "NaN or infinite"),
        ({"text": np.zeros((14, 2))}, "text: has 14 rows but image has 15"),
        ({"split": np.zeros(15)}, "split: holds float64"),
        ({"split": np.array(["train"] * 14 + ["dev"])}, "'dev' is unknown"),
        ({"class_names": np.arange(3)}, "class_names: holds int64"),
        ({"class_names": np.array(["a", "a", "b"])}, "two classes are called 'a'"),
        ({"class_names": np.array(list("abcd")), "label": np.eye(3, dtype=int)[np.arange(15) % 3]}, "class_names"),
        ({"class_names": np.array(list("abcd")), "label": np.array(["a", "b", "z"])[np.arange(15) % 3]}, "class_names"),
        ({"class_embedding": np.ones((CLASSES - 1, 7))}, "class_embedding"),
    ],
)
def test_bad_arrays_are_refused_whether_the_split_is_given_or_drawn(tmp_path, changes, message):
    for drop in ((), ("split",)):
        if not set(drop) & set(changes):
            with pytest.raises(DataError, match=r"pairs\.npz") as error:
                read_feature_pairs(save(tmp_path, drop, **changes))
            assert message in str(error.value)


def test_missing_array_is_named(tmp_path):
    with pytest.raises(DataError, match="holds image, split; add text, label"):
        read_feature_pairs(save(tmp_path, ("text", "label")))


# Finding the layout ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"), [(".", "no features in a known layout"), ("x", "does not exist"), ("note.txt", "not an .npz")]
)
def test_unknown_places_list_the_accepted_layouts(tmp_path, name, message):
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(DataError, match=message) as error:
        FeaturePairs(tmp_path / name).data  # noqa: B018
    for said in (tmp_path / name, ".npz file", "train_img_files.pkl", "train_img_feats.pkl", "train_img_lab.mat"):
        assert str(said) in str(error.value)


def test_several_data_sets_in_one_folder_are_refused(tmp_path):
    write_jfse(tmp_path, make_parts())
    write_npz(tmp_path, make_parts())
    with pytest.raises(DataError, match=r"JFSE pickles, pairs\.npz"):
        read_feature_pairs(tmp_path)
    assert len(read_feature_pairs(tmp_path / "pairs.npz")) == TRAIN + TEST


@pytest.mark.parametrize(
    ("layout", "missing"), [("jfse", "test_txt_files.pkl"), ("jfse", "train_labels.pkl"), ("dscmr", "test_img_lab.mat")]
)
def test_missing_file_is_named(tmp_path, layout, missing):
    WRITERS[layout](tmp_path, make_parts())
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=f"lacks {missing}; add"):
        read_feature_pairs(tmp_path)


# Folders --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "test_txt_files.pkl",
            np.zeros((TEST - 1, 4)),
            r"test_txt_files\.pkl: has 5 rows but .*test_img_files\.pkl has 6",
        ),
        ("test_labels.pkl", np.eye(CLASSES)[[0] * 5], r"test_labels\.pkl: has 5 rows but .*test_img_files\.pkl has 6"),
        ("train_txt_files.pkl", np.zeros((TRAIN, 3)), "text is .* only the number of rows may differ"),
        ("train_labels.pkl", ["a"] * TRAIN, "label is .* only the number of rows may differ"),
        ("train_labels.pkl", [0] * TRAIN, "label is .* only the number of rows may differ"),
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
        read_feature_pairs(tmp_path)


def test_class_embedding_per_item_becomes_one_per_class(tmp_path):
    parts = make_parts()
    write_jfse(tmp_path, parts)
    label, table = parts["train"]["label"], np.random.default_rng(1).standard_normal((CLASSES, 6)).astype(np.float32)
    dump(tmp_path, "train_attribute.pkl", list(table[label]))
    np.testing.assert_array_equal(read_feature_pairs(tmp_path).class_embedding, table)
    dump(tmp_path, "train_attribute.pkl", table)
    with pytest.raises(DataError, match=r"train_attribute\.pkl: has 3 rows"):
        read_feature_pairs(tmp_path)
    changed = table[label]
    changed[-1] += 1
    dump(tmp_path, "train_attribute.pkl", changed)
    with pytest.raises(DataError, match="row 8 differs"):
        read_feature_pairs(tmp_path)


def test_class_without_training_item_leaves_no_class_embedding(tmp_path):
    parts = make_parts()
    parts["train"]["label"] = parts["train"]["label"] % (CLASSES - 1)
    write_jfse(tmp_path, parts)
    dump(tmp_path, "train_attribute.pkl", np.ones((TRAIN, 2)))
    with pytest.warns(UserWarning, match="covers 2 of 3 classes"):
        assert read_feature_pairs(tmp_path).class_embedding is None
    for split, rows in ROWS.items():
        dump(tmp_path, f"{split}_labels.pkl", np.ones((rows, CLASSES)))
    with pytest.warns(UserWarning, match="several classes"):
        assert read_feature_pairs(tmp_path).class_embedding is None


def test_matlab_files(tmp_path):
    file = tmp_path / "train_txt.mat"
    scipy.io.savemat(file, {"train_txt": scipy.sparse.csc_matrix(np.eye(3))})
    np.testing.assert_array_equal(load_mat(file), np.eye(3))
    scipy.io.savemat(file, {"features": np.eye(3)})
    with pytest.raises(DataError, match=r"train_txt\.mat: holds features; expected the variable train_txt"):
        load_mat(file)
    scipy.io.savemat(file, {"train_txt": np.array(["a", 1], dtype=object)})
    with pytest.raises(DataError, match=r"train_txt\.mat: holds object"):
        load_mat(file)
    file.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + struct.pack("<H", 0x0200) + b"IM" + bytes(400))
    with pytest.raises(DataError, match=r"train_txt\.mat: a MATLAB file of version 7\.3; .* '-v7'"):
        load_mat(file)


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_file_is_named(tmp_path, layout, share):
    parts = make_parts()
    WRITERS[layout](tmp_path, parts)
    file = next(
        tmp_path / name
        for name in ("pairs.npz", "test_txt_vecs.pkl", "test_txt_files.pkl", "test_txt.mat")
        if (tmp_path / name).exists()
    )
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=f"{file.name}: cannot be read as"):
        read_feature_pairs(tmp_path)


# The datamodule -------------------------------------------------------------------------------------------------------


def test_datamodule_hands_out_the_features(tmp_path):
    write_jfse(tmp_path, make_parts())
    module = FeaturePairs(tmp_path, dataset="mine", batch_size=4, validation_fraction=0.34, class_encoder="one-hot")
    assert (module.dataset, module.features, module.data_kind) == ("mine", "own", "real")
    assert module.dims == {"image": 5, "text": 4, "class_embedding": CLASSES}
    parts = [module.indices(name) for name in ("train", "validation", "standard")]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(TRAIN + TEST))
    (batch,) = list(module.test_dataloader()[0])
    np.testing.assert_array_equal(batch["image"], make_parts()["test"]["image"])
    np.testing.assert_array_equal(batch["label"]["image"], make_parts()["test"]["label"])


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 20])
def test_a_share_of_test_items_out_of_range_is_refused(tmp_path, fraction):
    with pytest.raises(ValueError, match="test_fraction is"):
        FeaturePairs(save(tmp_path), test_fraction=fraction).data  # noqa: B018


def test_class_numbers_that_a_sentence_encoder_embeds_are_warned_about(tmp_path):
    with pytest.warns(UserWarning, match=r"pairs\.npz: class names are unknown.*'class 0' to 'class 2'.*class_names"):
        numbers = FeaturePairs(save(tmp_path)).class_embedding
    assert numbers.shape == (CLASSES, 384)
    table = np.eye(CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named = FeaturePairs(save(tmp_path, class_names=np.array(["art", "sport", "class 3"])))
        assert named.class_embedding.shape == (CLASSES, 384)
        for module in (
            FeaturePairs(save(tmp_path), class_encoder="one-hot"),
            FeaturePairs(save(tmp_path, class_embedding=table)),
        ):
            np.testing.assert_array_equal(module.class_embedding, table)
