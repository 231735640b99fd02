"""Training: JFSE against its published schedule in plain PyTorch, LAVIMO on cached against uncached frozen encoders."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, StackDataset

from benchmarks.harness import Benchmark, Record
from benchmarks.plain import PlainJFSE
from datamodules import RetrievalData, Synthetic
from datamodules.datasets.synthetic import CLASS_NAMES
from datamodules.files.media import read_image
from datamodules.items import Files, ItemSet, Modality
from lightning_modules import JFSE, LAVIMO
from lightning_modules.base import RetrievalModule
from lightning_modules.networks.encoders.image import Resize
from losses import build_loss
from reproduce.measurements.measures import device, epoch_seconds, timer

Seconds = dict[str, list[float]]  # "seconds/step" -> one number an epoch


def seconds_per_step(model: RetrievalModule, data: RetrievalData, epochs: int, batches: int) -> Seconds:
    """Train on some batches an epoch; seconds per step of ``epochs`` epochs after one not counted."""
    seconds, steps = epoch_seconds(model, data, epochs, limit_train_batches=batches)
    return {"seconds/step": [found / steps for found in seconds]}


def _in_turns(
    record: Record, size: str, runs: Mapping[str, Callable[[], Seconds]], rounds: int, rate: str, batch: int = 1
) -> float | None:
    """Train ours and a peer in turn; record seconds of a step, rates in steps or items, and the ratio of seconds."""
    record.take_turns(size, runs, rounds, ["seconds/step"])
    for who in runs:
        if seconds := record.value(who, size, "seconds/step"):
            record.add(who, size, rate, batch / seconds)
    ours, peer = runs
    return record.ratio(peer, ours, size, "seconds/step")


# JFSE --------------------------------------------------------------------------------------------------------------

JFSE_BATCH, CLASSES, ITEMS = 64, 300, 2_773
FASTER = {"cpu": 1, "cuda": 3}
ABOUT_JFSE = f"""JFSE with `protocol="as_published"` and the CS alignment, through a Lightning Trainer, against its
published schedule written in plain PyTorch: a data set of single items, four optimisers, the gradient penalty
differentiated twice, a forward pass for every step. Both have the same networks and the same Adam, as one fused
operation here and by its default loop there. Synthetic features of the shape of Wikipedia, and of the authors' widths;
{CLASSES}-d class embeddings, batches of {JFSE_BATCH}. A step is one batch: five steps of the critics and one of every
other part."""


class Shape(NamedTuple):
    """What is trained on, how often, and for how many epochs after one that does not count."""

    name: str
    image_dim: int
    text_dim: int
    width: int
    batches: int
    rounds: int
    epochs: int

    def data(self) -> Synthetic:
        """Paired features, 2,173 of them to train on."""
        shape = {"items": ITEMS, "classes": CLASSES, "image_dim": self.image_dim, "text_dim": self.text_dim}
        return Synthetic(**shape, batch_size=JFSE_BATCH, class_encoder="one-hot", protocol="as_published")

    def model(self) -> JFSE:
        """A model whose weights are the same each time."""
        L.seed_everything(0, verbose=False)
        return JFSE(self.data().dims, build_loss("cs"), protocol="as_published", width=self.width)

    def ours(self) -> Seconds:
        """Train ours."""
        return seconds_per_step(self.model(), self.data(), self.epochs, self.batches)

    def plain(self) -> Seconds:
        """Train by the plain schedule."""
        data, model = self.data(), PlainJFSE(self.model().to(device()), self.epochs + 1)
        tensors = {name: data.train_entries(name)[0] for name in data.dims} | {"label": data.train_labels_of_items()}
        items = StackDataset(**{name: x[: self.batches * JFSE_BATCH] for name, x in tensors.items()})
        loader, seconds = DataLoader(items, batch_size=JFSE_BATCH), []
        for number in range(self.epochs + 1):
            start = timer()
            steps = model.epoch(loader, number)
            seconds.append((timer() - start) / steps)
        return {"seconds/step": seconds[1:]}


SHAPES = [
    Shape("2,173 pairs", 128, 10, 256, batches=33, rounds=3, epochs=4),
    Shape("authors' sizes", 4096, 300, 4096, batches=4, rounds=1, epochs=2),
]


def measure_jfse(record: Record) -> None:
    """Measure steps: no slower than the plain schedule on a CPU, three times as fast on a GPU."""
    for shape in SHAPES:
        widths = f"{shape.image_dim:,}-d and {shape.text_dim:,}-d"
        size = f"{shape.name}, {widths}, width {shape.width:,}, batches of {JFSE_BATCH}"
        runs = {"JFSE (ours)": shape.ours, "JFSE (plain)": shape.plain}
        ratio = _in_turns(record, size, runs, shape.rounds, "steps/s")
        record.ask(f"{size}: steps per second of ours over the plain schedule's", ratio, FASTER[device().type])


# LAVIMO --------------------------------------------------------------------------------------------------------------

MODEL, PIXELS = "tf_efficientnet_lite0", 160
ABOUT_LAVIMO = f"""LAVIMO on images and captions through frozen encoders, {MODEL} at {PIXELS} pixels and the tokens of
all-MiniLM-L6-v2. Cached (ours): their output is computed once, kept on disk and read into memory, as
`frozen: true` does. Uncached: the same networks, called without gradients in every batch, on images and token numbers
that are resized and tokenised beforehand as well. The one pass that fills the cache does not count; it is what the
uncached contestant does in every epoch. Items per second of a training epoch, the first left out. Images and words
are random."""
SETTINGS: dict[str, Any] = {"rounds": 2, "epochs": 2, "batches": 4, "items": 256}
LAVIMO_BATCH = 64
CACHED, UNCACHED = "LAVIMO, cached (ours)", "LAVIMO, uncached"


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


def build_lavimo(contestant: str, data: RetrievalData) -> LAVIMO:
    """One of the two models."""
    L.seed_everything(0, verbose=False)
    kind, frozen = (LAVIMO, True) if contestant == CACHED else (Uncached, False)
    image = {"name": "timm", "model": MODEL, "weights": "installed", "frozen": frozen, "size": PIXELS}
    return kind(data.dims, encoders={"image": image, "text": {"name": "tokens", "frozen": frozen}})


def measure_lavimo(record: Record) -> None:
    """Measure both contestants."""
    with tempfile.TemporaryDirectory() as folder:

        def train(contestant: str) -> Seconds:
            data = RandomImages(Path(folder), batch_size=LAVIMO_BATCH)
            return seconds_per_step(build_lavimo(contestant, data), data, SETTINGS["epochs"], SETTINGS["batches"])

        runs = {name: partial(train, name) for name in (CACHED, UNCACHED)}
        _in_turns(record, f"batches of {LAVIMO_BATCH}", runs, SETTINGS["rounds"], "items/s", LAVIMO_BATCH)


JFSE_SETTINGS = {shape.name: shape._asdict() for shape in SHAPES}
OF_JFSE = Benchmark("jfse", ABOUT_JFSE, JFSE_SETTINGS, measure_jfse, {"dataset": Synthetic.dataset})
IMAGES = {"dataset": RandomImages.dataset, "features": RandomImages.features}
OF_LAVIMO = Benchmark("lavimo", ABOUT_LAVIMO, SETTINGS, measure_lavimo, IMAGES)
