"""`csd search`: what is found is what the embeddings of `csd test` say; folders as they come; what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import jfse_cases
import lavimo_cases
import numpy as np
import pandas as pd
import pytest
import reference
import search_cases
import soundfile
import torch
import yaml
from safetensors.torch import load_file, save_file
from search_cases import Searched, csd, sound
from tiny_items import Tiny

from datamodules import DataError
from lightning_modules import search
from lightning_modules.export import export, load_export

pytestmark = [
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches.*"),
    pytest.mark.filterwarnings("ignore:Total length of `.*` across ranks is zero"),
]

searched = search_cases.searched
CONTENT = {"text": "text", "image": "image", "audio": "sound"}


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
    return search_cases.refused(capsys, "search", *words)


# What is found -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", CONTENT)
def test_an_entry_of_the_index_finds_itself_first(modality, searched, capsys):
    for number, name in enumerate(names(searched, modality)):
        hits = asked(capsys, searched.export, searched.indexes[modality], *entry_words(searched, modality, number))
        assert hits[0]["name"] == name
        assert hits[0]["cosine"] == pytest.approx(1, abs=1e-5)
        assert [hit["rank"] for hit in hits] == list(range(1, len(hits) + 1))


@pytest.mark.parametrize("how", [(), ("--faiss",)])
@pytest.mark.parametrize(("asked_in", "found_in"), [("text", "image"), ("image", "text"), ("audio", "image")])
def test_cosines_and_their_order_are_those_of_the_embeddings_that_are_tested(asked_in, found_in, how, searched, capsys):
    unit = {name: reference.unit_rows(searched.predicted[name].astype(np.float64)) for name in CONTENT}
    expected = unit[asked_in] @ unit[found_in].T
    for number, cosines in enumerate(expected):
        words = (searched.indexes[found_in], *entry_words(searched, asked_in, number), *how)
        hits = asked(capsys, searched.export, *words)
        order = np.argsort(-cosines)
        assert np.diff(cosines[order]).max() < -1e-6, "the test needs cosines that differ"
        assert [hit["name"] for hit in hits] == [names(searched, found_in)[i] for i in order]
        np.testing.assert_allclose([hit["cosine"] for hit in hits], cosines[order], atol=1e-5)


def test_a_query_prints_ranks_cosines_and_names(searched, capsys):
    words = (searched.export, searched.indexes["image"], *entry_words(searched, "text", 2))
    hits = asked(capsys, *words, "--k", 3)
    csd("search", "query", *words, "--k", 3)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [[str(h["rank"]), f"{h['cosine']:.4f}", h["name"]] for h in hits]
    assert len(lines) == 3
    assert len(asked(capsys, *words, "--k", 100)) == 8


def test_an_index_holds_unit_rows_whatever_the_size_of_the_batches(searched, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "CHUNK", 3)
    monkeypatch.setattr(search, "EVALUATION_BATCH_SIZE", 2)
    for modality, folder in searched.folders.items():
        csd("search", "index", searched.export, folder, "--modality", modality, "--out", tmp_path / modality)
        found, whole = load_file(tmp_path / modality), load_file(searched.indexes[modality])
        assert found["embeddings"].dtype == torch.float32
        torch.testing.assert_close(found["embeddings"].norm(dim=1), torch.ones(8))
        torch.testing.assert_close(found["embeddings"], whole["embeddings"], rtol=0, atol=1e-5)
        assert torch.equal(found["names"], whole["names"])
        assert "faiss" not in found
        assert (tmp_path / modality).stat().st_mode == searched.folders["text"].stat().st_mode


def test_neither_an_index_nor_a_query_writes_into_the_cache(searched, cache, tmp_path, capsys):
    csd("search", "index", searched.export, searched.folders["image"], "--modality", "image", "--out", tmp_path / "i")
    for modality in CONTENT:
        asked(capsys, searched.export, tmp_path / "i", *entry_words(searched, modality, 0))
    assert not cache.exists()


def test_an_export_tells_the_scores_of_its_checkpoint(searched):
    """The last checkpoint is that of the last epoch, whose scores the run logged."""
    table = pd.read_csv(searched.run / "csv" / "version_0" / "metrics.csv")
    told = yaml.safe_load((searched.export / "model.yaml").read_text())["validation"]
    for name in ("val/average/MAP", "val/text->image/MAP", "val/audio->text/R@1"):
        assert told[name] == pytest.approx(table[name].dropna().iloc[-1], abs=1e-6)
    assert len(told) > 20


def test_the_commands_are_named_by_the_help_of_csd(capsys):
    with pytest.raises(SystemExit) as stop:
        csd("--help")
    assert not stop.value.code
    said = " ".join(capsys.readouterr().out.split())
    assert "csd export CHECKPOINT writes what retrieval needs" in said
    assert "csd search index and csd search query" in said


# Folders as they come ------------------------------------------------------------------------------------------------


def test_broken_images_are_named_left_out_and_counted(searched, tmp_path, capsys):
    folder = tmp_path / "mixed"
    shutil.copytree(searched.folders["image"], folder / "deeper")
    whole = (folder / "deeper" / "image20.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "words.PNG").write_text("no image")
    (folder / "notes.md").write_text("passed over")
    (folder / "._image20.jpg").write_bytes(b"what some systems write beside a file")
    csd("search", "index", searched.export, folder, "--modality", "image")
    said = capsys.readouterr()
    assert f"csd: {folder / 'truncated.jpg'}: is not a readable image (OSError" in said.err
    assert f"csd: {folder / 'words.PNG'}: is not a readable image (UnidentifiedImageError" in said.err
    assert "csd: 2 of 10 files cannot be read and are left out" in said.err
    assert "flickr8k" not in said.err
    index = tmp_path / "mixed.image.index.safetensors"
    assert f"wrote {index}: 8 entries of image, 16 numbers each" in said.out
    hits = asked(capsys, searched.export, index, "--image", folder / "deeper" / "image21.jpg")
    assert hits[0]["name"] == "deeper/image21.jpg"
    assert len(hits) == 8


def test_where_nothing_can_be_read_the_status_is_1_and_nothing_is_written(searched, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.jpg").write_text("no image")
    with pytest.raises(SystemExit) as stop:
        csd("search", "index", searched.export, tmp_path / "folder", "--modality", "image")
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert "1 of 1 files cannot be read" in said
    assert "nothing is written" in said
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_texts_come_one_per_file_or_one_per_line_or_in_a_column(searched, tmp_path, capsys):
    texts = searched.captions[:3]
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / f"{number}.txt").write_text(f"{text}\n", encoding="utf-8")
    (folder / "empty.txt").write_text(" \n")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    lines = tmp_path / "lines.txt"
    lines.write_text("\n\n".join(texts), encoding="utf-8-sig")
    column = tmp_path / "column.csv"
    column.write_text("\n".join(f'"{text}"' for text in texts), encoding="utf-8")
    table = tmp_path / "table.csv"
    table.write_text("id,Caption\n" + "\n".join(f'{i},"{text}"' for i, text in enumerate(texts)), encoding="utf-8")
    found = {}
    for where in (folder, lines, column, table):
        out = tmp_path / f"{where.name}.out"
        csd("search", "index", searched.export, where, "--modality", "text", "--out", out)
        found[where] = load_file(out)["embeddings"]
        hits = asked(capsys, searched.export, out, texts[1], "--k", 1)
        assert hits[0]["name"] == ("1.txt" if where == folder else texts[1])
    assert len(found) == 4
    for rows in found.values():
        torch.testing.assert_close(rows, found[lines], rtol=0, atol=1e-5)


def test_the_texts_that_cannot_be_read_are_named(searched, tmp_path, capsys):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "empty.txt").write_text(" \n")
    (tmp_path / "texts" / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "texts" / "whole.txt").write_text("a text")
    csd("search", "index", searched.export, tmp_path / "texts", "--modality", "text")
    said = capsys.readouterr().err
    assert "empty.txt: is empty" in said
    assert "latin.txt: cannot be read as text" in said
    assert "2 of 3 files cannot be read" in said


@pytest.mark.parametrize(("form", "rate"), [("wav", 16000), ("flac", 16000), ("mp3", 24000), ("wav", 4000)])
def test_sounds_of_other_rates_and_forms_find_their_like(form, rate, searched, tmp_path, capsys):
    wave = sound(25, rate)
    path = tmp_path / f"sound.{form}"
    soundfile.write(path, np.stack([wave, wave], axis=1), rate)
    hits = asked(capsys, searched.export, searched.indexes["audio"], "--sound", path)
    assert hits[0]["name"] == "image25.wav"


# What is refused -----------------------------------------------------------------------------------------------------


def test_a_query_must_be_one_thing(searched, capsys):
    words = ("query", searched.export, searched.indexes["image"])
    image = sorted(searched.folders["image"].iterdir())[0]
    assert "required" in refused(capsys, *words)
    assert "not allowed with" in refused(capsys, *words, "a text", "--image", image)
    assert "the query is an empty text" in refused(capsys, *words, "  ")
    assert "--k is 0; expected at least 1" in refused(capsys, *words, "a text", "--k", 0)


def test_a_query_whose_file_cannot_be_read_is_refused(searched, tmp_path, capsys):
    (tmp_path / "a.jpg").write_text("no image")
    words = ("query", searched.export, searched.indexes["image"])
    message = refused(capsys, *words, "--image", tmp_path / "a.jpg")
    assert f"{tmp_path / 'a.jpg'}: is not a readable image" in message
    assert "flickr8k" not in message
    assert "is not a readable sound" in refused(capsys, *words, "--sound", tmp_path / "absent.wav")


def test_an_embedding_that_is_not_a_number_is_refused(searched):
    model = load_export(searched.export)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(float("nan"))
    with pytest.raises(DataError, match="the model embeds text as NaN or infinite numbers"):
        search.embed(model, "text", ["a dog"])


def test_a_modality_that_the_model_has_not_is_refused(searched, tmp_path, capsys):
    words = ("index", searched.export, searched.folders["image"], "--out", tmp_path / "index")
    message = refused(capsys, *words, "--modality", "video")
    assert "the model has no modality 'video'; it has image, text, audio" in message
    assert "--modality" in refused(capsys, *words)


@pytest.mark.parametrize("modality", CONTENT)
def test_a_folder_without_entries_of_the_modality_is_refused(modality, searched, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.md").write_text("no entry")
    words = ("index", searched.export)
    message = refused(capsys, *words, tmp_path / "empty", "--modality", modality)
    assert f"{tmp_path / 'empty'} holds no {CONTENT[modality]}; expected files that end in ." in message
    assert f"{tmp_path / 'absent'} is missing" in refused(capsys, *words, tmp_path / "absent", "--modality", modality)


def test_a_file_that_is_no_index_is_refused(searched, tmp_path, capsys):
    words = ("query", searched.export)
    assert "absent cannot be read" in refused(capsys, *words, tmp_path / "absent", "a text")
    (tmp_path / "broken").write_bytes(searched.indexes["image"].read_bytes()[:300])
    assert "broken cannot be read" in refused(capsys, *words, tmp_path / "broken", "a text")
    save_file({"names": torch.zeros(2)}, tmp_path / "other")
    assert "other is no index that this version reads" in refused(capsys, *words, tmp_path / "other", "a text")


def test_an_export_that_was_changed_is_refused(searched, tmp_path, capsys):
    changed = shutil.copytree(searched.export, tmp_path / "changed")
    content = bytearray((changed / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (changed / "model.safetensors").write_bytes(content)
    assert "is not the file that was exported" in refused(capsys, "query", changed, searched.indexes["image"], "a")


def test_faiss_that_is_not_installed_is_named_with_its_extra(searched, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    where = ("index", searched.export, searched.folders["image"], "--modality", "image", "--out", tmp_path / "index")
    for words in ((*where, "--faiss"), ("query", searched.export, searched.indexes["image"], "a text", "--faiss")):
        assert "install the extra csd-retrieval[search]" in refused(capsys, *words)
    csd("search", *where)
    monkeypatch.undo()
    message = refused(capsys, "query", searched.export, tmp_path / "index", "a text", "--faiss")
    assert "holds no index of faiss; index the folder again with --faiss" in message


def test_an_index_that_cannot_be_written_leaves_the_old_one(searched, tmp_path, capsys, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    out = tmp_path / "index"
    out.write_bytes(b"the old one")
    monkeypatch.setattr(search.os, "replace", full)
    words = (searched.folders["image"], "--modality", "image", "--out", out)
    assert "No space left on device" in refused(capsys, "index", searched.export, *words)
    assert out.read_bytes() == b"the old one"
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def saved(folder: Path, module, data) -> Path:
    trainer = lavimo_cases.trainer(folder)
    trainer.fit(module, data)
    trainer.save_checkpoint(folder / "model.ckpt")
    return export(folder / "model.ckpt")


def test_a_model_of_features_is_refused(tmp_path, searched, capsys):
    data = jfse_cases.data()
    folder = saved(tmp_path, jfse_cases.model(data), data)
    message = "this JFSE reads features (image, text), and search needs raw entries"
    words = ("index", folder, searched.folders["image"], "--modality", "image")
    assert message in refused(capsys, *words)
    assert message in refused(capsys, "query", folder, searched.indexes["image"], "a text")


def test_a_modality_of_sequences_is_refused_and_the_texts_beside_it_are_not(tmp_path, searched, capsys):
    data = Tiny()
    folder = saved(tmp_path, lavimo_cases.model(data), data)
    words = ("index", folder, searched.folders["text"], "--out", tmp_path / "index", "--modality")
    message = refused(capsys, *words, "motion")
    assert "motion is a sequence; search reads texts, images and sounds, here text" in message
    csd("search", *words, "text")
    image = sorted(searched.folders["image"].iterdir())[0]
    message = refused(capsys, "query", folder, tmp_path / "index", "--image", image)
    assert "image is what 0 of the model's modalities are, and one is needed: text (text)" in message
    assert load_export(folder).modalities == ("text", "motion", "code")
