"""The command line ``csd``: runs, files, short names, messages for people; and the check of the installation."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import losses
from datamodules import Synthetic
from lightning_modules import JFSE
from lightning_modules.cli import main
from lightning_modules.installation import check_installation

pytestmark = [
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]

CONFIGS = sorted((Path(__file__).parent.parent / "reproduce" / "configs").glob("*.yaml"))
DATA = {"classes": 3, "items": 96, "image_dim": 8, "text_dim": 6, "batch_size": 16, "class_encoder": "one-hot"}
CONFIG = {
    "seed_everything": 7,
    "model": {"class_path": "JFSE", "init_args": {"alignment": "cs", "width": 16, "learning_rate": 0.003}},
    "data": {"class_path": "Synthetic", "init_args": DATA},
    "trainer": {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
}


def write_config(folder: Path, **model) -> Path:
    """The small configuration with some arguments of the model set."""
    config = {**CONFIG, "model": {"class_path": "JFSE", "init_args": {**CONFIG["model"]["init_args"], **model}}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def csd(command: str, folder: Path, *words: str, config: Path | None = None) -> None:
    config = config or write_config(folder)
    main([command, "--config", str(config), "--trainer.default_root_dir", str(folder / "run"), *map(str, words)])


def refused(capsys, command: str, *words: object) -> str:
    """The message of a command that must end with status 2 and without a stack trace."""
    with pytest.raises(SystemExit) as stop:
        main([command, *map(str, words)])
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert "csd: " in message
    assert "Traceback" not in message
    return message


def metrics(folder: Path, version: int) -> pd.DataFrame:
    return pd.read_csv(folder / "run" / "csv" / f"version_{version}" / "metrics.csv")


def checkpoints(folder: Path, version: int) -> dict[str, Path]:
    found = (folder / "run" / "csv" / f"version_{version}" / "checkpoints").glob("*.ckpt")
    return {path.stem.split("-")[0]: path for path in found}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    """A folder with the small configuration and one finished run of it; nothing else may be written into it."""
    folder = tmp_path_factory.mktemp("fitted")
    csd("fit", folder)
    return folder


@pytest.fixture
def copied(fitted, tmp_path) -> Path:
    """The checkpoints of the finished run, in a folder of their own."""
    for path in checkpoints(fitted, 0).values():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


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
@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
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
    earlier = metrics(fitted, 0)["val/average/MAP"].max()
    assert metrics(copied, 0)["val/average/MAP"].tolist() == [pytest.approx(earlier, abs=1e-12)]
    csd("test", copied, "--ckpt_path", best)
    score = metrics(copied, 1)["test/standard/average/MAP"].item()
    assert 0.33 < score <= 1
    assert "test/standard/average/MAP" in capsys.readouterr().out


def test_predict_writes_the_embeddings_of_all_test_items(copied, capsys):
    best = next(copied.glob("best*.ckpt"))
    csd("predict", copied, "--ckpt_path", best)
    written = np.load(copied / "run" / "embeddings.npz")
    dm, model = Synthetic(**DATA), JFSE.load_from_checkpoint(best).eval()
    features, label = dm.arrays("standard")
    with torch.no_grad():
        expected = model.embed({name: torch.from_numpy(x) for name, x in features.items()})
    assert set(written.files) == {"image", "text", "label", "id"}
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


def test_as_published_is_fitted_and_tested(tmp_path):
    config = write_config(tmp_path, preset="as_published", alignment="cmpm_kl")
    csd("fit", tmp_path, "--data.init_args.as_published", "true", config=config)
    chosen = ("--ckpt_path", checkpoints(tmp_path, 0)["best"])
    csd("test", tmp_path, "--data.init_args.as_published", "true", *chosen, config=config)
    tested = metrics(tmp_path, 1)["test/standard/average/MAP"].item()
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
    spellings = {
        "name": "cs",
        "short": {"class_path": "CSLoss"},
        "full": {"class_path": "losses.CSLoss", "init_args": {"temperature": 0.1}},
    }
    found = {key: alignment_after_one_batch(tmp_path / key, value) for key, value in spellings.items()}
    assert len(set(found.values())) == 1
    warm = {"class_path": "losses.CSLoss", "init_args": {"temperature": 0.5}}
    ring = {"class_path": "losses.GCSLoss", "init_args": {"scheme": "clockwise", "temperature": 0.2}}
    others = [
        alignment_after_one_batch(tmp_path / "warm", warm),
        alignment_after_one_batch(tmp_path / "ring", ring),
        alignment_after_one_batch(tmp_path / "none", None),
    ]
    assert others[2] == 0
    assert len({*found.values(), *others}) == 4
    line = ("--model.init_args.alignment", "losses.CSLoss", "--model.init_args.alignment.temperature", "0.5")
    assert alignment_after_one_batch(tmp_path / "line", "kl", *line) == others[0]


def test_model_and_data_have_short_and_full_names(tmp_path, capsys):
    shown = []
    for model, data in (("JFSE", "Synthetic"), ("lightning_modules.JFSE", "datamodules.Synthetic")):
        with pytest.raises(SystemExit) as stop:
            main(["fit", "--model", model, "--data", data, "--print_config"])
        assert not stop.value.code
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


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


# Refusals -------------------------------------------------------------------------------------------------------

WRONG_WORDS = {
    "option": (["--model.init_args.widht", "3"], "widht", "width"),
    "short option": (["--model.widht", "3"], "widht", "width"),
    "trainer option": (["--trainer.max_epoch", "3"], "max_epoch", "max_epochs"),
    "top": (["--modle", "JFSE"], "modle", "model"),
    "data option": (["--data.init_args.clases", "4"], "clases", "classes"),
    "model": (["--model", "JFSEE"], "JFSEE", "JFSE"),
    "data": (["--data", "Syntetic"], "Syntetic", "Synthetic"),
    "loss": (["--model.init_args.alignment", "cmpm_lk"], "cmpm_lk", "cmpm_kl"),
    "loss keyword": (
        ["--model.init_args.alignment", "losses.CSLoss", "--model.init_args.alignment.temprature", "1"],
        "temprature",
        "temperature",
    ),
    "preset": (["--model.init_args.preset", "as_publshed"], "as_publshed", "as_published"),
}


@pytest.mark.parametrize("case", WRONG_WORDS)
def test_a_wrong_word_on_the_command_line_is_answered_with_the_nearest(case, tmp_path, capsys):
    words, wrong, right = WRONG_WORDS[case]
    message = refused(capsys, "fit", "--config", write_config(tmp_path), *words)
    assert wrong in message
    assert re.search(rf"\b{right}\b", message)
    assert len(message.splitlines()) < 12


WRONG_YAML = {
    "model key": ("width:", "widht:", "width"),
    "data key": ("classes:", "clases:", "classes"),
    "trainer key": ("max_epochs:", "max_epoch:", "max_epochs"),
    "top key": ("trainer:", "trianer:", "trainer"),
    "loss": ("alignment: cs", "alignment: infonec", "infonce"),
    "loss keyword": (
        "alignment: cs",
        "alignment: {class_path: losses.GCSLoss, init_args: {shceme: mixed}}",
        "scheme",
    ),
    "loss class": ("alignment: cs", "alignment: {class_path: losses.GCSLos}", "GCSLoss"),
    "model": ("class_path: JFSE", "class_path: JSFE", "JFSE"),
}


@pytest.mark.parametrize("case", WRONG_YAML)
def test_a_wrong_word_in_a_file_is_answered_with_the_nearest(case, tmp_path, capsys):
    right, wrong, nearest = WRONG_YAML[case]
    path = write_config(tmp_path)
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong))
    message = refused(capsys, "fit", "--config", path)
    assert re.search(rf"\b{nearest}\b", message)
    assert len(message.splitlines()) < 12


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    assert "absent.yaml" in refused(capsys, "fit", "--config", tmp_path / "absent.yaml")
    own = ("--model", "JFSE", "--data", "FeaturePairs", "--data.init_args.path", tmp_path / "absent.npz")
    assert str(tmp_path / "absent.npz") in refused(capsys, "fit", *own)


@pytest.mark.parametrize("exists", [False, True])
def test_a_data_root_without_the_data_is_refused(exists, tmp_path, capsys):
    root = tmp_path / "root"
    if exists:
        root.mkdir()
    words = ("--model", "JFSE", "--data", "Wikipedia", "--data.init_args.data_root", root)
    assert str(root) in refused(capsys, "fit", *words)


@pytest.mark.parametrize("words", [("--data.init_args.classes", "1"), ("--model.init_args.width", "wide")])
def test_a_value_out_of_range_or_of_the_wrong_kind_is_refused(words, tmp_path, capsys):
    message = refused(capsys, "fit", "--config", write_config(tmp_path), *words)
    assert words[0].rsplit(".", 1)[1] in message
    assert words[1] in message


@pytest.mark.parametrize("kind", ["absent", "truncated", "not a checkpoint"])
def test_a_checkpoint_that_cannot_be_read_is_named(kind, fitted, tmp_path, capsys):
    path = tmp_path / "wanted.ckpt"
    if kind != "absent":
        whole = checkpoints(fitted, 0)["last"].read_bytes()
        path.write_bytes(whole[:5000] if kind == "truncated" else b"no checkpoint")
    config = write_config(tmp_path)
    message = refused(capsys, "test", "--config", config, "--ckpt_path", path)
    assert str(path) in message
    assert "free space" not in message


def test_a_root_that_is_a_file_is_refused(tmp_path, capsys):
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    message = refused(
        capsys, "fit", "--config", write_config(tmp_path), "--trainer.default_root_dir", blocked / "deeper"
    )
    assert str(blocked) in message
    assert "--trainer.default_root_dir" in message


FULL_DISK = """
import resource
import sys

