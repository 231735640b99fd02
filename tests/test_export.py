"""`csd export`: what is kept of every model, that it embeds the same to the bit, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import jfse_cases
import lavimo_cases
import numpy as np
import pytest
import torch
from export_cases import about, changed_checkpoint, data_of, described, trained
from safetensors.torch import load_file, save_file
from search_cases import csd, refused

import lightning_modules
from datamodules import DataError
from lightning_modules import export
from lightning_modules.export import load_export

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches.*"),
    pytest.mark.filterwarnings("ignore:Total length of `.*` across ranks is zero"),
]

# Settings with which a model has as many parts as it can have.
SETTINGS = {"LAVIMO": {"reconstruct": "motion"}, "CMPM": {"classification_weight": 1.0}, "JFSE": {"width": 16}}
# Parts that no embedding is made with.
LEFT_OUT = {
    "JFSE": {"critics", "generators", "modality_classifier", "class_embedding_mean", "class_embedding_scale"},
    "LAVIMO": {"fusion", "decoder"},
    "CMPM": {"classification"},
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """A checkpoint of every model of the suite; nothing may be written beside them."""
    folder = tmp_path_factory.mktemp("checkpoints")
    names = lightning_modules.__all__
    return {name: trained(folder, name, data_of(name), **SETTINGS.get(name, {})) for name in names}


@pytest.fixture
def exported(checkpoints, tmp_path) -> Path:
    """An export of LAVIMO, free to be broken."""
    return export.export(checkpoints["LAVIMO"], tmp_path / "exported")


def embeddings(module, data) -> dict[str, torch.Tensor]:
    """Of all test items."""
    for name, encoder in getattr(module, "encoders", {}).items():
        if encoder.front_end is not None:
            data.precompute({name: (name, encoder.front_end)})
    (loader,) = data.test_dataloader()
    with torch.inference_mode():
        found = [module.embed(batch) for batch in loader]
    return {name: torch.cat([rows[name] for rows in found]) for name in found[0]}


NAME = "projections.text.1.weight"


# What is written -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", lightning_modules.__all__)
def test_an_export_embeds_to_the_bit_what_the_checkpoint_does(name, checkpoints, tmp_path):
    folder = export.export(checkpoints[name], tmp_path / "exported")
    module = getattr(lightning_modules, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_modules.base.rank_zero_warn", lambda message: None)  # that the loss is another one
        original = module.load_from_checkpoint(checkpoints[name], map_location="cpu").eval()
    found, expected = embeddings(load_export(folder), data_of(name)), embeddings(original, data_of(name))
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert all(x.std(dim=0).max() > 0 for x in found.values())


@pytest.mark.parametrize("name", lightning_modules.__all__)
def test_what_only_training_needs_is_not_in_the_file(name, checkpoints, tmp_path):
    folder = export.export(checkpoints[name], tmp_path / "exported")
    kept = {key.split(".")[0] for key in load_file(folder / "model.safetensors")}
    state = torch.load(checkpoints[name], weights_only=True)["state_dict"]
    parts = {key.split(".")[0] for key in state}
    wanted = {"run_seed"} | LEFT_OUT.get(name, set())
    assert wanted <= parts
    assert not wanted & kept
    assert kept | set(about(folder)["left_out"]) == parts
    module = load_export(folder)
    assert not module.training
    assert all(getattr(module, part) is None for part in wanted)
    assert list(module.state_dict()) == [key for key in state if key.split(".")[0] in kept]


def test_statistics_of_the_training_items_are_kept(checkpoints, tmp_path):
    folder = export.export(checkpoints["JFSE"], tmp_path / "jfse")
    weights = load_file(folder / "model.safetensors")
    rows = jfse_cases.data().train_entries("image")[0].double()
    np.testing.assert_allclose(weights["image_mean"], rows.mean(dim=0), atol=1e-6)
    np.testing.assert_allclose(weights["image_scale"], rows.std(dim=0), atol=1e-6)


def test_the_description_says_what_the_model_is_and_reads(checkpoints, exported):
    found = about(exported)
    saved = torch.load(checkpoints["LAVIMO"], weights_only=True)
    assert found["format"] == 2
    assert found["class"] == "lightning_modules.lavimo.LAVIMO"
    assert found["init_args"]["dim"] == 16
    assert found["init_args"]["encoders"] == lavimo_cases.ENCODERS
    assert "alignment" not in found["init_args"]
    assert found["modalities"] == {
        "text": {
            "kind": "text",
            "shape": [],
            "rate": None,
            "front_end": "characters abcdefghijklmnopqrstuvwxyz0123456789 ",
        },
        "motion": {"kind": "sequence", "shape": [3], "rate": None, "front_end": None},
    }
    assert "&id" not in (exported / "model.yaml").read_text(), "no references of YAML, which few people read"
    assert found["alignment"].startswith("GCSLoss(")
    assert found["validation"] == saved["validation"]
    assert 0 < found["validation"]["val/average/MAP"] <= 1
    assert found["torch"] == torch.__version__
    digest = hashlib.sha256((exported / "model.safetensors").read_bytes()).hexdigest()
    assert found["weights_sha256"] == digest


def test_exporting_again_writes_the_same_bytes_over_the_old_ones(checkpoints, exported):
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    (exported / "model.safetensors").write_bytes(b"spoilt")
    assert export.export(checkpoints["LAVIMO"], exported) == exported
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    assert set(before) == {"model.safetensors", "model.yaml"}
    (exported / "any").touch()
    assert len({path.stat().st_mode for path in exported.iterdir()}) == 1, "others may read it as any new file"


def test_the_command_writes_beside_the_checkpoint(checkpoints, tmp_path, capsys):
    path = tmp_path / "best-epoch3.ckpt"
    path.write_bytes(checkpoints["CMPM"].read_bytes())
    csd("export", path)
    folder = tmp_path / "best-epoch3-export"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["best-epoch3-export", "best-epoch3.ckpt"]
    assert str(folder) in (said := capsys.readouterr().out)
    assert "left out: classification, run_seed" in said
    assert isinstance(load_export(folder), lightning_modules.CMPM)


def test_loading_leaves_the_random_numbers_as_they_were(exported):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_export(exported)
    assert torch.equal(torch.rand(4), expected)


class PowerCut(BaseException):
    pass


def test_an_interrupted_export_leaves_what_was_there(checkpoints, exported, tmp_path, monkeypatch):
    def cut(*arguments):
        raise PowerCut

    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    monkeypatch.setattr(export, "_check_same", cut)
    for out in (exported, tmp_path / "new"):
        with pytest.raises(PowerCut):
            export.export(checkpoints["LAVIMO"], out)
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]


# What is refused -----------------------------------------------------------------------------------------------------


CHECKPOINTS = {
    "class": (lambda saved: saved["hyper_parameters"].pop("_class_path"), "does not say of which class its model is"),
    "no arguments": (lambda saved: saved.pop("hyper_parameters"), "does not say of which class its model is"),
    "other class": (
        lambda saved: saved["hyper_parameters"].update(_class_path="lightning_modules.lavimo.LAVIMOO"),
        "class 'lightning_modules.lavimo.LAVIMOO', which is not there; there are ",
    ),
    "no model": (
        lambda saved: saved["hyper_parameters"].update(_class_path="torch.nn.Linear"),
        "class 'torch.nn.Linear', which is not there",
    ),
    "argument": (
        lambda saved: saved["hyper_parameters"].update(widht=3),
        "LAVIMO cannot be built from the arguments there (LAVIMO.__init__() got an unexpected keyword argument 'widht'",
    ),
    "weights": (
        lambda saved: saved["state_dict"].pop("projections.text.1.weight"),
        "it lacks projections.text.1.weight. Was the suite another version?",
    ),
    "no weights": (lambda saved: saved.pop("state_dict"), "is not a checkpoint that can be read (KeyError)"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_that_does_not_hold_a_model_is_refused(case, checkpoints, tmp_path, capsys):
    change, message = CHECKPOINTS[case]
    path = changed_checkpoint(checkpoints["LAVIMO"], tmp_path / "changed.ckpt", change)
    said = refused(capsys, "export", path)
    assert message in said
    assert str(path) in said
    assert [entry.name for entry in tmp_path.iterdir()] == ["changed.ckpt"]


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, capsys):
    path = tmp_path / "wanted.ckpt"
    assert f"{path} is not a checkpoint that can be read (FileNotFoundError)" in refused(capsys, "export", path)
    path.write_bytes(b"no checkpoint")
    assert f"{path} is not a checkpoint that can be read" in refused(capsys, "export", path)


def test_a_class_is_not_imported_because_a_file_names_it(checkpoints, tmp_path, capsys, monkeypatch):
    (tmp_path / "sneaky_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    path = changed_checkpoint(
        checkpoints["LAVIMO"],
        tmp_path / "changed.ckpt",
        lambda saved: saved["hyper_parameters"].update(_class_path="sneaky_module.LAVIMO"),
    )
    assert "class 'sneaky_module.LAVIMO', which is not there" in refused(capsys, "export", path)


def test_a_model_that_embeds_from_all_modalities_at_once_is_refused(tmp_path, capsys):
    path = trained(tmp_path, "LAVIMO", data_of("LAVIMO"), preset="as_published")
    assert "so cannot retrieve by one of them; train it with preset honest" in refused(capsys, "export", path)


def test_a_folder_of_others_is_not_written_into(checkpoints, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    message = "exists and is no export; name another folder with --out"
    assert message in refused(capsys, "export", checkpoints["LAVIMO"], "--out", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    strange = "model: {name: resnet}\nformat: 1\n"
    (tmp_path / "mine" / "model.yaml").write_text(strange)
    assert message in refused(capsys, "export", checkpoints["LAVIMO"], "--out", tmp_path / "mine")
    assert (tmp_path / "mine" / "model.yaml").read_text() == strange
    assert len(list((tmp_path / "mine").iterdir())) == 2


def test_a_place_that_cannot_be_written_is_refused_before_the_checkpoint_is_read(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.csv").touch()
    message = refused(capsys, "export", tmp_path / "absent.ckpt", "--out", tmp_path / "a.csv" / "deep" / "x")
    assert f"x cannot be written, for {tmp_path / 'a.csv'} is a file; name another place with --out" in message
    assert "exists and is no export" in refused(capsys, "export", tmp_path / "x.ckpt", "--out", tmp_path / "a.csv")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    message = refused(capsys, "export", tmp_path / "absent.ckpt", "--out", tmp_path / "deep" / "x")
    assert f"x cannot be written, for you may not write into {tmp_path}; name another" in message


def not_a_number(saved: dict) -> None:
    saved["state_dict"][NAME][0, 0] = torch.nan


def far_too_large(saved: dict) -> None:
    for name in ("projections.text.1.weight", "projections.text.1.bias"):
        saved["state_dict"][name].fill_(3e38)


@pytest.mark.parametrize(("change", "what"), [(not_a_number, NAME), (far_too_large, "the embedding of text")])
def test_a_model_whose_training_has_diverged_is_refused(change, what, checkpoints, tmp_path, capsys):
    path = changed_checkpoint(checkpoints["LAVIMO"], tmp_path / "changed.ckpt", change)
    message = refused(capsys, "export", path)
    assert f"{path}: {what} is NaN or infinite; the training has diverged" in message
    assert [entry.name for entry in tmp_path.iterdir()] == ["changed.ckpt"]


def test_a_model_of_soft_targets_is_built_without_their_encoder(checkpoints, tmp_path):
    targets = {"model": "a-folder-of-the-training", "threshold": 0.5}
    path = changed_checkpoint(
        checkpoints["LAVIMO"], tmp_path / "soft.ckpt", lambda s: s["hyper_parameters"].update(soft_targets=targets)
    )
    assert "soft_targets" not in about(export.export(path))["init_args"]


def rewritten(folder: Path, change) -> None:
    """Other weights, with a description that says they are the right ones."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    described(folder, weights_sha256=digest)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


