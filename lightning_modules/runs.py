"""Where a run writes: folders of its logs, and "~" in every argument."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger


def loggers(root: Path, command: str) -> list[Logger]:
    """CSV and TensorBoard logs below a folder: in version_0, version_1 and so on of fits, test_0 and so on of tests."""
    version = None  # Lightning's own count
    if command != "fit":
        numbers = [path.name.removeprefix(f"{command}_") for path in root.glob(f"*/{command}_*")]
        version = f"{command}_{max((int(number) for number in numbers if number.isdigit()), default=-1) + 1}"
    return [CSVLogger(root, name="csv", version=version), TensorBoardLogger(root, name="tensorboard", version=version)]


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
