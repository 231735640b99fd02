"""A trained model without what only training needs: `export` writes it into a folder, `load_export` reads it."""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save
from torch import Tensor

import lightning_modules
from datamodules.errors import DataError
from datamodules.features.texts import BUNDLED
from datamodules.features.timm_models import INSTALLED
from datamodules.files.sources import sha256_of, user_path
from datamodules.items import listed
from lightning_modules.base import RetrievalModule
from lightning_modules.checkpoints import read_checkpoint
from lightning_modules.commands import FURTHER_COMMANDS
from lightning_modules.lavimo import LAVIMO
from lightning_modules.serving.folders import printable

FORMAT = 3  # 2 listed the parts left out, 1 had no copies of the files that encoders name
WEIGHTS, DESCRIPTION = "model.safetensors", "model.yaml"
# What decides an export's embeddings.
DECISIVE = ("class", "init_args", "front_ends", "weights_sha256")
COPIES = "encoders"  # folder of the copies
# Encoders whose setting "model" may be a local folder; for the others it is a name.
OF_FOLDERS = ("sentence", "tokens", "clip")
ALIASES = 20  # of YAML: each may stand for all before it, so that some dozens would be gigabytes written out


def export(checkpoint: Path, out: Path | None = None) -> Path:
    """Write what retrieval needs of a checkpoint.

    ``model.safetensors`` holds the weights but those of ``training_only`` parts: critics, generators, fusion, decoder.
    ``model.yaml`` holds the class, its arguments, how it was trained and the sha256 of the weights. ``encoders/`` holds
    copies of the local files that the encoders' settings name, so that the folder can be moved.

    Args:
        checkpoint: a .ckpt that `csd fit`, or a trainer, wrote.
        out: the folder; by default "<name of the checkpoint>-export" beside the checkpoint.

    Raises:
        DataError: the checkpoint cannot be read, does not say how its model is built or holds NaN, or the folder is not
            empty.
        ValueError: the model embeds an item from all its modalities at once, and so cannot retrieve by one.
        OSError: the folder cannot be written.
    """
    out = Path(out or checkpoint.with_name(f"{checkpoint.stem}-export"))
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(f"{out} exists and is not empty; delete it, or name another folder with --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as beside:
        model, about = _from_checkpoint(checkpoint)
        folder = Path(beside, "made")  # with the permissions of any new folder, which the one around it has not
        folder.mkdir()
        about["init_args"] = _with_copies(about["init_args"], model, folder)
        tensors = {name: x.contiguous().clone() for name, x in model.state_dict().items()}
        (folder / WEIGHTS).write_bytes(save(tensors))
        about["weights_sha256"] = sha256_of(folder / WEIGHTS)
        text = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
        (folder / DESCRIPTION).write_text(text, encoding="utf-8")
        load_export(folder)
        os.replace(folder, out)
    return out


def load_export(folder: str | Path) -> RetrievalModule:
    """The model that `export` wrote, in evaluation mode on the CPU; parts that only training needs are None.

    Raises:
        DataError: a file is missing or damaged, of another format or of an unknown class, the weights are not those
            that were written or do not fit the model, or a frozen network is not the one of the training.
    """
    folder = Path(folder)
    about, weights = description(folder), folder / WEIGHTS
    if sha256_of(weights) != about["weights_sha256"]:
        raise DataError(f"{weights} is not the file that was exported, by its sha256; export again")
    model = _model(about["class"], _placed(about["init_args"], folder), load_file(weights), folder)
    for name, key in _front_ends(model).items():  # which are not among the weights
        if key != about["front_ends"].get(name):
            raise DataError(
                f"{folder}: the frozen network of {name!r} is {key!r}, and the model was trained with "
                f"{about['front_ends'].get(name)!r}; install or name the same files"
            )
    return model


def description(folder: Path) -> dict[str, Any]:
    """The content of an export's model.yaml; a DataError where it is missing, broken or of another format."""
    path = folder / DESCRIPTION
    try:
        text = path.read_text(encoding="utf-8")
        if sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)) > ALIASES:
            raise ValueError(f"more than {ALIASES} aliases")
        about = yaml.safe_load(text)
        written, _ = about["format"], [about[name] for name in DECISIVE]
        _ = [settings.items() for settings in (about["init_args"].get("encoders") or {}).values()]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, yaml.YAMLError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise DataError(f"{path} describes no exported model ({reason}); name one that csd export wrote") from error
    if written != FORMAT:
        raise DataError(f"{path} has format {written}, and this version reads format {FORMAT}; export again")
    return about


