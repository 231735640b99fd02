"""Own features: equal items from every form, the forms of labels and splits."""

import warnings

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from own_cases import CLASSES, WRITERS, joined, make_parts, matlab73, read, save

from datamodules import DataError, OwnData

LABEL = joined()["label"]


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_gives_the_same_items(tmp_path, form):
    data = read(WRITERS[form](tmp_path, make_parts()))
    expected = joined()
    assert list(data.vectors) == ["image", "text"]
    for name in ("image", "text"):
        np.testing.assert_array_equal(data.vectors[name], expected[name])
        assert data.vectors[name].dtype == np.float32
    np.testing.assert_array_equal(data.label, expected["label"])
    np.testing.assert_array_equal(data.split, expected["split"])
    assert data.class_names == tuple(f"class {c + (form in ('acmr', 'dscmr', 'mat'))}" for c in range(CLASSES))
    assert data.class_embedding is None


@pytest.mark.parametrize("form", WRITERS)
def test_a_truncated_file_is_named(tmp_path, form):
    path = WRITERS[form](tmp_path, make_parts())
    file = path if path.is_file() else max(tmp_path.glob("*t[xe][xt]*.[npm][pka][ylt]"))
    whole = file.read_bytes()
    for share in (0.0, 0.4):
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DataError, match=file.name):
            read(path)


# What was understood ------------------------------------------------------------------------------------------------


def test_one_line_says_what_was_understood(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("datamodules.datasets.own_data.rank_zero_info", said.append)
    data = OwnData(save(tmp_path), seed=1)
    data.prepare_data()
    assert data.describe() == (
        "2 modalities: image 5-d, text 4-d; 15 items, 3 classes, split from the file (6 train, 3 validation, 6 test)"
    )
    assert data.modalities == ("image", "text")
    assert said == [f"{data.source}: {data.describe()}"]
    file = save(tmp_path, ("split", "label"), audio=np.ones((15, 2)) * np.arange(15)[:, None], image=np.eye(15))
    assert OwnData(file).describe() == (
        "3 modalities: image 15-d, text 4-d, audio 2-d; 15 items, no labels (each item matches itself), "
        "split drawn by seed 0 as 70 / 10 / 20 % (10 train, 2 validation, 3 test)"
    )
    assert OwnData(file, modalities=["audio", "text"]).modalities == ("audio", "text")


def test_matrices_in_a_cell_array_are_modalities_in_both_versions_of_matlab(tmp_path):
    views = [np.random.default_rng(m).random((12, 3 + m)) for m in range(3)]
    cells = np.empty((3, 1), dtype=object)
    cells[:, 0] = [views[0], scipy.sparse.csc_matrix(views[1]), views[2]]
    names = ["cat", "bird", "dog", "ox"] * 3
    old, texts = tmp_path / "old.mat", np.empty((12, 1), dtype=object)
    texts[:, 0] = names
    scipy.io.savemat(old, {"X": cells, "truth": texts, "views": 3})
    for file in (old, matlab73(tmp_path / "new.mat", {"X": views, "truth": names, "views": np.array([[3.0]])})):
        data = read(file)
        assert list(data.vectors) == ["X1", "X2", "X3"]
        for found, expected in zip(data.vectors.values(), views, strict=True):
            np.testing.assert_array_equal(found, expected.astype(np.float32))
        assert [data.class_names[label] for label in data.label] == names


def test_views_stacked_in_one_npy_are_modalities(tmp_path):
    np.save(tmp_path / "both.npy", np.random.default_rng(0).random((2, 20, 3)))
    assert {name: x.shape for name, x in read(tmp_path / "both.npy").vectors.items()} == {"x1": (20, 3), "x2": (20, 3)}
    np.save(tmp_path / "both.npy", np.zeros((20, 3)))
    with pytest.raises(DataError, match=r"both\.npy: is one array .* for each modality"):
        read(tmp_path / "both.npy")


@pytest.mark.parametrize("form", ["labels", "one-hot", "mat"])
def test_features_with_the_items_in_columns_are_turned_by_the_labels(tmp_path, form):
    arrays = joined()
    expected = OwnData(save(tmp_path)).data
    turned = {name: arrays[name].T for name in ("image", "text")}
    label = {"labels": LABEL, "one-hot": np.eye(3)[LABEL].T, "mat": LABEL[None]}[form]
    if form == "mat":
        scipy.io.savemat(tmp_path / "turned.mat", {**turned, "gt": label})
        module = OwnData(tmp_path / "turned.mat", split="random")
    else:
        module = OwnData(save(tmp_path, **turned, label=label))
    for name in turned:
        np.testing.assert_array_equal(module.data.vectors[name], expected.vectors[name])
    np.testing.assert_array_equal(module.data.label, LABEL)
    assert "image, text transposed" in module.describe()


def test_square_features_follow_the_others_and_are_refused_alone(tmp_path):
    square = np.random.default_rng(0).random((15, 15), dtype="f4")
    np.testing.assert_array_equal(read(save(tmp_path, image=square)).vectors["image"], square)
    turned = read(save(tmp_path, image=square, text=joined()["text"].T)).vectors["image"]
    np.testing.assert_array_equal(turned, square.T)
    with pytest.raises(DataError, match=r"pairs\.npz: image has as many rows as columns, 15"):
        read(save(tmp_path, image=square, text=square))


# Labels -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "names", "expected"),
    [
        (LABEL * 1000 - 7, None, ["class -7", "class 993", "class 1993"]),
        (LABEL.astype(float) + 1, None, ["class 1", "class 2", "class 3"]),
        (LABEL, ["ant", "bee", "cat"], ["ant", "bee", "cat"]),
        (LABEL + 1, ["ant", "bee", "cat"], ["ant", "bee", "cat"]),
        (LABEL * 5, ["ant", "bee", "cat"], ["ant", "bee", "cat"]),
        (LABEL, ["ant", "bee", "cat", "dog"], ["ant", "bee", "cat"]),
        (LABEL + 1, ["none", "ant", "bee", "cat", "dog"], ["ant", "bee", "cat"]),
        (np.array(["cat", "ant", "bee"])[LABEL], None, ["ant", "bee", "cat"]),
        (np.array(["cat", "ant", "bee"])[LABEL].astype("S"), ["cat", "bee", "ant", "dog"], ["cat", "bee", "ant"]),
        (np.eye(5, dtype="u1")[LABEL + 1], None, ["class 1", "class 2", "class 3"]),
        (np.eye(5)[LABEL + 1], ["z", "ant", "bee", "cat", "y"], ["ant", "bee", "cat"]),
    ],
)
def test_labels_of_any_form_become_the_classes_that_have_items(tmp_path, label, names, expected):
    changes = {} if names is None else {"class_names": np.array(names)}
    data = read(save(tmp_path, label=label, **changes))
    assert sorted(set(data.label.tolist())) == [0, 1, 2]
    assert data.class_names == tuple(expected)
    groups = {tuple(np.flatnonzero(data.label == c)) for c in range(3)}
    assert groups == {tuple(np.flatnonzero(c == LABEL)) for c in range(3)}
    if label.dtype.kind in "SU":
        assert [data.class_names[c] for c in data.label] == label.astype(str).tolist()


