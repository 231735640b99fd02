"""The matching losses, forward and backward: against plain PyTorch and pairwise losses, and on a large batch."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import plain
from benchmarks.harness import Benchmark, Record, fresh, tensor_peak, timed
from losses import build_loss
from losses.gram import gram_volume
from reproduce.measurements.measures import device, median_seconds

ABOUT = """A step is forward and backward of the loss alone, to the gradients of the embeddings; the contestants of a
batch size take turns. Four items share a class. (plain) is the formula written with log_softmax and logsumexp on whole
matrices, or for GRAM with stacked Gram matrices and torch.det, its value and gradients checked against ours (relative
error) before it is timed. "Temperature 0.1" is the default of every loss; "one effective temperature" is 0.1 for KL,
0.2 for CS and (M + 1) 0.1 for GCS, at which they are as sharp as each other. Time ratios say over whose seconds they
are. GRAM's volumes alone are measured with their gradients; their peak is that of tensors, embeddings included."""
MODALITIES = (2, 3, 4, 8)
# Batch size -> timed calls of each contestant; and, on a CPU, how many modalities, where not all.
SETTINGS: dict[str, Any] = {"repeats": {128: 50, 512: 9, 2048: 3, 8192: 1}, "modalities": {2048: (2, 3), 8192: (3,)}}
DIM, CENTRE = 512, 512  # of embeddings; the batch size at which temperatures are compared
TEMPERATURE, TOLERANCE = 0.1, 1e-4
PAIRWISE = "pairwise KL"
REGISTERED = {"GCS": "gcs", "CS": "cs", PAIRWISE: "pairwise", "GRAM": "gram"}
TEMPERATURES = {True: "one effective temperature", False: f"temperature {TEMPERATURE:g}"}
VOLUMES = {"GRAM volumes (ours)": gram_volume, "GRAM volumes (plain)": plain.gram_volume}
VOLUME_REPEATS = 30
ASKED = {8: 3, 3: 1}  # modalities -> the least that pairwise KL is to take, as a multiple of GCS

Loss = Callable[[dict[str, Tensor], Tensor], Tensor]


class Case(NamedTuple):
    """A loss of ``REGISTERED`` on a batch (B, D) of M modalities, at its default or the one effective temperature."""

    loss: str
    modalities: int
    batch: int
    dim: int
    matched: bool = False

    @property
    def size(self) -> str:
        return f"B = {self.batch:,}, M = {self.modalities}, D = {self.dim}, {TEMPERATURES[self.matched]}"

    def inputs(self) -> tuple[dict[str, Tensor], Tensor]:
        """Embeddings (B, D) that need a gradient, by modality, and labels (B,)."""
        generator = torch.Generator().manual_seed(0)
        drawn = [torch.randn(self.batch, self.dim, generator=generator) for _ in range(self.modalities)]
        embeddings = {f"m{number}": x.to(device()).requires_grad_() for number, x in enumerate(drawn)}
        return embeddings, torch.arange(self.batch, device=device()) // 4

    def losses(self) -> tuple[Loss, Loss]:
        """Ours and the plain one, as embeddings and labels -> scalar."""
        factor = build_loss(REGISTERED[self.loss]).effective_factor(self.modalities) if self.matched else 1
        ours = build_loss(REGISTERED[self.loss], temperature=TEMPERATURE * factor)
        theirs = partial(plain.PLAIN[self.loss], temperature=TEMPERATURE * factor)
        return lambda embeddings, labels: ours(embeddings, labels).total, theirs


def cases(batch: int, modalities: Collection[int] = MODALITIES) -> list[Case]:
    """The losses at a batch size, with so many modalities."""
    matched = (False, True) if batch == CENTRE else (False,)
    sizes = [(m, fair) for fair in matched for m in modalities]
    found = [Case(kind, m, batch, DIM, fair) for m, fair in sizes for kind in ("CS" if m == 2 else "GCS", PAIRWISE)]
    return [*found, Case("GRAM", 3, batch, DIM)] if batch == CENTRE else found


