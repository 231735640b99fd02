"""A small configuration, ``csd`` run on it, and the files of a run: what the tests of the command line share."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

import losses
from lightning_modules.cli import main

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


def resolved(capsys, *words: str) -> dict:
    """The whole configuration of a command, which is not run; where it names modalities, its loss takes so many."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*words, "--print_config"])
    assert not stop.value.code
    config = yaml.safe_load(capsys.readouterr().out)
    alignment, names = config["model"]["init_args"].get("alignment"), config["data"]["init_args"].get("modalities")
    if alignment and names:
        if isinstance(alignment, str):
            loss = losses.build_loss(alignment)
        else:
            loss = getattr(losses, alignment["class_path"].rpartition(".")[2])(**alignment["init_args"])
        loss.check_modalities(names)
    return config


def refused(capsys, *words: object) -> str:
    """The message of a command that must end with status 2 and without a stack trace."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert "Traceback" not in message
    return message


def metrics(folder: Path, version: int | str) -> pd.DataFrame:
    """What a fit logged, by its number; or a test or validation, by its name, as "test_0"."""
    name = f"version_{version}" if isinstance(version, int) else version
    return pd.read_csv(folder / "run" / "csv" / name / "metrics.csv")


def checkpoints(folder: Path, version: int) -> dict[str, Path]:
    found = (folder / "run" / "csv" / f"version_{version}" / "checkpoints").glob("*.ckpt")
    return {path.stem.split("-")[0]: path for path in found}


# A test file takes the fixtures by assignment: imported, they would count as unused names.
@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    """A folder with the small configuration and one finished run of it; nothing else may be written into it."""
    folder = tmp_path_factory.mktemp("fitted")
    csd("fit", folder)
    return folder


@pytest.fixture
def copied(fitted, tmp_path) -> Path:
    """The finished run, moved to another folder."""
    shutil.copytree(fitted / "run", tmp_path / "run")
    return tmp_path
