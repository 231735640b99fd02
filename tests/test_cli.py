"""The command line ``csd``: runs, the files they leave, and short names."""

import re
import sys
from pathlib import Path

import cli_cases
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from cli_cases import DATA, checkpoints, csd, metrics, refused, write_config
from lightning.pytorch.callbacks import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datamodules import Synthetic
from lightning_modules import JFSE
from lightning_modules.__main__ import main as start
from lightning_modules.cli import main

CONFIGS = sorted((Path(__file__).parent.parent / "reproduce" / "configs").glob("*.yaml"))
fitted = cli_cases.fitted


@pytest.fixture
def copied(fitted, tmp_path) -> Path:
    """The checkpoints of the finished run, in a folder of their own."""
    for path in checkpoints(fitted, 0).values():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


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


class PowerCut(Callback):
    """Ends a run without warning at the start of its third epoch."""

    def on_train_epoch_start(self, trainer, module) -> None:
        if trainer.current_epoch == 2:
            raise RuntimeError("power cut")


@pytest.mark.filterwarnings("ignore:`ModelCheckpoint.monitor=")
@pytest.mark.parametrize("fraction", ["0.15", "0"])
def test_an_interrupted_run_leaves_its_last_epoch_whichever_was_best(fraction, tmp_path):
    """With a learning rate of 0 no epoch is better than the first; without validation items there is no best one."""
    words = ("--model.init_args.learning_rate", "0", "--data.init_args.validation_fraction", fraction)
    with pytest.raises(RuntimeError, match="power cut"):
        csd("fit", tmp_path, "--trainer.max_epochs", "6", *words, f"--trainer.callbacks+={__name__}.PowerCut")
    saved = {kind: torch.load(path, weights_only=True)["epoch"] for kind, path in checkpoints(tmp_path, 0).items()}
    assert saved["last"] == 1
    assert saved.get("best", 0) == 0


def test_the_same_command_gives_the_same_numbers(fitted, tmp_path):
    csd("fit", tmp_path)
    pd.testing.assert_frame_equal(metrics(fitted, 0), metrics(tmp_path, 0), check_exact=True)


def test_validate_and_test_score_a_checkpoint(fitted, copied, capsys):
    best = next(copied.glob("best*.ckpt"))
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
    best = next(copied.glob("best*.ckpt"))
    csd("predict", copied, "--ckpt_path", best)
    written = np.load(copied / "run" / "embeddings.npz")
    dm, model = Synthetic(**DATA), JFSE.load_from_checkpoint(best).eval()
    features, label = dm.arrays("standard")
    with torch.no_grad():
        expected = model.embed({name: torch.from_numpy(x) for name, x in features.items()})
    assert set(written.files) == {"image", "text", "label", "id", "class_names"}
    for name, embedding in expected.items():
        assert written[name].shape == (24, 3)
        assert written[name].dtype == np.float32
        np.testing.assert_allclose(written[name], embedding.numpy(), atol=1e-5)
    assert np.array_equal(written["label"], label)
    assert np.array_equal(written["id"], dm.indices("standard"))
    assert "24 image, 24 text" in capsys.readouterr().out
    csd("predict", copied, "--ckpt_path", best, "--embeddings.output", copied / "new" / "mine.npz")
    assert np.load(copied / "new" / "mine.npz")["image"].shape == (24, 3)
    assert [path.name for path in (copied / "new").iterdir()] == ["mine.npz"]


def test_resuming_into_the_same_folder_keeps_the_earlier_rows(tmp_path):
    csd("fit", tmp_path)
    path = tmp_path / "run" / "csv" / "version_0" / "metrics.csv"
    before, best = path.read_bytes(), metrics(tmp_path, 0)["val/average/MAP"].max()
    csd("fit", tmp_path, "--ckpt_path", checkpoints(tmp_path, 0)["last"], "--trainer.max_epochs", "4")
    assert path.read_bytes() == before
    assert sorted(metrics(tmp_path, 1)["epoch"].unique()) == [2, 3]
    best = max(best, metrics(tmp_path, 1)["val/average/MAP"].max())
    kept = torch.load(checkpoints(tmp_path, 0)["best"], weights_only=True)["callbacks"].values()
    assert max(float(state.get("best_model_score") or 0) for state in kept) == pytest.approx(best)  # of all four epochs
    assert torch.load(checkpoints(tmp_path, 0)["last"], weights_only=True)["epoch"] == 3


