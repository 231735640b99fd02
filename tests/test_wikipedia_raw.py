"""Images and sections of Wikipedia on a tiny tree in the layout of its authors."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from tiny_trees import WIKIPEDIA, write_text, write_wikipedia

from datamodules import DataError, WikipediaRaw
from datamodules.datasets.wikipedia import read_lists, read_section
from datamodules.files.sources import data_root


@pytest.fixture
def folder(tmp_path):
    return write_wikipedia(tmp_path / "root")


def refused(folder, **kwargs) -> str:
    with pytest.raises(DataError) as error:
        _ = WikipediaRaw(folder.parent, **kwargs).data
    assert "python -m datamodules check wikipedia" in str(error.value)
    return str(error.value)


def test_items_are_the_pairs_of_the_lists_in_their_order(folder):
    module = WikipediaRaw(folder.parent)
    data = module.data
    pairs = [*WIKIPEDIA["train"], *WIKIPEDIA["test"]]
    assert list(data.names) == [text for text, _, _ in pairs]
    assert data.label.tolist() == [category - 1 for _, _, category in pairs]
    assert data.split.tolist() == ["train"] * 4 + ["test"] * 2
    assert data.modalities["text"].entries == [f"Section {text} of A & B, and R&D." for text, _, _ in pairs]
    images = data.modalities["image"].entries
    assert [path.stem for path in images.paths] == [image for _, image, _ in pairs]
    assert images[0].shape == (6, 8, 3)
    assert module.indices("standard").tolist() == [4, 5]
    assert module.test_splits == ("standard",)


def test_an_image_in_the_folder_of_another_class_is_missing(folder):
    shutil.move(folder / "images" / "art" / "i2.jpg", folder / "images" / "warfare" / "i2.jpg")
    with pytest.raises(DataError, match="image is missing from 1: bb-1"):
        _ = WikipediaRaw(folder.parent).data
    with pytest.warns(UserWarning, match="1 of 6 items are left out"):
        assert len(WikipediaRaw(folder.parent, on_missing="drop").data) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<document><text> \n</text></document>", "has no words between <text> and </text>"),
        (b"<document>words</document>", "has no words between <text> and </text>"),
        (b"<text>\xff\xfe</text>", "cannot be read as text"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_texts_without_a_section_are_refused_or_dropped_by_name(folder, content, message):
    path = folder / "texts" / "cc-3.xml"
    path.write_bytes(content)
    said = refused(folder)
    assert f"{path}: {message}" in said
    data = WikipediaRaw(folder.parent, on_broken="drop").data
    assert "cc-3" not in data.names
    assert len(data) == 5


def test_several_texts_of_a_document_are_joined(tmp_path):
    write_text(tmp_path / "a.xml", "<text>one\ttwo</text><image/><text>&quot;three&quot;</text>")
    assert read_section(tmp_path / "a.xml") == 'one two "three"'


def test_a_pair_that_is_listed_twice_is_refused(folder):
    path = folder / "testset_txt_img_cat.list"
    path.write_text(path.read_text() + "bb-1\ti2\t1\n")
    assert f"{path}: lists the text bb-1, which trainset_txt_img_cat.list lists already" in refused(folder)


def test_an_image_in_both_lists_is_refused_and_one_with_two_texts_of_a_list_is_not(folder):
    path = folder / "testset_txt_img_cat.list"
    content = path.read_text()
    path.write_text(content + "ff-1\ti4\t10\n")
    assert [image for _, image, _ in read_lists(folder)[0]].count("i4") == 2
    path.write_text(content + "ff-1\ti2\t1\n")
    assert f"{path}: lists the image i2, which trainset_txt_img_cat.list lists already" in refused(folder)


def test_a_byte_order_mark_and_blank_lines_at_the_end_of_a_list_count_for_nothing(folder):
    expected = WikipediaRaw(folder.parent).data.digest()
    for path in folder.glob("*.list"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n\n")
    assert WikipediaRaw(folder.parent).data.digest() == expected
    path.write_text(path.read_text().replace("\n", "\n\n", 1))
    assert f"{path}: line 2 is ''" in refused(folder)


@pytest.mark.parametrize("name", ["trainset_txt_img_cat.list", "images", "texts"])
def test_parts_of_the_layout_that_are_missing_are_named(folder, name):
    (folder / name).rename(folder / "elsewhere")
    assert f"{folder / name} is missing. Expected in wikipedia/: trainset_txt_img_cat.list" in refused(folder)


def test_a_class_outside_the_ten_is_refused(folder):
    path = folder / "trainset_txt_img_cat.list"
    path.write_text(path.read_text().replace("\t10\n", "\t11\n"))
    assert f"{path}: line 2 is 'aa-2.1\\ti1\\t11'" in refused(folder)


def test_the_real_lists_have_2866_different_texts_and_images():
    try:
        folder = data_root() / "wikipedia"
        pairs, split = read_lists(folder)
    except DataError as error:
        pytest.skip(str(error))
    assert (split.count("train"), split.count("test")) == (2173, 693)
    assert len({text for text, _, _ in pairs}) == len({image for _, image, _ in pairs}) == 2866
    assert np.unique([category for _, _, category in pairs]).tolist() == list(range(10))
