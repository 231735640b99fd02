"""Flickr30K with captions on a tiny tree: Karpathy's file, and the images that it names."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_trees import FLICKR30K, flickr30k, write_flickr30k

from datamodules import DataError, Flickr30kCaptions
from datamodules.__main__ import main

SPLITS = {"train": "train", "val": "validation", "test": "test"}


@pytest.fixture
def folder(tmp_path):
    return write_flickr30k(tmp_path / "root")


def write_entries(folder, entries) -> None:
    (folder / "dataset_flickr30k.json").write_text(json.dumps({"images": entries}))


def refused(folder) -> str:
    with pytest.raises(DataError) as error:
        _ = Flickr30kCaptions(folder.parent).data
    assert "python -m datamodules check flickr30k" in str(error.value)
    return str(error.value)


def test_an_image_has_its_five_captions_and_the_split_of_the_file(folder):
    module = Flickr30kCaptions(folder.parent)
    data = module.data
    assert list(data.names) == [str(entry["imgid"]) for entry in flickr30k()]
    assert data.split.tolist() == [SPLITS[entry["split"]] for entry in flickr30k()]
    assert data.label.tolist() == list(range(6))
    text = data.modalities["text"]
    assert text.entries == [sentence["raw"] for entry in flickr30k() for sentence in entry["sentences"]]
    np.testing.assert_array_equal(text.owners(), np.repeat(np.arange(6), 5))
    assert [path.name for path in data.modalities["image"].entries.paths] == [e["filename"] for e in flickr30k()]
    names = np.array(data.names)
    for part, word in (("train", "train"), ("validation", "val"), ("karpathy", "test")):
        assert sorted(names[module.indices(part)].tolist()) == [str(number) for number in FLICKR30K[word]]


def test_a_test_batch_has_every_caption_of_its_images(folder):
    module = Flickr30kCaptions(folder.parent, modalities=["text", "image"])
    batch = next(iter(module.test_dataloader()[0]))
    assert batch["label"]["text"].tolist() == [label for label in batch["label"]["image"].tolist() for _ in range(5)]


def test_a_caption_without_its_image_is_refused_or_left_out(folder):
    (folder / "flickr30k-images" / "300.jpg").unlink()
    with pytest.raises(DataError, match="image is missing from 1: 300"):
        _ = Flickr30kCaptions(folder.parent).data
    with pytest.warns(UserWarning, match="1 of 6 items are left out"):
        assert "300" not in Flickr30kCaptions(folder.parent, on_missing="drop").data.names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "restval"}, "entry 2 (300.jpg) has the split 'restval'; expected train, val, test"),
        ({"filename": "300.png"}, 'entry 2 is {"sentids"'),
        ({"sentences": []}, 'expected a "filename" <name>.jpg and "sentences" with a "raw" text each'),
        ({"sentences": [{"raw": " "}]}, "entry 2 is"),
        ({"sentences": [{"tokens": ["a"]}]}, "entry 2 is"),
        ({"sentences": None}, "entry 2 is"),
        ({"filename": "100.jpg"}, "entry 2 (train) is 100.jpg, as entry 1 is (train)"),
    ],
)
def test_broken_entries_are_named_by_number(folder, change, message):
    entries = flickr30k()
    entries[1] |= change
    write_entries(folder, entries)
    said = refused(folder)
    assert said.startswith(f"{folder / 'dataset_flickr30k.json'}: ")
    assert message in said


def test_an_image_in_training_and_test_is_refused(folder):
    entries = flickr30k()
    write_entries(folder, [*entries, next(e for e in entries if e["imgid"] == 100) | {"split": "test"}])
    assert "entry 7 (test) is 100.jpg, as entry 1 is (train)" in refused(folder)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_file_without_images_to_train_or_to_test_on_is_refused(folder, part, capsys):
    write_entries(folder, [entry for entry in flickr30k() if entry["split"] != part])
    expected = f"{folder / 'dataset_flickr30k.json'}: has no entry of the {part} part; expected some of train and some"
    assert expected in refused(folder)
    assert main(["check", "flickr30k", "--data-root", str(folder.parent)]) == 1
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "[]", "{", '{"images": []}', '{"images": 3}'])
def test_a_file_of_another_form_is_refused(folder, content):
    (folder / "dataset_flickr30k.json").write_text(content)
    assert str(folder / "dataset_flickr30k.json") in refused(folder)


@pytest.mark.parametrize("part", ["dataset_flickr30k.json", "flickr30k-images"])
def test_parts_of_the_layout_that_are_missing_are_named(folder, part):
    (folder / part).rename(folder / "elsewhere")
    assert f"{folder / part} is missing. Expected in flickr30k/: flickr30k-images/<image>.jpg" in refused(folder)
