"""Training LAVIMO on frozen encoders: their output computed once and kept, against computed for every batch."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.harness import Benchmark, Record, seconds_per_step, train_in_turns
from datamodules import RetrievalData
from datamodules.datasets.synthetic import CLASS_NAMES
from datamodules.files.media import read_image
from datamodules.items import Files, ItemSet, Modality
from lightning_modules import LAVIMO
from lightning_modules.networks.encoders.image import Resize

NAME = "lavimo"
MODEL, PIXELS = "tf_efficientnet_lite0", 160
ABOUT = f"""LAVIMO on images and captions through frozen encoders, {MODEL} at {PIXELS} pixels and the tokens of
all-MiniLM-L6-v2. Cached (ours): their output is computed once, kept on disk and read into memory, as
`frozen: true` does. Uncached: the same networks, called without gradients in every batch, on images and token numbers
that are resized and tokenised beforehand as well. The one pass that fills the cache does not count; it is what the
uncached contestant does in every epoch. Items per second of a training epoch, the first left out. Images and words
are random."""
SETTINGS: dict[str, Any] = {"rounds": 2, "epochs": 2, "batches": 4, "items": 256}
BATCH = 64
OURS, PEER = "LAVIMO, cached (ours)", "LAVIMO, uncached"


class RandomImages(RetrievalData):
    """Random images, in files that are written into a folder, and random words; two of them are test items."""

    dataset, features, data_kind, test_split = "random images", "raw", "synthetic", "standard"

    def __init__(self, folder: Path, **kwargs: Any):
        super().__init__(validation_fraction=0.0, **kwargs)
        self.folder = folder

    def read(self) -> ItemSet:
        """Draw the images and words."""
        draw, numbers = np.random.default_rng(0), np.arange(SETTINGS["items"] + 2)
        paths = tuple(self.folder / f"{number}.png" for number in numbers)
        for path in paths:
            Image.fromarray(draw.integers(0, 256, (224, 224, 3), np.uint8)).save(path)
        texts = [" ".join(draw.choice(CLASS_NAMES, 10)) for _ in numbers]
        modalities = {"image": Modality(Files(paths, read_image)), "text": Modality(texts)}
        split = np.where(numbers < SETTINGS["items"], "train", "test")
        return ItemSet(modalities, numbers, split, [path.stem for path in paths], "random images")


class Uncached(LAVIMO):
    """LAVIMO whose frozen encoders are called in every batch, on the pixels that the cached one saw."""

    def __init__(self, dims: Any, **kwargs: Any):
        super().__init__(dims, **kwargs)
        self.encoders["image"].front_end = Resize(PIXELS)  # leaves no room for crops
        self.encoders.requires_grad_(False)

    def train(self, mode: bool = True) -> Uncached:
        super().train(mode)
        self.encoders.eval()
        return self

    def encode(self, batch: Any) -> dict[str, Tensor]:
        with torch.no_grad():
            return super().encode(batch)


def build(contestant: str, data: RetrievalData) -> LAVIMO:
    """One of the two models."""
    L.seed_everything(0, verbose=False)
    kind, frozen = (LAVIMO, True) if contestant == OURS else (Uncached, False)
    image = {"name": "timm", "model": MODEL, "weights": "installed", "frozen": frozen, "size": PIXELS}
    return kind(data.dims, encoders={"image": image, "text": {"name": "tokens", "frozen": frozen}})


def measure(record: Record) -> None:
    """Measure both contestants."""
    with tempfile.TemporaryDirectory() as folder:

        def train(contestant: str) -> list[float]:
            data = RandomImages(Path(folder), batch_size=BATCH)
            return seconds_per_step(build(contestant, data), data, SETTINGS["epochs"], SETTINGS["batches"])

        runs = {name: partial(train, name) for name in (OURS, PEER)}
        columns = {"dataset": RandomImages.dataset, "features": RandomImages.features}
        train_in_turns(record, NAME, f"batches of {BATCH}", runs, SETTINGS["rounds"], "items/s", BATCH, **columns)


BENCHMARK = Benchmark(NAME, ABOUT, SETTINGS, measure)
