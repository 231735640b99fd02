"""CUHK-PEDES on a tiny tree in the layout of its authors: persons, their photographs and the folder's name."""

from pathlib import Path

import numpy as np
import pytest
from tiny_pedes import entries, photograph, write_annotations, write_pedes

from datamodules import CUHKPEDES, DataError, DataMissing
from datamodules.__main__ import main


@pytest.fixture
def folder(tree):
    return tree("cuhk_pedes")


def test_an_item_is_a_photograph_and_its_label_the_person(folder):
    module = CUHKPEDES(folder.parent)
    data, written = module.data, entries()
    assert list(data.modalities) == ["image", "text"]
    assert list(data.names) == [entry["file_path"] for entry in written]
    assert data.label.tolist() == [entry["id"] for entry in written]
    assert data.split.tolist() == [{"val": "validation"}.get(entry["split"], entry["split"]) for entry in written]
    text = data.modalities["text"]
    assert text.entries == [caption for entry in written for caption in entry["captions"]]
    assert text.owners().tolist() == [item for item in range(20) for _ in range(2)]
    for item, entry in enumerate(written):
        found = data.modalities["image"].entries[item]
        expected = photograph(entry["id"], int(Path(entry["file_path"]).stem[-1]))
        assert found.shape == expected.shape
        assert np.abs(found.mean((0, 1)) - expected.mean((0, 1))).max() < 3  # JPEG


def test_a_file_without_validation_persons_has_them_carved_in_whole_persons(folder):
    write_annotations(folder, [entry for entry in entries() if entry["split"] != "val"])
    module = CUHKPEDES(folder.parent, validation_fraction=0.3)
    with pytest.warns(UserWarning, match=r"4 file\(s\) are not in reid_raw.json"):
        label = module.data.label
    train, validation = (set(label[module.indices(part)]) for part in ("train", "validation"))
    assert validation
    assert not train & validation


def test_a_photograph_without_a_description_is_refused_or_left_out(folder):
    write_annotations(folder, [e | ({"captions": []} if i == 2 else {}) for i, e in enumerate(entries())])
    name = entries()[2]["file_path"]
    with pytest.raises(DataError, match=f"text is missing from 1: {name}"):
        _ = CUHKPEDES(folder.parent).data
    with pytest.warns(UserWarning, match="1 of 20 items are left out"):
        assert len(CUHKPEDES(folder.parent, on_missing="drop").data) == 19


def test_the_folder_may_be_called_as_the_data_set_is(folder, capsys):
    digest = CUHKPEDES(folder.parent).digest
    other = folder.rename(folder.with_name("cuhk_pedes"))
    assert CUHKPEDES(folder.parent).digest == digest
    assert main(["check", "cuhk_pedes", "--data-root", str(folder.parent)]) == 0
    assert str(other) in capsys.readouterr().out
    write_pedes(folder.parent)
    assert CUHKPEDES(folder.parent).data.origin == str(folder)


def test_a_folder_of_features_alone_is_not_taken_for_the_photographs(tmp_path, monkeypatch):
    (tmp_path / "data" / "cuhk_pedes").mkdir(parents=True)
    (tmp_path / "data" / "cuhk_pedes" / "features.npz").touch()
    monkeypatch.delenv("CSD_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataMissing, match="CUHK-PEDES is missing"):
        _ = CUHKPEDES().data