def export_identity(folder: Path) -> str:
    """sha256 over what decides an export's embeddings: class, arguments, frozen networks and weights; no versions."""
    about = description(folder)
    return hashlib.sha256(json.dumps([about[name] for name in DECISIVE], sort_keys=True).encode()).hexdigest()


def _from_checkpoint(path: Path) -> tuple[RetrievalModule, dict[str, Any]]:
    """The model, and what model.yaml says of it."""
    saved = read_checkpoint(path, ("state_dict", "hyper_parameters"))
    match saved:
        case {"hyper_parameters": {"_class_path": str(kind), **given}, "state_dict": dict(state)}:
            arguments = {name: value for name, value in given.items() if name[0] != "_" and name != "alignment"}
        case _:
            raise DataError(
                f"{path} does not name its model's class, as _class_path, beside weights by name; name a .ckpt that "
                "csd fit wrote"
            )
    model = _model(kind, arguments, state, path)
    if isinstance(model, LAVIMO) and model.protocol == "as_published":
        raise ValueError(
            f"{path}: LAVIMO as_published embeds an item from all its modalities at once, and so cannot retrieve by "
            "one of them; train it with protocol honest"
        )
    if broken := [name for name, x in model.state_dict().items() if not x.isfinite().all()]:
        raise DataError(
            f"{path}: NaN or infinite values in {listed(broken, 3)}; the training has diverged: export an earlier "
            "checkpoint, or train again with a lower learning rate"
        )
    about = {
        "format": FORMAT,
        "class": kind,
        "init_args": arguments,
        "front_ends": _front_ends(model),
        "alignment": saved.get("alignment"),
        "validation": saved.get("validation", {}),
        "torch": str(torch.__version__),
        "csd_retrieval": version("csd-retrieval"),
    }
    return model, about


def _model(path: str, arguments: Mapping[str, Any], state: Mapping[str, Tensor], origin: Path) -> RetrievalModule:
    """The model of a class and its arguments with the weights that retrieval needs, in evaluation mode."""
    module, _, name = str(path).rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)  # never imported: a file does not decide which code runs
    if not (isinstance(kind, type) and issubclass(kind, RetrievalModule)):
        raise DataError(
            f"{origin}: unknown model class {path!r}; expected one of {', '.join(lightning_modules.__all__)}, or a "
            "class of yours that is already imported"
        )
    try:
        with torch.random.fork_rng(devices=[]):  # the initial values are drawn, and then overwritten
            model = kind(**arguments)
        for part in kind.training_only:
            setattr(model, part, None)
        model.load_state_dict({n: x for n, x in state.items() if n.partition(".")[0] not in kind.training_only})
    except (TypeError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:500]
        raise DataError(f"{origin}: {name} cannot be built from what is saved there ({reason})") from error
    return model.eval()


def _front_ends(model: RetrievalModule) -> dict[str, str]:
    """Modality -> key of the frozen part of its encoder, where it has one."""
    return {name: network.key for name, network in model.frozen_networks().items()}


def _with_copies(arguments: dict[str, Any], model: RetrievalModule, folder: Path) -> dict[str, Any]:
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
            if value in ("", BUNDLED, INSTALLED) or not (source.is_dir() if name == "model" else source.is_file()):
                continue
            settings[name] = copies.setdefault(source, f"{COPIES}/{modality}/{source.name}")
    for source, name in copies.items():
        for path in [path for path in (source, *source.rglob("*")) if path.is_file()]:
            target = folder / name / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)  # without its permissions, which may allow reading alone
    return arguments | {"encoders": encoders} if encoders else arguments


def _placed(arguments: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The arguments of a model with the places where an export's copies are now."""

    def placed(value: Any) -> Any:
        if not (isinstance(value, str) and value.startswith(f"{COPIES}/")):
            return value
        if not (folder / value).exists():
            raise DataError(f"{folder} lacks {value}, which an export holds; copy the whole folder, or export again")
        return str((folder / value).absolute())

    encoders = (arguments.get("encoders") or {}).items()
    found = {modality: {name: placed(value) for name, value in settings.items()} for modality, settings in encoders}
    return arguments | {"encoders": found} if found else arguments


def run_export(words: Sequence[str]) -> None:
    """Run ``csd export`` with the words after it."""
    parser = argparse.ArgumentParser(prog="csd export", description=FURTHER_COMMANDS["export"], allow_abbrev=False)
    parser.add_argument("checkpoint", type=user_path, help="a .ckpt that csd fit wrote")
    parser.add_argument("--out", type=user_path, help="folder; by default CHECKPOINT-export beside the checkpoint")
    given = parser.parse_args(words)
    print(f"wrote {printable(export(given.checkpoint, given.out))}")
