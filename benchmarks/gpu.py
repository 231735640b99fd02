"""On a CUDA device: all against the CPU, GCS against its products alone, compiled critics, a run at paper scale."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import permutations, product
from typing import Any

import lightning as L
import torch
from torch import Tensor

from benchmarks.harness import Benchmark, Record, timed
from benchmarks.losses import Case, step
from datamodules import Synthetic, SyntheticItems
from lightning_modules import CMPM, JFSE, LAVIMO, CSAligner, prepare
from lightning_modules.jfse import CRITIC_STEPS
from lightning_modules.metrics import CrossModalRetrieval
from lightning_modules.networks.adversarial import Critic
from losses import available_losses, build_loss
from reproduce.measurements.measures import device
from reproduce.runs.checks import load_table
from reproduce.runs.config import resolve
from reproduce.runs.machine import SILENT
from reproduce.runs.training import run

# Largest relative error of a loss and its gradients, by the precision of the embeddings; and of a metric.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2}
SAME = 1e-6
# Largest relative difference of embeddings after a few training steps. JFSE draws its noise on the device itself.
STEPS: dict[str, float] = {"32-true": 1e-2, "bf16-mixed": 1e-1}
DRAWS = 0.2
SETTINGS: dict[str, Any] = {"batch": 256, "dim": 128, "steps": 5}
CEILING: dict[str, Any] = {"batches": {"cpu": [64], "cuda": [8_192, 32_768, 131_072]}, "repeats": 3}
CRITICS: dict[str, Any] = {"dims": [4096, 300], "class_dim": 300, "width": 4096, "batch": 64, "rounds": 20}
# On a GPU as captured graphs; on a CPU traced alone, which needs no C++ compiler.
COMPILED = {"cpu": {"backend": "aot_eager"}, "cuda": {"mode": "reduce-overhead"}}
DATA = {"dataset": "wikipedia", "features": "roph"}
PAPER = {"table": "table3", "scale": "paper", **DATA, "method": "JFSE + CS", "seed": 0}
ABOUT = """Every loss of the registry on the same embeddings, in float32 and bfloat16; a few training steps of every
model without dropout from the same weights, in float32 and bf16-mixed, with deterministic algorithms; and all numbers
of the metric: the CPU's against this device's. A difference beyond the tolerance is a failure."""
ABOUT_CEILING = """One step of GCS (M = 3, D = 256), against the time of the matrix products alone that its similarities
and their gradients need, three for each ordered pair of modalities that are matched, on the same device."""
ABOUT_CRITICS = f"""The {CRITIC_STEPS} steps that the critics of JFSE take on a batch at the authors' sizes, forward,
backward and Adam: as the model takes them, and with their loss compiled (torch.compile, on a GPU as captured graphs).
Both start from the same weights and have to come to the same."""
ABOUT_PAPER = """JFSE + CS of table 3 on Wikipedia, seed 0, at the published widths and schedule and at its default
weight and temperature: seconds of the training, and MAP averaged over directions. The authors of JFSE publish 82 s for
theirs on Wikipedia, on another device and split."""


def measure(record: Record) -> None:
    """Compare losses, models and the metric; nothing is to differ."""
    compared: dict[str, tuple[Callable[[torch.device], Sequence[Tensor]], float]] = {}
    for name, (precision, tolerance) in product(available_losses(), TOLERANCE.items()):
        compared[f"{name}, {str(precision).removeprefix('torch.')}"] = partial(loss_on, name, precision), tolerance
    for kind, (precision, tolerance) in product((JFSE, LAVIMO, CMPM, CSAligner), STEPS.items()):
        tolerance = DRAWS if kind is JFSE else tolerance
        compared[f"{kind.__name__}, {precision}"] = partial(steps_on, kind, precision), tolerance
    compared["CrossModalRetrieval"] = metric_on, SAME
    places = torch.device("cpu"), device()
    for what, (compute, tolerance) in compared.items():
        record.compare(what, "small", lambda compute=compute: tuple(map(compute, places)), tolerance)
    failed = sum(row.status != "ok" for row in record.rows)
    record.ask("comparisons with the CPU that fail", failed, 0, at_least=False)


def loss_on(name: str, precision: torch.dtype, where: torch.device) -> Sequence[Tensor]:
    """Value and gradients of a loss on a device."""
    loss, generator = build_loss(name).to(where), torch.Generator().manual_seed(0)
    modalities = ("image", "text") if loss.takes_two else ("image", "text", "audio")
    drawn = {m: torch.randn(SETTINGS["batch"], SETTINGS["dim"], generator=generator) for m in modalities}
    embeddings = {m: x.to(where, precision).requires_grad_() for m, x in drawn.items()}
    return step(lambda e, y: loss(e, y).total, embeddings, torch.arange(SETTINGS["batch"], device=where) // 4)


def steps_on(kind: type[L.LightningModule], precision: str, where: torch.device) -> Sequence[Tensor]:
    """Embeddings after a few steps on a device, from weights that are always the same."""
    paired = kind in (JFSE, CMPM)
    data = Synthetic(batch_size=64, class_encoder="one-hot") if paired else SyntheticItems(batch_size=64)
    L.seed_everything(0, verbose=False)
    model = kind(data.dims, **({"width": 64, "dropout": 0.0} if kind is JFSE else {}))
    prepare(model, data)
    limits = {"max_epochs": 1, "limit_train_batches": SETTINGS["steps"], "limit_val_batches": 0}
    place = {"accelerator": where.type, "devices": 1, "precision": precision, "deterministic": True}
    L.Trainer(**place, **limits, **SILENT).fit(model, data)
    with torch.no_grad():
        return tuple(model.cpu().eval().embed(next(iter(data.val_dataloader()))).values())


def metric_on(where: torch.device) -> Sequence[Tensor]:
    """All numbers of the metric on a device."""
    generator, metric = torch.Generator().manual_seed(0), CrossModalRetrieval([("query", "gallery")]).to(where)
    rows = {m: torch.randn(500, SETTINGS["dim"], generator=generator).to(where) for m in ("query", "gallery")}
    metric.update(rows, torch.arange(500) % 20, torch.arange(500))
    return tuple(metric.compute().values())


def measure_ceiling(record: Record) -> None:
    """Time GCS on large batches, and its matrix products alone."""
    for batch in CEILING["batches"][device().type]:
        case = Case("GCS", 3, batch, 256)
        embeddings, labels = case.inputs()
        ours, ceiling = "GCS (ours)", "matrix products alone"
        works = {ours: partial(step, case.losses()[0], embeddings, labels), ceiling: partial(_products, embeddings)}
        for work in works.values():
            work()  # the first call starts the device and takes its memory
        runs = {who: partial(timed, work) for who, work in works.items()}
        record.take_turns(case.size, runs, CEILING["repeats"], ["seconds/step"])
        record.ratio(ceiling, ours, case.size, "seconds/step")


def _products(embeddings: dict[str, Tensor]) -> None:
    """Three products (B, D) x (D, B) for each ordered pair, by blocks of rows."""
    with torch.no_grad():
        for x, y in permutations(embeddings.values(), 2):
            for rows in x.split(4096):
                similarity = rows @ y.T
                similarity @ y
                similarity.T @ rows


def measure_critics(record: Record) -> None:
    """Time the critics' steps on a batch, as they are and compiled."""
    size = f"widths {CRITICS['dims']}, {CRITICS['width']:,} hidden units, batches of {CRITICS['batch']}"
    ours, compiled = "critics (ours)", "critics, compiled"
    steps = {ours: _critic_steps({}), compiled: _critic_steps(COMPILED[device().type])}
    record.compare(compiled, size, lambda: (steps[ours](), steps[compiled]()), TOLERANCE[torch.float32])
    runs = {who: partial(timed, work) for who, work in steps.items()}
    record.take_turns(size, runs, CRITICS["rounds"], ["seconds/step"])
    record.ratio(compiled, ours, size, "seconds/step")


