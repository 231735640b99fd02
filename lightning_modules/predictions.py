"""Writing predicted embeddings to a file."""

from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules import RetrievalData
from datamodules.files.sources import written_whole


class EmbeddingWriter(BasePredictionWriter):
    """Write the embeddings of ``csd predict`` to one .npz, of each modality ``<modality>``, (entries, D), and with it

    - ``id/<modality>``: the number of each entry, and ``item/<modality>`` that of its item, which partners share;
    - ``label/<modality>``: its class, the place of a name in ``class_names``; (entries, C) of multi-hot labels;
    - ``split/<modality>``: its test part, such as "standard", or "seen" and "unseen".

    `datamodules.OwnData` reads the file as features.

    Args:
        output: the file, which is written over; by default embeddings.npz in the trainer's default_root_dir, or
            embeddings_1.npz, embeddings_2.npz and so on where there are earlier ones.

    Raises:
        MisconfigurationException: several processes, each of which would predict a share of the items.
    """

    def __init__(self, output: str | None = None):
        super().__init__(write_interval="epoch")
        self.output = output

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "predict" and trainer.world_size > 1:
            raise MisconfigurationException(
                f"embeddings are predicted in one process, and {trainer.world_size} were started; use "
                "--trainer.devices 1 --trainer.num_nodes 1, without torchrun or srun."
            )

    def write_on_epoch_end(
        self, trainer: L.Trainer, module: L.LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        arrays, data = flat_predictions(predictions), trainer.datamodule
        for name in module.modalities:
            arrays[f"split/{name}"] = splits_of(data, arrays[f"item/{name}"])
        if data.data.class_names is not None:
            arrays["class_names"] = np.array(data.data.class_names)
        names = chain(["embeddings.npz"], (f"embeddings_{number}.npz" for number in count(1)))
        unused = (path for name in names if not (path := Path(trainer.default_root_dir, name)).exists())
        path = Path(self.output) if self.output else next(unused)
        with written_whole(path) as file:
            np.savez(file, **arrays)
        counted = ", ".join(f"{len(arrays[name])} {name}" for name in module.modalities)
        print(f"wrote embeddings to {path}: {counted}")


def splits_of(data: RetrievalData, items: np.ndarray) -> np.ndarray:
    """(n,) the name of the smallest part of the test data that holds each of (n,) test items."""
    *parts, whole = data.test_splits
    found = np.full(len(items), whole)
    for name in parts:
        found = np.where(np.isin(items, data.indices(name)), name, found)
    return found


def flat_predictions(predictions: Sequence[Any]) -> dict[str, np.ndarray]:
    """What a model predicted, batches joined: name -> array, and "<name>/<modality>" where it is a mapping.

    Args:
        predictions: a list of batches, or one such list per loader.
    """
    rows: dict[str, list[torch.Tensor]] = {}
    for batch in [batch for loader in predictions for batch in (loader if isinstance(loader, list) else [loader])]:
        for name, value in batch.items():
            parts = {f"{name}/{key}": x for key, x in value.items()} if isinstance(value, Mapping) else {name: value}
            for key, x in parts.items():
                rows.setdefault(key, []).append(x.cpu())
    joined = {name: torch.cat(parts) for name, parts in rows.items()}
    return {name: (x.float() if x.is_floating_point() else x.long()).numpy() for name, x in joined.items()}
