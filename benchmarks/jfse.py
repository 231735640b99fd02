"""Training steps of JFSE through a Trainer against its published schedule in plain PyTorch."""

from functools import partial
from typing import Any, NamedTuple

import lightning as L
from torch.utils.data import DataLoader, StackDataset

from benchmarks.harness import Benchmark, Record, Target, seconds_per_step, train_in_turns
from benchmarks.plain import PlainJFSE
from datamodules import Synthetic
from lightning_modules import JFSE
from losses import build_loss
from reproduce.measurements.measures import device, timer

NAME = "jfse"
BATCH, CLASSES, ITEMS = 64, 300, 2_773
OURS, PEER = "JFSE (ours)", "JFSE (plain)"
FASTER = {"cpu": 1, "cuda": 3}
ABOUT = f"""JFSE with `protocol="as_published"` and the CS alignment, through a Lightning Trainer, against its published
schedule written in plain PyTorch: a data set of single items, four optimisers, the gradient penalty differentiated
twice, a forward pass for every step. Both have the same networks and the same Adam, as one fused operation here and by
its default loop there. Synthetic features of the shape of Wikipedia, and of the authors' widths; {CLASSES}-d class
embeddings, batches of {BATCH}. A step is one batch: five steps of the critics and one of every other part."""


class Shape(NamedTuple):
    """What is trained on, how often, and for how many epochs after one that does not count."""

    name: str
    image_dim: int
    text_dim: int
    width: int
    batches: int
    rounds: int
    epochs: int

    @property
    def size(self) -> str:
        widths = f"{self.image_dim:,}-d and {self.text_dim:,}-d"
        return f"{self.name}, {widths}, width {self.width:,}, batches of {BATCH}"

    def data(self) -> Synthetic:
        """Paired features, 2,173 of them to train on."""
        shape = {"items": ITEMS, "classes": CLASSES, "image_dim": self.image_dim, "text_dim": self.text_dim}
        return Synthetic(**shape, batch_size=BATCH, class_encoder="one-hot", protocol="as_published")

    def model(self) -> JFSE:
        """A model whose weights are the same each time."""
        L.seed_everything(0, verbose=False)
        return JFSE(self.data().dims, build_loss("cs"), protocol="as_published", width=self.width)


WIKIPEDIA = Shape("2,173 pairs", 128, 10, 256, batches=33, rounds=3, epochs=4)
AUTHORS = Shape("authors' sizes", 4096, 300, 4096, batches=4, rounds=1, epochs=2)
SETTINGS: dict[str, Any] = {shape.name: shape._asdict() for shape in (WIKIPEDIA, AUTHORS)}


def measure(record: Record) -> None:
    """Measure steps at the shape of Wikipedia, and at the authors' sizes."""
    for shape in (WIKIPEDIA, AUTHORS):
        runs = {OURS: partial(our_seconds, shape), PEER: partial(plain_seconds, shape)}
        train_in_turns(record, NAME, shape.size, runs, shape.rounds, "steps/s", dataset=Synthetic.dataset)


def our_seconds(shape: Shape) -> list[float]:
    """Seconds per step of ours, of every epoch but the first."""
    return seconds_per_step(shape.model(), shape.data(), shape.epochs, shape.batches)


def plain_seconds(shape: Shape) -> list[float]:
    """Seconds per step of the plain schedule, of every epoch but the first."""
    data, model = shape.data(), PlainJFSE(shape.model().to(device()), shape.epochs + 1)
    tensors = {name: data.train_entries(name)[0] for name in data.dims} | {"label": data.train_labels_of_items()}
    items = StackDataset(**{name: x[: shape.batches * BATCH] for name, x in tensors.items()})
    loader, found = DataLoader(items, batch_size=BATCH), []
    for number in range(shape.epochs + 1):
        start = timer()
        steps = model.epoch(loader, number)
        found.append((timer() - start) / steps)
    return found[1:]


def targets(record: Record) -> list[Target]:
    """No slower than the plain schedule on a CPU, three times as fast on a GPU."""
    ratios = {shape.size: record.value(NAME, PEER, shape.size, "time ratio") for shape in (WIKIPEDIA, AUTHORS)}
    asked = "{}: steps per second of ours over the plain schedule's"
    return [Target(asked.format(size), ratio, FASTER[device().type]) for size, ratio in ratios.items()]


BENCHMARK = Benchmark(NAME, ABOUT, SETTINGS, measure, targets)
