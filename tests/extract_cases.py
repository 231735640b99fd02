"""Tiny networks and their weights, and features of a tiny Flickr30K: what the tests of `extract` share."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchaudio
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_trees import NARRATED, write_spoken

from datamodules import ItemSet
from datamodules.__main__ import main
from datamodules.files.extracted_features import write_features

IMAGE_MODEL, SOUND_MODEL = "test_resnet", "tiny"
ITEMS = [image for images in NARRATED.values() for image in images]
COUNTS = np.array([count for images in NARRATED.values() for count in images.values()])
ENTRIES = int(COUNTS.sum())
SPLIT = np.repeat(["train", "validation", "test"], [len(images) for images in NARRATED.values()])
TINY = {
    **torchaudio.pipelines.WAV2VEC2_LARGE_LV60K._params,  # sees how loud a sound is
    "extractor_conv_layer_config": [(16, 10, 5), (16, 3, 4)],
    "encoder_embed_dim": 32,
    "encoder_num_layers": 2,
    "encoder_num_heads": 4,
    "encoder_ff_interm_features": 64,
}


def write_weights(folder: Path) -> dict[str, Path]:
    """Files of weights, drawn by seed 0: "image" of IMAGE_MODEL with its classifier, "sound" of TINY."""
    paths = {"image": folder / "image.safetensors", "sound": folder / "sound.pt"}
    torch.manual_seed(0)
    save_file(timm.create_model(IMAGE_MODEL).state_dict(), paths["image"])
    torch.manual_seed(0)
    torch.save(torchaudio.models.wav2vec2_model(**TINY).state_dict(), paths["sound"])
    return paths


def tiny_bundle(normalised: bool = False):
    """A torchaudio bundle of the small network above; it is to stand in `torchaudio.pipelines` as TINY."""
    kind = torchaudio.pipelines.Wav2Vec2Bundle
    url = "https://127.0.0.1:9/tiny.pt"  # where nobody answers
    return kind(_path=url, _params=TINY, _sample_rate=16000, _normalize_waveform=normalised, _model_type="Wav2Vec2")


def run(*arguments: object) -> int:
    """The command's exit status."""
    return main(["extract", *map(str, arguments)])


def run_all(root: Path, weights: dict[str, Path], out: Path, *more: object) -> int:
    """Extract all three modalities, image and sound by networks whose weights stand in files."""
    named = ("--image", IMAGE_MODEL, "--text", "all-MiniLM-L6-v2", "--sound", SOUND_MODEL)
    files = ("--image-weights", weights["image"], "--sound-weights", weights["sound"])
    return run("flickr30k", *named, *files, "--data-root", root, "--out", out, *more)


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def written_by_hand(path: Path, data: ItemSet, vectors: dict[str, np.ndarray]) -> Path:
    """A file as `extract` writes it, of other vectors."""
    said = {name: {"model": "by hand", "weights": "none"} for name in vectors}
    with path.open("wb") as file:
        write_features(file, data, vectors, {"encoders": json.dumps(said)})
    return path


class Lengths:
    """A frozen network without weights: how many values an entry has, their sum and largest; stopped when told to."""

    identity = {"model": "lengths", "weights": "none", "sha256": "0", "versions": "1"}  # noqa: RUF012
    key = "lengths 0"

    def __init__(self, stop_after: int = 10**9):
        self.calls, self.stop_after = 0, stop_after

    def __call__(self, entries, rate):
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        rows = [np.array([ord(c) for c in entry]) if isinstance(entry, str) else entry for entry in entries]
        return [np.array([row.size, row.sum() / 1000, row.max()], dtype=np.float32) for row in rows]


@pytest.fixture(scope="module", autouse=True)
def bundle():
    """The small bundle among those of torchaudio."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchaudio.pipelines, "TINY", tiny_bundle(), raising=False)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_spoken(tmp_path_factory.mktemp("data")).parent


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def written(root, weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("written") / "features.safetensors"
    assert run_all(root, weights, out) == 0
    return out
