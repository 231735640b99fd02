"""Training steps of JFSE against its published schedule in plain PyTorch."""

from typing import NamedTuple

import lightning as L
from torch.utils.data import DataLoader, StackDataset

from benchmarks.harness import Benchmark, Record
from benchmarks.plain import PlainJFSE
from datamodules import Synthetic
from lightning_modules import JFSE
from losses import build_loss
from reproduce.measurements.measures import device, epoch_seconds, timer

Seconds = dict[str, list[float]]  # "seconds/step" -> one number an epoch
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
        seconds, steps = epoch_seconds(self.model(), self.data(), self.epochs, limit_train_batches=self.batches)
        return {"seconds/step": [found / steps for found in seconds]}

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
    Shape("2,173 pairs", 128, 10, 256, batches=33, rounds=2, epochs=2),
    Shape("authors' sizes", 4096, 300, 4096, batches=3, rounds=1, epochs=2),
]


def measure_jfse(record: Record) -> None:
    """Measure steps: no slower than the plain schedule on a CPU, three times as fast on a GPU."""
    for shape in SHAPES:
        widths = f"{shape.image_dim:,}-d and {shape.text_dim:,}-d"
        size = f"{shape.name}, {widths}, width {shape.width:,}, batches of {JFSE_BATCH}"
        runs = {"JFSE (ours)": shape.ours, "JFSE (plain)": shape.plain}
        record.take_turns(size, runs, shape.rounds, ["seconds/step"])
        for who in runs:
            if seconds := record.value(who, size, "seconds/step"):
                record.add(who, size, "steps/s", 1 / seconds)
        ratio = record.ratio("JFSE (plain)", "JFSE (ours)", size, "seconds/step")
        record.ask(f"{size}: steps per second of ours over the plain schedule's", ratio, FASTER[device().type])


JFSE_SETTINGS = {shape.name: shape._asdict() for shape in SHAPES}
OF_JFSE = Benchmark("jfse", ABOUT_JFSE, JFSE_SETTINGS, measure_jfse, {"dataset": Synthetic.dataset})
