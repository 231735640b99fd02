"""Items, photographs, sounds and motions that stand in several splits: what counts as one, and what `check` says."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from check_cases import checked, faulty, name_of

from datamodules import DataError, Wikipedia
from datamodules.datasets import DATASETS
from datamodules.datasets.wikipedia import read_lists
from datamodules.files.sources import data_root
from datamodules.items import Files, ItemSet, Modality
from datamodules.repeats import Repeated, find_repeats

# What counts --------------------------------------------------------------------------------------------------------


def test_repeats_of_features_are_counted_by_modality_and_as_pairs():
    image, text = np.arange(24.0).reshape(8, 3), np.arange(16.0).reshape(8, 2)
    image[4], image[5] = image[0], image[1]  # test rows with the image of a training row ...
    text[5] = text[1]  # ... and one with its text too
    image[3], text[3] = image[2], text[2]  # a training row that stands there twice
    split = np.repeat(["train", "test"], 4)
    data = ItemSet.of_features({"image": image, "text": text}, np.zeros(8, int), split, ("a",), "tiny")
    across, within = Repeated({"row 1": "train", "row 5": "test"}), Repeated({"row 2": "train", "row 3": "train"})
    assert find_repeats(data) == ({"image": 2, "text": 1}, [across, within])


def items(split: list[str], **modalities: Modality) -> ItemSet:
    """Items v, w, x, ... in the given splits."""
    names = [chr(ord("v") + item) for item in range(len(split))]
    return ItemSet(modalities, np.arange(len(split)), np.array(split), names, origin="tiny")


def test_items_are_the_same_where_all_their_entries_are():
    texts = ["a", "b", "a", "b", "a", "a", "c"]
    vectors = np.array([[1.0], [1.0], [1.0], [2.0]])
    again, repeated = find_repeats(
        items(
            ["train", "test", "test", "validation", "test"],
            text=Modality(texts, np.array([0, 0, 1, 1, 2, 3, 4])),
            vector=Modality(vectors, np.arange(4)),
        )
    )
    assert again == {"text": 2, "vector": 2}
    assert repeated == [Repeated({"v": "train", "w": "test"})]


def test_of_single_entries_files_and_sequences_count_and_texts_and_vectors_do_not(tmp_path):
    paths = [tmp_path / name for name in "abcde"]
    for path, content in zip(paths, "12134", strict=True):
        path.write_text(content)
    sequence = [np.full((2, 1), float(value)) for value in (0, 1, 2, 1)]
    _, repeated = find_repeats(
        items(
            ["train", "train", "validation", "test"],
            image=Modality(Files(tuple(paths), Path.read_bytes), np.array([0, 1, 2, 2, 3])),  # v and x share one
            motion=Modality(sequence),  # w and y
            text=Modality(["walks"] * 4),
            vector=Modality(np.ones((4, 2))),
        )
    )
    assert repeated == [
        Repeated({"v": "train", "x": "validation"}, "image"),
        Repeated({"w": "train", "y": "test"}, "motion"),
    ]


def test_a_whole_item_that_is_repeated_is_said_once_and_a_third_with_its_motion_too():
    motion = Modality([np.zeros((2, 1))] * 3)
    texts = Modality(["a", "a", "b"])
    wholly = Repeated({"v": "train", "w": "test"})
    assert find_repeats(items(["train", "test", "test"], motion=motion, text=texts))[1] == [
        wholly,
        Repeated({"v": "train", "w": "test", "x": "test"}, "motion"),
    ]
    motion = Modality([np.zeros((2, 1))] * 2)
    assert find_repeats(items(["train", "test"], motion=motion, text=Modality(["a", "a"])))[1] == [wholly]


def test_a_file_twice_in_one_split_is_no_leak(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text("same")
    files = Modality(Files((tmp_path / "a", tmp_path / "b"), Path.read_bytes))
    assert find_repeats(items(["train", "train"], image=files, text=Modality(["a", "b"])))[1] == []


# What is said -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "first", "second", "said"),
    [
        ("flickr30k", "flickr30k-images/100.jpg", "flickr30k-images/500.jpg", "100 (train), 500 (test) {} image"),
        ("wikipedia", "images/art/i0.jpg", "images/warfare/i4.jpg", "aa-1 (train), dd-1 (test) {} image"),
        (
            "humanml3d, tmr",
            "guoh3dfeats/KIT/3/walk_000002_poses.npy",
            "guoh3dfeats/KIT/3/walk_000003_poses.npy",
            "000002 (train), 000003 (validation) {} motion",
        ),
    ],
)
def test_a_photograph_or_motion_in_two_splits_with_other_texts(name, first, second, said, tree, capsys):
    folder = tree(name)
    shutil.copy(folder / first, folder / second)
    report = faulty(name_of(name), folder, capsys)
    assert f"{folder}: {said.format('have the same')}" in report
    assert "REPEATED " in report
    assert "1 trouble(s)" in report


def test_photographs_that_cannot_be_read_are_not_the_same(tree, capsys):
    folder = tree("flickr30k")
    for name in ("100.jpg", "500.jpg"):
        (folder / "flickr30k-images" / name).write_bytes(b"")
    said = faulty("flickr30k", folder, capsys)
    assert "REPEATED" not in said
    assert "2 trouble(s)" in said


def test_a_row_in_training_and_test(tree, capsys):
    folder = tree("pku_xmedianet")
    for modality in ("img", "txt"):
        train, test = (folder / f"{modality}_{part}_fea.txt" for part in ("train", "test"))
        lines = test.read_text().splitlines(keepends=True)
        test.write_text("".join([train.read_text().splitlines(keepends=True)[4], *lines[1:]]))
    said = faulty("pku_xmedianet", folder, capsys)
    assert "a training item has too: image 1, text 1;" in said
    assert "row 4 (train), row 12 (test) are the same in every modality" in said


# Repeats of the authors ---------------------------------------------------------------------------------------------


def test_repeats_that_are_known_of_the_authors_copy_are_no_trouble(tree, monkeypatch, capsys):
    folder = tree("wikipedia")
    shutil.copy(folder / "images" / "art" / "i0.jpg", folder / "images" / "warfare" / "i4.jpg")
    facts = DATASETS["wikipedia"]
    known = replace(facts.forms["raw"], repeats=(frozenset({"aa-1", "dd-1"}),))
    monkeypatch.setitem(DATASETS, "wikipedia", replace(facts, forms={"raw": known}))
    status, said = checked("wikipedia", folder, capsys)
    assert status == 0
    assert "aa-1 (train), dd-1 (test) have the same image, as in the authors' copy\n" in said


@pytest.mark.parametrize("features", ["roph", "sift-lda"])
def test_the_known_repeats_of_wikipedia_are_those_of_its_published_image_features(features):
    try:
        pairs, split = read_lists(data_root() / "wikipedia")
        image = Wikipedia(features=features, offline=True).data.vectors["image"]
    except DataError as error:
        pytest.skip(str(error))
    names: dict[bytes, set[str]] = {}
    for row, (name, _, _) in zip(image, pairs, strict=True):
        names.setdefault(row.tobytes(), set()).add(name)
    part = dict(zip([name for name, _, _ in pairs], split, strict=True))
    across = {frozenset(group) for group in names.values() if len({part[name] for name in group}) > 1}
    assert across == set(map(frozenset, DATASETS["wikipedia"].forms["raw"].repeats))