def _critic_steps(settings: dict[str, str]) -> Callable[[], Sequence[Tensor]]:
    """The steps on one batch, which return the weights that they come to; their loss is compiled with such settings."""
    torch.manual_seed(0)
    critics = [Critic(dim, CRITICS["class_dim"], CRITICS["width"]).to(device()) for dim in CRITICS["dims"]]
    rows = [[torch.randn(CRITICS["batch"], dim, device=device()) for _ in range(2)] for dim in CRITICS["dims"]]
    a = torch.randn(CRITICS["batch"], CRITICS["class_dim"], device=device())
    mix = torch.rand(CRITICS["batch"], 1, device=device())
    weights = [w for critic in critics for w in critic.parameters()]
    optimizer = torch.optim.Adam(weights, lr=1e-4, betas=(0.5, 0.999), fused=True)
    losses = [torch.compile(critic.loss, **settings) if settings else critic.loss for critic in critics]

    def steps() -> Sequence[Tensor]:
        for _ in range(CRITIC_STEPS):
            optimizer.zero_grad()
            sum(loss(real, fake, a, mix) for loss, (real, fake) in zip(losses, rows, strict=True)).backward()
            optimizer.step()
        return [w.detach().clone() for w in weights]

    return steps


def measure_paper(record: Record) -> None:
    """Train and score one run of a table."""
    table = load_table(PAPER["table"])
    scale = table.scales[PAPER["scale"]]
    dataset = next(one for one in table.datasets if {"dataset": one.dataset, "features": one.features} == DATA)
    method = next(one for one in table.methods if one.method == PAPER["method"])
    result = run(resolve(table, scale, dataset, method, {}, PAPER["seed"], scale.max_epochs, modalities=2))
    size = f"{dataset.name}, {PAPER['scale']} scale, {scale.max_epochs} epochs, seed {PAPER['seed']}"
    record.add(method.method, size, "seconds", result.train_seconds)
    for score in result.scores:
        if score.direction == "average" and score.metric == "MAP":
            record.add(method.method, f"{size}, {score.split}", "MAP", score.value)


BENCHMARK = Benchmark("cpu-and-gpu", ABOUT, SETTINGS, measure)
OF_CEILING = Benchmark("ceiling", ABOUT_CEILING, CEILING, measure_ceiling)
OF_CRITICS = Benchmark("critics", ABOUT_CRITICS, CRITICS, measure_critics)
OF_PAPER = Benchmark("paper scale", ABOUT_PAPER, PAPER, measure_paper, DATA)
