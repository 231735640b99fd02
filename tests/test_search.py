"""`csd search`: what is found is what the embeddings of `csd test` say; folders and names as they come; refusals."""

import json
import os
import shutil
from pathlib import Path

import cli_cases
import numpy as np
import pytest
import reference
import search_cases
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from search_cases import Searched, about, another, csd, described, trained
from small_models import ENCODERS, few
from tiny_items import Tiny, item_set, modalities

from datamodules import DataError
from lightning_modules.serving import search
from lightning_modules.serving.export import export, load_export

searched = search_cases.searched
CONTENT = {"text": "text", "image": "image", "audio": "sound"}
# A name that is no UTF-8, one that breaks a line and colours what follows, and one that is as it is.
NAMES = {b"bad\xff.jpg": "bad\\udcff.jpg", b"two\nlines\x1b[1m.jpg": "two\\nlines\\x1b[1m.jpg"}
NAMES |= {"café.jpg".encode(): "café.jpg"}


def entry_words(searched: Searched, modality: str, number: int) -> list[object]:
    """The words that make a test entry the query."""
    if modality == "text":
        return [searched.captions[number]]
    return [f"--{CONTENT[modality]}", sorted(searched.folders[modality].iterdir())[number]]


def names(searched: Searched, modality: str) -> list[str]:
    folder = searched.folders[modality]
    return searched.captions if modality == "text" else sorted(path.name for path in folder.iterdir())


def asked(capsys, *words: object) -> list[dict]:
    """What a query prints with --json."""
    capsys.readouterr()
    csd("search", "query", *words, "--json")
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words: object) -> str:
    return cli_cases.refused(capsys, "search", *words)


def scored_by(joint_score: str, searched: Searched, folder: Path) -> tuple[Path, Path]:
    """The export, and an index of the images, of a model that ranks joint queries by this score."""
    made = Path(shutil.copytree(searched.export, folder / "export"))
    described(made, init_args={**about(made)["init_args"], "joint_score": joint_score})
    csd("search", "index", made, searched.folders["image"], "--modality", "image", "--out", folder / "index")
    return made, folder / "index"


# What is found -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 1000))
def test_the_nearest_are_those_of_a_whole_sort_and_ties_go_by_row(count, k, seed):
    draw = np.random.default_rng(seed)
    gallery = draw.integers(-1, 2, (count, 2)).astype(np.float32)  # few values: many ties, and exact products
    query = np.array([1.0, 2.0], dtype=np.float32)
    order = np.argsort(-(gallery @ query), kind="stable")[:k]
    cosine, row = search.nearest(torch.from_numpy(gallery), torch.from_numpy(query), k)
    np.testing.assert_array_equal(row, order)
    np.testing.assert_array_equal(cosine, (gallery @ query)[order])


@pytest.mark.parametrize("count", [7, 2**16 + 9])
def test_equal_entries_have_one_cosine_and_stand_in_the_order_of_their_rows(count):
    """A matrix product may round the cosines of equal rows differently, by where they stand."""
    rows = torch.nn.functional.normalize(torch.randn(1, 48, generator=torch.Generator().manual_seed(0)), dim=1)
    query = torch.nn.functional.normalize(torch.arange(48.0).cos(), dim=0)
    cosine, row = search.nearest(rows.expand(count, -1).contiguous(), query, count + 3)
    assert row.tolist() == list(range(count))
    assert cosine.unique().numel() == 1


@pytest.mark.parametrize(
    ("asked_in", "found_in"), [("text", "image"), ("image", "text"), ("audio", "image"), ("text", "text")]
)
def test_cosines_and_their_order_are_those_of_the_embeddings_that_are_tested(asked_in, found_in, searched, capsys):
    unit = {name: reference.unit_rows(searched.predicted[name].astype(np.float64)) for name in CONTENT}
    expected = unit[asked_in] @ unit[found_in].T
    for number, cosines in list(enumerate(expected))[::3]:
        words = (searched.indexes[found_in], *entry_words(searched, asked_in, number))
        hits = asked(capsys, searched.export, *words)
        order = np.argsort(-cosines)
        assert np.diff(cosines[order]).max() < -1e-6, "the test needs cosines that differ"
        assert [hit["name"] for hit in hits] == [names(searched, found_in)[i] for i in order]
        assert [hit["rank"] for hit in hits] == list(range(1, len(hits) + 1))
        np.testing.assert_allclose([hit["cosine"] for hit in hits], cosines[order], atol=1e-5)


