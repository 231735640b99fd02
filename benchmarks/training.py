"""Training through a Lightning Trainer, timed by epoch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch

from benchmarks.harness import Record, attempt
from benchmarks.roofline import Profile
from lightning_modules import prepare


class EpochClock(L.Callback):
    """Keeps the seconds of every training epoch, and says where those of the last go.

    Args:
        profiled: whether the last epoch runs under the profiler; its seconds are then not kept.
    """

    def __init__(self, profiled: bool = False):
        self.seconds: list[float] = []
        self.profile = Profile() if profiled else None
        self.spent = ""

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._is_last(trainer):
            self.profile.start()
        self._start = now()

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._is_last(trainer):
            self.spent = self.profile.stop()
        else:
            self.seconds.append(now() - self._start)

    def _is_last(self, trainer: L.Trainer) -> bool:
        return self.profile is not None and trainer.current_epoch == trainer.max_epochs - 1


def now() -> float:
    """Seconds on a clock, what a GPU was given to do being done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def fit(model: L.LightningModule, data: L.LightningDataModule, clock: EpochClock, **arguments: Any) -> int:
    """Train without validation, checkpoints and logs.

    Args:
        model: what is trained.
        data: its data.
        clock: keeps the time.
        **arguments: of the Trainer, max_epochs among them.

    Returns:
        Steps of an epoch.
    """
    trainer = L.Trainer(
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        devices=1,
        **arguments,
    )
    prepare(model, data)
    trainer.fit(model, data)
    return int(trainer.num_training_batches)


def take_turns(
    record: Record,
    benchmark: str,
    size: str,
    runs: Mapping[str, Callable[[], list[float]]],
    rounds: int,
    refused: Mapping[str, str],
    **columns: Any,
) -> None:
    """Train contestants in turn, and record the median seconds of a step of each.

    Args:
        record: takes the rows.
        benchmark: its name.
        size: of all.
        runs: contestant -> trains it, and returns seconds per step, one number an epoch.
        rounds: how often each is trained.
        refused: contestant -> why it is not trained.
        **columns: as in :meth:`Record.add`.
    """
    reasons = dict(refused)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name in [name for name in runs if name not in reasons]:
            found, reason = attempt(runs[name])
            if reason:
                reasons[name] = reason
            else:
                seconds[name] += found
    for name, found in seconds.items():
        note = reasons.get(name, "")
        value = None if note else statistics.median(found)
        record.add(benchmark, name, size, "seconds/step", value, note=note, **columns)
