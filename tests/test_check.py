"""`python -m datamodules check`: the faults that it must find, and what it says of a copy without one."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from check_cases import checked, faulty
from tiny_trees import (
    write_flickr30k,
    write_nus_wide,
    write_pascal,
    write_tmr,
    write_wikipedia,
    write_xmedianet,
)

from datamodules.check import open_form
from datamodules.datasets import DATASETS
from datamodules.datasets.wikipedia import WIKIPEDIA
from datamodules.declaration import Declaration
from datamodules.files.download import SourceFile

TREES = {
    "wikipedia": write_wikipedia,
    "pascal_sentences": write_pascal,
    "nus_wide": write_nus_wide,
    "pku_xmedianet": write_xmedianet,
    "flickr30k": write_flickr30k,
    "humanml3d": lambda root: write_tmr(root / "HumanML3D"),
    "kit_ml": lambda root: write_tmr(root / "KIT-ML"),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    return {dataset: write(root) for dataset, write in TREES.items()}


def lists_of(folder: Path, skip: int = 0) -> Declaration:
    """Wikipedia with the tiny one's lists as its known files; with ``skip`` of content that lacks so many bytes."""
    files = []
    for part in ("train", "test"):
        name = f"{part}set_txt_img_cat.list"
        content = (folder / name).read_bytes()[skip:]
        sha256 = hashlib.sha256(content).hexdigest()
        files.append(SourceFile(name, "a list", f"https://example.org/{name}", sha256, len(content)))
    return replace(WIKIPEDIA, files=tuple(files))


@pytest.fixture(autouse=True)
def surroundings(written, monkeypatch, tmp_path):
    """A Wikipedia whose lists are the known ones."""
    monkeypatch.setitem(DATASETS, "wikipedia", lists_of(written["wikipedia"]))


@pytest.fixture
def copy(written, tmp_path):
    """Copies one of the trees, free to be broken, and returns its folder."""
    return lambda dataset: Path(
        shutil.copytree(written[dataset], tmp_path / "root" / written[dataset].name, dirs_exist_ok=True)
    )


@pytest.mark.parametrize("dataset", TREES)
def test_a_sound_tree_passes_and_its_other_size_is_said(dataset, written, capsys):
    status, said = checked(dataset, written[dataset], capsys)
    assert status == 0, said
    assert f"{dataset}: everything in place, but not the numbers of the authors' copy" in said
    assert "DIFFERS" in said
    assert "in the training part: " in said


# Faults; of items in two splits there is more in test_check_repeats.py ----------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "file"),
    [
        ("wikipedia", "testset_txt_img_cat.list"),
        ("nus_wide", "ImageList/TestImagelist.txt"),
        ("pku_xmedianet", "img_test_list.txt"),
        ("flickr30k", "dataset_flickr30k.json"),
        ("humanml3d", "splits/val.txt"),
        ("kit_ml", "splits/test.txt"),
    ],
)
def test_a_missing_split_file(dataset, file, copy, capsys):
    folder = copy(dataset)
    (folder / file).unlink()
    assert faulty(dataset, folder, capsys).count(f"MISSING  {folder / file}\n") == 1


@pytest.mark.parametrize(
    ("dataset", "image", "item"),
    [
        ("flickr30k", "flickr30k-images/300.jpg", "300"),
        ("pascal_sentences", "dataset/bicycle/2008_001004.jpg", "bicycle/2008_001004"),
        ("wikipedia", "images/biology/i3.jpg", "cc-3"),
    ],
)
def test_a_caption_without_its_image(dataset, image, item, copy, capsys):
    folder = copy(dataset)
    (folder / image).unlink()
    said = faulty(dataset, folder, capsys)
    assert ": image of 1 of " in said
    assert f"items: {item}\n" in said
    assert "1 trouble(s)" in said


def test_a_wrong_hash(copy, monkeypatch, capsys):
    folder = copy("wikipedia")
    path = folder / "trainset_txt_img_cat.list"
    found = f"{path}: sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert f"ok       {found}\n" in checked("wikipedia", folder, capsys)[1]
    other = lists_of(folder, skip=1)
    monkeypatch.setitem(DATASETS, "wikipedia", other)
    said = faulty("wikipedia", folder, capsys)
    assert f"OTHER    {found}; the known copy has {other.files[0].sha256}, from {other.files[0].url}" in said
    assert "2 trouble(s)" in said


def exchange(first: Path, second: Path) -> None:
    spare = first.with_name("spare")
    first.rename(spare)
    second.rename(first)
    spare.rename(second)


def test_swapped_modalities_of_feature_pairs(tmp_path, capsys):
    """The images of one split beside the texts and labels of the other."""
    folder = tmp_path / "nus_wide"
    folder.mkdir()
    for split, image, count in (("train", "test", 8), ("test", "train", 5)):
        values = np.random.default_rng(count)
        scipy.io.savemat(folder / f"{image}_img.mat", {f"{image}_img": values.random((count, 4))})
        scipy.io.savemat(folder / f"{split}_txt.mat", {f"{split}_txt": values.random((count, 3))})
        scipy.io.savemat(folder / f"{split}_img_lab.mat", {f"{split}_img_lab": np.arange(count)[:, None] % 2})
    said = faulty("nus_wide", folder, capsys)
    assert "BROKEN   pairs: " in said
    assert (
        f"train_txt.mat: has 8 rows but {folder / 'train_img.mat'} has 5; row i of both must be the same item" in said
    )


def test_swapped_modalities_of_the_authors_files(copy, capsys):
    folder = copy("pku_xmedianet")
    exchange(folder / "txt_train_fea.txt", folder / "txt_test_fea.txt")
    assert f"{folder / 'txt_train_fea.txt'}: has 6 rows; expected 12" in faulty("pku_xmedianet", folder, capsys)


