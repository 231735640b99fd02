"""Where runs write and when they end: "~", folders of logs, runs without checkpoints, trainings without a known end."""

from pathlib import Path

import cli_cases
import numpy as np
import pytest
import torch
import yaml
from cli_cases import CONFIG, checkpoints, csd, metrics
from jfse_cases import fit as fit_jfse
from lightning.pytorch.callbacks import Callback
from training import Rates, trainer

from datamodules import Synthetic, SyntheticItems
from datamodules.__main__ import main as datamodules
from lightning_modules import CMPM, LAVIMO, CSAligner
from lightning_modules.cli import main
from reproduce.results.claims import main as claims

fitted = cli_cases.fitted


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


ENDLESS = {
    "CMPM": lambda data, rate: CMPM(data.dims, dim=8, learning_rate=rate),
    "CSAligner": lambda data, rate: CSAligner(data.dims, dim=8, learning_rate=rate),
    "LAVIMO": lambda data, rate: LAVIMO(data.dims, alignment="pairwise", dim=8, learning_rate=rate),
}


def rates_of(kind: str, folder: Path, **settings) -> np.ndarray:
    """The learning rate of every step, as a share of the largest."""
    data = SyntheticItems(batch_size=24, validation_fraction=0) if kind == "LAVIMO" else None
    data = data or Synthetic(items=200, batch_size=30, class_encoder="one-hot", validation_fraction=0)
    seen = ThreeEpochs()
    trainer(folder, callbacks=[seen], **{"max_epochs": -1, **settings}).fit(ENDLESS[kind](data, 0.01), data)
    return np.array(seen.rates) / 0.01


@pytest.mark.parametrize("kind", ENDLESS)
def test_without_a_known_end_the_rate_is_reached_in_the_first_epoch_and_kept(kind, tmp_path):
    rates = rates_of(kind, tmp_path)
    steps = len(rates) // 3
    assert steps > 2
    np.testing.assert_allclose(rates[:steps], np.arange(1, steps + 1) / steps)
    assert (rates[steps:] == 1).all()


def test_without_a_known_end_steps_are_those_of_the_optimiser(tmp_path):
    rates = rates_of("CMPM", tmp_path, limit_train_batches=4, accumulate_grad_batches=2)
    np.testing.assert_allclose(rates, [0.5, 0.5] + [1.0] * 10)


def test_jfse_without_a_known_end_reverses_fully_after_the_first_epoch(tmp_path):
    strengths: list[float] = []

    class Strengths(ThreeEpochs):
        def on_train_epoch_start(self, trainer, module) -> None:
            strengths.append(module._reversal_strength())

    data = Synthetic(items=200, class_encoder="one-hot")
    module = fit_jfse(tmp_path, data, epochs=-1, trainer_arguments={"callbacks": [Strengths()]})
    assert strengths == pytest.approx([0, 1, 1], abs=1e-4)
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())
