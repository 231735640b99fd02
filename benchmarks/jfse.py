"""Training steps of JFSE through a Trainer against its published schedule in plain PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import Record, Target, agree, attempt
from benchmarks.plain_jfse import PlainJFSE
from benchmarks.roofline import COPY, PRODUCT, Ceilings, Part, add_floor, counted_flops
from benchmarks.training import EpochClock, fit, now, take_turns
from datamodules import FeatureDataModule, ItemSet
from lightning_modules import JFSE
from lightning_modules.jfse import CRITIC_STEPS, NOISE_DIM
from lightning_modules.metrics import CrossModalRetrieval
from losses import build_loss
from reproduce.measures import device, median_seconds
from reproduce.published import load_published

NAME = "jfse"
SCALES: dict[str, dict[str, Any]] = {
    "quick": {"widths": [256], "rounds": 3, "epochs": 4, "authors": {"batches": 4, "epochs": 2}},
    "paper": {"widths": [256, 4096], "rounds": 5, "epochs": 10, "authors": {"batches": 8, "epochs": 4}},
}
DIMS = {"image": 128, "text": 10, "class_embedding": 300}
AUTHORS = {"image": 4096, "text": 300, "class_embedding": 300}
AUTHORS_WIDTH, AUTHORS_EPOCHS, BATCH, CLASSES = 4096, 500, 64, 10
PAIRS, TESTS = 2_173, 693
# Training and test pairs of the authors' two timings.
TIMED = {"wikipedia": (PAIRS, TESTS), "pku_xmedianet": (32_000, 8_000)}
OURS, PEER = "JFSE (ours)", "JFSE (plain)"
FASTER = {"cpu": 1, "cuda": 3}
TOLERANCE = 1e-4
ABOUT = f"""JFSE with `preset="as_published"` and the CS alignment, through a Lightning Trainer, against its published
schedule written in plain PyTorch: a data set of single items, four optimisers, the gradient penalty differentiated
twice, a forward pass for every step. Both have the same networks and the same Adam, as one fused operation here and by
its default loop there; the critics' loss and gradient of the two are compared first. Random features of the shape of
Wikipedia: {PAIRS:,} training pairs, {DIMS["image"]}-d images, {DIMS["text"]}-d texts, {DIMS["class_embedding"]}-d class
embeddings, batches of {BATCH}. A step is one batch: five steps of the critics and one of every other part. The authors'
schedule is {AUTHORS_EPOCHS} epochs at width {AUTHORS_WIDTH:,} on {AUTHORS["image"]:,}-d images and {AUTHORS["text"]}-d
texts; extrapolated seconds are its number of steps times the measured seconds of one. Testing: the embeddings of the
test pairs, and MAP and R@k in both directions. The floor is that of the products of our step and of the traffic of its
Adam steps: four values read and three written per parameter, as if no cache held them."""


@dataclass(frozen=True)
class Shape:
    """What is trained on.

    Args:
        dims: width of the features and of the class embedding.
        width: hidden units.
        pairs: training pairs.
        name: in words.
    """

    dims: Mapping[str, int]
    width: int
    pairs: int
    name: str

    @property
    def size(self) -> str:
        return f"{self.name}, width {self.width:,}, batches of {BATCH}"


class RandomFeatures(FeatureDataModule):
    """Paired random features of a shape, uniform in 0..1.

    Args:
        dims: width of two modalities and of "class_embedding".
        pairs: training pairs.
        tests: test pairs.
    """

    dataset, features, data_kind = "random features", "random", "synthetic"

    def __init__(self, dims: Mapping[str, int], pairs: int, tests: int):
        super().__init__(batch_size=BATCH, class_encoder="from-data", as_published=True)
        self.shape = (dict(dims), pairs, tests)

    def read(self) -> ItemSet:
        dims, pairs, tests = self.shape
        draw, count = np.random.default_rng(0), pairs + tests
        features = {n: draw.random((count, d), np.float32) for n, d in dims.items() if n != "class_embedding"}
        embedding = draw.random((CLASSES, dims["class_embedding"]), np.float32)
        names = tuple(f"class {number}" for number in range(CLASSES))
        split = np.repeat(["train", "test"], [pairs, tests])
        return ItemSet.of_features(features, np.arange(count) % CLASSES, split, names, "random features", embedding)


def measure(record: Record, scale: str, ceilings: Ceilings) -> None:
    """Measure steps at the shape of Wikipedia, then the authors' schedule."""
    settings = SCALES[scale]
    widths = sorted({*settings["widths"], *([AUTHORS_WIDTH] if device().type == "cuda" else [])})
    for width in widths:
        shape = Shape(DIMS, width, PAIRS, f"{PAIRS:,} pairs, {_widths(DIMS)}")
        _measure_steps(record, shape, settings["rounds"], settings["epochs"])
        _add_floor(record, shape, ceilings)
    _measure_authors(record, settings["authors"], scale)


