"""The command line ``csd``: runs, the files they leave and where, short names, trainings without a known end."""

import re
import subprocess
import sys
import types
from pathlib import Path

import cli_cases
import numpy as np
import pytest
import torch
import yaml
from cli_cases import CONFIG, DATA, checkpoints, csd, metrics, refused, resolved, write_config
from lightning.pytorch.callbacks import Callback
from small_models import cmpm, cs_aligner, fit_jfse, lavimo, pairs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training import Rates, trainer

import losses
from datamodules import Synthetic, SyntheticItems
from datamodules.__main__ import main as datamodules
from lightning_modules import JFSE, check_installation
from lightning_modules.__main__ import main as start
from lightning_modules.cli import main
from reproduce.results.claims import main as claims

CONFIGS = sorted((Path(__file__).parent.parent / "reproduce" / "configs").glob("*.yaml"))
assert len(CONFIGS) >= 5
fitted, copied = cli_cases.fitted, cli_cases.copied


def test_the_help_names_every_command_in_a_whole_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["csd", "--help"])
    start()
    said = capsys.readouterr().out.splitlines()
    for command in ("fit", "validate", "test", "predict", "export", "search"):
        assert [line.endswith(".") for line in said if line.startswith(f"  {command} ")] == [True]


# What a run leaves ----------------------------------------------------------------------------------------------


def test_fit_writes_metrics_events_and_checkpoints(fitted):
    table = metrics(fitted, 0)
    validation = table.dropna(subset=["val/average/MAP"])
    assert validation["epoch"].tolist() == [0, 1]
    for column in ("val/image->text/MAP", "val/text->image/R@1", "train/critic", "train/align_real"):
        assert np.isfinite(table[column].dropna()).all(), column
        assert table[column].notna().any(), column
    events = EventAccumulator(str(fitted / "run" / "tensorboard" / "version_0")).Reload()
    logged = [event.value for event in events.Scalars("val/average/MAP")]
    assert logged == pytest.approx(validation["val/average/MAP"].tolist())
    saved = {kind: torch.load(path, weights_only=True) for kind, path in checkpoints(fitted, 0).items()}
    assert set(saved) == {"best", "last"}
    assert saved["last"]["epoch"] == 1
    assert saved["best"]["epoch"] == validation["val/average/MAP"].to_numpy().argmax()
    kept = yaml.safe_load((fitted / "run" / "csv" / "version_0" / "config.yaml").read_text())
    assert kept["model"]["init_args"]["width"] == 16


@pytest.mark.filterwarnings("ignore:`ModelCheckpoint.monitor=")
@pytest.mark.parametrize("fraction", ["0.15", "0"])
def test_an_interrupted_run_leaves_its_last_epoch_whichever_was_best(fraction, tmp_path):
    """With a learning rate of 0 no epoch is better than the first; without validation items there is no best one."""
    words = ("--model.init_args.learning_rate", "0", "--data.init_args.validation_fraction", fraction)
    with pytest.raises(RuntimeError, match="power cut"):
        csd("fit", tmp_path, "--trainer.max_epochs", "6", *words, "--trainer.callbacks+=training.PowerCut")
    saved = {kind: torch.load(path, weights_only=True)["epoch"] for kind, path in checkpoints(tmp_path, 0).items()}
    assert saved["last"] == 1
    assert saved.get("best", 0) == 0


def test_validate_and_test_score_a_checkpoint(fitted, copied, capsys):
    best = checkpoints(copied, 0)["best"]
    csd("validate", copied, "--ckpt_path", best)
    assert re.search(r"^average/MAP +\d\.\d{4}$", capsys.readouterr().out, re.MULTILINE)
    earlier = metrics(fitted, 0)["val/average/MAP"].max()
    assert metrics(copied, "validate_0")["val/average/MAP"].tolist() == [pytest.approx(earlier, abs=1e-12)]
    csd("test", copied, "--ckpt_path", best)
    score = metrics(copied, "test_0")["test/standard/average/MAP"].item()
    assert 0.33 < score <= 1
    printed = capsys.readouterr().out
    assert "test/standard" in printed
    assert re.search(rf"^average/MAP +{score:.4f}$", printed, re.MULTILINE)
    assert printed.count("average/MAP@10[min(R,k)]") == 1  # whole, with the denominator


