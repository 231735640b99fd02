"""Exports that go elsewhere: they bring the files along that their encoders name, and their indexes stay of use."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import search_cases
import timm
import tiny_clip
import torch
from export_cases import about, described, trained
from PIL import Image
from safetensors.torch import load_file, save_file
from search_cases import csd, refused
from tiny_items import Tiny, with_modality
from tiny_models import text_model

from datamodules import DataError
from datamodules.files.media import read_image
from datamodules.items import Files, Modality
from lightning_modules import export
from lightning_modules.export import export_identity, load_export
from lightning_modules.search import embed

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches.*"),
    pytest.mark.filterwarnings("ignore:.*texts are longer than the"),
    pytest.mark.filterwarnings("ignore:Total length of `.*` across ranks is zero"),
]

searched = search_cases.searched


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Modality:
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(draw.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    return Modality(Files(tuple(sorted(folder.iterdir())), _decode))


def _decode(path: Path) -> np.ndarray:
    return read_image(path)


def network_weights(path: Path, seed: int) -> str:
    torch.manual_seed(seed)
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return str(path)


def with_image_network(folder: Path, pictures: Modality, frozen: bool) -> tuple[Path, Path]:
    """An export of a model over a timm network, and the file of weights that the network started from."""
    start = folder / "start.safetensors"
    image = {"name": "timm", "model": "test_resnet", "weights": network_weights(start, 0), "frozen": frozen, "size": 32}
    data = Tiny(with_modality("image", pictures), modalities=("image", "code"))
    path = trained(folder, "LAVIMO", data, encoders={"image": image})
    return export.export(path), start


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# Away from where it was trained ---------------------------------------------------------------------------------------


@pytest.fixture
def of_local_files(pictures, tmp_path, monkeypatch) -> Path:
    """A checkpoint over a frozen network and a language model that trains, named relative to the working folder."""
    (tmp_path / "training" / "w").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "training")
    network_weights(Path("w", "blob"), 0)
    os.symlink("blob", Path("w", "start.safetensors"))  # as in the store of the hub
    image = {"name": "timm", "model": "test_resnet", "weights": "w/start.safetensors", "frozen": True, "size": 32}
    text = {"name": "tokens", "model": text_model(Path("w", "language"), "bert"), "frozen": False}
    data = Tiny(with_modality("image", pictures), modalities=("image", "text"))
    return trained(Path("."), "LAVIMO", data, encoders={"image": image, "text": text})


def test_an_export_answers_the_same_in_another_place_without_the_files_it_was_made_of(
    of_local_files, pictures, tmp_path, monkeypatch, capsys
):
    gallery = pictures.entries.paths[0].parent
    csd("export", of_local_files, "--out", "made")
    assert "encoders/ (" in capsys.readouterr().out
    csd("search", "index", "made", gallery, "--modality", "image", "--out", "made/images")
    answers = []
    for place, run_in in (("made", "."), (tmp_path / "moved", tmp_path / "elsewhere")):
        Path(run_in).mkdir(exist_ok=True)
        monkeypatch.chdir(run_in)
        for query in (["a caption of item 3"], ["--image", pictures.entries.paths[5]]):
            capsys.readouterr()
            csd("search", "query", place, Path(place, "images"), *query, "--json")
            answers.append(json.loads(capsys.readouterr().out))
        if place == "made":
            shutil.move("made", tmp_path / "moved")
            shutil.rmtree(tmp_path / "training")
    assert answers[:2] == answers[2:]
    assert answers[1][0]["name"] == "05.png"
    named = {name: (s.get("weights"), s["model"]) for name, s in about(place)["init_args"]["encoders"].items()}
    assert named["image"] == ("encoders/image/start.safetensors", "test_resnet")
    assert named["text"] == (None, "encoders/text/language")
    assert not any(path.is_symlink() for path in Path(place).rglob("*"))


def test_a_folder_that_two_modalities_name_is_copied_once_and_installed_models_are_not(pictures, tmp_path):
    tower = {"name": "clip", "model": str(tiny_clip.write_clip(tmp_path / "towers")), "frozen": True}
    data = Tiny(with_modality("image", pictures), modalities=("image", "text"))
    checkpoint = trained(tmp_path, "LAVIMO", data, encoders={"image": tower, "text": tower})
    folder = export.export(checkpoint)
    copies = [f"encoders/image/towers/{name}" for name in files(tmp_path / "towers")]
    assert files(folder) == sorted([*copies, "model.safetensors", "model.yaml"])
    shutil.rmtree(tmp_path / "towers")
    found = embed(load_export(folder), "text", tiny_clip.TEXTS)
    assert found.isfinite().all()
    texts = {"text": {"name": "sentence", "model": "all-MiniLM-L6-v2"}}
    checkpoint = trained(tmp_path, "LAVIMO", Tiny(modalities=("text", "code")), encoders=texts)
    assert files(export.export(checkpoint, folder)) == ["model.safetensors", "model.yaml"], "nothing stale is left"
    assert about(folder)["init_args"]["encoders"] == texts


def test_what_others_put_into_an_export_stays_when_it_is_written_again(of_local_files, tmp_path):
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    folder = export.export(of_local_files, tmp_path / "linked")
    before = files(folder)
    (folder / "gallery.index").write_text("mine")
    (folder / "encoders" / "stale").touch()
    assert export.export(of_local_files, folder) == folder
    assert files(folder) == sorted([*before, "gallery.index"])
    assert folder.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"linked", "real", "training"}
    load_export(folder)


def test_an_export_that_is_interrupted_while_it_moves_in_is_refused(of_local_files, tmp_path, monkeypatch):
    folder = export.export(of_local_files, tmp_path / "made")
    saved = torch.load(of_local_files, weights_only=True)
    saved["state_dict"]["projections.text.1.bias"] += 1
    torch.save(saved, of_local_files)
    moves = iter(range(9))

    def interrupted(old, new):
        if next(moves) == 3:  # the copies out, the copies in, the weights; then the description
            raise KeyboardInterrupt
        shutil.move(old, new)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export.export(of_local_files, folder)
    with pytest.raises(DataError, match=r"is not the file that was exported"):
        load_export(folder)
    monkeypatch.undo()


def test_an_export_without_one_of_its_files_says_which(of_local_files, tmp_path, capsys):
    folder = export.export(of_local_files, tmp_path / "made")
    shutil.copytree(folder, tmp_path / "part", ignore=shutil.ignore_patterns("start*"))
    message = refused(capsys, "search", "query", tmp_path / "part", "index", "a text")
    wanted = "encoders/image/start.safetensors, which an export holds; copy the whole folder, or export again"
    assert f"{tmp_path / 'part'} lacks {wanted}" in message
    (folder / "model.safetensors").unlink()
    message = refused(capsys, "search", "query", folder, "index", "a text")
    assert f"{folder} lacks model.safetensors, which an export holds; copy the whole folder, or export again" in message


# Fixed parts and starts -----------------------------------------------------------------------------------------------


def test_a_network_that_was_trained_needs_the_file_it_started_from_no_longer(pictures, tmp_path):
    folder, start = with_image_network(tmp_path, pictures, frozen=False)
    start.unlink()
    module = load_export(folder)
    assert about(folder)["init_args"]["encoders"]["image"]["weights"] is None
    assert files(folder) == ["model.safetensors", "model.yaml"]
    saved = torch.load(tmp_path / "LAVIMO.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(module.state_dict()[name], saved[name]) for name in module.state_dict())


def test_a_frozen_network_must_be_the_one_of_the_training(pictures, tmp_path):
    folder, start = with_image_network(tmp_path, pictures, frozen=True)
    assert not [name for name in load_file(folder / "model.safetensors") if name.startswith("encoders.image")]
    network_weights(start, 1)
    load_export(folder)
    network_weights(folder / "encoders" / "image" / "start.safetensors", 1)
    with pytest.raises(DataError, match=r"the fixed part of the encoder of 'image' is 'timm test_resnet .* install or"):
        load_export(folder)


# What an export is known by -------------------------------------------------------------------------------------------


def test_an_export_is_known_by_what_decides_its_embeddings(of_local_files, tmp_path, monkeypatch):
    folder = export.export(of_local_files, tmp_path / "made")
    known = export_identity(folder)
    monkeypatch.setattr(export, "version", lambda package: "99")
    os.rename("w", "weights")
    saved = torch.load(of_local_files, weights_only=True)
    encoders = saved["hyper_parameters"]["encoders"]
    encoders["image"]["weights"], encoders["text"]["model"] = "weights/start.safetensors", "weights/language"
    torch.save(saved, of_local_files)
    again = export.export(of_local_files, tmp_path / "again")
    assert about(again) != about(folder)
    assert export_identity(again) == known
    described(again, validation={}, torch="9.9")
    assert export_identity(again) == known
    for changes in (
        {"weights_sha256": "0" * 64},
        {"class": "lightning_modules.cmpm.CMPM"},
        {"left_out": []},
        {"init_args": about(again)["init_args"] | {"dim": 8}},
        {"modalities": about(again)["modalities"] | {"text": {"front_end": "other"}}},
    ):
        before = (again / "model.yaml").read_text()
        described(again, **changes)
        assert export_identity(again) != known, changes
        (again / "model.yaml").write_text(before)
