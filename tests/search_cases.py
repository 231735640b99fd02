"""A tiny data set of images, narratives and voices, and a model trained on it: what the tests of search share."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from PIL import Image

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
    "trainer": {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
}


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