EXPORTS = {
    "changed weights": (lambda folder: flipped(folder / "model.safetensors"), "is not the file that was exported"),
    "missing tensor": (lambda folder: rewritten(folder, lambda w: w.pop(NAME)), f"it lacks {NAME}"),
    "extra tensor": (
        lambda folder: rewritten(folder, lambda w: w.update(extra=torch.zeros(2))),
        "it has, beyond the model's, extra",
    ),
    "other shape": (
        lambda folder: rewritten(folder, lambda w: w.update({NAME: torch.zeros(2)})),
        f"it has of another shape {NAME}",
    ),
    "part left in": (lambda folder: described(folder, left_out=["run_seed"]), "it lacks fusion.attention"),
    "newer": (lambda folder: described(folder, format=3), "has format 3, and this version reads up to 2"),
    "class": (
        lambda folder: described(folder, **{"class": "lightning_modules.LAVIMOO"}),
        "'lightning_modules.LAVIMOO'",
    ),
    "arguments": (lambda folder: described(folder, init_args={}), "cannot be built from the arguments there"),
    "no arguments": (lambda folder: described(folder, init_args=[]), "init_args does not map names to values"),
    "encoders": (
        lambda folder: described(folder, init_args={"encoders": {"text": "words"}}),
        "or encoders to settings",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "lacks model.safetensors, which"),
    "no description": (lambda folder: (folder / "model.yaml").unlink(), "name a folder that csd export wrote"),
    "no YAML": (lambda folder: (folder / "model.yaml").write_text("a: [b"), "cannot be read (ParserError)"),
    "other YAML": (lambda folder: (folder / "model.yaml").write_text("[1, 2]"), "is no description of a model"),
    "key": (
        lambda folder: (folder / "model.yaml").write_text(json.dumps({"format": 1})),
        "lacks class, init_args, left_out, modalities, weights_sha256",
    ),
}


@pytest.mark.parametrize("case", EXPORTS)
def test_an_export_that_was_changed_is_refused(case, exported):
    change, message = EXPORTS[case]
    change(exported)
    with pytest.raises(DataError) as stop:
        load_export(exported)
    assert message in str(stop.value)
    assert str(exported) in str(stop.value)
