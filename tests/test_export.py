"""`csd export`: what is kept of every model, that it embeds the same to the bit, that it moves, what is refused."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import tiny_clip
import torch
from cli_cases import refused
from PIL import Image
from safetensors.torch import load_file, save_file
from search_cases import about, changed_checkpoint, csd, data_of, described, rewritten, trained
from small_models import ENCODERS, text_model
from tiny_items import Tiny, with_modality

import lightning_modules
from datamodules import DataError
from datamodules.files.media import read_image
from datamodules.items import Files, Modality
from lightning_modules.serving import export
from lightning_modules.serving.export import export_identity, load_export
from lightning_modules.serving.search import embed, find

# Settings with which a model has as many parts as it can have, and the parts that no embedding is made with.
SETTINGS = {"LAVIMO": {"reconstruct": "motion"}, "CMPM": {"classification_weight": 1.0}, "JFSE": {"width": 16}}
LEFT_OUT = {
    "JFSE": {"critics", "generators", "modality_classifier"},
    "LAVIMO": {"fusion", "decoder"},
    "CMPM": {"classification"},
    "CSAligner": set(),
}
NAME = "projections.text.1.weight"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """A checkpoint of every model of the suite; nothing may be written beside them."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: trained(folder, name, data_of(name), **SETTINGS.get(name, {})) for name in LEFT_OUT}


@pytest.fixture
def exported(checkpoints, tmp_path) -> Path:
    """An export of LAVIMO, free to be broken."""
    return export.export(checkpoints["LAVIMO"], tmp_path / "exported")


def embeddings(module, data) -> dict[str, torch.Tensor]:
    """Of all test items."""
    data.precompute(module.frozen_networks())
    (loader,) = data.test_dataloader()
    with torch.inference_mode():
        found = [module.embed(batch) for batch in loader]
    return {name: torch.cat([rows[name] for rows in found]) for name in found[0]}


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# What is written -----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the checkpoint was trained with alignment")
@pytest.mark.parametrize("name", LEFT_OUT)
def test_an_export_embeds_to_the_bit_what_the_checkpoint_does_without_what_only_training_needs(
    name, checkpoints, tmp_path
):
    folder = export.export(checkpoints[name], tmp_path / "exported")
    torch.manual_seed(3)
    expected_draw = torch.rand(4)
    torch.manual_seed(3)
    module = load_export(folder)
    assert torch.equal(torch.rand(4), expected_draw), "loading draws no random numbers"
    original = getattr(lightning_modules, name).load_from_checkpoint(checkpoints[name], map_location="cpu").eval()
    found, expected = embeddings(module, data_of(name)), embeddings(original, data_of(name))
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert all(x.std(dim=0).max() > 0 for x in found.values())
    kept = {key.split(".")[0] for key in load_file(folder / "model.safetensors")}
    parts = {key.split(".")[0] for key in torch.load(checkpoints[name], weights_only=True)["state_dict"]}
    assert parts - kept == LEFT_OUT[name]
    assert all(getattr(module, part) is None for part in LEFT_OUT[name])
    assert not module.training


def test_the_description_says_what_the_model_is_and_how_it_was_trained(checkpoints, exported):
    found = about(exported)
    saved = torch.load(checkpoints["LAVIMO"], weights_only=True)
    assert found["class"] == "lightning_modules.lavimo.LAVIMO"
    assert found["init_args"]["encoders"].items() <= ENCODERS.items()
    assert "alignment" not in found["init_args"]
    assert found["alignment"].startswith("GCSLoss(")
    assert found["validation"] == saved["validation"]
    assert found["torch"] == torch.__version__


