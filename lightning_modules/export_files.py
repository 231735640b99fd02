"""Files of an export: copies of what its encoders' settings name, and how all comes into the folder at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from datamodules.errors import DataError
from datamodules.features.texts import BUNDLED
from datamodules.features.timm_models import INSTALLED

Encoders = Mapping[str, Mapping[str, Any]]

# Folder of the copies within an export.
COPIES = "encoders"
# Encoders whose setting "model" may be a local folder; that of the others is a name.
OF_FOLDERS = ("sentence", "tokens", "clip")


def with_copies(encoders: Encoders, folder: Path) -> dict[str, Mapping[str, Any]]:
    """Copy the local files and folders that encoders' settings name into an export; the settings then name the copies.

    The keys of front ends go by the content of these files and by their names within a folder: a copy has the same.

    Args:
        encoders: modality -> settings.
        folder: of the export.

    Returns:
        The settings, with the paths of copies relative to the folder. Names of models stay as they are.

    Raises:
        OSError: the disk is full, or a file cannot be read.
    """
    copies: dict[Path, str] = {}  # two modalities may share a model

    def copied(modality: str, setting: str, value: str) -> str:
        source = Path(os.path.abspath(value))  # links are not followed: the name's ending says how a file is read
        if value in (BUNDLED, INSTALLED) or not (source.is_dir() if setting == "model" else source.is_file()):
            return value
        if source not in copies:
            copies[source] = f"{COPIES}/{modality}/{source.name}"
            _copy(source, folder / copies[source])
        return copies[source]

    return _renamed(encoders, copied)


def _copy(source: Path, target: Path) -> None:
    files = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]
    for path in files:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def with_places(encoders: Encoders, folder: Path) -> dict[str, Mapping[str, Any]]:
    """The settings of an export's encoders with the places where the copies are now.

    Raises:
        DataError: a copy is not in the folder.
    """

    def placed(modality: str, setting: str, value: str) -> str:
        return str(held(folder, value).absolute()) if value.startswith(f"{COPIES}/") else value

    return _renamed(encoders, placed)


def without_paths(encoders: Encoders) -> dict[str, Mapping[str, Any]]:
    """The settings of encoders without those that may name files: what is in these the front ends' keys say."""
    return {
        modality: {name: value for name, value in settings.items() if name not in _named(settings)}
        for modality, settings in encoders.items()
    }


def _renamed(encoders: Encoders, change: Callable[[str, str, str], str]) -> dict[str, Mapping[str, Any]]:
    return {
        modality: {**settings, **{name: change(modality, name, value) for name, value in _named(settings).items()}}
        for modality, settings in encoders.items()
    }


def _named(settings: Mapping[str, Any]) -> dict[str, str]:
    """Setting -> what it names, for the settings that may name a file or folder."""
    names = ("weights", "model") if settings.get("name") in OF_FOLDERS else ("weights",)
    return {name: settings[name] for name in names if isinstance(settings.get(name), str)}


def held(folder: Path, name: str) -> Path:
    """The path of a part of an export.

    Raises:
        DataError: it is not there.
    """
    if not (folder / name).exists():
        raise DataError(f"{folder} lacks {name}, which an export holds; copy the whole folder, or export again")
    return folder / name


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> None:
    """Write a .safetensors file with the permissions of any new file; the library's are its owner's alone."""
    path.touch()
    permissions = path.stat().st_mode
    save_file(dict(tensors), path, None if about is None else dict(about))
    path.chmod(permissions)


def put(made: Path, out: Path, names: Sequence[str]) -> None:
    """Move a folder into its place, or its entries over those that an earlier one had there; other files stay.

    Args:
        made: the folder, in one that will be deleted.
        out: the place, on the same file system.
        names: of all entries that such a folder can have; one that is not in `made` is removed. They are replaced in
            this order, so that the last is that without which nothing counts.
    """
    if not out.exists():
        os.replace(made, out)
        return
    for name in names:
        if (out / name).is_dir():  # which nothing can replace while it holds something
            os.replace(out / name, made.with_name(f"earlier-{name}"))
        if (made / name).exists():
            os.replace(made / name, out / name)


def check_writable(path: Path) -> None:
    """Refuse a path at which no file or folder can be made, before the work is done that it is for.

    Raises:
        DataError: something on the way to it is no folder, or a folder that may not be written into.
    """
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if not there.is_dir():
        raise DataError(f"{path} cannot be written, for {there} is a file; name another place with --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise DataError(f"{path} cannot be written, for you may not write into {there}; name another place with --out")
