"""Training LAVIMO on frozen encoders: their output computed once and kept, against computed for every batch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor

from benchmarks.harness import Record, Target, agree, attempt
from benchmarks.roofline import PRODUCT, Ceilings, Part, add_floor, counted_flops
from benchmarks.training import EpochClock, fit, take_turns
from datamodules import Flickr8kTriples, RetrievalData, data_root
from datamodules.datasets.synthetic import CLASS_NAMES
from datamodules.features.timm_models import timm_model
from datamodules.files.media import read_image
from datamodules.items import Files, ItemSet, Modality
from lightning_modules import LAVIMO
from lightning_modules.networks.encoders.base import Encoder
from lightning_modules.networks.encoders.image import Resize

NAME = "lavimo"
MODEL, WEIGHTS, PIXELS = "tf_efficientnet_lite0", "installed", 160
ABOUT = f"""LAVIMO on images and captions through frozen encoders, {MODEL} at {PIXELS} pixels and the tokens of
all-MiniLM-L6-v2. Cached (ours): their output is computed once, kept on disk and read into memory, as
`frozen: true` does. Uncached: the same networks, called without gradients in every batch, on images and token numbers
that are resized and tokenised beforehand as well; both vectors are compared first. The one pass that fills the cache
does not count; it is what the uncached contestant does in every epoch. Items per second of a training epoch, the first
left out. The data are Flickr8k where they are found, else random images and words."""
SCALES: dict[str, dict[str, Any]] = {
    "quick": {"rounds": 2, "epochs": 2, "batches": 4, "items": 256},
    "paper": {"rounds": 3, "epochs": 5, "batches": 10, "items": 640},
}
BATCH = 64
OURS, PEER = "LAVIMO, cached (ours)", "LAVIMO, uncached"
TOLERANCE = 1e-4


class RandomImages(RetrievalData):
    """Random images in files, and random words.

    Args:
        folder: where the files are written.
        items: training items; a few more are test items.
        pixels: of a side.
        **kwargs: see RetrievalData.
    """

    dataset, features, data_kind, test_split = "random images", "raw", "synthetic", "standard"

    def __init__(self, folder: Path, items: int, pixels: int = 224, **kwargs: Any):
        super().__init__(validation_fraction=0.0, **kwargs)
        self.folder, self.items, self.pixels = folder, items, pixels

    def read(self) -> ItemSet:
        draw, count = np.random.default_rng(0), self.items + 2
        paths = tuple(self.folder / f"{number}.png" for number in range(count))
        for path in paths:
            Image.fromarray(draw.integers(0, 256, (self.pixels, self.pixels, 3), np.uint8)).save(path)
        texts = [" ".join(draw.choice(CLASS_NAMES, 10)) for _ in range(count)]
        modalities = {
            "image": Modality(Files(paths, read_image)),
            "text": Modality(texts),
        }
        split = np.where(np.arange(count) < self.items, "train", "test")
        return ItemSet(modalities, np.arange(count), split, [path.stem for path in paths], "random images")


class FrozenImages(Encoder):
    """A frozen image network that is called in every batch, on the pixels that the cached one saw."""

    kinds = ("image",)

    def __init__(self, source: Any):
        super().__init__(source)
        self.network = timm_model(MODEL, WEIGHTS)
        self.front_end = Resize(PIXELS)
        config = timm.data.resolve_model_data_config(self.network)
        for key in ("mean", "std"):
            self.register_buffer(key, torch.tensor(config[key]).view(3, 1, 1))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.network((x / 255 - self.mean) / self.std)


class Uncached(LAVIMO):
    """LAVIMO whose frozen encoders are called in every batch."""

    def __init__(self, dims: Any, **kwargs: Any):
        super().__init__(dims, **kwargs)
        self.encoders["image"] = FrozenImages(self.sources["image"])
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
    image = {"name": "timm", "model": MODEL, "weights": WEIGHTS, "frozen": True, "size": PIXELS}
    kind, settings = (LAVIMO, {"frozen": True}) if contestant == OURS else (Uncached, {"frozen": False})
    return kind(data.dims, encoders={"image": image, "text": {"name": "tokens", **settings}})


def open_data(folder: Path, items: int) -> RetrievalData:
    """Flickr8k where it is found, else random images in ``folder``."""
    chosen = {"modalities": ("image", "text"), "batch_size": BATCH}
    if (data_root() / Flickr8kTriples.dataset).is_dir():
        return Flickr8kTriples(captions="all", **chosen)
    return RandomImages(folder, items, **chosen)


def measure(record: Record, scale: str, ceilings: Ceilings) -> None:
    """Measure both contestants, and the floor of each."""
    settings = SCALES[scale]
    with tempfile.TemporaryDirectory() as folder:
        _measure(record, lambda: open_data(Path(folder), settings["items"]), settings, ceilings)


def _measure(record: Record, opened: Any, settings: dict[str, Any], ceilings: Ceilings) -> None:
    data = opened()
    size, columns = f"batches of {BATCH}", {"dataset": data.dataset, "data_kind": data.data_kind}
    error, reason = attempt(lambda: compare(opened))
    record.add(NAME, PEER, size, "largest relative error", error, note=reason, **columns)
    arguments = {"max_epochs": settings["epochs"] + 1, "limit_train_batches": settings["batches"]}
    runs = {name: lambda name=name: _epochs(name, opened(), arguments) for name in (OURS, PEER)}
    take_turns(record, NAME, size, runs, settings["rounds"], {PEER: reason} if reason else {}, **columns)
    for name in runs:
        seconds = record.value(NAME, name, size, "seconds/step")
        if seconds:
            record.add(NAME, name, size, "items/s", BATCH / seconds, **columns)
            _add_floor(record, name, opened, size, ceilings, columns)
    record.ratio(NAME, PEER, OURS, size, "seconds/step", **columns)


def _epochs(contestant: str, data: RetrievalData, arguments: dict[str, int]) -> list[float]:
    clock = EpochClock()
    steps = fit(build(contestant, data), data, clock, **arguments)
    return [seconds / steps for seconds in clock.seconds[1:]]


def compare(opened: Any) -> float:
    """Largest relative error of the encoders' vectors of one training batch, uncached against cached.

    Raises:
        Disagreement: it is larger than ``TOLERANCE``.
    """
    vectors: list[dict[str, Tensor]] = []
    for contestant in (OURS, PEER):
        data = opened()
        model = build(contestant, data).eval()
        data.precompute(model.frozen_networks())
        batch = next(iter(data.train_dataloader()))
        with torch.no_grad():
            vectors.append(model.encode(batch))
    return agree(f"encoders of {PEER} and of {OURS}", relative_error(vectors), TOLERANCE)


def relative_error(vectors: Sequence[dict[str, Tensor]]) -> float:
    """Largest, over modalities, length of the difference over the length of the first."""
    ours, theirs = vectors
    return max(float((ours[name] - theirs[name]).norm() / ours[name].norm()) for name in ours)


def _add_floor(
    record: Record, contestant: str, opened: Any, size: str, ceilings: Ceilings, columns: dict[str, str]
) -> None:
    data, clock = opened(), EpochClock(profiled=True)
    _, reason = attempt(lambda: fit(build(contestant, data), data, clock, max_epochs=2, limit_train_batches=2))
    model, idle = build(contestant, data), EpochClock()
    flops = counted_flops(lambda: fit(model, data, idle, max_epochs=1, limit_train_batches=1))
    parts = [Part("products and convolutions", {PRODUCT: flops})]
    spent = {contestant: reason or clock.spent}
    add_floor(record, NAME, size, parts, ceilings, spent, floor=f"floor of {contestant}", **columns)


def targets(record: Record) -> list[Target]:
    """Nothing is asked of the caching but that it is said what it gains."""
    return []