def test_swapped_modalities_of_equal_row_counts(copy, capsys):
    folder = copy("pku_xmedianet")
    for part in ("train", "test"):
        exchange(folder / f"img_{part}_fea.txt", folder / f"txt_{part}_fea.txt")
    said = faulty("pku_xmedianet", folder, capsys)
    assert "DIFFERS  features: image has 300 numbers per item; the authors' copy has 4,096" in said
    assert "DIFFERS  features: text has 4,096 numbers per item; the authors' copy has 300" in said
    assert "2 trouble(s)" in said
    folder = copy("nus_wide")
    for part in ("Train", "Test"):
        low_level = folder / "Low_Level_Features"
        exchange(low_level / f"{part}_Normalized_CH.dat", folder / "NUS_WID_Tags" / f"{part}_Tags1k.dat")
    said = faulty("nus_wide", folder, capsys)
    assert "DIFFERS  low-level: image has 1,570 numbers per item; the authors' copy has 634" in said
    for form in ("low-level", "bow"):
        assert f"DIFFERS  {form}: text has 64 numbers per item; the authors' copy has 1,000" in said
    assert "3 trouble(s)" in said


@pytest.mark.parametrize(
    ("dataset", "image"),
    [
        ("pascal_sentences", "dataset/tvmonitor/2008_002001.jpg"),
        ("flickr30k", "flickr30k-images/500.jpg"),
        ("wikipedia", "images/warfare/i1.jpg"),
    ],
)
@pytest.mark.parametrize("keep", [0, 200])
def test_a_corrupt_jpeg(dataset, image, keep, copy, capsys):
    folder = copy(dataset)
    (folder / image).write_bytes((folder / image).read_bytes()[:keep])
    said = faulty(dataset, folder, capsys)
    assert f"{folder / image}: is not a readable image" in said
    assert "1 trouble(s)" in said


@pytest.mark.parametrize(
    ("dataset", "file", "old", "new", "message"),
    [
        ("wikipedia", "testset_txt_img_cat.list", "\t10\n", "\t11\n", "line 1 is 'dd-1\\ti4\\t11'"),
        ("wikipedia", "trainset_txt_img_cat.list", "\t2\n", "\t0\n", "line 4 is 'cc-3\\ti3\\t0'"),
        ("pku_xmedianet", "img_test_list.txt", "0.jpg 1", "0.jpg 4", "line 1 is 'test/0.jpg 4'; expected a file and a"),
        (
            "nus_wide",
            "Groundtruth/TrainTestLabels/Labels_concept5_Test.txt",
            "0\n",
            "2\n",
            "line 1 is '2'; expected 0 or 1",
        ),
    ],
)
def test_a_label_outside_its_range(dataset, file, old, new, message, copy, capsys):
    folder = copy(dataset)
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    said = faulty(dataset, folder, capsys)
    assert f"{folder / file}: {message}" in said


# What else it says --------------------------------------------------------------------------------------------------


def test_nan_is_found(copy, capsys):
    folder = copy("nus_wide")
    path = folder / "Low_Level_Features" / "BoW_Train_int.dat"
    path.write_text("".join("nan" + line[1:] for line in path.read_text().splitlines(keepends=True)))
    said = faulty("nus_wide", folder, capsys)
    assert "BROKEN   bow: " in said
    assert "image is NaN or infinite in" in said
    assert "ok       low-level: " in said


def test_numbers_of_items_are_compared_with_those_of_the_authors(written, capsys):
    _, said = checked("kit_ml", written["kit_ml"], capsys)
    assert "DIFFERS  guoh3dfeats: 3 train items; the authors' copy has 4,688\n" in said  # motions, not their parts
    _, said = checked("nus_wide", written["nus_wide"], capsys)
    assert "DIFFERS  bow: 40 test items; the authors' copy has 107,859\n" in said  # images, not those that are kept
    _, said = checked("flickr30k", written["flickr30k"], capsys)
    assert "DIFFERS  karpathy: 1 validation items; the authors' copy has 1,014\n" in said


def test_numbers_of_classes_are_compared_with_those_of_the_authors(written, capsys):
    for dataset, form, found, published in (
        ("wikipedia", "raw", 3, 10),
        ("pascal_sentences", "raw", 3, 20),
        ("nus_wide", "low-level", 12, 81),  # concepts of the file, not those that are kept
        ("pku_xmedianet", "features", 3, 200),
    ):
        status, said = checked(dataset, written[dataset], capsys)
        assert status == 0
        assert f"DIFFERS  {form}: {found} classes; the authors' copy has {published}\n" in said
    assert "classes" not in checked("flickr30k", written["flickr30k"], capsys)[1]


def test_files_whose_names_end_in_capitals_are_named_where_something_is_missing(copy, capsys):
    folder = copy("pascal_sentences")
    path = folder / "dataset" / "bicycle" / "2008_001004.jpg"
    path.rename(path.with_suffix(".JPG"))
    said = faulty("pascal_sentences", folder, capsys)
    expected = f"items: bicycle/2008_001004; names that end in capitals are other names: {path.with_suffix('.JPG')}\n"
    assert expected in said


def test_an_empty_folder_has_nothing(tmp_path, capsys):
    (tmp_path / "nus_wide").mkdir()
    assert f"MISSING  {tmp_path / 'nus_wide'} has nothing of the data set" in faulty(
        "nus_wide", tmp_path / "nus_wide", capsys
    )


def test_every_form_has_a_data_module_that_takes_its_arguments(tmp_path):
    for dataset, declared in DATASETS.items():
        for name in declared.forms:
            assert open_form(declared, name, tmp_path).dataset == dataset
