"""A batch far larger than its similarity matrices would allow: time, memory, and the share of the machine's best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks import fresh
from benchmarks.harness import Record, Target, attempt
from benchmarks.losses import Case, compare, step, where_time_goes
from benchmarks.roofline import PRODUCT, Ceilings, add_floor
from losses import blocks
from reproduce.measures import device

NAME = "large-batch"
ABOUT = """`build_loss("gcs")` at its default temperature, forward and backward, in a fresh process: its similarity
matrices alone would take 12 bytes times the square of the batch. The peak is that of the process above its imports,
embeddings and gradients included. Share of ceiling: operations of the products that a step needs (one per similarity
matrix forward, two backward) per second, over the float32 product of this machine; where the matrices are computed
again rather than kept, those products do not count as needed. At a smaller batch, at which they are made to be computed
again as well, value and gradients are compared with the plain form."""
SCALES: dict[str, dict[str, Any]] = {
    "quick": {"modalities": 3, "dim": 256, "checked": 4096, "runs": {"cpu": 1, "cuda": 5}},
    "paper": {"modalities": 3, "dim": 256, "checked": 4096, "runs": {"cpu": 3, "cuda": 20}},
}
BATCH = {"cpu": 32_768, "cuda": 131_072}
TOLERANCE = 1e-5
OURS, PLAIN = "GCS (ours)", "GCS (plain)"
MOST_BYTES = 1.5e9


def run_once(modalities: int, batch: int, dim: int) -> dict[str, float]:
    """Draw the embeddings, and say how long a step on them takes: what a fresh process does."""
    case = Case("GCS", modalities, batch, dim)
    embeddings, labels = case.inputs()
    start = time.perf_counter()
    step(case.ours(), embeddings, labels)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - start}


@contextmanager
def nothing_kept() -> Iterator[None]:
    """A smaller batch goes the way of the large one: its similarity matrices are computed again."""
    before, blocks.KEPT_BYTES = blocks.KEPT_BYTES, 0
    try:
        yield
    finally:
        blocks.KEPT_BYTES = before


def measure(record: Record, scale: str, ceilings: Ceilings) -> None:
    """Measure the large batch, and compare a smaller one with the plain form."""
    settings = SCALES[scale]
    shape = {"modalities": settings["modalities"], "dim": settings["dim"]}
    _check(record, Case("GCS", batch=settings["checked"], **shape))
    case, runs = Case("GCS", batch=BATCH[device().type], **shape), settings["runs"][device().type]
    arguments = {"batch": case.batch, **shape}
    found, reason = attempt(lambda: fresh.measure("large_batch:run_once", arguments, runs=runs))
    seconds = statistics.median(run["seconds"] for run in found["runs"]) if found else None
    record.add(NAME, OURS, case.size, "seconds/step", seconds, note=reason or f"median of {runs} in one process")
    record.add(NAME, OURS, case.size, "peak MiB", found and found["peak MiB"], note=reason)
    if not seconds:
        return
    needed = case.parts()[0].amounts[PRODUCT]
    again = 4 * case.batch**2 * case.modalities > blocks.KEPT_BYTES
    note = f"{needed / seconds / 1e9:.4g} GFLOP/s needed" + f", {needed * 4 / 3 / seconds / 1e9:.4g} computed" * again
    record.add(NAME, OURS, case.size, "share of ceiling", needed / seconds / ceilings[PRODUCT], note=note)
    profiled = Case("GCS", batch=settings["checked"], **shape)
    with nothing_kept():
        spent = f"at B = {profiled.batch:,}: {where_time_goes(profiled)}"
    add_floor(record, NAME, case.size, case.parts(), ceilings, {OURS: spent})


def _check(record: Record, case: Case) -> None:
    embeddings, labels = case.inputs()

    def error() -> float:
        with nothing_kept():
            ours = step(case.ours(), embeddings, labels)
        return compare(PLAIN, ours, step(case.plain(), embeddings, labels), TOLERANCE)

    found, reason = attempt(error)
    record.add(NAME, PLAIN, case.size, "largest relative error", found, note=reason)


def targets(record: Record) -> list[Target]:
    """1.5 GB on a CPU; the plain form's value and gradients."""
    found = []
    for row in [row for row in record.rows if row.split == NAME]:
        if row.metric == "peak MiB" and device().type == "cpu":
            asked = f"GCS, {row.features}: peak above imports in GB, at most {MOST_BYTES / 1e9:g}"
            value = None if row.value is None else row.value * 2**20 / 1e9
            found.append(Target(asked, value, MOST_BYTES / 1e9, at_least=False))
        if row.metric == "largest relative error":
            asked = f"GCS, {row.features}: relative error against the plain form, at most {TOLERANCE:g}"
            found.append(Target(asked, row.value, TOLERANCE, at_least=False))
    return found
