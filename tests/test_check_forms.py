"""Forms of a data set that `check` and `extract` choose by the files that are there."""

from __future__ import annotations

import json

import numpy as np
import pytest
from check_cases import checked, faulty, listed
from tiny_pedes import entries, write_annotations, write_pedes
from tiny_trees import flickr30k, write_flickr30k, write_image, write_nus_wide, write_pascal, write_tmr, write_wikipedia

from datamodules.check import open_form
from datamodules.datasets import DATASETS, cuhk_pedes
from datamodules.extract import default_form
from datamodules.files.extracted_features import Rows, write_features
from datamodules.items import ItemSet, Modality


def write_narratives(folder, content: str) -> None:
    """Narratives of an image of each split."""
    for number, word in enumerate(("train", "val", "test")):
        write_image(folder / "flickr30k-images" / f"{number}.jpg", number)
        line = {"image_id": str(number), "annotator_id": 1, "caption": f"In image {number}"}
        (folder / f"flickr30k_{word}_{content}.jsonl").write_text(json.dumps(line) + "\n")


# Flickr30K ----------------------------------------------------------------------------------------------------------


def test_a_copy_with_captions_and_no_voice_passes(tmp_path, capsys):
    folder = tmp_path / "flickr30k"
    write_narratives(folder, "captions")
    status, said = checked("flickr30k", folder, capsys)
    assert status == 0, said
    assert "ok       transcripts: " in said
    assert "3 items (1 train, 1 validation, 1 test)" in said


@pytest.mark.parametrize(("content", "lacks"), [("captions", 1), ("localized_narratives", 2)])
def test_a_missing_split_file_of_the_narratives(content, lacks, tmp_path, capsys):
    folder = tmp_path / "flickr30k"
    write_narratives(folder, content)
    (folder / f"flickr30k_val_{content}.jsonl").unlink()
    said = faulty("flickr30k", folder, capsys)
    assert f"MISSING  {folder}/flickr30k_val_{content}.jsonl\n" in said
    assert f"{lacks} trouble(s)" in said  # and the recordings


def test_the_form_that_is_read_is_one_whose_files_are_there(tmp_path):
    folder = tmp_path / "flickr30k"
    assert default_form("flickr30k", tmp_path) == "raw"
    write_narratives(folder, "captions")
    assert default_form("flickr30k", tmp_path) == "transcripts"
    write_flickr30k(tmp_path)
    assert len(flickr30k()) == len(open_form(DATASETS["flickr30k"], "karpathy", tmp_path).data)
    assert default_form("flickr30k", tmp_path) == "karpathy"
    write_narratives(folder, "localized_narratives")
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


# Pascal Sentences ---------------------------------------------------------------------------------------------------


def test_sentences_may_be_called_as_the_downloader_calls_them(tmp_path, capsys):
    folder = write_pascal(tmp_path)
    for path in folder.glob("sentence/*/*.txt"):
        path.rename(path.with_name(f"{path.stem}txt"))
    status, said = checked("pascal_sentences", folder, capsys)
    assert status == 0, said
    assert "text: 300 entries" in said


# CUHK-PEDES ---------------------------------------------------------------------------------------------------------


def test_a_copy_with_caption_all_alone_is_checked_and_read_as_such(tmp_path, monkeypatch, capsys):
    folder = write_pedes(tmp_path)
    assert default_form("cuhk_pedes", tmp_path) == "raw"
    (folder / "reid_raw.json").unlink()
    found = [{name: entry[name] for name in ("id", "file_path", "captions")} for entry in entries()]
    write_annotations(folder, found, "caption_all.json")
    assert default_form("cuhk_pedes", tmp_path) == "caption_all"
    assert "BROKEN   caption_all: " in (said := faulty("cuhk_pedes", folder, capsys))
    assert "has 10 persons; expected 13003 to split them by number" in said
    monkeypatch.setattr(cuhk_pedes, "PARTS", {"train": 6, "validation": 2, "test": 2})
    status, said = checked("cuhk_pedes", folder, capsys)
    assert status == 0, said
    assert "ok       caption_all: " in said
    assert "20 items (12 train, 4 validation, 4 test), 10 labels" in said


# Features of `extract` ----------------------------------------------------------------------------------------------


def write_extracted(path) -> None:
    """Image and text vectors of eight items of two classes."""
    rng = np.random.default_rng(0)
    names = [f"item-{item}" for item in range(8)]
    split = np.array(["train", "test"] * 4)
    modalities = {name: Modality(rng.random((8, 4))) for name in ("image", "text")}
    data = ItemSet(modalities, np.arange(8) // 4, split, names, "tiny")
    rows = {name: Rows("F32", (8, 4), (modality.entries.astype(np.float32),)) for name, modality in modalities.items()}
    said = {name: {"model": "tiny", "weights": "a file", "sha256": "0", "versions": {}} for name in modalities}
    with path.open("wb") as file:
        write_features(file, data, rows, {"encoders": json.dumps(said)})


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
    assert "4 training and 4 test items; image 4-d, text 4-d" in said
    assert "training classes: class 0 2, class 1 2" in said
    (folder / "features.safetensors").write_bytes(b"damaged")
    assert "BROKEN   pairs: " in faulty(dataset, folder, capsys)


def test_a_file_of_extract_beside_the_authors_files_is_a_form_of_its_own(tmp_path, capsys):
    folder = write_nus_wide(tmp_path)
    write_extracted(folder / "features.safetensors")
    assert "as low-level, bow, pairs; " in listed(tmp_path, capsys)["nus_wide"]
    status, said = checked("nus_wide", folder, capsys)
    assert status == 0, said
    assert all(f"ok       {form}: " in said for form in ("low-level", "bow", "pairs"))
    write_extracted(write_wikipedia(tmp_path) / "features.safetensors")
    assert default_form("wikipedia", tmp_path) == "raw"
