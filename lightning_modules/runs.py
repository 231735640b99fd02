"""Where and when a run writes: folders of its logs, its configuration, and "~" in every argument."""

import os
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only


def loggers(root: Path, command: str, name: str | None = None) -> list[Logger]:
    """CSV and TensorBoard logs below a folder: in version_0, version_1 and so on of fits, test_0 and so on of tests.

    Args:
        root: the folder.
        command: "fit", "test", ...
        name: of the run, whose logs then are in fit_<name>, test_<name>, ...

    Raises:
        ValueError: a name that is no name of a folder, or one that a run of the command has already.
    """
    version = None  # Lightning's own count
    if name is not None:
        version = f"{command}_{name}"
        if not name or Path(name).name != name:
            raise ValueError(f"--name is {name!r}; expected a word that can name a folder")
        if rank_zero_only.rank == 0 and (root / "csv" / version).exists():
            raise ValueError(f"--name {name}: {root / 'csv' / version} holds a run of that name; choose another")
    elif command != "fit":
        numbers = [path.name.removeprefix(f"{command}_") for path in root.glob(f"*/{command}_*")]
        version = f"{command}_{max((int(number) for number in numbers if number.isdigit()), default=-1) + 1}"
    return [CSVLogger(root, name="csv", version=version), TensorBoardLogger(root, name="tensorboard", version=version)]


class ConfigWriter(SaveConfigCallback):
    """Lightning's, which writes once the checkpoint is loaded: what refuses it is no run and has no configuration."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pass

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().setup(trainer, pl_module, trainer.state.fn)

    on_fit_start = on_validation_start = on_test_start = on_predict_start = _write


def at_home(value: Any) -> Any:
    """The value of an argument, with "~" expanded in every text of it that starts so."""
    if isinstance(value, str):
        return os.path.expanduser(value)
    if isinstance(value, list):
        return [at_home(item) for item in value]
    if isinstance(value, dict):
        return {name: at_home(item) for name, item in value.items()}
    if isinstance(value, Namespace):
        return Namespace({name: at_home(item) for name, item in vars(value).items()})
    return value