def test_the_command_writes_beside_the_checkpoint(checkpoints, tmp_path, capsys):
    path = tmp_path / "best-epoch3.ckpt"
    path.write_bytes(checkpoints["CMPM"].read_bytes())
    csd("export", path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["best-epoch3-export", "best-epoch3.ckpt"]
    assert str(tmp_path / "best-epoch3-export") in capsys.readouterr().out
    assert isinstance(load_export(tmp_path / "best-epoch3-export"), lightning_modules.CMPM)


class PowerCut(BaseException):
    pass


def test_an_interrupted_export_leaves_nothing(checkpoints, tmp_path, monkeypatch):
    def cut(*arguments):
        raise PowerCut

    monkeypatch.setattr(export, "load_export", cut)
    with pytest.raises(PowerCut):
        export.export(checkpoints["LAVIMO"], tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == []


# Away from where it was trained --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Modality:
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(draw.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    return Modality(Files(tuple(sorted(folder.iterdir())), read_image))


def network_weights(path: Path, seed: int) -> str:
    torch.manual_seed(seed)
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return str(path)


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
    of_local_files, pictures, tmp_path, monkeypatch
):
    csd("export", of_local_files, "--out", "made")
    named = {name: (s.get("weights"), s["model"]) for name, s in about(Path("made"))["init_args"]["encoders"].items()}
    assert named["image"] == ("encoders/image/start.safetensors", "test_resnet")
    assert named["text"] == (None, "encoders/text/language")
    assert not any(path.is_symlink() for path in Path("made").rglob("*"))
    assert not [name for name in load_file("made/model.safetensors") if name.startswith("encoders.image")], "frozen"
    gallery = pictures.entries.paths[0].parent
    csd("search", "index", "made", gallery, "--modality", "image", "--out", "made/images")
    queries = ({"text": "a caption of item 3"}, {"image": pictures.entries.paths[5]})
    answers = [find(Path("made"), Path("made", "images"), query) for query in queries]
    assert answers[1][0].name == "05.png"
    moved = Path(shutil.move("made", tmp_path / "moved"))
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(tmp_path / "training")
    assert [find(moved, moved / "images", query) for query in queries] == answers


def test_a_folder_that_two_modalities_name_is_copied_once_and_bundled_models_are_not(pictures, tmp_path):
    tower = {"name": "clip", "model": str(tiny_clip.write_clip(tmp_path / "towers")), "frozen": True}
    data = Tiny(with_modality("image", pictures), modalities=("image", "text"))
    folder = export.export(trained(tmp_path, "LAVIMO", data, encoders={"image": tower, "text": tower}))
    copies = [f"encoders/image/towers/{name}" for name in files(tmp_path / "towers")]
    assert files(folder) == sorted([*copies, "model.safetensors", "model.yaml"])
    shutil.rmtree(tmp_path / "towers")
    assert embed(load_export(folder), "text", tiny_clip.TEXTS).isfinite().all()
    texts = {"text": {"name": "sentence", "model": "all-MiniLM-L6-v2"}}
    checkpoint = trained(tmp_path, "LAVIMO", Tiny(modalities=("text", "code")), encoders=texts)
    folder = export.export(checkpoint, tmp_path / "bundled")
    assert files(folder) == ["model.safetensors", "model.yaml"]
    assert about(folder)["init_args"]["encoders"] == texts


def test_copies_must_be_there_and_frozen_networks_those_of_the_training(of_local_files, tmp_path):
    folder = export.export(of_local_files, tmp_path / "made")
    network_weights(Path("w", "blob"), 1)
    load_export(folder)  # by its own copy
    network_weights(folder / "encoders" / "image" / "start.safetensors", 1)
    with pytest.raises(DataError, match=r"frozen network of 'image' is 'timm test_resnet"):
        load_export(folder)
    (folder / "encoders" / "image" / "start.safetensors").unlink()
    with pytest.raises(DataError, match=r"made lacks encoders/image/start\.safetensors"):
        load_export(folder)


def test_an_export_is_known_by_what_decides_its_embeddings(of_local_files, tmp_path, monkeypatch):
    known = export_identity(export.export(of_local_files, tmp_path / "made"))
    monkeypatch.setattr(export, "version", lambda package: "99")
    os.rename("w", "weights")

    def moved(saved: dict) -> None:
        encoders = saved["hyper_parameters"]["encoders"]
        encoders["image"]["weights"], encoders["text"]["model"] = "weights/start.safetensors", "weights/language"

    again = export.export(changed_checkpoint(of_local_files, of_local_files, moved), tmp_path / "again")
    described(again, validation={}, torch="9.9")
    assert export_identity(again) == known
    for changes in (
        {"weights_sha256": "0" * 64},
        {"class": "lightning_modules.cmpm.CMPM"},
        {"init_args": about(again)["init_args"] | {"dim": 8}},
        {"front_ends": {"text": "other"}},
    ):
        before = (again / "model.yaml").read_text()
        described(again, **changes)
        assert export_identity(again) != known, changes
        (again / "model.yaml").write_text(before)


# What is refused -----------------------------------------------------------------------------------------------------


def arguments(**changes):
    return lambda saved: saved["hyper_parameters"].update(changes)


CHECKPOINTS = {
    "no class": (lambda saved: saved["hyper_parameters"].pop("_class_path"), "_class_path"),
    "no arguments": (lambda saved: saved.pop("hyper_parameters"), "hyper_parameters"),
    "no weights": (lambda saved: saved.pop("state_dict"), "state_dict"),
    "other class": (arguments(_class_path="lightning_modules.lavimo.LAVIMOO"), "'lightning_modules.lavimo.LAVIMOO'"),
    "no model": (arguments(_class_path="torch.nn.Linear"), "'torch.nn.Linear'"),
    "not imported": (arguments(_class_path="sneaky_module.LAVIMO"), "'sneaky_module.LAVIMO'"),
    "argument": (arguments(widht=3), "'widht'"),
    "lacking": (lambda saved: saved["state_dict"].pop(NAME), NAME),
    "diverged": (lambda saved: saved["state_dict"][NAME].fill_(torch.nan), f"NaN or infinite values in {NAME}"),
    "all at once": (arguments(protocol="as_published"), "train it with protocol honest"),
    "weights in a list": (lambda saved: saved.update(state_dict=[1]), "_class_path"),
    "arguments in a list": (lambda saved: saved.update(hyper_parameters=[1]), "_class_path"),
    "no widths": (arguments(dims=5), "cannot be built"),
    **{
        f"a modality called {name}": (arguments(dims={name: 3, "text": 3}, encoders={}), "cannot be built")
        for name in ("../../outside", "/outside")
    },
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_that_cannot_be_exported_is_refused(case, checkpoints, tmp_path, capsys, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "sneaky_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path / "code")
    change, message = CHECKPOINTS[case]
    path = changed_checkpoint(checkpoints["LAVIMO"], tmp_path / "changed.ckpt", change)
    said = refused(capsys, "export", path)
    assert message in said
    assert str(path) in said
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["changed.ckpt", "code"]


def test_files_that_are_no_checkpoints_and_folders_that_hold_something_are_refused(checkpoints, tmp_path, capsys):
    path = tmp_path / "wanted.ckpt"
    assert str(path) in refused(capsys, "export", path)
    path.write_bytes(b"no checkpoint")
    assert str(path) in refused(capsys, "export", path)
    for out in (path, tmp_path):
        message = refused(capsys, "export", checkpoints["LAVIMO"], "--out", out)
        assert str(out) in message
        assert "--out" in message
    assert refused(capsys, "export", checkpoints["LAVIMO"], "--out", path / "deep")
    assert files(tmp_path) == ["wanted.ckpt"]


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


# Each line of which stands for nine times the one before it.
ALIASES = ["a0: &a0 [0]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
EXPORTS = {
    "changed weights": (lambda folder: flipped(folder / "model.safetensors"), "is not the file that was exported"),
    "missing tensor": (lambda folder: rewritten(folder, lambda w: w.pop(NAME)), NAME),
    "extra tensor": (lambda folder: rewritten(folder, lambda w: w.update(extra=torch.zeros(2))), "extra"),
    "other shape": (lambda folder: rewritten(folder, lambda w: w.update({NAME: torch.zeros(2)})), NAME),
    "other format": (lambda folder: described(folder, format=2), "has format 2"),
    "class": (lambda folder: described(folder, **{"class": "lightning_modules.LAVIMOO"}), "lightning_modules.LAVIMOO"),
    "arguments": (lambda folder: described(folder, init_args={}), "cannot be built"),
    "no arguments": (lambda folder: described(folder, init_args=[]), "model.yaml"),
    "encoders": (lambda folder: described(folder, init_args={"encoders": {"text": "words"}}), "model.yaml"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
    "no description": (lambda folder: (folder / "model.yaml").unlink(), "model.yaml"),
    "no YAML": (lambda folder: (folder / "model.yaml").write_text("a: [b"), "ParserError"),
    "other YAML": (lambda folder: (folder / "model.yaml").write_text("[1, 2]"), "model.yaml"),
    "aliases": (lambda folder: (folder / "model.yaml").write_text("\n".join(ALIASES)), "more than 20 aliases"),
    "key": (lambda folder: (folder / "model.yaml").write_text(json.dumps({"format": 3})), "'class'"),
}


@pytest.mark.parametrize("case", EXPORTS)
def test_an_export_that_was_changed_is_refused(case, exported):
    change, message = EXPORTS[case]
    change(exported)
    with pytest.raises(DataError) as stop:
        load_export(exported)
    assert message in str(stop.value)
    assert str(exported) in str(stop.value)
