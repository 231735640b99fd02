"""PKU XMediaNet on a tiny tree with the file names of its authors' code."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_trees import XMEDIANET, XMEDIANET_CLASSES, write_xmedianet, xmedianet

from datamodules import DataError, PKUXMediaNet


@pytest.fixture
def folder(tmp_path):
    return write_xmedianet(tmp_path)


def test_line_i_of_every_file_is_one_pair(folder):
    module = PKUXMediaNet(folder.parent)
    data, written = module.data, xmedianet()
    for name, word in (("image", "img"), ("text", "txt")):
        expected = np.vstack([written[f"{word}_{part}_fea"] for part in XMEDIANET])
        np.testing.assert_allclose(data.vectors[name], expected, rtol=1e-6, atol=1e-7)
    assert data.label.tolist() == [i % XMEDIANET_CLASSES for count in XMEDIANET.values() for i in range(count)]
    assert data.split.tolist() == [part for part, count in XMEDIANET.items() for _ in range(count)]
    assert data.class_names == ("class 1", "class 2", "class 3")
    np.testing.assert_allclose(module.class_embedding, written["cate_fea"], rtol=1e-6, atol=1e-7)
    assert module.dims == {"image": 4096, "text": 300, "class_embedding": 300}


def test_blank_lines_at_the_end_of_a_list_count_for_nothing(folder):
    expected = PKUXMediaNet(folder.parent).data.digest()
    for path in [*folder.glob("*_list.txt"), folder / "cate_fea.txt"]:
        path.write_text(path.read_text() + "\n \n")
    assert PKUXMediaNet(folder.parent).data.digest() == expected


def test_files_may_be_numbered_anew_in_each_class(folder):
    for path in folder.glob("img_*_list.txt"):
        lines = [line.split() for line in path.read_text().splitlines()]
        part, first = path.name.split("_")[1], {}
        for line in lines:
            first[line[1]] = first.get(line[1], -1) + 1
            line[0] = f"{part}/{first[line[1]]}.jpg"
        path.write_text("".join(f"{file} {category}\n" for file, category in lines))
    assert len(PKUXMediaNet(folder.parent).data) == sum(XMEDIANET.values())


def refused(folder) -> str:
    with pytest.raises(DataError) as error:
        _ = PKUXMediaNet(folder.parent).data
    assert "python -m datamodules check pku_xmedianet" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("img_test_list.txt", lambda x: [x[0].replace(" 1", " 4"), *x[1:]], "expected a file and a class 1..3"),
        ("img_test_list.txt", lambda x: [x[0].replace(" 1", " 0"), *x[1:]], "expected a file and a class 1..3"),
        ("img_test_list.txt", lambda x: [x[0].replace(" 1", ""), *x[1:]], "line 1 is 'test/0.jpg'"),
        ("txt_train_list.txt", lambda x: [x[1], x[0], *x[2:]], "line 1 has the class 2, and img_train_list.txt 1"),
        ("txt_train_list.txt", lambda x: x[:-1], "has 11 lines, and img_train_list.txt has 12"),
        ("txt_train_fea.txt", lambda x: x[:-1], "has 11 rows; expected 12"),
        ("img_test_fea.txt", lambda x: [*x, x[0]], "has 7 rows; expected 6"),
        ("img_test_fea.txt", lambda x: [x[0], *(line[11:] for line in x[1:])], "row 2 has 4095 numbers; expected 4096"),
        ("cate_fea.txt", lambda x: x[:-1], "expected a file and a class 1..2"),
        ("cate_fea.txt", lambda x: [], "expected a file and a class 1..0"),
        ("img_train_list.txt", lambda x: [], "has no line"),
        ("img_train_list.txt", lambda x: ["\n", " \n"], "has no line"),
        ("img_train_list.txt", lambda x: [x[0], "\n", *x[1:]], "line 2 is ''; expected a file and a class 1..3"),
        (
            "img_test_list.txt",
            lambda x: ["train/0.jpg 1\n", *x[1:]],
            "lists train/0.jpg, which img_train_list.txt lists already",
        ),
        (
            "txt_test_list.txt",
            lambda x: [*x[:-1], "train/2.txt 3\n"],
            "lists train/2.txt, which txt_train_list.txt lists already",
        ),
        (
            "txt_train_list.txt",
            lambda x: [*x[:3], x[0], *x[4:]],
            "lists train/0.txt, which txt_train_list.txt lists already; expected each file once",
        ),
    ],
)
def test_files_that_do_not_fit_are_named(folder, file, change, message):
    path = folder / file
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    said = refused(folder)
    assert message in said
    if file != "cate_fea.txt":
        assert str(path) in said


def test_images_and_texts_that_are_swapped_with_those_of_the_other_part_are_refused(folder):
    (folder / "img_train_fea.txt").rename(folder / "spare")
    (folder / "img_test_fea.txt").rename(folder / "img_train_fea.txt")
    (folder / "spare").rename(folder / "img_test_fea.txt")
    assert f"{folder / 'img_train_fea.txt'}: has 6 rows; expected 12" in refused(folder)


@pytest.mark.parametrize("file", ["cate_fea.txt", "txt_test_list.txt", "img_train_fea.txt"])
def test_missing_files_are_named(folder, file):
    (folder / file).unlink()
    assert f"{folder / file} is missing. Expected in pku_xmedianet/: img_{{train,test}}_fea.txt" in refused(folder)
