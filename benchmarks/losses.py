"""The matching losses, forward and backward: against plain PyTorch and pairwise losses, and on a large batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.harness import Benchmark, Record, Target, agree, attempt, fresh
from losses import build_loss
from reproduce.measurements.measures import device, median_seconds, timer

NAME = "losses"
ABOUT = """A step is forward and backward of the loss alone, to the gradients of the embeddings; the contestants of a
batch size take turns. Four items share a class. (plain) is the formula written with log_softmax and logsumexp on whole
matrices, or for GRAM with stacked Gram matrices and torch.det, its value and gradients checked against ours (relative
error) before it is timed. "Temperature 0.1" is the
default of every loss; "one effective temperature" is 0.1 for KL, 0.2 for CS and (M + 1) 0.1 for GCS, at
which they are as sharp as each other. Time ratios say over whose seconds they are."""
# Batch size -> timed calls of each contestant; and, on a CPU, the largest number of modalities.
SETTINGS: dict[str, Any] = {"repeats": {128: 50, 512: 15, 2048: 4, 8192: 1}, "most": {8192: 3}}
MODALITIES = (2, 3, 4, 8)
DIM, CENTRE = 512, 512  # of embeddings; the batch size at which temperatures are compared
TEMPERATURE, TOLERANCE = 0.1, 1e-4
PAIRWISE = "pairwise KL"
REGISTERED = {"GCS": "gcs", "CS": "cs", PAIRWISE: "pairwise", "GRAM": "gram"}
TEMPERATURES = {True: "one effective temperature", False: f"temperature {TEMPERATURE:g}"}

Loss = Callable[[dict[str, Tensor], Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A loss of ``REGISTERED`` on a batch (B, D) of M modalities, at its default or the one effective temperature."""

    loss: str
    modalities: int
    batch: int
    dim: int
    matched: bool = False

    @property
    def size(self) -> str:
        return f"B = {self.batch:,}, M = {self.modalities}, D = {self.dim}, {TEMPERATURES[self.matched]}"

    @property
    def temperature(self) -> float:
        factor = build_loss(REGISTERED[self.loss]).effective_factor(self.modalities) if self.matched else 1
        return TEMPERATURE * factor

    def inputs(self) -> tuple[dict[str, Tensor], Tensor]:
        """Embeddings (B, D) that need a gradient, by modality, and labels (B,)."""
        generator = torch.Generator().manual_seed(0)
        drawn = [torch.randn(self.batch, self.dim, generator=generator) for _ in range(self.modalities)]
        embeddings = {f"m{number}": x.to(device()).requires_grad_() for number, x in enumerate(drawn)}
        return embeddings, torch.arange(self.batch, device=device()) // 4

    def ours(self) -> Loss:
        """The loss of the registry, as embeddings and labels -> scalar."""
        loss = build_loss(REGISTERED[self.loss], temperature=self.temperature)
        return lambda embeddings, labels: loss(embeddings, labels).total

    def plain(self) -> Loss:
        """The same in plain PyTorch."""
        return lambda embeddings, labels: plain.PLAIN[self.loss](embeddings, labels, self.temperature)


def cases(batch: int, most: int = 8) -> list[Case]:
    """The losses at a batch size, with at most that many modalities."""
    matched = (False, True) if batch == CENTRE else (False,)
    sizes = [(m, fair) for fair in matched for m in MODALITIES if m <= most]
    found = [Case(kind, m, batch, DIM, fair) for m, fair in sizes for kind in ("CS" if m == 2 else "GCS", PAIRWISE)]
    return [*found, Case("GRAM", 3, batch, DIM)] if batch == CENTRE else found


def measure(record: Record) -> None:
    """Measure all losses at all sizes."""
    for batch, repeats in SETTINGS["repeats"].items():
        # On a GPU every number of modalities is a matter of seconds.
        found = cases(batch, 8 if device().type == "cuda" else SETTINGS["most"].get(batch, 8))
        steps: dict[tuple[str, str], Callable[[], tuple[Tensor, ...]]] = {}
        for case in found:
            steps |= _contestants(record, case)
        for (contestant, size), seconds in median_seconds(steps, repeats).items():
            record.add(NAME, contestant, size, "seconds/step", seconds)
        for case in found:
            record.ratio(NAME, f"{case.loss} (plain)", f"{case.loss} (ours)", case.size, "seconds/step")
            if case.loss in ("CS", "GCS"):
                record.ratio(NAME, f"{PAIRWISE} (ours)", f"{case.loss} (ours)", case.size, "seconds/step")