def test_a_run_has_the_name_that_it_is_given(tmp_path, capsys):
    csd("fit", tmp_path, "--name", "first-try", "--trainer.max_epochs", "1")
    assert (tmp_path / "run" / "tensorboard" / "fit_first-try").is_dir()
    csd("test", tmp_path, "--name", "first-try", "--ckpt_path", "best")
    assert metrics(tmp_path, "test_first-try")["test/standard/average/MAP"].notna().all()
    for name in ("first-try", "a/b"):
        words = ("fit", "--config", write_config(tmp_path), "--trainer.default_root_dir", tmp_path / "run")
        assert name in refused(capsys, *words, "--name", name)


def test_as_published_is_fitted_and_tested(tmp_path):
    config = write_config(tmp_path, protocol="as_published", alignment="cmpm_kl")
    csd("fit", tmp_path, "--data.init_args.protocol", "as_published", config=config)
    chosen = ("--ckpt_path", checkpoints(tmp_path, 0)["best"])
    csd("test", tmp_path, "--data.init_args.protocol", "as_published", *chosen, config=config)
    tested = metrics(tmp_path, "test_0")["test/standard/average/MAP"].item()
    # The test items choose the epoch: the score of the test is the best one seen in validation.
    assert tested == pytest.approx(metrics(tmp_path, 0)["val/average/MAP"].max(), abs=1e-12)


# Names ----------------------------------------------------------------------------------------------------------


def alignment_after_one_batch(folder: Path, alignment, *words: str) -> float:
    folder.mkdir()
    config = write_config(folder, alignment=alignment)
    one = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1")
    csd("fit", folder, *one, *words, config=config)
    return metrics(folder, 0)["train/align_real"].dropna().item()


def test_a_loss_is_named_or_given_as_a_class(tmp_path):
    plain = ("cs", {"class_path": "CSLoss"}, {"class_path": "losses.CSLoss", "init_args": {"temperature": 0.1}})
    summed = {"divergence": "cs", "temperature": 0.5}  # of two modalities there is one pair
    warm = (
        {"class_path": "losses.CSLoss", "init_args": {"temperature": 0.5}},
        {"class_path": "losses.PairwiseLoss", "init_args": summed},
        {"class_path": "PairwiseLoss", "init_args": {"divergence": "cs"}, "dict_kwargs": summed},
    )
    found = [[alignment_after_one_batch(tmp_path / f"{i}", x) for i, x in enumerate(plain)]]
    found.append([alignment_after_one_batch(tmp_path / f"warm {i}", x) for i, x in enumerate(warm)])
    line = ("--model.init_args.alignment", "losses.CSLoss", "--model.init_args.alignment.temperature", "0.5")
    found[1].append(alignment_after_one_batch(tmp_path / "line", "kl", *line))
    assert [len(set(values)) for values in found] == [1, 1]
    assert found[0][0] != found[1][0]
    assert alignment_after_one_batch(tmp_path / "none", None) == 0


def test_model_and_data_have_short_and_full_names(tmp_path, capsys):
    shown = []
    for model, data in (("JFSE", "Synthetic"), ("lightning_modules.JFSE", "datamodules.Synthetic")):
        with pytest.raises(SystemExit) as stop:
            main(["fit", "--model", model, "--data", data, "--print_config"])
        assert not stop.value.code
        shown.append(capsys.readouterr().out)
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
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--model", "CMPM", "--data", "views_of_my_own.OwnViews", "--print_config"])
    assert not stop.value.code
    assert "class_path: views_of_my_own.OwnViews" in capsys.readouterr().out


def test_a_checkpoint_of_another_model_holds_with_its_class(copied, capsys):
    config = yaml.safe_load(write_config(copied).read_text()) | {"model": {"class_path": "LAVIMO"}}
    (copied / "other.yaml").write_text(yaml.safe_dump(config))
    csd("predict", copied, "--ckpt_path", copied / "last.ckpt", config=copied / "other.yaml")
    assert "'lightning_modules.JFSE' (not 'lightning_modules.LAVIMO')" in capsys.readouterr().err
    assert np.load(copied / "run" / "embeddings.npz")["image"].shape == (24, 3)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_shipped_configurations_parse_with_everything_they_say(path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(path), "--print_config"])
    assert not stop.value.code
    parsed, asked = yaml.safe_load(capsys.readouterr().out), yaml.safe_load(path.read_text())
    for part in ("model", "data"):
        assert parsed[part]["class_path"].endswith(f".{asked[part]['class_path']}")
        for key, value in asked[part]["init_args"].items():
            found = parsed[part]["init_args"][key]
            assert found == value or value["class_path"] == found["class_path"], key
    assert asked["trainer"].items() <= parsed["trainer"].items()


def test_the_shipped_configurations_are_found():
    assert len(CONFIGS) >= 5
