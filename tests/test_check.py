"""`python -m datamodules check`: forms of a folder, what it finds, and what it says of a copy without a fault."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from check_cases import checked, faulty, listed, name_of
from tiny_trees import TREES, write_flickr30k, write_narratives, write_tmr

from datamodules.check import open_form
from datamodules.datasets import DATASETS
from datamodules.extract import default_form
from datamodules.files.download import SourceFile
from datamodules.files.extracted_features import write_features
from datamodules.items import ItemSet, Modality

# Sound copies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in TREES if name != "flickr8k_tri"])  # whose sounds are one sound
def test_a_sound_tree_passes_and_its_other_size_is_said(tree, name, capsys):
    status, said = checked(name_of(name), tree(name), capsys)
    assert status == 0, said
    assert f"{name_of(name)}: everything in place, but not the numbers of the authors' copy" in said
    assert "DIFFERS" in said


@pytest.mark.parametrize(
    ("name", "form", "what", "found", "published"),
    [
        ("kit_ml, tmr", "guoh3dfeats", "train items", "3", "4,688"),  # motions, not their parts
        ("nus_wide", "low-level", "test items", "40", "107,859"),  # images, not those that are kept
        ("nus_wide", "low-level", "classes", "12", "81"),  # concepts of the file, not those that are kept
        ("flickr30k", "karpathy", "validation items", "1", "1,014"),
        ("wikipedia", "raw", "classes", "3", "10"),
        ("pascal_sentences", "raw", "classes", "3", "20"),
        ("pku_xmedianet", "features", "classes", "3", "200"),
    ],
)
def test_numbers_are_compared_with_those_of_the_authors(tree, name, form, what, found, published, capsys):
    said = checked(name_of(name), tree(name), capsys)[1]
    assert f"DIFFERS  {form}: {found} {what}; the authors' copy has {published}\n" in said
    assert "classes; the" in said or name == "flickr30k" or "tmr" in name  # whose items match themselves alone


def test_every_form_has_a_data_module_that_takes_its_arguments(tmp_path):
    for dataset, declared in DATASETS.items():
        for name in declared.forms:
            assert open_form(declared, name, tmp_path).dataset == dataset


# Faults; more in test_data_set_files.py, test_data_set_lists.py and test_check_repeats.py ---------------------------


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("wikipedia", "testset_txt_img_cat.list"),
        ("nus_wide", "ImageList/TestImagelist.txt"),
        ("pku_xmedianet", "img_test_list.txt"),
        ("flickr30k", "dataset_flickr30k.json"),
        ("humanml3d", "val.txt"),
        ("kit_ml, tmr", "splits/test.txt"),
        ("flickr30k, narratives", "flickr30k_val_captions.jsonl"),
    ],
)
def test_a_missing_file_is_said_once(tree, name, file, capsys):
    folder = tree(name)
    (folder / file).unlink()
    said = faulty(name_of(name), folder, capsys)
    assert said.count(f"MISSING  {folder / file}\n") == 1
    assert "1 trouble(s)" in said


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
        files = [
            SourceFile(path.name, "a list", "https://example.org", sha, 9)
            for path, sha in zip(paths, known, strict=True)
        ]
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
    said = faulty("pku_xmedianet", folder, capsys)
    assert "features: image has 300 numbers per item; the authors' copy has 4,096" in said
    assert "features: text has 4,096 numbers per item; the authors' copy has 300" in said
    assert "2 trouble(s)" in said


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


def write_extracted(path) -> None:
    """Image and text vectors of eight items of two classes."""
    rng = np.random.default_rng(0)
    names = [f"item-{item}" for item in range(8)]
    split = np.array(["train", "test"] * 4)
    modalities = {name: Modality(rng.random((8, 4))) for name in ("image", "text")}
    data = ItemSet(modalities, np.arange(8) // 4, split, names, "tiny")
    said = {name: {"model": "tiny", "weights": "a file", "sha256": "0", "versions": {}} for name in modalities}
    with path.open("wb") as file:
        write_features(file, data, data.vectors, {"encoders": json.dumps(said)})


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