def test_predict_writes_the_embeddings_of_all_test_items(copied, capsys):
    best = checkpoints(copied, 0)["best"]
    csd("predict", copied, "--ckpt_path", best)
    written = np.load(copied / "run" / "embeddings.npz")
    dm, model = Synthetic(**DATA), JFSE.load_from_checkpoint(best).eval()
    features, label = dm.arrays("standard")
    with torch.no_grad():
        expected = model.embed({name: torch.from_numpy(x) for name, x in features.items()})
    said = {f"{what}/{name}" for what in ("label", "id", "item", "split") for name in expected}
    assert set(written.files) == {"image", "text", "class_names"} | said
    for name, embedding in expected.items():
        assert written[name].shape == (24, 3)
        assert written[name].dtype == np.float32
        np.testing.assert_allclose(written[name], embedding.numpy(), atol=1e-5)
        assert np.array_equal(written[f"label/{name}"], label)
        assert np.array_equal(written[f"id/{name}"], dm.indices("standard"))
        assert np.array_equal(written[f"item/{name}"], dm.indices("standard"))
        assert set(written[f"split/{name}"]) == {"standard"}
    assert "24 image, 24 text" in capsys.readouterr().out
    csd("predict", copied, "--ckpt_path", best, "--embeddings.output", copied / "new" / "mine.npz")
    assert np.load(copied / "new" / "mine.npz")["image"].shape == (24, 3)
    assert [path.name for path in (copied / "new").iterdir()] == ["mine.npz"]


def test_a_run_has_the_name_that_it_is_given(tmp_path, capsys):
    csd("fit", tmp_path, "--name", "first-try", "--trainer.max_epochs", "1")
    assert (tmp_path / "run" / "tensorboard" / "fit_first-try").is_dir()
    csd("test", tmp_path, "--name", "first-try", "--ckpt_path", "best")
    assert metrics(tmp_path, "test_first-try")["test/standard/average/MAP"].notna().all()
    for name in ("first-try", "a/b"):
        words = ("fit", "--config", write_config(tmp_path), "--trainer.default_root_dir", tmp_path / "run")
        assert name in refused(capsys, *words, "--name", name)


# Names ----------------------------------------------------------------------------------------------------------


