"""Training through a Lightning Trainer, timed by epoch."""

from __future__ import annotations

import statistics
import time
from typing import Any

import lightning as L
import torch

from benchmarks.harness import Record, attempt
from lightning_modules import prepare


class EpochClock(L.Callback):
    """Keeps the seconds of every training epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._start = now()

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.seconds.append(now() - self._start)


def now() -> float:
    """Seconds on a clock, what a GPU was given to do being done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_per_step(
    model: L.LightningModule, data: L.LightningDataModule, epochs: int, **arguments: Any
) -> list[float]:
    """Train without validation, checkpoints and logs; seconds per step of ``epochs`` epochs after one not counted."""
    clock, off = EpochClock(), ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    settings = {**dict.fromkeys(off, False), "limit_val_batches": 0, "devices": 1, **arguments}
    trainer = L.Trainer(callbacks=[clock], max_epochs=epochs + 1, **settings)
    prepare(model, data)
    trainer.fit(model, data)
    return [seconds / trainer.num_training_batches for seconds in clock.seconds[1:]]


def take_turns(
    record: Record, benchmark: str, size: str, runs: dict[str, Any], rounds: int, rate: str, batch: int, dataset: str
) -> None:
    """Train ours and a peer in turn; record median seconds of a step, their rates and the ratio.

    Args:
        record: takes the rows; benchmark, size and dataset are columns of theirs.
        runs: ours, then the peer -> trains it, and returns seconds per step, one number an epoch.
        rounds: how often each is trained.
        rate: "steps/s", or "items/s", in which a step counts ``batch``.
    """
    reasons, seconds = dict.fromkeys(runs, ""), {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found, reason = attempt(run)
            seconds[name] += found or []
            reasons[name] = reasons[name] or reason
    for name, found in seconds.items():
        value = None if reasons[name] else statistics.median(found)
        record.add(benchmark, name, size, "seconds/step", value, note=reasons[name], dataset=dataset)
        if value:
            record.add(benchmark, name, size, rate, batch / value, dataset=dataset)
    ours, peer = runs
    record.ratio(benchmark, peer, ours, size, "seconds/step", dataset=dataset)