def test_several_classes_per_item(tmp_path):
    member = np.eye(CLASSES + 1, dtype=np.uint8)[LABEL]
    member[0] = 1, 1, 0, 0
    data = read(save(tmp_path, label=member))
    assert data.label.dtype == bool
    np.testing.assert_array_equal(data.label, member[:, :CLASSES])
    assert "3 classes, several per item" in OwnData(save(tmp_path, label=member)).describe()


def test_classes_of_items_with_several_that_are_only_tested_are_counted(tmp_path):
    member = np.eye(CLASSES + 1, dtype=np.uint8)[LABEL]
    assert "without a training item" not in OwnData(save(tmp_path, label=member)).describe()
    member[-1, -1] = 1  # the last item is of test
    assert "1 class(es) of test items without a training item" in OwnData(save(tmp_path, label=member)).describe()


def test_zero_shot_halves_are_of_classes_that_have_items(tmp_path):
    label = np.repeat([3, 900, 17, 40], 10)
    features = np.random.default_rng(0).random((40, 3))
    names = np.array([f"name {c}" for c in range(1000)])
    module = OwnData(
        save(tmp_path, ("split",), image=features, text=features + 1, label=label, class_names=names),
        class_split="zero-shot",
        class_encoder="one-hot",
    )
    halves = np.concatenate(module.class_halves)
    assert sorted(module.class_names[c] for c in halves) == ["name 17", "name 3", "name 40", "name 900"]
    assert len(module.indices("unseen")) == 4


def test_embeddings_of_classes_follow_their_classes(tmp_path):
    table = np.random.default_rng(0).standard_normal((CLASSES + 2, 7)).astype("f4")
    assert OwnData(save(tmp_path, class_embedding=table[:3])).class_encoder == "from-data"
    np.testing.assert_array_equal(read(save(tmp_path, class_embedding=table[:3])).class_embedding, table[:3])
    np.testing.assert_array_equal(
        read(save(tmp_path, label=LABEL + 2, class_embedding=table)).class_embedding, table[2:]
    )


def test_class_numbers_are_embedded_one_hot_and_by_a_sentence_model_with_a_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(OwnData(save(tmp_path)).class_embedding, np.eye(CLASSES))
        named = OwnData(save(tmp_path, class_names=np.array(["art", "sport", "class 3"])))
        assert (named.class_encoder, named.class_embedding.shape) == ("all-MiniLM-L6-v2", (CLASSES, 384))
    with pytest.warns(UserWarning, match=r"pairs\.npz.*'class 0' to 'class 2'.*class_names"):
        _ = OwnData(save(tmp_path), class_encoder="all-MiniLM-L6-v2").class_embedding
    assert not OwnData(save(tmp_path, ("label",))).has_class_embedding
    assert not OwnData(save(tmp_path, audio=np.eye(15, 2))).has_class_embedding


