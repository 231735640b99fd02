"""Exports of small models, and a model trained on images, texts and voices: what the tests of serving share."""

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from cli_cases import CONFIG as SMALL
from PIL import Image
from safetensors.torch import load_file, save_file
from small_models import ENCODERS, TEXT_AND_MOTION, few, jfse
from tiny_items import Tiny
from training import trainer

import lightning_modules
from lightning_modules.cli import main

RATE = 8000
COLOURS = ("red", "green", "blue", "grey")
SPLITS = {"train": 16, "val": 4, "test": 8}
CONFIG = {
    "seed_everything": 5,
    "model": {
        "class_path": "LAVIMO",
        "init_args": {
            "dim": 16,
            "learning_rate": 0.003,
            "reconstruct": "audio",
            "encoders": {
                "image": {"name": "timm", "model": "test_convnext", "size": 32},
                "text": {"name": "characters", "width": 16},
                "audio": {"name": "log_mel", "mels": 16, "width": 16},
            },
        },
    },
    "trainer": SMALL["trainer"],
}


# Exports of small models ---------------------------------------------------------------------------------------------


def data_of(name: str):
    return few() if name == "JFSE" else Tiny(**TEXT_AND_MOTION)


def trained(folder: Path, name: str, data, **settings) -> Path:
    """A checkpoint of one epoch of a model."""
    if name == "JFSE":
        module = jfse(data, **settings)
    else:
        torch.manual_seed(0)
        encoders = {key: value for key, value in ENCODERS.items() if key in data.dims}
        module = getattr(lightning_modules, name)(data.dims, **{"encoders": encoders, "dim": 16} | settings)
    run = trainer(folder)
    run.fit(module, data)
    run.save_checkpoint(folder / f"{name}.ckpt")
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


# Search --------------------------------------------------------------------------------------------------------------


def sound(number: int, rate: int = RATE) -> np.ndarray:
    """A tone whose pitch and length go by the number."""
    time = np.arange(round((0.2 + 0.01 * number) * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * (200 + 60 * number) * time)).astype(np.float32)


def write_data(root: Path) -> dict[str, list[str]]:
    """Write the data set; split -> its narratives, one per image, in the order of the images' names."""
    folder, draw, captions = root / "flickr30k", np.random.default_rng(0), {}
    (folder / "flickr30k-images").mkdir(parents=True)
    (folder / "voice-recordings").mkdir()
    number = 0
    for split, count in SPLITS.items():
        lines = []
        for _ in range(count):
            colour = number % len(COLOURS)
            pixels = draw.integers(0, 90, (40, 34 + number % 5, 3))
            pixels[..., :3] += 120 * np.eye(4, 3, dtype=int)[colour]
            name = f"image{number:02d}"
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "flickr30k-images" / f"{name}.jpg")
            soundfile.write(folder / "voice-recordings" / f"{name}.wav", sound(number), RATE)
            caption = f"picture {number} is {COLOURS[colour]}, é"
            lines.append({"image_id": name, "caption": caption, "voice_recording": f"{name}.wav"})
            number += 1
        text = "\n".join(json.dumps(line) for line in lines)
        (folder / f"flickr30k_{split}_localized_narratives.jsonl").write_text(text, encoding="utf-8")
        captions[split] = [line["caption"] for line in lines]
    return captions


@dataclass
class Searched:
    """A trained model: its run, its export, the test entries in folders, an index of each, what `csd predict` wrote."""

    run: Path
    export: Path
    folders: dict[str, Path]
    captions: list[str]
    predicted: dict[str, np.ndarray]
    indexes: dict[str, Path] = field(default_factory=dict)


def csd(*words: object) -> None:
    main([str(word) for word in words])


def train_and_index(root: Path) -> Searched:
    """`csd fit`, `csd predict`, `csd export`, and `csd search index` for every modality of the test items."""
    captions = write_data(root / "data")
    data = {"class_path": "Flickr30kNarratives", "init_args": {"batch_size": 8, "data_root": str(root / "data")}}
    (root / "config.yaml").write_text(yaml.safe_dump(CONFIG | {"data": data}))
    words = ("--config", root / "config.yaml", "--trainer.default_root_dir", root / "run")
    csd("fit", *words)
    last = root / "run" / "csv" / "version_0" / "checkpoints" / "last.ckpt"
    csd("predict", *words, "--ckpt_path", last)
    csd("export", last, "--out", root / "export")
    folders = {"image": root / "images", "text": root / "captions.txt", "audio": root / "sounds"}
    folders["text"].write_text("\n".join(captions["test"]) + "\n\n", encoding="utf-8")
    for name, source in (("image", "flickr30k-images"), ("audio", "voice-recordings")):
        folders[name].mkdir()
        for path in sorted((root / "data" / "flickr30k" / source).iterdir())[-SPLITS["test"] :]:
            shutil.copy(path, folders[name])
    predicted = dict(np.load(root / "run" / "embeddings.npz"))
    made = Searched(root / "run", root / "export", folders, captions["test"], predicted)
    for name, folder in folders.items():
        made.indexes[name] = root / f"{name}.index"
        csd("search", "index", made.export, folder, "--modality", name, "--out", made.indexes[name])
    return made


# A test file takes the fixtures by assignment: imported, they would count as unused names.


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Searched:
    """A trained model with its export and indexes; nothing may be written beside them."""
    return train_and_index(tmp_path_factory.mktemp("searched"))
