"""Extracted features as paired ones: what `OwnData` reads of them, what it refuses, and training on them."""

import extract_cases
import numpy as np
import pytest
from extract_cases import COUNTS, IMAGE_MODEL, ITEMS, SOUND_MODEL, SPLIT, Lengths, tensors_of, written_by_hand
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save, save_file
from tiny_trees import write_wikipedia

from datamodules import DataError, OwnData, WikipediaRaw
from datamodules.extract import extract_features
from datamodules.files.extracted_features import read_extracted, read_metadata
from datamodules.items import ItemSet, Modality

bundle, root, weights, written = extract_cases.bundle, extract_cases.root, extract_cases.weights, extract_cases.written


# What is read -------------------------------------------------------------------------------------------------------


def test_an_item_keeps_all_of_its_entries_and_its_class_their_mean(written):
    module = OwnData(written)
    held = tensors_of(written)
    assert module.modalities == ("image", "text", "audio")
    for name in module.modalities:
        np.testing.assert_array_equal(module.data.vectors[name], held[f"features/{name}"])
        np.testing.assert_array_equal(module.data.modalities[name].owners(), held[f"owner/{name}"])
    parts = np.split(held["features/text"].astype(np.float64), np.cumsum(COUNTS)[:-1])
    means = np.stack([part.mean(axis=0) for part in parts])
    assert module.class_encoder == "from-data"  # an item is a class of its own
    np.testing.assert_allclose(module.class_embedding, means, rtol=1e-6, atol=1e-7)
    assert module.class_names == tuple(ITEMS)
    np.testing.assert_array_equal(module.data.split, SPLIT)
    assert module.features == f"{IMAGE_MODEL} (image.safetensors), all-MiniLM-L6-v2, {SOUND_MODEL} (sound.pt)"


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.integers(0, 3), st.integers(0, 9))
def test_what_was_written_is_read_whatever_the_numbers_of_entries(tmp_path_factory, counts, labels, seed):
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(counts)), counts)
    vectors = {"text": rng.normal(size=(len(owner), 3)), "image": rng.normal(size=(len(counts), 2))}
    vectors = {name: array.astype(np.float32) for name, array in vectors.items()}
    label = rng.integers(5, 6 + labels, len(counts))
    names = [f'item "{i}", é' for i in range(len(counts))]
    split = np.array(["train", "validation", "test"])[rng.integers(0, 3, len(counts))]
    modalities = {
        "text": Modality([f"text {i}" for i in range(len(owner))], owner),
        "image": Modality(np.zeros((len(counts), 2))),
    }
    path = tmp_path_factory.mktemp("hand") / "hand.safetensors"
    read = read_extracted(written_by_hand(path, ItemSet(modalities, label, split, names, "hand"), vectors))
    assert list(read.vectors) == ["text", "image"]
    np.testing.assert_array_equal(read.modalities["text"].owners(), owner)
    for name, array in vectors.items():
        np.testing.assert_array_equal(read.vectors[name], array)
    assert read.split.tolist() == split.tolist()
    np.testing.assert_array_equal(read.label[:, None] == read.label, label[:, None] == label)
    alone = len(set(label.tolist())) == len(label)
    expected = names if alone else [f"class {value}" for value in label]
    assert [read.class_names[c] for c in read.label] == expected
    for number in range(len(read.class_names)):
        members = read.label == number
        trained = members & (split == "train")
        of_items = [vectors["text"][owner == item].mean(axis=0, dtype=np.float64) for item in range(len(counts))]
        expected = np.stack(of_items)[trained if trained.any() else members].mean(axis=0)
        np.testing.assert_allclose(read.class_embedding[number], expected, rtol=1e-5, atol=1e-6)


def test_class_names_of_a_data_set_are_kept_of_those_that_have_items(tmp_path):
    data = WikipediaRaw(write_wikipedia(tmp_path / "root").parent)
    extract_features(data, {"image": Lengths, "text": Lengths}, tmp_path / "out.safetensors")
    read = read_extracted(tmp_path / "out.safetensors")
    assert read.class_names == ("art", "biology", "warfare")
    assert [read.class_names[c] for c in read.label] == [data.data.class_names[c] for c in data.data.label]


def test_a_folder_with_the_file_alone_is_read_as_the_file(written, tmp_path):
    (tmp_path / "features.safetensors").write_bytes(written.read_bytes())
    (tmp_path / "captions.txt").write_text("raw data may lie beside it")
    assert OwnData(tmp_path).data.digest() == OwnData(written).data.digest()
    assert OwnData(tmp_path, class_encoder="from-data").class_embedding.shape == (len(ITEMS), 384)


def test_the_ending_may_be_in_capitals(written, tmp_path):
    path = tmp_path / "FEATURES.SAFETENSORS"
    path.write_bytes(written.read_bytes())
    assert OwnData(path).features == OwnData(written).features


def test_files_of_another_kind_or_damaged_are_refused(written, tmp_path):
    path = tmp_path / "broken.safetensors"
    expected = r"broken.safetensors: .*`python -m datamodules extract` writes it"
    whole = written.read_bytes()
    held, metadata = tensors_of(written), read_metadata(written)
    save_file({"label": np.zeros(3)}, path)
    with pytest.raises(DataError, match=f"{expected[:22]}says 'no' as its format"):
        _ = OwnData(path).data
    changes = (
        ("owner/text", held["owner/text"][::-1].copy()),
        ("owner/text", np.maximum(held["owner/text"], 1)),
        ("owner/image", held["owner/image"] + 1),
        ("split", held["split"] + 3),
        ("label", held["label"] + 2**40),
        ("label", held["label"] - 1),
    )
    damaged = [save(held | {name: array}, metadata) for name, array in changes]
    damaged += [save({name: x for name, x in held.items() if name != "label"}, metadata)]
    for content in (b"", b"no tensors", whole[:-10], whole[:100], *damaged):
        path.write_bytes(content)
        with pytest.raises(DataError, match=expected):
            read_extracted(path)


def test_items_of_their_own_class_are_divided_between_training_and_validation(tmp_path):
    rng, split = np.random.default_rng(0), np.repeat(["train", "test"], [15, 5])
    vectors = {name: rng.normal(size=(20, 2)).astype(np.float32) for name in ("image", "text")}
    modalities = {name: Modality(array) for name, array in vectors.items()}
    data = ItemSet(modalities, np.arange(20), split, [f"item {i}" for i in range(20)], "hand")
    path = written_by_hand(tmp_path / "hand.safetensors", data, vectors)
    module, other = (OwnData(path, validation_fraction=0.2, seed=seed) for seed in (0, 1))
    parts = [module.indices(part) for part in ("train", "validation", "standard")]
    assert [len(part) for part in parts] == [12, 3, 5]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(20))
    assert module.indices("validation").tolist() != other.indices("validation").tolist()
    assert len(OwnData(path, validation_fraction=0).indices("train")) == 15