def test_a_loss_and_the_one_that_it_sums_take_their_arguments_in_any_place(tmp_path):
    summed = {"divergence": "cs", "temperature": 0.5}  # of two modalities there is one pair
    forms = [
        {"class_path": "losses.CSLoss", "init_args": {"temperature": 0.5}},
        {"class_path": "losses.PairwiseLoss", "init_args": summed},
        {"class_path": "PairwiseLoss", "init_args": {"divergence": "cs"}, "dict_kwargs": summed},
        "cs",
        None,
    ]
    found = []
    for number, alignment in enumerate(forms):
        (tmp_path / str(number)).mkdir()
        config = write_config(tmp_path / str(number), alignment=alignment)
        csd("fit", config.parent, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", config=config)
        found.append(metrics(config.parent, 0)["train/align_real"].dropna().item())
    assert found[0] == found[1] == found[2] != found[3]
    assert found[4] == 0


def test_model_and_data_have_short_and_full_names(tmp_path, capsys):
    names = (("JFSE", "Synthetic"), ("lightning_modules.JFSE", "datamodules.Synthetic"))
    shown = [resolved(capsys, "fit", "--model", model, "--data", data) for model, data in names]
    assert shown[0] == shown[1]


OWN = """
from datamodules import Synthetic


class OwnViews(Synthetic):
    pass
"""


def test_a_data_module_in_the_current_folder_is_found(tmp_path, monkeypatch, capsys):
    (tmp_path / "views_of_my_own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    config = resolved(capsys, "fit", "--model", "CMPM", "--data", "views_of_my_own.OwnViews")
    assert config["data"]["class_path"] == "views_of_my_own.OwnViews"


def test_a_checkpoint_of_another_model_holds_with_its_class(copied, capsys):
    config = yaml.safe_load(write_config(copied).read_text()) | {"model": {"class_path": "LAVIMO"}}
    (copied / "other.yaml").write_text(yaml.safe_dump(config))
    csd("predict", copied, "--ckpt_path", checkpoints(copied, 0)["last"], config=copied / "other.yaml")
    assert "'lightning_modules.JFSE' (not 'lightning_modules.LAVIMO')" in capsys.readouterr().err
    assert np.load(copied / "run" / "embeddings.npz")["image"].shape == (24, 3)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_shipped_configurations_parse_with_everything_they_say(path, capsys):
    parsed, asked = cli_cases.resolved(capsys, "fit", "--config", str(path)), yaml.safe_load(path.read_text())
    for part in ("model", "data"):
        assert parsed[part]["class_path"].endswith(f".{asked[part]['class_path']}")
        for key, value in asked[part]["init_args"].items():
            found = parsed[part]["init_args"][key]
            assert found == value or value["class_path"] == found["class_path"], key
    assert asked["trainer"].items() <= parsed["trainer"].items()


# The home folder ------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder of its own, and a current folder beside it in which nothing may be called "~"."""
    folder, current = tmp_path / "home", tmp_path / "current"
    folder.mkdir()
    current.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(current)
    yield folder
    assert not list(current.rglob("~*"))


def test_the_home_folder_is_understood_in_files_and_on_the_command_line(home):
    callback = {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "~/own", "monitor": "val/text->image/MAP"}}
    settings = {**CONFIG["trainer"], "max_epochs": 1, "default_root_dir": "~/runs", "callbacks": [callback]}
    (home / "c.yaml").write_text(yaml.safe_dump({**CONFIG, "trainer": settings}))
    main(["fit", "--config=~/c.yaml", "--checkpoint.dirpath=~/kept"])
    assert list((home / "own").glob("*.ckpt"))
    (best,) = (home / "kept").glob("best-*.ckpt")
    assert (home / "runs" / "csv" / "version_0" / "checkpoints" / "last.ckpt").is_file()
    main(["predict", "--config=~/c.yaml", f"--ckpt_path=~/kept/{best.name}", "--embeddings.output=~/new/e.npz"])
    assert np.load(home / "new" / "e.npz")["image"].shape == (24, 3)


def test_the_home_folder_is_understood_by_the_other_commands(home, fitted, capsys):
    (home / "last.ckpt").write_bytes(checkpoints(fitted, 0)["last"].read_bytes())
    main(["export", "~/last.ckpt", "--out=~/exported"])
    assert (home / "exported" / "model.safetensors").is_file()
    (home / "results").mkdir()
    claims(["--out=~/results"])
    assert (home / "results" / "claims.csv").is_file()
    assert datamodules(["extract", "flickr8k_tri", "--image=~/clip", "--out=~/features.npz"]) == 1
    assert str(home / "features.npz") in capsys.readouterr().out


# Logs and predictions -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_command_counts_its_own_runs_and_no_prediction_is_written_over(fitted, tmp_path):
    best, last = (("--ckpt_path", str(checkpoints(fitted, 0)[kind])) for kind in ("best", "last"))
    root = tmp_path / "run"
    for given in (best, last):
        csd("test", tmp_path, *given)
        csd("predict", tmp_path, *given)
    csd("validate", tmp_path, *last)
    csd("fit", tmp_path, "--trainer.max_epochs", "1")
    names = {"test_0", "test_1", "predict_0", "predict_1", "validate_0", "version_0"}
    assert {path.name for path in (root / "csv").iterdir()} == names
    assert {path.name for path in (root / "tensorboard").iterdir()} == names
    assert metrics(tmp_path, 0)["val/average/MAP"].notna().any()
    assert {path.name for path in root.glob("*.npz")} == {"embeddings.npz", "embeddings_1.npz"}
    first, second = (np.load(root / name) for name in ("embeddings.npz", "embeddings_1.npz"))
    assert not np.array_equal(first["image"], second["image"])
    csd("predict", tmp_path, *last, "--embeddings.output", str(root / "embeddings.npz"))
    np.testing.assert_array_equal(np.load(root / "embeddings.npz")["image"], second["image"])


# Without checkpoints --------------------------------------------------------------------------------------------

WITHOUT = {
    "no checkpoints": (("--trainer.enable_checkpointing", "false"), True),
    "barebones": (("--trainer.barebones", "true"), False),
    "no checkpoints and no logs": (("--trainer.enable_checkpointing", "false", "--trainer.logger", "false"), False),
    "one batch for a try": (("--trainer.fast_dev_run", "true"), False),
}


class Trained(Callback):
    """Counts the steps of all runs."""

    steps = 0

    def on_train_batch_end(self, *_: object) -> None:
        Trained.steps += 1


@pytest.mark.parametrize("case", WITHOUT)
def test_a_run_trains_without_checkpoints(case, tmp_path, monkeypatch):
    words, logs = WITHOUT[case]
    monkeypatch.setattr(Trained, "steps", 0)
    config = {**CONFIG, "trainer": {"max_epochs": 1, "accelerator": "cpu", "devices": 1}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    csd("fit", tmp_path, *words, f"--trainer.callbacks+={__name__}.Trained", config=tmp_path / "c.yaml")
    assert Trained.steps
    assert not list(tmp_path.rglob("*.ckpt"))
    assert bool(list(tmp_path.rglob("metrics.csv"))) == logs


def test_a_checkpoint_callback_of_ones_own_stands_in_for_the_same_one_of_the_command_line(tmp_path):
    words = ("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.filename=mine")
    chosen = ("--trainer.callbacks.monitor=val/average/MAP", "--trainer.callbacks.mode=max")
    csd("fit", tmp_path, "--trainer.max_epochs", "1", *words, *chosen)
    assert set(checkpoints(tmp_path, 0)) == {"mine", "last"}


# Without a known end --------------------------------------------------------------------------------------------


class ThreeEpochs(Rates):
    """Ends after three epochs where nothing else does."""

    def on_train_epoch_end(self, trainer, module) -> None:
        trainer.should_stop = trainer.current_epoch == 2


def rates_of(build, folder: Path, **settings) -> np.ndarray:
    """The learning rate of every step, as a share of the largest."""
    settings_of_data = {"batch_size": 24} if build is lavimo else {"items": 200, "batch_size": 30}
    data = (SyntheticItems if build is lavimo else pairs)(validation_fraction=0, **settings_of_data)
    seen = ThreeEpochs()
    trainer(folder, callbacks=[seen], **{"max_epochs": -1, **settings}).fit(build(data, learning_rate=0.01), data)
    return np.array(seen.rates) / 0.01


@pytest.mark.parametrize("build", [cmpm, cs_aligner, lavimo])
def test_without_a_known_end_the_rate_is_reached_in_the_first_epoch_and_kept(build, tmp_path):
    rates = rates_of(build, tmp_path)
    steps = len(rates) // 3
    assert steps > 2
    np.testing.assert_allclose(rates[:steps], np.arange(1, steps + 1) / steps)
    assert (rates[steps:] == 1).all()


def test_without_a_known_end_steps_are_those_of_the_optimiser(tmp_path):
    rates = rates_of(cmpm, tmp_path, limit_train_batches=4, accumulate_grad_batches=2)
    np.testing.assert_allclose(rates, [0.5, 0.5] + [1.0] * 10)


def test_jfse_without_a_known_end_reverses_fully_after_the_first_epoch(tmp_path):
    strengths: list[float] = []

    class Strengths(ThreeEpochs):
        def on_train_epoch_start(self, trainer, module) -> None:
            strengths.append(module._reversal_strength())

    module = fit_jfse(tmp_path, pairs(items=200), epochs=-1, trainer_arguments={"callbacks": [Strengths()]})
    assert strengths == pytest.approx([0, 1, 1], abs=1e-4)
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


# The packages themselves --------------------------------------------------------------------------------------------


def test_a_folder_without_init_is_refused_by_name(monkeypatch):
    stray = types.ModuleType("losses")
    stray.__file__ = None
    monkeypatch.setitem(sys.modules, "losses", stray)
    with pytest.raises(ImportError, match=r"'losses' .* a folder without __init__\.py"):
        check_installation()
    monkeypatch.undo()
    assert sys.modules["losses"] is losses


@pytest.mark.parametrize(("stray", "module"), [("losses.py", "reproduce"), ("reproduce.py", "lightning_modules")])
def test_a_stray_file_in_the_working_directory_is_refused(stray, module, tmp_path):
    (tmp_path / stray).write_text("")
    words = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert str(tmp_path / stray) in done.stderr
    assert "rename what shadows it" in done.stderr
