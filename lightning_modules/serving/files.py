"""Files of an export: copies of what its encoders' settings name, and how they all come into the folder at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from datamodules.errors import DataError
from datamodules.features.texts import BUNDLED
from datamodules.features.timm_models import INSTALLED

COPIES = "encoders"  # folder of the copies within an export
# Encoders whose setting "model" may be a local folder; for the others it is a name.
OF_FOLDERS = ("sentence", "tokens", "clip")


def copy_named(arguments: dict[str, Any], model: nn.Module, folder: Path) -> dict[str, Any]:
    """Copy the local files that a model's encoders need into an export, and return arguments that name the copies.

    The weights that a trained encoder started from are left out. The keys of frozen networks depend on the content and
    the names of their files: those of a copy are the same.
    """
    encoders = {modality: dict(settings) for modality, settings in (arguments.get("encoders") or {}).items()}
    copies: dict[Path, str] = {}  # two modalities may share a model
    for modality, settings in encoders.items():
        if "weights" in settings and any(True for _ in model.encoders[modality].parameters()):
            settings["weights"] = None
        for name in ("weights", "model") if settings.get("name") in OF_FOLDERS else ("weights",):
            value = str(settings.get(name) or "")
            source = Path(os.path.abspath(value))  # links are not followed: the name's ending says how a file is read
            is_there = source.is_dir() if name == "model" else source.is_file()
            if is_there and value not in ("", BUNDLED, INSTALLED):
                settings[name] = copies.setdefault(source, f"{COPIES}/{modality}/{source.name}")
    for source, name in copies.items():
        for path in [path for path in (source, *source.rglob("*")) if path.is_file()]:
            target = folder / name / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)  # without its permissions, which may allow reading alone
    return arguments | {"encoders": encoders} if encoders else arguments


def in_export(arguments: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The arguments of a model with the places where an export's copies are now; a DataError where one is missing."""

    def placed(value: Any) -> Any:
        if not (isinstance(value, str) and value.startswith(f"{COPIES}/")):
            return value
        if not (folder / value).exists():
            raise DataError(f"{folder} lacks {value}, which an export holds; copy the whole folder, or export again")
        return str((folder / value).absolute())

    encoders = (arguments.get("encoders") or {}).items()
    found = {modality: {name: placed(value) for name, value in settings.items()} for modality, settings in encoders}
    return arguments | {"encoders": found} if found else arguments


def put(made: Path, out: Path, names: Sequence[str]) -> None:
    """Move a folder to ``out``, or its entries over those of an earlier one there; other files stay.

    ``made`` is inside a folder that will be deleted, on the same file system. ``names`` are all entries that it can
    have, in the order of moving: the last is the one without which none counts.
    """
    if not out.exists():
        os.replace(made, out)
        return
    for name in names:
        if (out / name).is_dir():  # which nothing can replace while it holds something
            os.replace(out / name, made.with_name(f"earlier-{name}"))
        if (made / name).exists():
            os.replace(made / name, out / name)