def _contestants(record: Record, case: Case) -> dict[tuple[str, str], Callable[[], tuple[Tensor, ...]]]:
    """The steps of a case, ours and the plain one, which is recorded as failed where it cannot run or differs."""
    inputs, ours, name = case.inputs(), case.ours(), f"{case.loss} (plain)"
    steps = {(f"{case.loss} (ours)", case.size): lambda: step(ours, *inputs)}
    error, reason = attempt(lambda: compare(name, step(ours, *inputs), step(case.plain(), *inputs)))
    record.add(NAME, name, case.size, "largest relative error", error, note=reason)
    if error is None:
        record.add(NAME, name, case.size, "seconds/step", None, note=reason)
        return steps
    return {**steps, (name, case.size): lambda: step(case.plain(), *inputs)}


def step(loss: Loss, embeddings: dict[str, Tensor], labels: Tensor) -> tuple[Tensor, ...]:
    """The value of a loss, detached, and the gradients of the embeddings."""
    value = loss(embeddings, labels)
    return value.detach(), *torch.autograd.grad(value, list(embeddings.values()))


def compare(name: str, ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> float:
    """Largest relative error of value and gradients, as :func:`step` returns them; a Disagreement beyond tolerance."""
    error = float(torch.stack([(b - a).norm() / a.norm() for a, b in zip(ours, theirs, strict=True)]).max())
    return agree(f"value or gradient of {name} and of ours", error, TOLERANCE)


def targets(record: Record) -> list[Target]:
    """GCS a third of the pairwise loss at eight modalities, and no dearer at three."""
    sizes = {Case("GCS", m, CENTRE, DIM, fair).size: least for fair in TEMPERATURES for m, least in ((8, 3), (3, 1))}
    ratios = {size: record.value(NAME, f"{PAIRWISE} (ours)", size, "time ratio") for size in sizes}
    return [Target(f"{size}: pairwise over GCS", ratios[size], least) for size, least in sizes.items()]


# The large batch: time and memory where similarity matrices would not fit -------------------------------------------

ABOUT_LARGE = """`build_loss("gcs")` at its default temperature, forward and backward, in a fresh process: its
similarity matrices alone would take 12 bytes times the square of the batch. The peak includes embeddings and
gradients."""
LARGE: dict[str, Any] = {"modalities": 3, "dim": 256, "batch": {"cpu": 32_768, "cuda": 131_072}}


def large_case(kind: str) -> Case:
    """The case of a large batch on a "cpu" or a "cuda" device."""
    return Case("GCS", LARGE["modalities"], LARGE["batch"][kind], LARGE["dim"])


def timed_step(case: Case) -> dict[str, float]:
    """Draw the embeddings, and say how long a step on them takes: what a fresh process does."""
    embeddings, labels = case.inputs()
    start = timer()
    step(case.ours(), embeddings, labels)
    return {"seconds/step": timer() - start}


def measure_large(record: Record) -> None:
    """Measure one step of the large batch."""
    case = large_case(device().type)
    found, reason = attempt(lambda: fresh(timed_step, case=case))
    for metric in ("seconds/step", "peak MiB"):
        record.add("large-batch", "GCS (ours)", case.size, metric, found and found[metric], note=reason)


def targets_large(record: Record) -> list[Target]:
    """1.5 GB on a CPU."""
    size = large_case("cpu").size
    peak = record.value("large-batch", "GCS (ours)", size, "peak MiB")
    return [Target(f"GCS, {size}: peak above imports in GB", peak and peak * 2**20 / 1e9, 1.5, at_least=False)]


BENCHMARK = Benchmark(NAME, ABOUT, SETTINGS, measure, targets)
LARGE_BATCH = Benchmark("large-batch", ABOUT_LARGE, LARGE, measure_large, targets_large)