def _widths(dims: Mapping[str, int]) -> str:
    return f"{dims['image']:,}-d and {dims['text']:,}-d"


def build(shape: Shape, epochs: int) -> tuple[JFSE, PlainJFSE]:
    """Ours, and the plain one with the same weights."""
    L.seed_everything(0, verbose=False)
    alignment = build_loss("cs")
    ours = JFSE(shape.dims, alignment, preset="as_published", width=shape.width)
    theirs = PlainJFSE(shape.dims, shape.width, epochs, device())
    copy_weights(ours, theirs)
    return ours, theirs


def copy_weights(ours: JFSE, theirs: PlainJFSE) -> None:
    """Give the plain networks the weights of ours, whose critics keep their first layer in two halves."""
    pairs: list[tuple[list[Tensor], nn.Module]] = [(list(ours.modality_classifier.parameters()), theirs.classifier)]
    for name in theirs.names:
        critic = ours.critics[name]
        first = torch.cat([critic.feature.weight, critic.condition.weight], dim=1)
        weights = [first, critic.feature.bias, critic.score.weight, critic.score.bias]
        pairs += [(weights, theirs.critics[name]), (list(ours.generators[name].parameters()), theirs.generators[name])]
        pairs.append((list(ours.regressors[name].parameters()), theirs.regressors[name]))
    with torch.no_grad():
        for weights, network in pairs:
            for source, parameter in zip(weights, network.parameters(), strict=True):
                if source.shape != parameter.shape:
                    raise ValueError(f"a layer is {tuple(parameter.shape)}; ours is {tuple(source.shape)}")
                parameter.copy_(source)


def compare(ours: JFSE, theirs: PlainJFSE, shape: Shape) -> float:
    """Largest relative error of the critics' loss and of its gradient, on one random batch.

    Raises:
        Disagreement: it is larger than ``TOLERANCE``.
    """
    draw = torch.Generator().manual_seed(0)
    x = {name: torch.rand(BATCH, d, generator=draw).to(device()) for name, d in shape.dims.items()}
    noise = {name: torch.randn(BATCH, NOISE_DIM, generator=draw).to(device()) for name in theirs.names}
    mix = {name: torch.rand(BATCH, 1, generator=draw).to(device()) for name in theirs.names}
    ours = ours.to(device())
    a, loss = x["class_embedding"], 0.0
    for name, critic in ours.critics.items():
        synthetic = ours.generators[name](torch.cat([a, noise[name]], dim=1)).detach()
        loss = loss + critic.loss(x[name], synthetic, a, mix[name])
    plain = theirs.critic_loss(x, noise, mix)
    errors = [float(((loss - plain) / loss).abs().detach())]
    for name, critic in ours.critics.items():
        halves = torch.autograd.grad(loss, [critic.feature.weight, critic.condition.weight], retain_graph=True)
        (whole,) = torch.autograd.grad(plain, [theirs.critics[name][0].weight], retain_graph=True)
        errors.append(float((torch.cat(halves, dim=1) - whole).norm() / whole.norm()))
    return agree(f"the critics' loss or gradient of {PEER} and of {OURS}", max(errors), TOLERANCE)


def _measure_steps(record: Record, shape: Shape, rounds: int, epochs: int) -> None:
    """Epochs of both in turn; the first of every turn does not count."""
    data = RandomFeatures(shape.dims, shape.pairs, BATCH)
    error, reason = attempt(lambda: compare(*build(shape, epochs), shape))
    columns = {"dataset": data.dataset}
    record.add(NAME, PEER, shape.size, "largest relative error", error, note=reason, **columns)
    runs = {
        OURS: lambda: _epochs_of_ours(shape, data, epochs + 1),
        PEER: lambda: _epochs_of_plain(shape, data, epochs + 1),
    }
    take_turns(record, NAME, shape.size, runs, rounds, {PEER: reason} if reason else {}, **columns)
    for name in runs:
        seconds = record.value(NAME, name, shape.size, "seconds/step")
        if seconds:
            record.add(NAME, name, shape.size, "steps/s", 1 / seconds, **columns)
    record.ratio(NAME, PEER, OURS, shape.size, "seconds/step", **columns)


def _epochs_of_ours(shape: Shape, data: RandomFeatures, epochs: int) -> list[float]:
    model, clock = build(shape, epochs)[0], EpochClock()
    steps = fit(model, data, clock, max_epochs=epochs)
    return [seconds / steps for seconds in clock.seconds[1:]]


def _epochs_of_plain(shape: Shape, data: RandomFeatures, epochs: int) -> list[float]:
    model = build(shape, epochs)[1]
    tensors = {name: data.train_entries(name)[0] for name in data.dims} | {"label": data.train_labels_of_items()}
    loader, found = model.loader(tensors, BATCH), []
    for number in range(epochs):
        start = now()
        steps = model.epoch(loader, number)
        found.append((now() - start) / steps)
    return found[1:]