@pytest.mark.parametrize("joint_score", ["cosine", "multilinear"])
def test_entries_of_several_modalities_ask_at_once(joint_score, searched, capsys, tmp_path):
    folder, index = scored_by(joint_score, searched, tmp_path)
    unit = {name: reference.unit_rows(searched.predicted[name].astype(np.float64)) for name in CONTENT}
    joined = unit["text"][2] + unit["audio"][5] if joint_score == "cosine" else unit["text"][2] * unit["audio"][5]
    cosines = unit["image"] @ joined / np.linalg.norm(joined)
    words = (*entry_words(searched, "text", 2), *entry_words(searched, "audio", 5))
    hits = asked(capsys, folder, index, *words)
    assert [hit["name"] for hit in hits] == [names(searched, "image")[i] for i in np.argsort(-cosines)]
    np.testing.assert_allclose([hit["cosine"] for hit in hits], np.sort(cosines)[::-1], atol=1e-5)


def test_a_query_prints_ranks_cosines_and_names(searched, capsys):
    words = (searched.export, searched.indexes["image"], *entry_words(searched, "text", 2))
    hits = asked(capsys, *words, "--k", 3)
    csd("search", "query", *words, "--k", 3)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [[str(h["rank"]), f"{h['cosine']:.4f}", h["name"]] for h in hits]
    assert len(lines) == 3
    assert len(asked(capsys, *words, "--k", 100)) == 8


def test_an_index_holds_unit_rows_whatever_the_size_of_the_batches(searched, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "CHUNK", 3)
    for modality, folder in searched.folders.items():
        csd("search", "index", searched.export, folder, "--modality", modality, "--out", tmp_path / modality)
        found, whole = load_file(tmp_path / modality), load_file(searched.indexes[modality])
        assert found["embeddings"].dtype == torch.float32
        torch.testing.assert_close(found["embeddings"].norm(dim=1), torch.ones(8))
        torch.testing.assert_close(found["embeddings"], whole["embeddings"], rtol=0, atol=1e-5)
        assert torch.equal(found["names"], whole["names"])
        assert (tmp_path / modality).stat().st_mode == searched.folders["text"].stat().st_mode
    assert not cache.exists()


# Folders as they come ------------------------------------------------------------------------------------------------


