"""The matching losses, forward and backward, against plain PyTorch, against all pairs and against InfoNCE."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.harness import LIMIT_BYTES, Record, Target, agree, attempt
from benchmarks.roofline import COPY, EXPONENTIAL, PRODUCT, Ceilings, Part, Profile, add_floor
from losses import build_loss
from reproduce.measures import device, median_seconds
from reproduce.scaling import exponent, saved_bytes

NAME = "losses"
ABOUT = """A step is forward and backward of the loss alone, to the gradients of the embeddings; the contestants of a
batch size take turns. Four items share a class. (plain) is the formula written with log_softmax and logsumexp on whole
matrices, its value and gradients checked against ours (relative error) before it is timed. "Temperature 0.1" is the
default of every loss; "one effective temperature" is 0.1 for KL and InfoNCE, 0.2 for CS and (M + 1) 0.1 for GCS, at
which they are as sharp as each other. Time ratios say over whose seconds they are. The floor is that of the products
(one per similarity matrix forward, two backward) and of one exponential per entry of every similarity matrix."""
SCALES: dict[str, dict[str, Any]] = {
    "quick": {"repeats": {128: 50, 512: 15, 2048: 4, 8192: 1}, "most": {8192: 3}},
    "paper": {"repeats": {128: 300, 512: 100, 2048: 30, 8192: 7}, "most": {}},
}
MODALITIES = (2, 3, 4, 8)
FITTED = (3, 4, 8)
DIM = 512
# The batch size at which exponents and temperatures are compared.
CENTRE = 512
TEMPERATURE = 0.1
TOLERANCE = 1e-4
REGISTERED = {"GCS": "gcs", "CS": "cs", "pairwise KL": "pairwise", "InfoNCE": "infonce"}
LARGEST_EXPONENT, CHEAPER, NO_DEARER = 1.1, 3, 1
TEMPERATURES = {True: "one effective temperature", False: f"temperature {TEMPERATURE:g}"}

Step = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """A loss at a size.

    Args:
        loss: one of ``REGISTERED``.
        modalities: M.
        batch: B.
        dim: D.
        matched: whether the temperature is that of one effective temperature, or else the default.
    """

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
        factors = {"GCS": self.modalities + 1, "CS": 2}
        return TEMPERATURE * (factors.get(self.loss, 1) if self.matched else 1)

    def inputs(self) -> tuple[dict[str, Tensor], Tensor]:
        """Embeddings (B, D) that need a gradient, by modality, and labels (B,)."""
        generator = torch.Generator().manual_seed(0)
        drawn = [torch.randn(self.batch, self.dim, generator=generator) for _ in range(self.modalities)]
        embeddings = {f"m{number}": x.to(device()).requires_grad_() for number, x in enumerate(drawn)}
        return embeddings, torch.arange(self.batch, device=device()) // 4

    def ours(self) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
        """The loss of the registry, as embeddings and labels -> scalar."""
        loss = build_loss(REGISTERED[self.loss], temperature=self.temperature)
        return lambda embeddings, labels: loss(embeddings, labels).total

    def plain(self) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
        """The same in plain PyTorch."""
        return lambda embeddings, labels: plain.PLAIN[self.loss](embeddings, labels, self.temperature)

    def parts(self) -> list[Part]:
        """What a step has to compute at least."""
        matrices = {"CS": 1, "InfoNCE": 1, "GCS": self.modalities}.get(self.loss, math.comb(self.modalities, 2))
        entries = self.batch**2
        embeddings = 4 * self.modalities * self.batch * self.dim  # bytes; read, and their gradients written
        flops = 3 * 2 * matrices * entries * self.dim
        return [
            Part("products", {PRODUCT: flops, COPY: 2 * embeddings}),
            Part("exponentials", {EXPONENTIAL: matrices * entries}),
        ]


def cases(batch: int, most: int | None = None) -> list[Case]:
    """The losses at a batch size, with at most that many modalities.

    Args:
        batch: B.
        most: the largest number of modalities; None for no limit.
    """
    found = []
    for matched in (False, True) if batch == CENTRE else (False,):
        for modalities in [m for m in MODALITIES if most is None or m <= most]:
            kinds = ("CS", "pairwise KL", "InfoNCE") if modalities == 2 else ("GCS", "pairwise KL")
            found += [Case(kind, modalities, batch, DIM, matched) for kind in kinds]
    return found


def measure(record: Record, scale: str, ceilings: Ceilings) -> None:
    """Measure all losses at all sizes."""
    settings = SCALES[scale]
    for batch, repeats in settings["repeats"].items():
        # On a GPU every number of modalities is a matter of seconds.
        most = None if device().type == "cuda" else settings["most"].get(batch)
        _measure_batch(record, cases(batch, most), repeats)
    _add_exponents(record)
    largest = max(settings["repeats"])
    for case in (Case("GCS", 3, largest, DIM), Case("GCS", 8, CENTRE, DIM, matched=True)):
        spent = {"GCS (ours)": where_time_goes(case), "GCS (plain)": ""}
        add_floor(record, NAME, case.size, case.parts(), ceilings, spent)


def _measure_batch(record: Record, found: Iterable[Case], repeats: int) -> None:
    found = list(found)
    steps: dict[tuple[str, str], Step] = {}
    for case in found:
        steps |= _contestants(record, case)
    for (contestant, size), seconds in median_seconds(steps, repeats).items():
        record.add(NAME, contestant, size, "seconds/step", seconds)
    for case in found:
        ours, plain_form = f"{case.loss} (ours)", f"{case.loss} (plain)"
        first = "CS (ours)" if case.modalities == 2 else "GCS (ours)"
        # InfoNCE is a peer in either form.
        record.ratio(NAME, plain_form, first if case.loss == "InfoNCE" else ours, case.size, "seconds/step")
        if ours != first:
            record.ratio(NAME, ours, first, case.size, "seconds/step")


def _contestants(record: Record, case: Case) -> dict[tuple[str, str], Step]:
    """The steps of a case that can run, ours and the plain one; the others are recorded."""
    embeddings, labels = case.inputs()
    steps: dict[tuple[str, str], Step] = {}
    ours, reason = attempt(lambda: step(case.ours(), embeddings, labels))
    name = f"{case.loss} (ours)"
    if ours is None:
        record.add(NAME, name, case.size, "seconds/step", None, note=reason)
    else:
        steps[name, case.size] = lambda: step(case.ours(), embeddings, labels)
    name = f"{case.loss} (plain)"
    needed = bytes_needed(case)
    if needed > limit_bytes():
        note = f"it would keep about {needed / 1e9:.1f} GB for the backward pass, more than {limit_bytes() / 1e9:g} GB"
        record.add(NAME, name, case.size, "seconds/step", None, note=note, status="not_run")
        return steps
    error, reason = attempt(lambda: compare(name, ours, step(case.plain(), embeddings, labels)))
    record.add(NAME, name, case.size, "largest relative error", error, note=reason)
    if error is None:
        record.add(NAME, name, case.size, "seconds/step", None, note=reason)
    else:
        steps[name, case.size] = lambda: step(case.plain(), embeddings, labels)
    return steps


def step(loss: Callable[..., Tensor], embeddings: dict[str, Tensor], labels: Tensor) -> tuple[Tensor, ...]:
    """The value of a loss, detached, and the gradients of the embeddings."""
    value = loss(embeddings, labels)
    return value.detach(), *torch.autograd.grad(value, list(embeddings.values()))


def compare(
    name: str, ours: tuple[Tensor, ...] | None, theirs: tuple[Tensor, ...], tolerance: float = TOLERANCE
) -> float:
    """Largest relative error of value and gradients.

    Args:
        name: who is compared with ours.
        ours: as :func:`step` returns it; None where ours failed.
        theirs: likewise.
        tolerance: how far they may be apart.

    Raises:
        Disagreement: they are farther apart.
        ValueError: ours failed.
    """
    if ours is None:
        raise ValueError("ours failed, so that there is nothing to compare with")
    errors = [float((b - a).norm() / a.norm()) for a, b in zip(ours, theirs, strict=True)]
    return agree(f"value or gradient of {name} and of ours", max(errors, key=lambda e: (math.isnan(e), e)), tolerance)


def limit_bytes() -> float:
    """What a peer may keep: half the memory of a GPU, else ``LIMIT_BYTES``."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory / 2
    return LIMIT_BYTES


