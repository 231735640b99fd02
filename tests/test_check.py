"""`python -m datamodules check`: forms of a folder, what it finds, what stands in several splits, sound copies."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from check_cases import checked, faulty, listed, name_of
from extract_cases import written_by_hand
from real_data import DATA, needs
from tiny_trees import TREES, write_flickr30k, write_narratives, write_tmr

from datamodules import Wikipedia
from datamodules.check import Repeated, find_repeats
from datamodules.datasets import DATASETS
from datamodules.datasets.wikipedia import read_lists
from datamodules.extract import default_form
from datamodules.files.download import SourceFile
from datamodules.items import Files, ItemSet, Modality

# Sound copies -------------------------------------------------------------------------------------------------------


# What is compared: of KIT-ML motions, not their parts; of NUS-WIDE the images and concepts of the files, not those that
# are kept.
NUMBERS = {
    "kit_ml, tmr": ["guoh3dfeats: 3 train items; the authors' copy has 4,688"],
    "nus_wide": [
        "low-level: 40 test items; the authors' copy has 107,859",
        "low-level: 12 classes; the authors' copy has 81",
    ],
    "flickr30k": ["karpathy: 1 validation items; the authors' copy has 1,014"],
    "wikipedia": ["raw: 3 classes; the authors' copy has 10"],
    "pku_xmedianet": ["features: 3 classes; the authors' copy has 200"],
}


@pytest.mark.parametrize("name", [name for name in TREES if name != "flickr8k_tri"])  # whose sounds are one sound
def test_a_sound_tree_passes_and_its_other_size_is_said(tree, name, capsys):
    status, said = checked(name_of(name), tree(name), capsys)
    assert status == 0, said
    assert f"{name_of(name)}: everything in place, but not the numbers of the authors' copy" in said
    assert "DIFFERS" in said
    for numbers in NUMBERS.get(name, ()):
        assert f"DIFFERS  {numbers}\n" in said


def test_every_form_has_a_data_module_that_takes_its_arguments(tmp_path):
    for dataset, declared in DATASETS.items():
        for name in declared.forms:
            assert declared.open(name, tmp_path).dataset == dataset


# Faults; more in test_data_set_files.py and test_data_set_lists.py -------------------------------------------------


@pytest.mark.parametrize("dataset", DATASETS)
def test_an_absent_and_an_empty_folder(dataset, tmp_path, capsys):
    folder = tmp_path / DATASETS[dataset].folder
    status, said = checked(dataset, folder, capsys)
    assert status == 1
    assert said.startswith(f"ABSENT   {folder} is missing")
    assert DATASETS[dataset].url in said
    assert "datamodules check" not in said  # which was run just now
    folder.mkdir()
    assert f"MISSING  {folder} has nothing" in faulty(dataset, folder, capsys)


def test_a_wrong_hash(tree, monkeypatch, capsys):
    folder = tree("wikipedia")
    paths = sorted(folder.glob("*.list"))
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    for known in (digests, ["0" * 64, digests[1]]):
        files = [SourceFile(p.name, "a list", "https://example.org", s, 9) for p, s in zip(paths, known, strict=True)]
        monkeypatch.setitem(DATASETS, "wikipedia", replace(DATASETS["wikipedia"], files=tuple(files)))
        status, said = checked("wikipedia", folder, capsys, hashes=True)
        assert status == (known != digests)
        assert f"ok       {paths[1]}: sha256 {digests[1]}\n" in said
        word = "ok      " if known == digests else "OTHER   "
        assert f"{word} {paths[0]}: sha256 {digests[0]}" in said
    assert f"the known copy has {'0' * 64}, from https://example.org" in said


def test_exchanged_modalities_of_equal_row_counts(tree, capsys):
    folder = tree("pku_xmedianet")
    for part in ("train", "test"):
        image, text = (folder / f"{word}_{part}_fea.txt" for word in ("img", "txt"))
        content = image.read_bytes()
        image.write_bytes(text.read_bytes())
        text.write_bytes(content)
    said = faulty("pku_xmedianet", folder, capsys, troubles=2)
    assert "features: image has 300 numbers per item; the authors' copy has 4,096" in said
    assert "features: text has 4,096 numbers per item; the authors' copy has 300" in said


# Forms that `check` and `extract` choose by the files that are there ------------------------------------------------


def test_the_form_that_is_read_is_one_whose_files_are_there(tmp_path):
    assert default_form("flickr30k", tmp_path) == "raw"
    folder = write_narratives(tmp_path)
    assert default_form("flickr30k", tmp_path) == "transcripts"
    write_flickr30k(tmp_path)
    assert default_form("flickr30k", tmp_path) == "karpathy"
    write_narratives(tmp_path, "localized_narratives")
    assert default_form("flickr30k", tmp_path) == "karpathy"  # the recordings are missing
    (folder / "voice-recordings").mkdir()
    assert default_form("flickr30k", tmp_path) == "raw"


def test_of_several_incomplete_forms_the_one_that_lacks_least_is_read(tmp_path):
    folder = write_tmr(tmp_path / "KIT-ML")
    (folder / "texts").mkdir()
    (folder / "annotations.json").unlink()
    assert default_form("kit_ml", tmp_path) == "guoh3dfeats"
    assert default_form("humanml3d", tmp_path) == "new_joint_vecs"
    assert default_form("pascal_sentences", tmp_path) == "raw"


def write_extracted(path: Path) -> None:
    """Image and text vectors of eight items of two classes."""
    modalities = {name: Modality(np.random.default_rng(0).random((8, 4))) for name in ("image", "text")}
    names = [f"item-{item}" for item in range(8)]
    data = ItemSet(modalities, np.arange(8) // 4, np.array(["train", "test"] * 4), names, "tiny")
    written_by_hand(path, data, data.vectors)


@pytest.mark.parametrize(
    "dataset", ["pascal_sentences", "nus_wide", "pku_xmedianet", "wikipedia", "flickr8k_tri", "flickr30k"]
)
def test_a_file_of_extract_is_known_in_the_folder(dataset, tmp_path, capsys):
    folder = tmp_path / dataset
    folder.mkdir()
    assert listed(tmp_path, capsys)[dataset].split()[1] == "absent"
    write_extracted(folder / "features.safetensors")
    line = listed(tmp_path, capsys)[dataset]
    assert line.split()[1] == "present"
    assert "as pairs; " in line
    status, said = checked(dataset, folder, capsys)
    assert status == 0, said
    assert "8 items (4 train, 0 validation, 4 test), 2 labels" in said
    assert "image: 8 entries, 4-d" in said
    assert "train classes: class 0 2, class 1 2" in said
    (folder / "features.safetensors").write_bytes(b"damaged")
    assert "BROKEN   pairs: " in faulty(dataset, folder, capsys)


def test_a_file_of_extract_beside_the_authors_files_is_a_form_of_its_own(tree, capsys):
    folder = tree("nus_wide")
    write_extracted(folder / "features.safetensors")
    assert "as low-level, pairs; " in listed(folder.parent, capsys)["nus_wide"]
    status, said = checked("nus_wide", folder, capsys)
    assert status == 0, said
    assert all(f"ok       {form}: " in said for form in ("low-level", "pairs"))
    write_extracted(tree("wikipedia") / "features.safetensors")
    assert default_form("wikipedia", folder.parent) == "raw"


# Repeats -------------------------------------------------------------------------------------------------------------


def test_repeats_of_features_are_counted_by_modality_and_as_pairs():
    image, text = np.arange(24.0).reshape(8, 3), np.arange(16.0).reshape(8, 2)
    image[4], image[5] = image[0], image[1]  # test rows with the image of a training row ...
    text[5] = text[1]  # ... and one with its text too
    image[3], text[3] = image[2], text[2]  # a training row that stands there twice
    split = np.repeat(["train", "test"], 4)
    data = ItemSet.of_features({"image": image, "text": text}, np.zeros(8, int), split, ("a",), "tiny")
    across, within = Repeated({"row 1": "train", "row 5": "test"}), Repeated({"row 2": "train", "row 3": "train"})
    assert find_repeats(data) == ({"image": 2, "text": 1}, [across, within])


def repeats(*split: str, **modalities: Modality) -> tuple[dict[str, int], list[Repeated]]:
    """Of items v, w, x, ... in the given splits."""
    names = [chr(ord("v") + item) for item in range(len(split))]
    return find_repeats(ItemSet(modalities, np.arange(len(split)), np.array(split), names, origin="tiny"))


def files(folder: Path, contents: str, owner: list[int]) -> Modality:
    """A file for each letter, which it holds."""
    paths = tuple(folder / str(number) for number in range(len(contents)))
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content)
    return Modality(Files(paths, Path.read_bytes), np.array(owner))


def test_items_are_the_same_where_all_their_entries_are():
    texts = Modality(["a", "b", "a", "b", "a", "a", "c"], np.array([0, 0, 1, 1, 2, 3, 4]))
    vectors = Modality(np.array([[1.0], [1.0], [1.0], [2.0]]), np.arange(4))
    again, repeated = repeats("train", "test", "test", "validation", "test", text=texts, vector=vectors)
    assert again == {"text": 2, "vector": 2}
    assert repeated == [Repeated({"v": "train", "w": "test"})]


def test_of_single_entries_files_and_sequences_count_and_texts_and_vectors_do_not(tmp_path):
    given = {
        "image": files(tmp_path, "12134", [0, 1, 2, 2, 3]),  # v and x share one
        "motion": Modality([np.full((2, 1), float(value)) for value in (0, 1, 2, 1)]),  # w and y
        "text": Modality(["walks"] * 4),
        "vector": Modality(np.ones((4, 2))),
    }
    photograph = Repeated({"v": "train", "x": "validation"}, "image")
    motion = Repeated({"w": "train", "y": "test"}, "motion")
    assert repeats("train", "train", "validation", "test", **given)[1] == [photograph, motion]


def test_a_whole_item_that_is_repeated_is_said_once_and_a_third_with_its_motion_too(tmp_path):
    wholly = Repeated({"v": "train", "w": "test"})
    motion, text = Modality([np.zeros((2, 1))] * 3), Modality(["a", "a", "b"])
    third = Repeated({"v": "train", "w": "test", "x": "test"}, "motion")
    assert repeats("train", "test", "test", motion=motion, text=text)[1] == [wholly, third]
    motion, text = Modality([np.zeros((2, 1))] * 2), Modality(["a", "a"])
    assert repeats("train", "test", motion=motion, text=text)[1] == [wholly]
    twice_in_a_split = files(tmp_path, "ss", [0, 1])
    assert repeats("train", "train", image=twice_in_a_split, text=Modality(["a", "b"]))[1] == []


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
    report = faulty(name_of(name), folder, capsys, troubles=1)
    assert f"{folder}: {said.format('have the same')}" in report
    assert "REPEATED " in report


def test_photographs_that_cannot_be_read_are_not_the_same(tree, capsys):
    folder = tree("flickr30k")
    for name in ("100.jpg", "500.jpg"):
        (folder / "flickr30k-images" / name).write_bytes(b"")
    assert "REPEATED" not in faulty("flickr30k", folder, capsys, troubles=2)


def test_a_row_in_training_and_test(tree, capsys):
    folder = tree("pku_xmedianet")
    for modality in ("img", "txt"):
        train, test = (folder / f"{modality}_{part}_fea.txt" for part in ("train", "test"))
        lines = test.read_text().splitlines(keepends=True)
        test.write_text("".join([train.read_text().splitlines(keepends=True)[4], *lines[1:]]))
    said = faulty("pku_xmedianet", folder, capsys)
    assert "a training item has too: image 1, text 1;" in said
    assert "row 4 (train), row 12 (test) are the same in every modality" in said


def test_repeats_that_are_known_of_the_authors_copy_are_no_trouble(tree, monkeypatch, capsys):
    folder = tree("wikipedia")
    shutil.copy(folder / "images" / "art" / "i0.jpg", folder / "images" / "warfare" / "i4.jpg")
    facts = DATASETS["wikipedia"]
    known = replace(facts.forms["raw"], repeats=(frozenset({"aa-1", "dd-1"}),))
    monkeypatch.setitem(DATASETS, "wikipedia", replace(facts, forms={"raw": known}))
    status, said = checked("wikipedia", folder, capsys)
    assert status == 0
    assert "aa-1 (train), dd-1 (test) have the same image, as in the authors' copy\n" in said


@needs("wikipedia")
@pytest.mark.parametrize("features", ["roph", "sift-lda"])
def test_the_known_repeats_of_wikipedia_are_those_of_its_published_image_features(features):
    pairs, split = read_lists(DATA / "wikipedia")
    image = Wikipedia(features=features, offline=True).data.vectors["image"]
    names: dict[bytes, set[str]] = {}
    for row, (name, _, _) in zip(image, pairs, strict=True):
        names.setdefault(row.tobytes(), set()).add(name)
    part = dict(zip([name for name, _, _ in pairs], split, strict=True))
    across = {frozenset(group) for group in names.values() if len({part[name] for name in group}) > 1}
    assert across == set(map(frozenset, DATASETS["wikipedia"].forms["raw"].repeats))
