"""`csd search`: where indexes stand, which modality is meant, names of any kind, and words that no model knows."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import lavimo_cases
import pytest
import search_cases
from export_cases import described, trained
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from search_cases import csd
from tiny_items import Tiny, item_set, modalities

from lightning_modules.export import export

pytestmark = [
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches.*"),
    pytest.mark.filterwarnings("ignore:Total length of `.*` across ranks is zero"),
]

searched = search_cases.searched
# A name that is no UTF-8, one that breaks a line and colours what follows, and one that is as it is.
NAMES = (b"bad\xff.jpg", b"two\nlines\x1b[1m.jpg", "caf\u00e9 \u3000.jpg".encode())


def refused(capsys, *words: object) -> str:
    return search_cases.refused(capsys, "search", *words)


def nothing_embedded(monkeypatch) -> None:
    def embed(*arguments):
        raise AssertionError("entries were embedded")

    monkeypatch.setattr("lightning_modules.search.embed", embed)


def another(source: Path, folder: Path) -> Path:
    """An export like one, with other weights."""
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    weights["projections.text.1.bias"] += 1
    save_file(weights, folder / "model.safetensors")
    described(folder, weights_sha256=hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest())
    return folder


# Where an index stands -----------------------------------------------------------------------------------------------


def test_indexes_of_two_modalities_of_one_folder_stand_side_by_side(searched, tmp_path, capsys):
    folder = tmp_path / "gallery"
    for name in ("image", "audio"):
        shutil.copytree(searched.folders[name], folder, dirs_exist_ok=True)
        csd("search", "index", searched.export, folder, "--modality", name)
    held = {}
    for path in tmp_path.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            held[path.name] = file.metadata()["modality"]
    assert held == {"gallery.image.index.safetensors": "image", "gallery.audio.index.safetensors": "audio"}


def test_what_is_no_such_index_of_this_export_is_replaced_where_it_is_named_alone(
    searched, tmp_path, capsys, monkeypatch
):
    other = another(searched.export, tmp_path / "other")
    folder = tmp_path / "gallery"
    shutil.copytree(searched.folders["image"], folder)
    words = (folder, "--modality", "image")
    csd("search", "index", searched.export, *words)
    csd("search", "index", searched.export, *words)
    index = tmp_path / "gallery.image.index.safetensors"
    expected = f"{index} exists and is no index of image by this export; name a file with --out, or this one to replace"
    with monkeypatch.context() as patch:
        nothing_embedded(patch)
        for content in (index.read_bytes(), b"the notes of a stranger"):
            index.write_bytes(content)
            assert expected in refused(capsys, "index", other, *words)
            assert index.read_bytes() == content
    csd("search", "index", other, *words, "--out", index)
    csd("search", "query", other, index, "a text")


def test_an_index_of_another_export_is_refused_and_one_of_the_same_model_is_not(searched, tmp_path, capsys):
    words = (searched.indexes["image"], "a text")
    same = Path(shutil.copytree(searched.export, tmp_path / "same"))
    described(same, torch="99.0", csd_retrieval="99", validation={})
    csd("search", "query", same, *words)
    message = refused(capsys, "query", another(same, tmp_path / "other"), *words)
    assert "was made with another export, which embeds otherwise; index the folder again, with --out to" in message


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_embedded(searched, tmp_path, capsys, monkeypatch):
    nothing_embedded(monkeypatch)
    words = ("index", searched.export, searched.folders["image"], "--modality", "image", "--out")
    assert f"{tmp_path} is a folder; name a file with --out" in refused(capsys, *words, tmp_path)
    (tmp_path / "file").touch()
    message = refused(capsys, *words, tmp_path / "file" / "deep" / "index")
    assert f"index cannot be written, for {tmp_path / 'file'} is a file; name another place with --out" in message
    monkeypatch.setattr("os.access", lambda path, mode: False)
    message = refused(capsys, *words, tmp_path / "deep" / "index")
    assert f"index cannot be written, for you may not write into {tmp_path}; name another" in message
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_in_the_place_of_a_folder_is_named_as_one(searched, capsys):
    image = sorted(searched.folders["image"].iterdir())[0]
    message = refused(capsys, "index", searched.export, image, "--modality", "image")
    assert f"{image} is a file; expected a folder of images" in message


# Which modality is meant ---------------------------------------------------------------------------------------------


def test_a_modality_may_be_called_by_what_it_holds(searched, tmp_path):
    csd("search", "index", searched.export, searched.folders["audio"], "--modality", "sound", "--out", tmp_path / "i")
    with safe_open(tmp_path / "i", framework="pt") as file, safe_open(searched.indexes["audio"], "pt") as expected:
        assert file.metadata() == expected.metadata()


def test_a_word_for_what_several_modalities_hold_or_none_is_refused(searched, tmp_path, capsys):
    texts = modalities()["text"]
    data = Tiny(item_set(modalities={"caption": texts, "title": texts}))
    encoder = lavimo_cases.ENCODERS["text"]
    checkpoint = trained(tmp_path, "LAVIMO", data, encoders={"caption": encoder, "title": encoder})
    folder = export(checkpoint)
    words = ("index", folder, searched.folders["text"], "--out", tmp_path / "index", "--modality")
    said = "text is what 2 of the model's modalities are, and one is needed: caption (text), title (text)"
    assert said in refused(capsys, *words, "text")
    assert "the model has no modality 'sound'; it has caption, title" in refused(capsys, *words, "sound")
    csd("search", *words, "title")


# Names ---------------------------------------------------------------------------------------------------------------


def test_names_that_are_no_text_or_break_lines_are_printed_as_escapes(searched, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "gallery"
    folder.mkdir()
    for image, name in zip(sorted(searched.folders["image"].iterdir()), NAMES, strict=False):
        shutil.copy(image, os.path.join(os.fsencode(folder), name))
    index = tmp_path / "index"
    csd("search", "index", searched.export, folder, "--modality", "image", "--out", index)
    code = "from lightning_modules.cli import main; main()"
    command = [sys.executable, "-c", code, "search", "query", searched.export, index, "a text"]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}

    def printed(*words: str) -> str:
        run = subprocess.run([*command, *words], capture_output=True, env=environment, check=True)
        return run.stdout.decode()

    lines = printed().split("\n")
    assert len(lines) == len(NAMES) + 1
    found = {line.split(maxsplit=2)[2] for line in lines[:-1]}
    assert found == {"bad\\udcff.jpg", "two\\nlines\\x1b[1m.jpg", "caf\u00e9 \u3000.jpg"}
    assert {os.fsencode(hit["name"]) for hit in json.loads(printed("--json"))} == set(NAMES)


# Words ---------------------------------------------------------------------------------------------------------------


def test_a_query_without_a_word_that_the_model_knows_is_said_to_be_one(tmp_path, capsys):
    words = {"name": "words", "min_count": 1, "width": 4, "hidden": 4}
    checkpoint = trained(tmp_path, "CMPM", Tiny(modalities=("text", "code")), encoders={"text": words})
    folder = export(checkpoint)
    (tmp_path / "texts.txt").write_text("caption\nitem\n")
    csd("search", "index", folder, tmp_path / "texts.txt", "--modality", "text")
    index = tmp_path / "texts.txt.text.index.safetensors"
    capsys.readouterr()
    csd("search", "query", folder, index, "Caption of something")
    assert capsys.readouterr().err == ""
    csd("search", "query", folder, index, "something else")
    said = capsys.readouterr()
    assert said.err.startswith("csd: the query has no word of the encoder's vocabulary: ")
    assert len(said.out.splitlines()) == 2


def test_texts_in_a_script_that_the_model_does_not_know_are_said(searched, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("a red picture\nрыжая собака\nсобака бежит\n", encoding="utf-8")
    csd("search", "index", searched.export, tmp_path / "texts.txt", "--modality", "text")
    assert "csd: 2 of 3 texts have mostly characters other than a-z and 0-9" in capsys.readouterr().err
    csd("search", "query", searched.export, searched.indexes["image"], "рыжая собака")
    assert "csd: the query has mostly characters other than a-z and 0-9" in capsys.readouterr().err
    csd("search", "query", searched.export, searched.indexes["image"], "un café crème, déjà vu!")
    assert capsys.readouterr().err == ""
