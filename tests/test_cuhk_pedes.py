"""CUHK-PEDES on a tiny tree in the layout of its authors: persons, splits, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_pedes import SPLITS, entries, photograph, write_annotations, write_pedes

from datamodules import CUHKPEDES, DataError, DataMissing
from datamodules.__main__ import main
from datamodules.datasets import cuhk_pedes
from datamodules.datasets.cuhk_pedes import split_by_identity


@pytest.fixture
def folder(tmp_path):
    return write_pedes(tmp_path / "root")


@pytest.fixture
def small_parts(monkeypatch):
    """The parts of the tiny tree in place of the published ones."""
    monkeypatch.setattr(cuhk_pedes, "PARTS", {"train": 6, "validation": 2, "test": 2})


def caption_all(found: list[dict]) -> list[dict]:
    return [{name: entry[name] for name in ("id", "file_path", "captions")} for entry in found]


# What is read -------------------------------------------------------------------------------------------------------


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


def test_the_parts_are_those_of_the_file(folder):
    module = CUHKPEDES(folder.parent, batch_size=12)
    for part, persons in (("train", range(1, 7)), ("validation", (7, 8)), ("standard", (9, 10))):
        assert sorted(set(module.data.label[module.indices(part)].tolist())) == list(persons)
    assert module.test_splits == ("standard",)
    module.precompute({"image": ("image", Corner())})
    (batch,) = module.train_dataloader()
    assert sorted(batch["label"].tolist()) == sorted([1, 2, 3, 4, 5, 6] * 2)
    (batch,) = module.test_dataloader()[0]
    assert batch["label"]["image"].tolist() == [9, 9, 10, 10]
    assert batch["label"]["text"].tolist() == [9] * 4 + [10] * 4


class Corner:
    """Front end: the first pixel of an image."""

    key = "corner"

    def __call__(self, entries, rate):
        return [entry[0, 0].astype(np.float32) for entry in entries]


def test_a_file_without_validation_persons_has_them_carved_in_whole_persons(folder):
    write_annotations(folder, [entry for entry in entries() if entry["split"] != "val"])
    module = CUHKPEDES(folder.parent, validation_fraction=0.3)
    with pytest.warns(UserWarning, match=r"4 photograph\(s\) have no description and are not used, first "):
        label = module.data.label
    train, validation = (set(label[module.indices(part)]) for part in ("train", "validation"))
    assert validation
    assert not train & validation


def test_a_missing_folder_of_photographs_is_said(folder):
    shutil.rmtree(folder / "imgs")
    with pytest.raises(DataError, match=r"imgs is missing\. Expected in CUHK-PEDES/"):
        _ = CUHKPEDES(folder.parent).data


# caption_all.json ---------------------------------------------------------------------------------------------------


def test_without_a_split_persons_go_by_their_number_and_the_test_split_says_so(folder, small_parts):
    mixed = np.random.default_rng(0).permutation(20)
    write_annotations(folder, caption_all([entries()[i] for i in mixed]), "caption_all.json")
    module = CUHKPEDES(folder.parent, annotations="caption_all")
    words = {"train": "train", "val": "validation", "test": "test"}
    assert module.data.split.tolist() == [words[SPLITS[person - 1]] for person in module.data.label]
    assert module.test_splits == ("identity-order",)
    assert set(module.data.label[module.indices("identity-order")]) == {9, 10}


def test_the_published_split_is_not_guessed_from_a_file_without_one(folder):
    (folder / "reid_raw.json").unlink()
    write_annotations(folder, caption_all(entries()), "caption_all.json")
    said = refused(folder)
    assert f"{folder / 'reid_raw.json'}: is missing. caption_all.json is there, but says no split" in said
    said = refused(folder, annotations="caption_all")
    assert f"{folder / 'caption_all.json'}: has 10 persons; expected 13003 to split them by number" in said


@given(st.lists(st.integers(-5, 14_000), min_size=4, max_size=4, unique=True), st.lists(st.integers(0, 3), max_size=20))
def test_persons_of_any_numbers_are_split_in_their_order(numbers, more):
    identity = np.array([*numbers, *(numbers[i] for i in more)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuhk_pedes, "PARTS", {"train": 2, "validation": 1, "test": 1})
        split = split_by_identity(identity, Path("caption_all.json"))
    for person, expected in zip(sorted(numbers), ("train", "train", "validation", "test"), strict=True):
        assert set(split[identity == person]) == {expected}


def test_the_published_numbers_of_persons():
    split = split_by_identity(np.arange(1, 13_004), Path("caption_all.json"))
    assert (split[:11_003] == "train").all()
    assert (split[11_003:12_003] == "validation").all()
    assert (split[12_003:] == "test").all()


# What is refused ----------------------------------------------------------------------------------------------------


def refused(folder: Path, **kwargs) -> str:
    with pytest.raises(DataError) as error:
        _ = CUHKPEDES(folder.parent, **kwargs).data
    assert "python -m datamodules check cuhk_pedes" in str(error.value)
    return str(error.value)


def changed(number: int, **fields) -> list[dict]:
    """The entries with some fields of one set, or removed where the value is None."""
    found = entries()
    found[number - 1] |= fields
    found[number - 1] = {name: value for name, value in found[number - 1].items() if value is not None}
    return found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read as JSON text"),
        ('[{"id": 1,', "cannot be read as JSON text"),
        ("[" * 100_000, "cannot be read as JSON text"),
        ("[]", "holds no JSON list with an entry"),
        ('{"id": 1}', "holds no JSON list with an entry"),
        ("[3]", "entry 1 is 3; expected file_path and captions as text and id as a whole number"),
        (changed(4, id="7"), "entry 4 is {"),
        (changed(4, id=True), "entry 4 is {"),
        (changed(4, id=1.5), "entry 4 is {"),
        (changed(4, id=None), "entry 4 is {"),
        (
            changed(4, id=-3),
            "entry 4 (test_query/0002_1.png) has the id -3; expected the number of a person, 1 or more",
        ),
        (changed(4, id=0), "has the id 0; expected the number of a person"),
        (changed(5, file_path=""), "entry 5 is {"),
        (changed(5, file_path=None), "entry 5 is {"),
        (changed(6, captions="A man."), "entry 6 is {"),
        (changed(6, captions=["A man.", " "]), "entry 6 is {"),
        (changed(6, captions=["A man.", 3]), "entry 6 is {"),
        (changed(7, split="query"), "entry 7 has the split 'query'; expected train, val, test"),
        (changed(7, split=None), "entry 7 has the split None; expected train, val, test"),
        (changed(7, split=["val"]), "entry 7 has the split ['val']; expected train, val, test"),
        (changed(2, split="val"), "person 1 is train in entry 1 and validation in entry 2; expected each person in"),
        (changed(3, file_path=entries()[0]["file_path"]), "entry 3 is of Market/0001_0.jpg, as entry 1 is"),
    ],
)
def test_annotations_of_another_form_are_refused_by_entry(folder, content, message):
    write_annotations(folder, content)
    said = refused(folder)
    assert message in said
    assert str(folder / "reid_raw.json") in said


def test_a_photograph_or_a_person_in_training_and_test_is_refused_and_found_by_check(folder, capsys):
    first, last = entries()[0], entries()[-1]
    for entry, message in (
        (first | {"split": "test", "id": last["id"]}, f"entry 21 is of {first['file_path']}, as entry 1 is"),
        (last | {"id": first["id"], "file_path": "cam_a/new.png"}, "person 1 is train in entry 1 and test in entry 21"),
    ):
        write_annotations(folder, [*entries(), entry])
        assert message in refused(folder)
        assert main(["check", "cuhk_pedes", "--data-root", str(folder.parent)]) == 1
        assert message in capsys.readouterr().out


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_file_without_persons_to_train_or_to_test_on_is_refused_and_found_by_check(folder, part, capsys):
    write_annotations(folder, [entry for entry in entries() if entry["split"] != part])
    expected = f"{folder / 'reid_raw.json'}: has no entry of the {part} part; expected some of train and some of test"
    assert expected in refused(folder)
    assert main(["check", "cuhk_pedes", "--data-root", str(folder.parent)]) == 1
    assert expected in capsys.readouterr().out


def test_text_of_another_encoding_is_refused(folder):
    (folder / "reid_raw.json").write_bytes(b'[{"captions": ["caf\xe9"]}]')
    assert "reid_raw.json: cannot be read as JSON text" in refused(folder)


def test_a_description_without_its_photograph_is_refused_or_left_out(folder, capsys):
    name = entries()[2]["file_path"]
    (folder / "imgs" / name).unlink()
    with pytest.raises(DataError, match=f"image is missing from 1: {name}"):
        _ = CUHKPEDES(folder.parent).data
    with pytest.warns(UserWarning, match="1 of 20 items are left out"):
        assert len(CUHKPEDES(folder.parent, on_missing="drop").data) == 19
    assert main(["check", "cuhk_pedes", "--data-root", str(folder.parent)]) == 1
    said = capsys.readouterr().out
    assert "20 items (12 train, 4 validation, 4 test), 10 labels" in said
    assert f"MISSING  raw: image of 1 of 20 items: {name}" in said


def test_a_photograph_without_a_description_is_refused_or_left_out(folder):
    write_annotations(folder, changed(3, captions=[]))
    name = entries()[2]["file_path"]
    with pytest.raises(DataError, match=f"text is missing from 1: {name}"):
        _ = CUHKPEDES(folder.parent).data
    with pytest.warns(UserWarning, match="1 of 20 items are left out"):
        assert len(CUHKPEDES(folder.parent, on_missing="drop").data) == 19


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_photographs_are_refused_or_left_out_by_name(folder):
    path = folder / "imgs" / entries()[4]["file_path"]
    path.write_bytes(path.read_bytes()[:-40])
    assert f"1 item(s) with a broken file: {path}: is not a readable image" in refused(folder)
    assert len(CUHKPEDES(folder.parent, on_broken="drop").data) == 19


def test_a_missing_folder_says_where_to_get_the_data(tmp_path):
    with pytest.raises(DataError, match=r"CUHK-PEDES is missing\. .*on request by e-mail"):
        _ = CUHKPEDES(tmp_path).data
    with pytest.raises(ValueError, match="annotations is 'raw'; expected 'reid_raw' or 'caption_all'"):
        CUHKPEDES(annotations="raw")


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


def test_a_complete_tree_has_everything_in_place(folder, capsys):
    assert main(["check", "cuhk_pedes", "--data-root", str(folder.parent)]) == 0
    assert "cuhk_pedes: everything in place" in capsys.readouterr().out
