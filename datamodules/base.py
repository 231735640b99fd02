"""Paired features in memory as batches of whole tensors: what every data set of this suite shares."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from datamodules.errors import DataError
from datamodules.feature_set import FeatureSet
from datamodules.features.class_embeddings import embed_classes, encoder_identity
from datamodules.repeats import first_of_equal, repeated_rows
from datamodules.splits import LEARNED, carve_validation, seen_unseen, split_paired

EVALUATION_BATCH_SIZE = 1024
COLUMNS = 32  # of the training rows in memory at a time, in double precision


class PairedItems(Dataset):
    """Rows of in-memory tensors, handed out a batch at a time by one indexing call per tensor.

    Args:
        tensors: name -> (N, ...) tensor of the whole data set, "label" among them.
        class_embedding: (C, E) tensor, one row per class.
        index: (n,) rows of the data set that belong to this part.
        query: (n,) bool, True where the item is also a query and not in the gallery alone.
        ids: modality -> (n,) id of each item there, where modalities differ in them; by default an item's id is its row
            in every modality.
    """

    def __init__(
        self,
        tensors: dict[str, torch.Tensor],
        class_embedding: torch.Tensor,
        index: torch.Tensor,
        query: torch.Tensor,
        ids: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.tensors, self.class_embedding, self.index, self.query = tensors, class_embedding, index, query
        self.ids = ids

    def __len__(self) -> int:
        return len(self.index)

    def __getitems__(self, positions: list[int]) -> dict[str, Any]:
        position = torch.as_tensor(positions)
        row = self.index[position]
        batch = {name: tensor[row] for name, tensor in self.tensors.items()}
        embedding = embed_items(batch["label"], self.class_embedding)
        ids = {name: values[position] for name, values in self.ids.items()} if self.ids else row
        return batch | {"id": ids, "class_embedding": embedding, "query": self.query[position]}


def embed_items(label: torch.Tensor, class_embedding: torch.Tensor) -> torch.Tensor:
    """Class embedding of each item, (B, E): that of its class, or the mean over its classes for (B, C) bool labels."""
    if label.ndim == 1:
        return class_embedding[label]
    weight = label.to(class_embedding.dtype)
    return weight @ class_embedding / weight.sum(dim=1, keepdim=True)


def _unchanged(batch: dict[str, Any]) -> dict[str, Any]:
    """Collate function of a data set whose `__getitems__` already returns the whole batch."""
    return batch


def training_share(data: L.LightningDataModule, items: int) -> tuple[int, int]:
    """Number of processes among which a data module's training items are shared, and rank of this one.

    Raises:
        DataError: fewer items than processes.
    """
    if data.trainer is None:
        return 1, 0
    processes = data.trainer.world_size
    if items < processes:
        raise DataError(
            f"{data.data.origin}: {items} training items for {processes} processes, and each needs one of its own; "
            f"start at most {items} (--trainer.devices times --trainer.num_nodes)."
        )
    return processes, data.trainer.global_rank


class FeatureDataModule(L.LightningDataModule):
    """Paired features with class labels, split into training, validation and test parts.

    A subclass sets `dataset`, `features` and `data_kind` and implements `read`. Data are read once, on first use, and
    every property works without a Trainer. A batch is a mapping: modality -> (B, d) float32, "label" -> (B,) int64 or
    (B, C) bool, "id" -> (B,) int64 row in the data set, "class_embedding" -> (B, E) float32, "query" -> (B,) bool.

    In validation and test a sample counts once. Files of images with several captions hold an image's row again beside
    each: where `datamodules.repeats.repeated_rows` finds such rows in test, "id" is a mapping modality -> (B,) in
    validation and test batches, and there equal rows of equal label have the id of the first.

    Args:
        batch_size: items per training batch and process.
        validation_fraction: share of the training items carved off for validation, stratified by class. A data set
            with validation items of its own keeps those. 0: train on training and validation items, validate on none.
        split_seed: draws the validation items.
        class_split: "standard", or "zero-shot": train on one half of the classes, test on seen, unseen and all (JFSE).
        class_seed: draws the half of the classes that is seen.
        class_encoder: "one-hot", "all-MiniLM-L6-v2" (installed with the suite), "from-data" (the embedding that came
            with the data), or the name or local folder of another sentence-transformers model.
        shuffle_seed: draws the training order; the order depends on this seed and the epoch alone.
        paired_fraction: share of the training items whose pairing is used, above 0, at most 1. The others are no part
            of the training batches; :meth:`unpaired_entries` hands out their modalities as unpaired samples, with
            those that the data bring without a partner (`FeatureSet.unpaired`).
        as_published: as the public code of JFSE does, train on all training items in their fixed order and validate on
            the test items, so that they choose the epoch. For comparison with published numbers only.

    Raises:
        ValueError: an argument outside its range.
        DataError: on first use of data that do not allow what is asked for.
    """

    dataset: str
    features: str
    data_kind: Literal["real", "synthetic"]

    def __init__(
        self,
        batch_size: int = 64,
        validation_fraction: float = 0.15,
        split_seed: int = 0,
        class_split: Literal["standard", "zero-shot"] = "standard",
        class_seed: int = 0,
        class_encoder: str = "all-MiniLM-L6-v2",
        shuffle_seed: int = 0,
        paired_fraction: float = 1.0,
        as_published: bool = False,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
        if not 0 <= validation_fraction < 1:
            raise ValueError(f"validation_fraction is {validation_fraction}; expected 0 (no validation part) up to 1.")
        if not 0 < paired_fraction <= 1:
            raise ValueError(f"paired_fraction is {paired_fraction}; expected above 0, at most 1.")
        if class_split not in ("standard", "zero-shot"):
            raise ValueError(f"class_split is {class_split!r}; expected 'standard' or 'zero-shot'.")
        for name, seed in (("split_seed", split_seed), ("class_seed", class_seed), ("shuffle_seed", shuffle_seed)):
            if seed < 0:
                raise ValueError(f"{name} is {seed}; expected 0 or more.")
        if as_published and class_split != "standard":
            raise ValueError("as_published goes with class_split 'standard': the public code has no zero-shot split.")
        self.as_published = as_published
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.split_seed = split_seed
        self.class_split = class_split
        self.class_seed = class_seed
        self.class_encoder = class_encoder
        self.shuffle_seed = shuffle_seed
        self.paired_fraction = paired_fraction

    def read(self) -> FeatureSet:
        """Read the whole data set; implemented by each data set, called once."""
        raise NotImplementedError(f"{type(self).__name__} must implement read() -> FeatureSet.")

    # What the data are ------------------------------------------------------------------------------------------

    @cached_property
    def data(self) -> FeatureSet:
        """The data set, read on first use."""
        return self.read()

    @cached_property
    def class_embedding(self) -> torch.Tensor:
        """(C, E) float32, one row per class."""
        if self.class_encoder != "from-data":
            return torch.from_numpy(embed_classes(self.class_names, self.class_encoder))
        if self.data.class_embedding is None:
            raise DataError(
                f"{self.data.origin}: class_encoder is 'from-data', but the data bring no class embedding; "
                "choose 'one-hot', 'all-MiniLM-L6-v2' or another encoder."
            )
        return torch.from_numpy(self.data.class_embedding.astype(np.float32))

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.data.features)

    @property
    def dims(self) -> dict[str, int]:
        """Width of each modality's features and of the class embedding."""
        widths = {name: array.shape[1] for name, array in self.data.features.items()}
        return widths | {"class_embedding": self.class_embedding.shape[1]}

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.data.class_names

    @property
    def seen_classes(self) -> tuple[str, ...]:
        """Names of the classes trained on: all of them in the standard split."""
        return tuple(self.class_names[c] for c in self._class_halves[0])

    @property
    def unseen_classes(self) -> tuple[str, ...]:
        """Names of the classes kept out of training: none in the standard split."""
        return tuple(self.class_names[c] for c in self._class_halves[1])

    @property
    def test_splits(self) -> tuple[str, ...]:
        """Names of the test parts, in the order of `test_dataloader`."""
        return ("standard",) if self.class_split == "standard" else ("seen", "unseen", "generalised")

    @cached_property
    def digest(self) -> str:
        """sha256 of the data and of the class encoder with its weights."""
        return hashlib.sha256(f"{self.data.digest} {encoder_identity(self.class_encoder)}".encode()).hexdigest()

    @cached_property
    def learned_digest(self) -> str:
        """sha256 of the items that a model is trained on or chosen by, whatever the test items are."""
        return self.data.digest_of([self.indices(split) for split in LEARNED])

    # Which items belong where -----------------------------------------------------------------------------------

    def indices(self, split: str) -> np.ndarray:
        """Rows of "train", "unpaired", "validation" or one of `test_splits`, ascending."""
        if split not in self._parts:
            raise ValueError(f"split {split!r} is unknown; {self.dataset} has {', '.join(self._parts)}.")
        return self._parts[split]

    def arrays(self, split: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Features and labels of a split as NumPy arrays, for methods that are not trained by gradient descent."""
        index = torch.from_numpy(self.indices(split))
        features = {name: self._tensors[name][index].numpy() for name in self.modalities}
        return features, self._tensors["label"][index].numpy()

    def train_features(self) -> dict[str, torch.Tensor]:
        """Training rows of every modality and of "class_embedding"."""
        rows = {name: tensor[torch.from_numpy(self.indices("train"))] for name, tensor in self._tensors.items()}
        rows["class_embedding"] = embed_items(rows.pop("label"), self.class_embedding)
        return rows

    def train_columns(self, name: str) -> Iterator[torch.Tensor]:
        """The same of one modality or "class_embedding", (n, at most 32) float64 at a time, for statistics.

        In float32 a constant column would seem to vary, by the rounding of its mean; and all at once, in float64, they
        would need thrice the memory of the features.
        """
        index = self.indices("train")
        if name == "class_embedding":
            rows = embed_items(self._tensors["label"][torch.from_numpy(index)], self.class_embedding).numpy()
            index = np.arange(len(index))
        else:
            rows = self._tensors[name].numpy()
        for start in range(0, rows.shape[1], COLUMNS):
            # Copied by NumPy: of PyTorch's blocks, which are aligned, glibc would keep each and reuse none.
            yield torch.from_numpy(rows[:, start : start + COLUMNS][index].astype(np.float64))

    def train_entries(self, name: str) -> tuple[torch.Tensor, None]:
        """Training rows of a modality, and no mask: features have no padding."""
        return self._tensors[name][torch.from_numpy(self.indices("train"))], None

    def unpaired_entries(self, name: str) -> tuple[torch.Tensor, None]:
        """Rows of a modality of the training items whose pairing is not used, then those that belong to no item."""
        rows = self._tensors[name][torch.from_numpy(self.indices("unpaired"))]
        alone = self.data.unpaired.get(name, self.data.features[name][:0])
        return torch.cat([rows, torch.from_numpy(alone.astype(np.float32))]), None

    @cached_property
    def _class_halves(self) -> tuple[np.ndarray, np.ndarray]:
        if self.class_split == "standard":
            return np.arange(len(self.class_names)), np.arange(0)
        return seen_unseen(len(self.class_names), self.class_seed)

    def _of_classes(self, classes: np.ndarray) -> np.ndarray:
        """(N,) bool, True where the item belongs to one of the classes."""
        label = self.data.label
        return label[:, classes].any(axis=1) if label.ndim == 2 else np.isin(label, classes)

    @cached_property
    def _parts(self) -> dict[str, np.ndarray]:
        seen, unseen = map(self._of_classes, self._class_halves)
        mixed = seen & unseen
        if mixed.any():
            rank_zero_info(f"{self.dataset}: {mixed.sum()} items with both seen and unseen classes are left out.")
        where = {name: self.data.split == name for name in ("train", "validation", "test")}
        test = {
            "standard": where["test"],
            "seen": where["test"] & seen & ~mixed,
            "unseen": where["test"] & unseen & ~mixed,
            "generalised": where["test"] & ~mixed,
        }
        train, validation = self._training_parts(
            np.flatnonzero(where["train"] & ~unseen), np.flatnonzero(where["validation"] & ~unseen)
        )
        paired, unpaired = split_paired(train, self.paired_fraction, self.split_seed)
        parts = {"train": paired, "unpaired": unpaired, "validation": validation}
        parts |= {name: np.flatnonzero(test[name]) for name in self.test_splits}
        if self.as_published:
            parts["validation"] = parts["standard"]
        for name, index in parts.items():
            if not len(index) and name not in ("unpaired", "validation"):
                raise DataError(f"{self.data.origin}: no items in the {name} part of the {self.class_split} split.")
        return parts

    def _training_parts(self, train: np.ndarray, validation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.validation_fraction == 0 or self.as_published:
            return np.union1d(train, validation), np.arange(0)
        if len(validation):
            return train, validation
        label = self.data.label[train]
        lone = np.flatnonzero((label.sum(axis=0) if label.ndim == 2 else np.bincount(label)) == 1)
        if lone.size:
            raise DataError(
                f"{self.data.origin}: class {self.class_names[lone[0]]!r} has one training item: it cannot be in the "
                "training and the validation part; set validation_fraction to 0, or give it more items."
            )
        return carve_validation(self.data.label, train, self.validation_fraction, self.split_seed)

    # Batches ----------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Fetch files and embed the classes in one process before the others read them."""
        _ = self.data, self.class_embedding

    def train_dataloader(self) -> DataLoader:
        items = self._items("train")
        share = training_share(self, len(items))
        # Dropping the remainder keeps an item from standing twice in one global batch, as its own false negative.
        sampler = DistributedSampler(items, *share, not self.as_published, seed=self.shuffle_seed, drop_last=True)
        drop_last = len(sampler) > self.batch_size
        # By keyword throughout: Lightning rebuilds loaders, and finds only keywords again.
        return DataLoader(
            items, batch_size=self.batch_size, sampler=sampler, drop_last=drop_last, collate_fn=_unchanged
        )

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        return self._evaluation_loader("validation") if len(self.indices("validation")) else []

    def test_dataloader(self) -> list[DataLoader]:
        """One loader per name in `test_splits`."""
        return [self._evaluation_loader(name) for name in self.test_splits]

    def predict_dataloader(self) -> DataLoader:
        """All test items, in order, with their rows as ids."""
        return _loader_of(self._items(self.test_splits[-1]))

    def _evaluation_loader(self, split: str) -> DataLoader:
        return _loader_of(self._items(split, self._ids(split) if self._repeated else None))

    def _items(self, split: str, ids: Mapping[str, torch.Tensor] | None = None) -> PairedItems:
        index = self.indices(split)
        query = np.ones(len(index), dtype=bool)
        if split == "generalised":
            query = self._of_classes(self._class_halves[1])[index]
        return PairedItems(self._tensors, self.class_embedding, torch.from_numpy(index), torch.from_numpy(query), ids)

    @cached_property
    def _repeated(self) -> tuple[str, ...]:
        """Modalities whose rows stand several times in the data and count once in validation and test."""
        test = np.flatnonzero(self.data.split == "test")
        said = f"{self.data.origin}: the {len(test)} test rows"
        return tuple(repeated_rows(self.data.features, self.data.label, test, said))

    def _ids(self, split: str) -> dict[str, torch.Tensor]:
        index = self.indices(split)
        first = {name: first_of_equal(self.data.features[name], index, self.data.label) for name in self._repeated}
        return {name: torch.from_numpy(first.get(name, index)) for name in self.modalities}

    @cached_property
    def _tensors(self) -> dict[str, torch.Tensor]:
        """Every modality as float32 and "label" as int64 or bool, over all items; float32 is shared with the data."""
        tensors = {name: torch.from_numpy(_shared(array)) for name, array in self.data.features.items()}
        label = self.data.label
        return tensors | {"label": torch.from_numpy(label.astype(bool if label.ndim == 2 else np.int64))}


def _shared(array: np.ndarray) -> np.ndarray:
    # PyTorch takes no reversed rows, and warns of memory that it may not write to, such as that of a mapped file.
    return np.require(array, np.float32, "CW")


def _loader_of(items: PairedItems) -> DataLoader:
    return DataLoader(items, batch_size=EVALUATION_BATCH_SIZE, collate_fn=_unchanged)