def test_broken_images_are_named_left_out_and_counted(searched, tmp_path, capsys):
    folder = tmp_path / "mixed"
    shutil.copytree(searched.folders["image"], folder / "deeper")
    whole = (folder / "deeper" / "image20.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "words.PNG").write_text("no image")
    csd("search", "index", searched.export, folder, "--modality", "image")
    said = capsys.readouterr()
    assert f"{folder / 'truncated.jpg'}: is not a readable image (OSError" in said.err
    assert f"{folder / 'words.PNG'}: is not a readable image (UnidentifiedImageError" in said.err
    assert "2 of 10 files" in said.err
    assert "Expected in" not in said.err, "the folder belongs to no data set"
    index = tmp_path / "mixed.image.index.safetensors"
    assert str(index) in said.out
    hits = asked(capsys, searched.export, index, "--image", folder / "deeper" / "image21.jpg")
    assert hits[0]["name"] == "deeper/image21.jpg"
    assert len(hits) == 8


def test_where_nothing_can_be_read_nothing_is_written(searched, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.jpg").write_text("no image")
    message = refused(capsys, "index", searched.export, tmp_path / "folder", "--modality", "image")
    assert "none of the 1 files" in message
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_names_that_are_no_text_or_break_lines_are_printed_as_escapes(searched, tmp_path, capsys):
    (tmp_path / "gallery").mkdir()
    for image, name in zip(sorted(searched.folders["image"].iterdir()), NAMES, strict=False):
        shutil.copy(image, os.path.join(os.fsencode(tmp_path / "gallery"), name))
    index = tmp_path / "index"
    csd("search", "index", searched.export, tmp_path / "gallery", "--modality", "image", "--out", index)
    capsys.readouterr()
    csd("search", "query", searched.export, index, "a text")
    lines = capsys.readouterr().out.encode("utf-8", "strict").decode().split("\n")[:-1]
    assert {line.split(maxsplit=2)[2] for line in lines} == set(NAMES.values())
    assert {os.fsencode(hit.name) for hit in search.find(searched.export, index, {"text": "a text"})} == set(NAMES)


def test_words_and_scripts_that_a_model_does_not_know_are_said(searched, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("a red picture\nрыжая собака\nсобака бежит\n", encoding="utf-8")
    csd("search", "index", searched.export, tmp_path / "texts.txt", "--modality", "text")
    assert "2 of 3 texts have mostly characters other than a-z, 0-9" in capsys.readouterr().err
    csd("search", "query", searched.export, searched.indexes["image"], "рыжая собака")
    assert "mostly characters other than a-z, 0-9" in capsys.readouterr().err
    csd("search", "query", searched.export, searched.indexes["image"], "un café crème, déjà vu!")
    assert capsys.readouterr().err == ""
    words = {"name": "words", "min_count": 1, "width": 4, "hidden": 4}
    folder = export(trained(tmp_path, "CMPM", Tiny(modalities=("text", "code")), encoders={"text": words}))
    (tmp_path / "texts.txt").write_text("caption\nitem\n")
    csd("search", "index", folder, tmp_path / "texts.txt", "--modality", "text")
    capsys.readouterr()
    for query, said in (("Caption of something", ""), ("something else", "no word of the encoder's vocabulary")):
        csd("search", "query", folder, tmp_path / "texts.txt.text.index.safetensors", query)
        assert said in (found := capsys.readouterr().err)
        assert bool(said) == bool(found)


# Where an index is ---------------------------------------------------------------------------------------------------


def test_an_index_of_another_export_is_refused_and_one_of_the_same_model_is_not(searched, tmp_path, capsys):
    words = (searched.indexes["image"], "a text")
    same = Path(shutil.copytree(searched.export, tmp_path / "same"))
    described(same, torch="99.0", csd_retrieval="99", validation={})
    csd("search", "query", same, *words)
    message = refused(capsys, "query", another(same, tmp_path / "other"), *words)
    assert str(words[0]) in message
    assert "another export" in message


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_embedded(searched, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(search, "embed", lambda *arguments: pytest.fail("entries were embedded"))
    words = ("index", searched.export, searched.folders["image"], "--modality", "image", "--out")
    (tmp_path / "file").touch()
    message = refused(capsys, *words, tmp_path / "file" / "index")
    assert str(tmp_path / "file") in message
    assert "--out" in message
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# What is refused -----------------------------------------------------------------------------------------------------


def test_a_joint_query_of_a_model_that_ranks_by_volume_is_refused(searched, tmp_path, capsys):
    words = (*scored_by("volume", searched, tmp_path), "a text", "--image", searched.folders["image"] / "absent.jpg")
    assert "by a volume" in refused(capsys, "query", *words)


def test_a_query_must_be_readable(searched, tmp_path, capsys):
    words = ("query", searched.export, searched.indexes["image"])
    (tmp_path / "a.jpg").write_text("no image")
    assert "give a text, --image" in refused(capsys, *words)
    assert "empty" in refused(capsys, *words, "  ")
    assert "--k is 0" in refused(capsys, *words, "a text", "--k", 0)
    assert f"{tmp_path / 'a.jpg'}: is not a readable image" in refused(capsys, *words, "--image", tmp_path / "a.jpg")
    assert "is not a readable sound" in refused(capsys, *words, "--sound", tmp_path / "absent.wav")


def test_an_embedding_that_is_not_a_number_is_refused(searched):
    model = load_export(searched.export)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(float("nan"))
    with pytest.raises(DataError, match="text as NaN or infinite"):
        search.embed(model, "text", ["a dog"])


@pytest.mark.parametrize("modality", CONTENT)
def test_a_folder_without_entries_of_the_modality_is_refused(modality, searched, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.md").write_text("no entry")
    words = ("index", searched.export)
    message = refused(capsys, *words, tmp_path / "empty", "--modality", modality)
    assert f"{tmp_path / 'empty'} holds no {CONTENT[modality]}" in message
    assert f"{tmp_path / 'absent'} is missing" in refused(capsys, *words, tmp_path / "absent", "--modality", modality)


def test_a_file_that_is_no_index_is_refused(searched, tmp_path, capsys):
    (tmp_path / "broken").write_bytes(searched.indexes["image"].read_bytes()[:300])
    save_file({"names": torch.zeros(2), "embeddings": torch.zeros(2)}, tmp_path / "other")
    for name in ("absent", "broken", "other"):
        assert str(tmp_path / name) in refused(capsys, "query", searched.export, tmp_path / name, "a text")


def test_modalities_that_are_not_raw_are_refused_and_those_beside_them_are_not(tmp_path, searched, capsys):
    features = export(trained(tmp_path, "JFSE", few()))
    message = refused(capsys, "query", features, searched.indexes["image"], "a text")
    assert "JFSE reads features (image, text)" in message
    folder = export(trained(tmp_path, "LAVIMO", Tiny()))
    words = ("index", folder, searched.folders["text"], "--out", tmp_path / "index", "--modality")
    for wrong in ("motion", "video"):
        message = refused(capsys, *words, wrong)
        assert f"'{wrong}'" in message
        assert "'text': 'text'" in message
    csd("search", *words, "text")
    image = sorted(searched.folders["image"].iterdir())[0]
    assert "'text': 'text'" in refused(capsys, "query", folder, tmp_path / "index", "--image", image)


def test_a_text_query_of_a_model_with_two_modalities_of_texts_is_refused(tmp_path, searched, capsys):
    texts = modalities()["text"]
    data = Tiny(item_set(modalities={"caption": texts, "title": texts}))
    folder = export(trained(tmp_path, "LAVIMO", data, encoders=dict.fromkeys(("caption", "title"), ENCODERS["text"])))
    csd("search", "index", folder, searched.folders["text"], "--out", tmp_path / "index", "--modality", "title")
    message = refused(capsys, "query", folder, tmp_path / "index", "a text")
    assert "caption" in message
    assert "title" in message