def measure(record: Record) -> None:
    """Measure all losses at all sizes: GCS is to be three times as fast as KL at M = 8, and no slower at M = 3.

    GRAM's volumes are to take a quarter of the time and of the memory of stacked Gram matrices.
    """
    for batch, repeats in SETTINGS["repeats"].items():
        # On a GPU every number of modalities is a matter of seconds.
        found = cases(batch, MODALITIES if device().type == "cuda" else SETTINGS["modalities"].get(batch, MODALITIES))
        steps = {}
        for case in found:
            steps |= _contestants(record, case)
        for (contestant, size), seconds in median_seconds(steps, repeats).items():
            record.add(contestant, size, "seconds/step", seconds)
        for case in found:
            ours = f"{case.loss} (ours)"
            record.ratio(f"{case.loss} (plain)", ours, case.size, "seconds/step")
            if case.loss in ("CS", "GCS"):
                ratio = record.ratio(f"{PAIRWISE} (ours)", ours, case.size, "seconds/step")
                if batch == CENTRE and case.modalities in ASKED:
                    record.ask(f"{case.size}: pairwise over GCS", ratio, ASKED[case.modalities])
    _measure_volumes(record)


def _measure_volumes(record: Record) -> None:
    case, (ours, theirs) = Case("GRAM", 3, CENTRE, DIM), VOLUMES
    size = f"B = {case.batch}, M = {case.modalities}, D = {case.dim}"
    steps = {name: _volumes(case, form) for name, form in VOLUMES.items()}
    record.compare(theirs, size, lambda: (steps[ours]()[:1], steps[theirs]()[:1]), 1e-5)
    for name, seconds in median_seconds(steps, VOLUME_REPEATS).items():
        record.add(name, size, "seconds/step", seconds)
    runs = {name: partial(tensor_peak, lambda form=form: _volumes(case, form)()) for name, form in VOLUMES.items()}
    record.take_turns(size, runs, 1, ["peak MiB"])
    for metric in ("seconds/step", "peak MiB"):
        record.ask(f"GRAM, {size}: {metric} of stacked matrices over ours", record.ratio(theirs, ours, size, metric), 4)


def _volumes(case: Case, form: Callable[[Tensor, list[Tensor]], Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    """What computes the volumes of drawn unit vectors, detached, and their gradients."""
    unit = [F.normalize(x.detach(), dim=1).requires_grad_() for x in case.inputs()[0].values()]

    def work() -> tuple[Tensor, ...]:
        volumes = form(unit[0], unit[1:])
        return volumes.detach(), *torch.autograd.grad(volumes.sum(), unit)

    return work


def _contestants(record: Record, case: Case) -> dict[tuple[str, str], Callable[[], tuple[Tensor, ...]]]:
    """The steps of a case, ours and the plain one, which is recorded as failed where it cannot run or differs."""
    inputs, name = case.inputs(), f"{case.loss} (plain)"
    ours, theirs = (partial(step, loss, *inputs) for loss in case.losses())
    reason = record.compare(name, case.size, lambda: (ours(), theirs()), TOLERANCE)
    if reason:
        record.add(name, case.size, "seconds/step", None, reason)
    return {(f"{case.loss} (ours)", case.size): ours} | ({} if reason else {(name, case.size): theirs})


def step(loss: Loss, embeddings: dict[str, Tensor], labels: Tensor) -> tuple[Tensor, ...]:
    """The value of a loss, detached, and the gradients of the embeddings."""
    value = loss(embeddings, labels)
    return value.detach(), *torch.autograd.grad(value, list(embeddings.values()))


# The large batch: time and memory where similarity matrices would not fit -------------------------------------------

ABOUT_LARGE = """`build_loss("gcs")` at its default temperature, forward and backward, in a fresh process: its
similarity matrices alone would take 12 bytes times the square of the batch. The peak includes embeddings and
gradients."""
LARGE: dict[str, Any] = {"modalities": 3, "dim": 256, "batch": {"cpu": 32_768, "cuda": 131_072}}


def timed_step(case: Case) -> dict[str, float]:
    """Draw the embeddings, and say how long a step on them takes: what a fresh process does."""
    return timed(partial(step, case.losses()[0], *case.inputs()))


def measure_large(record: Record) -> None:
    """Measure one step of the large batch, which is to take at most 1.5 GB on a CPU."""
    case = Case("GCS", LARGE["modalities"], LARGE["batch"][device().type], LARGE["dim"])
    record.take_turns(case.size, {"GCS (ours)": partial(fresh, timed_step, case=case)}, 1, ["seconds/step", "peak MiB"])
    if device().type == "cpu":
        record.ask_memory(f"GCS, {case.size}", "GCS (ours)", case.size, 1.5)


BENCHMARK = Benchmark("losses", ABOUT, SETTINGS, measure)
LARGE_BATCH = Benchmark("large-batch", ABOUT_LARGE, LARGE, measure_large)
