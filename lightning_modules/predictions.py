"""Writing predicted embeddings to a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import BasePredictionWriter


class EmbeddingWriter(BasePredictionWriter):
    """Write the embeddings of ``csd predict`` to one .npz: an array per modality, and ``label`` and ``id``.

    Args:
        output: the file; by default embeddings.npz in the trainer's default_root_dir.
    """

    def __init__(self, output: str | None = None):
        super().__init__(write_interval="epoch")
        self.output = output

    def write_on_epoch_end(
        self, trainer: L.Trainer, module: L.LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        if not trainer.is_global_zero:
            return
        batches = [batch for loader in predictions for batch in (loader if isinstance(loader, list) else [loader])]
        arrays = {name: torch.cat([b[name].cpu() for b in batches]).float().numpy() for name in batches[0]}
        arrays |= {name: arrays[name].astype(np.int64) for name in ("label", "id")}
        path = Path(self.output or Path(trainer.default_root_dir) / "embeddings.npz")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        try:
            with partial.open("wb") as file:
                np.savez(file, **arrays)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        print(f"wrote embeddings of {len(arrays['id'])} items to {path}")
