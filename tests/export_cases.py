"""Checkpoints of small models, and what their exports say: what the tests of exports share."""

import hashlib
import shutil
from pathlib import Path

import jfse_cases
import lavimo_cases
import torch
import training
import yaml
from safetensors.torch import load_file, save_file
from tiny_items import Tiny

import lightning_modules


def data_of(name: str):
    return jfse_cases.data() if name == "JFSE" else Tiny(modalities=("text", "motion"))


def trained(folder: Path, name: str, data, **settings) -> Path:
    """A checkpoint of one epoch of a model."""
    if name == "JFSE":
        module = jfse_cases.model(data, **settings)
    else:
        torch.manual_seed(0)
        encoders = {key: value for key, value in lavimo_cases.ENCODERS.items() if key in data.dims}
        module = getattr(lightning_modules, name)(data.dims, **{"encoders": encoders, "dim": 16} | settings)
    trainer = training.trainer(folder)
    trainer.fit(module, data)
    trainer.save_checkpoint(folder / f"{name}.ckpt")
    return folder / f"{name}.ckpt"


def about(folder: Path) -> dict:
    return yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8"))


def changed_checkpoint(source: Path, out: Path, change) -> Path:
    saved = torch.load(source, weights_only=True)
    change(saved)
    torch.save(saved, out)
    return out


def described(folder: Path, **changes) -> None:
    (folder / "model.yaml").write_text(yaml.safe_dump(about(folder) | changes))


def rewritten(folder: Path, change) -> None:
    """Other weights, with a description that says they are the right ones."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    described(folder, weights_sha256=hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest())


def another(source: Path, folder: Path) -> Path:
    """A copy of an export with other weights."""
    shutil.copytree(source, folder)
    rewritten(folder, lambda weights: weights["projections.text.1.bias"].add_(1))
    return folder