def _add_floor(record: Record, shape: Shape, ceilings: Ceilings) -> None:
    data = RandomFeatures(shape.dims, shape.pairs, BATCH)
    model, clock = build(shape, 2)[0], EpochClock(profiled=True)
    spent, reason = attempt(lambda: fit(model, data, clock, max_epochs=2) and clock.spent)
    one, idle = build(shape, 1)[0], EpochClock()
    flops = counted_flops(lambda: fit(one, data, idle, max_epochs=1, limit_train_batches=1))
    parameters = {part: sum(p.numel() for p in network.parameters()) for part, network in model.named_children()}
    stepped = sum(parameters.values()) + (CRITIC_STEPS - 1) * parameters["critics"]
    parts = [Part("products", {PRODUCT: flops}), Part("Adam", {COPY: 7 * 4 * stepped})]
    add_floor(record, NAME, shape.size, parts, ceilings, {OURS: spent or reason, PEER: ""})


def _measure_authors(record: Record, settings: Mapping[str, int], scale: str) -> None:
    """Steps at the authors' sizes, and what their schedule takes by them; on a GPU also in full."""
    shape = Shape(AUTHORS, AUTHORS_WIDTH, BATCH * settings["batches"], f"authors' sizes, {_widths(AUTHORS)}")
    _measure_steps(record, shape, 1, settings["epochs"])
    for dataset, (pairs, tests) in TIMED.items():
        steps = AUTHORS_EPOCHS * (pairs // BATCH)
        size = f"authors' schedule, shape of {dataset}: {steps:,} steps"
        for contestant in (OURS, PEER):
            per_step = record.value(NAME, contestant, shape.size, "seconds/step")
            if per_step:
                timed = settings["batches"] * settings["epochs"]
                columns = {
                    "note": f"extrapolated from {timed} timed steps; {reported(dataset, 'train')}",
                    "dataset": RandomFeatures.dataset,
                }
                record.add(NAME, contestant, size, "extrapolated seconds", steps * per_step, **columns)
        _test(record, dataset, tests)
        if device().type == "cuda" and (dataset == "wikipedia" or scale == "paper"):
            whole = Shape(AUTHORS, AUTHORS_WIDTH, pairs, dataset)
            found, reason = attempt(lambda whole=whole: _train_in_full(whole))
            note = reason or f"the whole schedule; {reported(dataset, 'train')}"
            record.add(NAME, OURS, size, "seconds", found, note=note, dataset=RandomFeatures.dataset)


def _train_in_full(shape: Shape) -> float:
    clock = EpochClock()
    fit(
        build(shape, AUTHORS_EPOCHS)[0],
        RandomFeatures(shape.dims, shape.pairs, BATCH),
        clock,
        max_epochs=AUTHORS_EPOCHS,
    )
    return sum(clock.seconds)


def _test(record: Record, dataset: str, tests: int) -> None:
    data = RandomFeatures(AUTHORS, BATCH, tests)
    model = build(Shape(AUTHORS, AUTHORS_WIDTH, BATCH, dataset), 1)[0].to(device()).eval()
    (loader,) = data.test_dataloader()
    seconds, reason = attempt(lambda: median_seconds({"test": lambda: test(model, loader)}, repeats=3)["test"])
    size = f"testing, shape of {dataset}: {tests:,} pairs, width {AUTHORS_WIDTH:,}"
    note = reason or reported(dataset, "test")
    record.add(NAME, OURS, size, "seconds", seconds, note=note, dataset=RandomFeatures.dataset)


def test(model: JFSE, loader: Any) -> dict[str, Tensor]:
    """Embed the test pairs and score them in both directions."""
    first, second = model.modalities
    metric = CrossModalRetrieval([(first, second), (second, first)]).to(device())
    with torch.inference_mode():
        for batch in loader:
            batch = {name: x.to(device()) for name, x in batch.items()}
            metric.update(model.embed(batch), batch["label"], batch["id"])
    return metric.compute()


def reported(dataset: str, part: str) -> str:
    """What the authors report, in words.

    Args:
        dataset: "wikipedia" or "pku_xmedianet".
        part: "train" or "test".
    """
    sought = (dataset, "JFSE", f"{part} seconds")
    found = [n.value for n in load_published() if (n.dataset, n.printed_method, n.metric) == sought]
    return f"the authors report {found[0]:g} seconds on their hardware" if found else ""


def targets(record: Record) -> list[Target]:
    """No slower than the plain schedule on a CPU, three times as fast on a GPU."""
    bound = FASTER[device().type]
    rows = [r for r in record.rows if r.split == NAME and r.metric == "seconds/step" and r.method == PEER]
    found = []
    for row in rows:
        ratio = record.value(NAME, PEER, row.features, "time ratio")
        found.append(
            Target(
                f"{row.features}: steps per second of ours over the plain schedule's, at least {bound}", ratio, bound
            )
        )
    return found