def bytes_needed(case: Case, probe: int = 64) -> float:
    """What the plain form keeps for the backward pass: counted on a small batch, and quadratic in the batch."""
    small = Case(case.loss, case.modalities, min(probe, case.batch), 1, case.matched)
    return saved_bytes(small.plain(), *small.inputs()) * (case.batch / small.batch) ** 2


def _add_exponents(record: Record) -> None:
    for loss in ("GCS", "pairwise KL"):
        for matched, words in TEMPERATURES.items():
            found = [Case(loss, m, CENTRE, DIM, matched) for m in FITTED]
            by_count = {c.modalities: record.value(NAME, f"{loss} (ours)", c.size, "seconds/step") for c in found}
            if all(by_count.values()):
                size = f"B = {CENTRE}, {words}"
                for metric, value in zip(("exponent", "standard error"), exponent(by_count), strict=True):
                    record.add(NAME, f"{loss} (ours)", size, metric, value, note="of seconds/step over M = 3, 4, 8")


def where_time_goes(case: Case) -> str:
    """Shares of the operators in a step of ours, or why it cannot be told."""

    def profiled() -> str:
        embeddings, labels = case.inputs()
        step(case.ours(), embeddings, labels)
        profile = Profile()
        profile.start()
        step(case.ours(), embeddings, labels)
        return profile.stop()

    shares, reason = attempt(profiled)
    return shares or reason


def targets(record: Record) -> list[Target]:
    """GCS linear in the modalities, a third of all pairs at eight and no dearer at three."""
    found = []
    for matched, words in TEMPERATURES.items():
        size = f"B = {CENTRE}, {words}"
        slope = record.value(NAME, "GCS (ours)", size, "exponent")
        found.append(Target(f"GCS, {size}: exponent in M, at most {LARGEST_EXPONENT}", slope, LARGEST_EXPONENT, False))
        for modalities, bound in ((8, CHEAPER), (3, NO_DEARER)):
            size = Case("GCS", modalities, CENTRE, DIM, matched).size
            ratio = record.value(NAME, "pairwise KL (ours)", size, "time ratio")
            found.append(Target(f"{size}: all pairs over GCS, at least {bound}", ratio, bound))
    return found