# Splits -------------------------------------------------------------------------------------------------------------


def test_a_drawn_split_is_stratified_and_seeded(tmp_path):
    label = np.repeat(np.arange(5) * 7, [10, 10, 10, 10, 1])
    features = np.random.default_rng(0).standard_normal((41, 3))
    file = save(tmp_path, ("split",), image=features, text=features, label=label)
    modules = [OwnData(file, fractions=(0.5, 0.2, 0.3), seed=seed) for seed in (0, 0, 1)]
    first, again, other = (module.indices("standard").tolist() for module in modules)
    assert np.bincount(modules[0].data.label[first]).tolist() == [3, 3, 3, 3]
    assert first == again != other
    assert np.bincount(modules[0].data.label[modules[0].indices("validation")]).tolist() == [2, 2, 2, 2]
    assert 40 in modules[0].indices("train"), "the one item of a class is trained on"


def test_the_array_that_split_names_and_a_drawn_split_in_its_place(tmp_path):
    fold = np.array(["Train"] * 8 + ["VAL"] * 2 + ["test"] * 5)
    file = save(tmp_path, fold=fold)
    module = OwnData(file, split="fold", modalities=["image", "text"])
    assert [len(module.indices(part)) for part in ("train", "validation", "standard")] == [8, 2, 5]
    assert "split from 'fold'" in module.describe()
    module = OwnData(file, split="random", modalities=["image", "text"], seed=3)
    assert "split drawn by seed 3" in module.describe()
    with pytest.raises(DataError, match=r"pairs\.npz: has no array 'folds'.*label, split, fold"):
        read(file, split="folds")


@pytest.mark.parametrize("fractions", [(0.7, 0.3), (0.8, 0.0, 0.2), (0.5, 0.4, 0.2), (1.2, -0.4, 0.2)])
def test_fractions_that_are_no_shares_are_refused(tmp_path, fractions):
    with pytest.raises(ValueError, match="fractions are"):
        OwnData(save(tmp_path), fractions=fractions)


# Entries that belong to one item ------------------------------------------------------------------------------------

CAPTIONS = np.random.default_rng(1).random((30, 4), dtype="f4")


@pytest.mark.parametrize("form", ["ids of both", "numbers of rows", "one id for rows", "csd predict"])
def test_several_entries_of_an_item_by_ids(tmp_path, form):
    image, label = np.random.default_rng(0).random((10, 3), dtype="f4"), np.arange(10) % 2
    owner = np.repeat(np.arange(10), 3)
    ids = np.array([f"{i}.jpg" for i in range(10)])
    arrays = {
        "ids of both": {"image_id": ids, "text_id": ids[owner], "label": label},
        "numbers of rows": {"text_id": owner, "label": label[owner]},
        "one id for rows": {"id": ids[owner], "image": image[owner], "label": label[owner]},
        "csd predict": {
            **{f"id/{name}": np.arange(n) for name, n in (("image", 10), ("text", 30))},
            **{"item/image": np.arange(10) + 5, "item/text": owner + 5},
            **{"label/image": label, "label/text": label[owner]},
        },
    }[form]
    np.savez(tmp_path / "captions.npz", **({"image": image, "text": CAPTIONS} | arrays))
    module = OwnData(tmp_path / "captions.npz")
    np.testing.assert_array_equal(module.data.vectors["image"], image)
    np.testing.assert_array_equal(module.data.modalities["text"].owners(), owner)
    np.testing.assert_array_equal(module.data.label, label)
    assert "10 items" in module.describe()
    assert "text 4-d (30)" in module.describe()
    assert ("20 repeated rows of image count once" in module.describe()) == (form == "one id for rows")
    (batch,) = module.test_dataloader()[0]
    assert [len(batch["id"][name]) for name in ("image", "text")] == [2, 6]
    arrays, of_rows = module.arrays("train")
    assert [len(x) for x in (*arrays.values(), of_rows)] == [3 * len(module.indices("train"))] * 3
    np.testing.assert_array_equal(np.unique(arrays["image"], axis=0), np.unique(image[module.indices("train")], axis=0))
    rows, mask = module.entries_to_fit("text")
    np.testing.assert_array_equal(rows[mask], CAPTIONS[np.isin(owner, module.indices("train"))])


def test_items_whose_entries_disagree_or_that_lack_one_are_refused(tmp_path):
    image, owner = np.ones((10, 3)) * np.arange(10)[:, None], np.repeat(np.arange(10), 3)
    label = (owner % 2).copy()
    label[4] = 5
    np.savez(tmp_path / "c.npz", image=image, text=CAPTIONS, text_id=owner, label=label)
    with pytest.raises(DataError, match=r"c\.npz: item 1 has label 1 and 5"):
        read(tmp_path / "c.npz")
    np.savez(tmp_path / "c.npz", image=image, text=CAPTIONS[:27], text_id=owner[:27])
    with pytest.raises(DataError, match=r"c\.npz: text is missing from 1: 9.*on_missing"):
        read(tmp_path / "c.npz")
    assert len(read(tmp_path / "c.npz", on_missing="drop")) == 9
