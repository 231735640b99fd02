"""Tables and lists of one's own: texts, paths of images and sounds, labels and splits, and what is refused."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from own_cases import read
from PIL import Image

from datamodules import DataError, OwnData

IMAGES = 20
ENGLISH = [f"a picture of the grey number {i}" for i in range(IMAGES)]
GERMAN = [f"ein Bild der grauen Zahl {i}" for i in range(IMAGES)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for i in range(IMAGES):
        Image.fromarray(np.full((4, 5, 3), i, dtype=np.uint8)).save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def table(**columns: list) -> pd.DataFrame:
    paths = [f"images/{i}.png" for i in range(IMAGES)]
    return pd.DataFrame({"image": paths, "english": ENGLISH, "german": GERMAN} | columns)


def write(frame: pd.DataFrame, file: Path) -> Path:
    if file.suffix == ".jsonl":
        frame.to_json(file, orient="records", lines=True, force_ascii=False)
    elif file.suffix == ".json":
        frame.to_json(file, orient="records")
    elif file.suffix == ".parquet":
        frame.to_parquet(file)
    else:
        frame.to_csv(file, index=False, sep="\t" if file.suffix == ".tsv" else ",")
    return file


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_images_and_texts_with_labels_and_a_split(folder, ending):
    label = [["red", "blue", "12"][i % 3] for i in range(IMAGES)]
    split = ["train"] * 12 + ["val"] * 3 + ["test"] * 5
    module = OwnData(write(table(label=label, split=split), folder / f"list.{ending}"))
    assert module.describe() == (
        "3 modalities: image (20 images), english (20 texts), german (20 texts); 20 items, 3 classes, "
        "split from the file (12 train, 3 validation, 5 test)"
    )
    assert module.data.names[3] == "images/3.png"
    assert [module.data.class_names[c] for c in module.data.label] == label
    assert module.data.modalities["german"].entries == GERMAN
    assert [int(image[0, 0, 0]) for image in module.raw_entries("image", "standard")] == [15, 16, 17, 18, 19]
    assert "class_embedding" not in module.dims


@pytest.mark.parametrize("form", ["rows of one image", "rows of one id", "lists", "numbered columns", "karpathy"])
def test_several_captions_of_an_image_are_one_item(folder, form):
    captions = [[f"{text}, {k}" for k in range(3)] for text in ENGLISH]
    split = ["train", "val", "restval", "test"] * 5
    paths = [f"images/{i}.png" for i in range(IMAGES)]
    every = [(paths[i], text, split[i]) for k in range(3) for i, text in enumerate([c[k] for c in captions])]
    file = folder / "captions.json"
    if form == "rows of one image":
        write(pd.DataFrame(every, columns=["image", "text", "split"]), file := folder / "captions.csv")
    elif form == "rows of one id":
        frame = pd.DataFrame(every, columns=["image", "text", "split"]).assign(id=[f"item {p}" for p, _, _ in every])
        frame.loc[IMAGES:, "image"] = ""  # named once
        write(frame, file := folder / "captions.csv")
    elif form == "lists":
        write(pd.DataFrame({"image": paths, "text": captions, "split": split}), file)
    elif form == "numbered columns":
        columns = {f"text_{k}": [c[k] for c in captions] for k in range(3)}
        write(pd.DataFrame({"image": paths, "split": split} | columns), file := folder / "captions.csv")
    else:
        entries = [{"filename": f"{i}.png", "split": split[i], "imgid": i} for i in range(IMAGES)]
        for entry, texts in zip(entries, captions, strict=True):
            entry["sentences"] = [{"raw": text} for text in texts]
        file.write_text(json.dumps({"images": entries, "dataset": "own"}))
    module = OwnData(file)
    assert "image (20 images), text (60 texts); 20 items, no labels" in module.describe()
    assert "(10 train, 5 validation, 5 test)" in module.describe()
    owners = module.data.modalities["text"].owners()
    assert {(i, text) for i, text in zip(owners.tolist(), module.data.modalities["text"].entries, strict=True)} == {
        (i, text) for i in range(IMAGES) for text in captions[i]
    }
    (batch,) = module.test_dataloader()[0]
    assert (len(batch["id"]["image"].unique()), len(batch["id"]["text"])) == (5, 15)


def test_sounds_are_read_at_the_rate_that_most_have(folder):
    for i in range(IMAGES):
        soundfile.write(folder / f"{i}.wav", np.zeros(800 if i else 1600, dtype="f4"), 8000 if i else 16000)
    module = OwnData(write(table(audio=[f"{i}.wav" for i in range(IMAGES)]), folder / "list.csv"))
    with pytest.warns(UserWarning, match="1 of 20 sounds have another rate than 8000 Hz and are resampled"):
        assert module.dims["audio"] == {"kind": "sound", "shape": [], "rate": 8000}
    assert {len(sound) for sound in module.data.modalities["audio"].entries} == {800}


def test_vectors_stand_beside_texts_and_single_numbers_are_left_out(folder):
    vectors = np.random.default_rng(0).random((IMAGES, 4)).round(3)
    frame = table(depth=[json.dumps(list(v)) for v in vectors]).assign(length=range(IMAGES))
    module = OwnData(write(frame, folder / "list.jsonl"), modalities=["german", "depth"])
    assert module.modalities == ("german", "depth")
    np.testing.assert_array_equal(module.data.vectors["depth"], vectors.astype("f4"))
    module = OwnData(folder / "list.jsonl")
    assert "depth 4-d" in module.describe()
    assert "length left out: one number per item is no modality" in module.describe()


def test_several_labels_of_an_item(folder):
    label = [["red"] if i % 2 else ["red", "blue"] for i in range(IMAGES)]
    data = read(write(table(label=label), folder / "list.jsonl"))
    assert data.class_names == ("blue", "red")
    assert data.label[:2].tolist() == [[True, True], [False, True]]


@pytest.mark.parametrize("column", ["fold", "split"])
def test_the_split_of_a_named_column(folder, column):
    frame = table(split=["train"] * 10 + ["test"] * 10).assign(fold=["dev", "TRAIN", "Test", "train"] * 5)
    module = OwnData(write(frame, folder / "list.csv"), split=column, modalities=["english", "image"])
    assert [len(module.indices(part)) for part in ("train", "validation", "standard")] == {
        "fold": [10, 5, 5],
        "split": [9, 1, 10],
    }[column]
    with pytest.raises(DataError, match=r"list\.csv: has no column 'part'.*english"):
        read(folder / "list.csv", split="part")


@pytest.mark.parametrize("packed", [False, True])
def test_parallel_texts_line_by_line(tmp_path, packed):
    for part, lines in {"train": 8, "val": 2, "test_2016": 3, "test_2017": 4}.items():
        for language in ("en", "de", "zh")[: 2 if part == "test_2017" else 3]:
            text = "".join(f"{language} {part} {i}\n" for i in range(lines))
            file = tmp_path / f"{part}.{language}{'.gz' * packed}"
            file.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    (tmp_path / "images_train.txt").write_text("a.jpg\n")
    module = OwnData(tmp_path)
    assert "3 modalities: de (13 texts), en (13 texts), zh (13 texts)" in module.describe()
    assert len(OwnData(tmp_path, modalities=["en", "de"]).indices("standard")) == 7
    file = tmp_path / f"train.zh{'.gz' * packed}"
    file.write_bytes(gzip.compress(b"one\n") if packed else b"one\n")
    with pytest.raises(DataError, match=r"train has .*'zh': 1"):
        read(tmp_path)


# What is refused ----------------------------------------------------------------------------------------------------


def test_missing_files_are_refused_with_their_number_or_dropped(folder):
    for i in (2, 3):
        (folder / "images" / f"{i}.png").unlink()
    file = write(table(), folder / "list.csv")
    with pytest.raises(
        DataError, match=r"list\.csv: image is missing from 2: images/2\.png, images/3\.png.*on_missing"
    ):
        read(file)
    with pytest.warns(UserWarning, match="2 of 20 items are left out"):
        assert len(read(file, on_missing="drop")) == IMAGES - 2


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": ["a"] * 10 + [""] * 10}, "10 row.* no label, the first is row 10"),
        (
            {"label": ["a", "b"] * 8 + ["1", "2"] * 2, "split": ["train"] * 16 + ["test"] * 4},
            "numbers in the test part .1. and texts in the train part",
        ),
        ({"split": ["train"] * 20}, "20 train; expected items of test"),
        ({"split": ["train"] * 10 + ["later"] * 10}, "'later' is unknown"),
        ({"id": [0] * 2 + list(range(18)), "label": list(range(20))}, "item 0 has label 0 and 1"),
        ({"depth": ["[1, 2]"] * 19 + ["[1]"]}, "depth has vectors of .1, 2. numbers"),
        ({"depth": ["[1, 2]"] * 19 + ["[1, oops]"]}, "cannot be read as vectors in the column depth"),
        ({"d_0": [1.5] * 20, "d_1": [2.5] * 19 + ["x"]}, "cannot be read as a csv table"),
    ],
)
def test_tables_that_cannot_be_used_are_refused_by_file_and_column(folder, columns, message):
    with pytest.raises(DataError, match=rf"list\.csv.*{message}"):
        read(write(table(**columns), folder / "list.csv"))


@pytest.mark.parametrize(
    ("name", "text"), [("a.json", '{"a": 1}'), ("a.jsonl", "{oops"), ("a.csv", ""), ("a.parquet", "")]
)
def test_files_that_are_no_tables_are_named(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=name):
        read(tmp_path / name)
