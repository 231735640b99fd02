"""A batch far larger than its similarity matrices would allow: time and memory."""

from __future__ import annotations

from typing import Any

from benchmarks import fresh
from benchmarks.harness import Record, Target, attempt
from benchmarks.losses import Case, step
from benchmarks.training import now
from reproduce.measurements.measures import device

NAME = "large-batch"
ABOUT = """`build_loss("gcs")` at its default temperature, forward and backward, in a fresh process: its similarity
matrices alone would take 12 bytes times the square of the batch. The peak includes embeddings and gradients."""
SETTINGS: dict[str, Any] = {"modalities": 3, "dim": 256, "batch": {"cpu": 32_768, "cuda": 131_072}}
OURS = "GCS (ours)"


def run_once(modalities: int, batch: int, dim: int) -> dict[str, float]:
    """Draw the embeddings, and say how long a step on them takes: what a fresh process does."""
    case = Case("GCS", modalities, batch, dim)
    embeddings, labels = case.inputs()
    start = now()
    step(case.ours(), embeddings, labels)
    return {"seconds": now() - start}


def measure(record: Record) -> None:
    """Measure one step of the large batch."""
    arguments = {**SETTINGS, "batch": SETTINGS["batch"][device().type]}
    found, reason = attempt(lambda: fresh.measure("large_batch:run_once", arguments))
    for metric, name in (("seconds/step", "seconds"), ("peak MiB", "peak MiB")):
        record.add(NAME, OURS, Case("GCS", **arguments).size, metric, found and found[name], note=reason)


def targets(record: Record) -> list[Target]:
    """1.5 GB on a CPU."""
    size = Case("GCS", **{**SETTINGS, "batch": SETTINGS["batch"]["cpu"]}).size
    peak = record.value(NAME, OURS, size, "peak MiB")
    return [Target(f"GCS, {size}: peak above imports in GB", peak and peak * 2**20 / 1e9, 1.5, at_least=False)]
