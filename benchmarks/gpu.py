"""On a CUDA device: losses, training steps and metrics against those of the CPU, and GCS against its products alone."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor

from benchmarks.harness import Benchmark, Record, Target, agree, attempt
from benchmarks.losses import Case, step
from datamodules import Synthetic, SyntheticItems
from lightning_modules import CMPM, JFSE, LAVIMO, CSAligner, prepare
from lightning_modules.metrics import CrossModalRetrieval
from losses import available_losses, build_loss
from reproduce.measurements.measures import device, median_seconds
from reproduce.runs.machine import SILENT

NAME, CEILING = "cpu-and-gpu", "ceiling"
# Largest relative error of a loss and its gradients, by the precision of the embeddings; and of a metric.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2}
SAME = 1e-6
# Largest relative difference of embeddings after a few training steps. JFSE draws its noise on the device itself.
STEPS: dict[str, float] = {"32-true": 1e-2, "bf16-mixed": 1e-1}
DRAWS = 0.2
SETTINGS: dict[str, Any] = {
    "batch": 256,
    "dim": 128,
    "steps": 5,
    "ceiling": {"cpu": [64], "cuda": [8_192, 32_768, 131_072]},
    "repeats": 3,
}
ABOUT = """Every loss of the registry on the same embeddings, in float32 and bfloat16; a few training steps of every
model without dropout from the same weights, in float32 and bf16-mixed, with deterministic algorithms; and all numbers
of the metric: the CPU's against this device's. A difference beyond the tolerance is a failure."""
ABOUT_CEILING = """One step of GCS (M = 3, D = 256), against the time of the matrix products alone that its similarities
and their gradients need, three for each ordered pair of modalities that are matched, on the same device."""


def measure(record: Record) -> None:
    """Compare losses, models and the metric."""
    for name in available_losses():
        for precision in TOLERANCE:
            what = f"{name}, {str(precision).removeprefix('torch.')}"
            _compare(record, what, partial(loss_error, name, precision), TOLERANCE[precision])
    for kind in (JFSE, LAVIMO, CMPM, CSAligner):
        for precision in STEPS:
            tolerance = DRAWS if kind is JFSE else STEPS[precision]
            _compare(record, f"{kind.__name__}, {precision}", partial(steps_error, kind, precision), tolerance)
    _compare(record, "CrossModalRetrieval", metric_error, SAME)


def _compare(record: Record, what: str, error: Callable[[], float], tolerance: float) -> None:
    found, reason = attempt(lambda: agree(f"{what} on the CPU and on {device().type}", error(), tolerance))
    print(f"  {what}: {reason or f'{found:.1e}'}", flush=True)
    record.add(NAME, what, "small", "difference", found, note=reason or "largest relative error")


def loss_error(name: str, precision: torch.dtype) -> float:
    """Largest relative error of a loss and its gradients on the device against the CPU."""
    loss = build_loss(name)
    generator = torch.Generator().manual_seed(0)
    modalities = ("image", "text") if loss.takes_two else ("image", "text", "audio")
    drawn = {m: torch.randn(SETTINGS["batch"], SETTINGS["dim"], generator=generator) for m in modalities}
    labels = torch.arange(SETTINGS["batch"]) // 4

    def on(where: torch.device) -> tuple[Tensor, ...]:
        embeddings = {m: x.to(where, precision).requires_grad_() for m, x in drawn.items()}
        own = copy.deepcopy(loss).to(where)
        return step(lambda e, y: own(e, y).total, embeddings, labels.to(where))

    pairs = zip(on(torch.device("cpu")), on(device()), strict=True)
    return max(_relative(a.float(), b.float().cpu()) for a, b in pairs)


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / a.norm().clamp_min(torch.finfo(torch.float32).tiny))


def steps_error(kind: type[L.LightningModule], precision: str) -> float:
    """Relative difference of the embeddings after a few steps on the CPU and on the device, from the same weights."""
    paired = kind in (JFSE, CMPM)
    data = Synthetic(batch_size=64, class_encoder="one-hot") if paired else SyntheticItems(batch_size=64)
    L.seed_everything(0, verbose=False)
    first = kind(data.dims, **({"width": 64, "dropout": 0.0} if kind is JFSE else {}))
    prepare(first, data)
    batch, found = next(iter(data.val_dataloader())), []
    limits = {"max_epochs": 1, "limit_train_batches": SETTINGS["steps"], "limit_val_batches": 0}
    for accelerator in ("cpu", device().type):
        model = copy.deepcopy(first)
        L.seed_everything(0, verbose=False)
        where = {"accelerator": accelerator, "devices": 1, "precision": precision, "deterministic": True}
        L.Trainer(**where, **limits, **SILENT).fit(model, data)
        with torch.no_grad():
            found.append(torch.cat([x.flatten() for x in model.cpu().eval().embed(batch).values()]).float())
    return _relative(*found)


def metric_error() -> float:
    """Largest difference of any number of the metric."""
    generator = torch.Generator().manual_seed(0)
    rows = {m: torch.randn(500, SETTINGS["dim"], generator=generator) for m in ("query", "gallery")}
    found = []
    for where in (torch.device("cpu"), device()):
        metric = CrossModalRetrieval([("query", "gallery")]).to(where)
        metric.update({m: x.to(where) for m, x in rows.items()}, torch.arange(500) % 20, torch.arange(500))
        found.append({name: float(value) for name, value in metric.compute().items()})
    return max(abs(value - found[1][name]) for name, value in found[0].items())


def measure_ceiling(record: Record) -> None:
    """Time GCS on large batches, and its matrix products alone."""
    for batch in SETTINGS["ceiling"][device().type]:
        case = Case("GCS", 3, batch, 256)
        embeddings, labels = case.inputs()
        steps = {
            "GCS (ours)": partial(step, case.ours(), embeddings, labels),
            "matrix products alone": partial(_products, embeddings),
        }
        found, reason = attempt(lambda taken=steps: median_seconds(taken, SETTINGS["repeats"]))
        for who in steps:
            record.add(CEILING, who, case.size, "seconds/step", found and found[who], note=reason)
        record.ratio(CEILING, "matrix products alone", "GCS (ours)", case.size, "seconds/step")
        print(f"  {case.size}: {reason or ', '.join(f'{who} {found[who]:.3g} s' for who in steps)}", flush=True)


def _products(embeddings: dict[str, Tensor]) -> None:
    """Three products (B, D) x (D, B) for each ordered pair, by blocks of rows."""
    with torch.no_grad():
        for x in embeddings.values():
            for y in embeddings.values():
                if x is not y:
                    for rows in x.split(4096):
                        similarity = rows @ y.T
                        similarity @ y
                        similarity.T @ rows


def targets(record: Record) -> list[Target]:
    """Nothing differs."""
    found = [row for row in record.rows if row.split == NAME]
    return [Target("comparisons with the CPU that fail", sum(row.status != "ok" for row in found), 0, at_least=False)]


BENCHMARK = Benchmark(NAME, ABOUT, SETTINGS, measure, targets)
OF_CEILING = Benchmark(CEILING, ABOUT_CEILING, {"batches": SETTINGS["ceiling"]}, measure_ceiling)