from lightning.pytorch.callbacks import Callback

from lightning_modules.cli import main


def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


class FullFromSecondEpoch(Callback):
    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1:
            limit(20_000)


class FullForEmbeddings(Callback):
    def on_predict_epoch_start(self, trainer, module):
        limit(300)


def status(*words):
    try:
        main([*words])
    except SystemExit as stop:
        return stop.code
    finally:
        limit(resource.RLIM_INFINITY)
    return 0


if __name__ == "__main__":
    config, root = sys.argv[1:]
    sys.argv = sys.argv[:1]
    given = ("--config", config, "--trainer.default_root_dir", root)
    last = ("--ckpt_path", f"{root}/csv/version_0/checkpoints/last.ckpt")
    codes = [
        status("fit", *given, "--trainer.callbacks+=full_disk.FullFromSecondEpoch"),
        status("predict", *given, *last),
        status("predict", *given, *last, "--trainer.callbacks+=full_disk.FullForEmbeddings"),
    ]
    print("statuses", *codes)
"""


def test_a_full_disk_is_said_and_spoils_nothing_written_before(tmp_path):
    """No file may grow beyond a limit from some moment on, which writing meets as it meets a full disk."""
    (tmp_path / "full_disk.py").write_text(FULL_DISK)
    words = [sys.executable, "full_disk.py", str(write_config(tmp_path)), str(tmp_path / "run")]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert "statuses 2 0 2" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("csd: ") == 2
    assert "File too large" in done.stderr
    for path in checkpoints(tmp_path, 0).values():
        assert torch.load(path, weights_only=True)["epoch"] == 0
        JFSE.load_from_checkpoint(path)
    assert set(checkpoints(tmp_path, 0)) == {"best", "last"}
    assert metrics(tmp_path, 0)["val/average/MAP"].notna().any()
    assert np.load(tmp_path / "run" / "embeddings.npz")["image"].shape == (24, 3)


# Installation ---------------------------------------------------------------------------------------------------


def test_packages_side_by_side_are_accepted():
    check_installation()


@pytest.mark.parametrize("name", ["losses", "datamodules", "reproduce"])
def test_a_package_from_elsewhere_is_refused_by_name(name, tmp_path, monkeypatch):
    stray = types.ModuleType(name)
    stray.__file__ = str(tmp_path / f"{name}.py")
    monkeypatch.setitem(sys.modules, name, stray)
    with pytest.raises(ImportError, match=rf"'{name}' .* from {tmp_path}.*rename"):
        check_installation()


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
