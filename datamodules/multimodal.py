"""Items of several raw modalities as padded batches: what the data sets of LAVIMO share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from datamodules.base import training_share
from datamodules.entries import Entries, EvaluationItems, TrainingItems
from datamodules.errors import DataError
from datamodules.features.derived import FrontEnd, broken_files, derive
from datamodules.items import ItemSet
from datamodules.pseudo_labels import cluster_items
from datamodules.splits import LEARNED, carve_groups, seen_unseen, split_paired

EVALUATION_BATCH_SIZE = 256


class _EpochSampler(DistributedSampler):
    """A distributed sampler that tells the data set which epoch it is."""

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.dataset.epoch = epoch


def _unchanged(batch: dict[str, Any]) -> dict[str, Any]:
    return batch


class ItemDataModule(L.LightningDataModule):
    """Items of several raw modalities, split into training, validation and test parts.

    A subclass sets `dataset`, `features`, `data_kind` and `test_split`, and implements `read`. Data are read once, on
    first use. A training batch maps modality -> tensor (B, ...), "label" and "id" -> (B,), and "masks" -> {modality ->
    (B, T) bool} for sequences, with one entry per item. In evaluation an item brings all its entries: there "label",
    "id" and "item" are mappings modality -> (n,), the item being the one that an entry belongs to. A model hands in
    the fixed part of an encoder with `derive`; texts and files are then batches of what it returns.

    Args:
        modalities: those to use, in the order of the ring; all by default.
        batch_size: items per training batch and process.
        validation_fraction: share of the training items carved off for validation, in whole groups where the data have
            groups (subjects). A data set with validation items of its own keeps those. 0: train on training and
            validation items, validate on none.
        split_seed: draws the validation items, and the test items of a data set without a split.
        shuffle_seed: draws the training order and, where an item has several entries of a modality, one of them.
        paired_fraction: share of the training items whose pairing is used, above 0, at most 1. The others are no part
            of the training batches; :meth:`unpaired_entries` hands out their modalities as unpaired samples, with
            all entries of modalities of which a paired item has several.
        on_missing: "refuse" or "drop" items that lack a modality.
        on_broken: "refuse" or "drop" items with a file that cannot be read; all are read before training.
        class_split: "standard", or "zero-shot": train on one half of the classes, test on items of the "seen" and of
            the "unseen" half.
        class_seed: draws the half of the classes that is seen.
        train_labels: labels of the training batches: "class"; "instance", every item another; or "clusters-K", K
            clusters of the training items (:func:`datamodules.pseudo_labels.cluster_items`). Validation and test keep
            the classes.

    Raises:
        ValueError: an argument outside its range.
        DataError: on first use of data that do not allow what is asked for.
    """

    dataset: str
    features: str
    data_kind: Literal["real", "synthetic"]
    test_split: str

    def __init__(
        self,
        modalities: Sequence[str] | None = None,
        batch_size: int = 64,
        validation_fraction: float = 0.15,
        split_seed: int = 0,
        shuffle_seed: int = 0,
        on_missing: Literal["refuse", "drop"] = "refuse",
        on_broken: Literal["refuse", "drop"] = "refuse",
        class_split: Literal["standard", "zero-shot"] = "standard",
        class_seed: int = 0,
        train_labels: str = "class",
        paired_fraction: float = 1.0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
        if not 0 <= validation_fraction < 1:
            raise ValueError(f"validation_fraction is {validation_fraction}; expected 0 (no validation part) up to 1.")
        if not 0 < paired_fraction <= 1:
            raise ValueError(f"paired_fraction is {paired_fraction}; expected above 0, at most 1.")
        for name, seed in (("split_seed", split_seed), ("class_seed", class_seed), ("shuffle_seed", shuffle_seed)):
            if seed < 0:
                raise ValueError(f"{name} is {seed}; expected 0 or more.")
        for name, choice in (("on_missing", on_missing), ("on_broken", on_broken)):
            if choice not in ("refuse", "drop"):
                raise ValueError(f"{name} is {choice!r}; expected 'refuse' or 'drop'.")
        if class_split not in ("standard", "zero-shot"):
            raise ValueError(f"class_split is {class_split!r}; expected 'standard' or 'zero-shot'.")
        named = re.fullmatch(r"class|instance|clusters-(\d+)", train_labels)
        if not named or (named[1] and int(named[1]) < 2):
            raise ValueError(f"train_labels is {train_labels!r}; expected class, instance or clusters-K, K at least 2.")
        self.chosen = None if modalities is None else tuple(modalities)
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.split_seed = split_seed
        self.shuffle_seed = shuffle_seed
        self.class_split, self.class_seed = class_split, class_seed
        self.on_missing = on_missing
        self.on_broken = on_broken
        self.train_labels = train_labels
        self.paired_fraction = paired_fraction
        self._unreadable: dict[str, str] = {}
        self._derived: dict[str, tuple[str, FrontEnd]] = {}
        self._entries: dict[str, Entries] = {}

    def read(self) -> ItemSet:
        """Read the whole data set; implemented by each data set, called once."""
        raise NotImplementedError(f"{type(self).__name__} must implement read() -> ItemSet.")

    def wanted(self, available: Sequence[str]) -> tuple[str, ...]:
        """Modalities that `read` should read, in order: those chosen, of those that the data set has.

        Raises:
            DataError: one that the data set does not have.
        """
        chosen = tuple(available) if self.chosen is None else self.chosen
        absent = [name for name in chosen if name not in available]
        if absent:
            raise DataError(f"{self.dataset} has no modality {absent[0]!r}; it has {', '.join(available)}.")
        return chosen

    def attempt(self, item: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function that reads a file returns; None where it raises DataError: the item then counts as broken."""
        try:
            return function(*arguments)
        except DataError as error:
            self._unreadable[item] = str(error)
            rank_zero_warn(str(error))
            return None

    # What the data are ------------------------------------------------------------------------------------------

    def inspect(self) -> tuple[ItemSet, dict[str, str]]:
        """The chosen modalities as they were read, and item -> what is wrong where a file of it cannot be read."""
        self._unreadable.clear()
        data = self.read().select(self.chosen)
        return data, self._unreadable | broken_files(data)

    @cached_property
    def data(self) -> ItemSet:
        """The chosen modalities of the data set, read on first use, without what is to be dropped."""
        data, broken = self.inspect()
        if broken and self.on_broken == "refuse":
            first = next(iter(broken.values()))
            raise DataError(f"{len(broken)} item(s) with a broken file: {first} Or set on_broken to 'drop'.")
        if broken:
            data = data.without(set(broken))
        return data.complete(self.on_missing)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.data.modalities)

    @property
    def dims(self) -> dict[str, dict[str, Any]]:
        """Modality -> "kind" (text, vector, sequence or file), "shape" of a vector or of one step, and "rate" (Hz)."""
        return {
            name: {"kind": modality.kind, "shape": list(modality.shape), "rate": modality.rate}
            for name, modality in self.data.modalities.items()
        }

    @property
    def test_splits(self) -> tuple[str, ...]:
        return (self.test_split,) if self.class_split == "standard" else ("seen", "unseen")

    @cached_property
    def digest(self) -> str:
        """sha256 of the data."""
        return self.data.digest()

    @cached_property
    def learned_digest(self) -> str:
        """sha256 of the items that a model is trained on or chosen by, whatever the test items are."""
        return self.data.digest_of([self.indices(split) for split in LEARNED])

    def derive(self, name: str, front_end: FrontEnd, source: str | None = None) -> None:
        """Put what a front end returns for every entry into the batches, from the disk where it was computed before.

        Args:
            name: key in the batches.
            front_end: the fixed part of an encoder.
            source: modality whose entries it reads; by default the one called ``name``, whose place it takes.
        """
        self._derived[name] = (source or name, front_end)
        self._entries.pop(name, None)

    def entries(self, name: str) -> Entries:
        """Entries of a modality, or of what was derived from one."""
        if name not in self._entries:
            source, front_end = self._derived.get(name, (name, None))
            modality = self.data.modalities[source]
            self._entries[name] = Entries(derive(modality, front_end) if front_end else modality)
        return self._entries[name]

    def raw_entries(self, name: str, split: str) -> list[Any]:
        """Entries of a modality that belong to items of a split, as they were read."""
        modality = self.data.modalities[name]
        chosen = np.isin(modality.owners(), self.indices(split))
        return [modality.entries[entry] for entry in np.flatnonzero(chosen)]

    def train_entries(self, name: str) -> Any:
        """Entries of a modality that belong to training items, as `Entries.rows` gives them with their mask."""
        return self._rows(name, "train")

    def unpaired_entries(self, name: str) -> Any:
        """Entries of a modality that count as samples without a partner, with their mask.

        They are those of the training items whose pairing is not used and, where a paired item has several entries of
        the modality (captions), all those of the paired items too, since a batch holds one entry of an item alone.
        """
        several = (self.entries(name).count[self._index("train")] > 1).any()
        return self._rows(name, "unpaired", *["train"] * bool(several))

    def _rows(self, name: str, *splits: str) -> Any:
        entries, items = self.entries(name), torch.cat([self._index(split) for split in splits])
        return entries.rows(torch.isin(entries.owner, items).nonzero()[:, 0])

    # Which items belong where -----------------------------------------------------------------------------------

    def indices(self, split: str) -> np.ndarray:
        """Items of "train", "unpaired", "validation" or one of `test_splits`, ascending."""
        if split not in self._parts:
            raise ValueError(f"split {split!r} is unknown; {self.dataset} has {', '.join(self._parts)}.")
        return self._parts[split]

    @cached_property
    def _parts(self) -> dict[str, np.ndarray]:
        classes = np.unique(self.data.label)
        known = slice(None) if self.class_split == "standard" else seen_unseen(len(classes), self.class_seed)[0]
        seen = np.isin(self.data.label, classes[known])
        train, validation = (np.flatnonzero((self.data.split == s) & seen) for s in ("train", "validation"))
        if self.validation_fraction == 0:
            train, validation = np.union1d(train, validation), np.arange(0)
        elif not len(validation):
            group = np.arange(len(self.data)) if self.data.group is None else self.data.group
            train, validation = carve_groups(group, train, self.validation_fraction, self.split_seed)
        paired, unpaired = split_paired(train, self.paired_fraction, self.split_seed)
        parts = {"train": paired, "unpaired": unpaired, "validation": validation}
        for name, of_half in zip(self.test_splits, (seen, ~seen), strict=False):
            parts[name] = np.flatnonzero((self.data.split == "test") & of_half)
        for name, index in parts.items():
            if not len(index) and name not in ("unpaired", "validation"):
                raise DataError(f"{self.data.origin}: no items in the {name} part.")
        return parts

    def _index(self, split: str) -> Tensor:
        return torch.from_numpy(self.indices(split))

    # Batches ----------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Read, and check files, in one process before the others do."""
        _ = self.data

    def train_dataloader(self) -> DataLoader:
        entries = {name: self.entries(name) for name in dict.fromkeys((*self.modalities, *self._derived))}
        drawn_with = {name: source for name, (source, _) in self._derived.items()}
        items = TrainingItems(entries, drawn_with, self._train_label, self._index("train"), self.shuffle_seed)
        # Dropping the remainder keeps an item from standing twice in one global batch, as its own false negative.
        sampler = _EpochSampler(items, *training_share(self, len(items)), seed=self.shuffle_seed, drop_last=True)
        drop_last = len(sampler) > self.batch_size
        return DataLoader(
            items, batch_size=self.batch_size, sampler=sampler, drop_last=drop_last, collate_fn=_unchanged
        )

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        return self._evaluation_loader("validation") if len(self.indices("validation")) else []

    def test_dataloader(self) -> list[DataLoader]:
        """One loader per name in `test_splits`."""
        return [self._evaluation_loader(name) for name in self.test_splits]

    def predict_dataloader(self) -> DataLoader:
        """All test items, in order."""
        return self._evaluation_loader(self.test_splits[-1])

    def _evaluation_loader(self, split: str) -> DataLoader:
        items = EvaluationItems({n: self.entries(n) for n in self.modalities}, self._label, self._index(split))
        return DataLoader(items, batch_size=EVALUATION_BATCH_SIZE, collate_fn=_unchanged)

    @cached_property
    def _label(self) -> Tensor:
        return torch.from_numpy(self.data.label.astype(np.int64))

    @cached_property
    def _train_label(self) -> Tensor:
        if self.train_labels == "class":
            return self._label
        if self.train_labels == "instance":
            return torch.arange(len(self.data))
        index, clusters = self.indices("train"), int(self.train_labels.removeprefix("clusters-"))
        label = torch.full_like(self._label, -1)  # no other item has one
        label[index] = torch.from_numpy(cluster_items(self.data, index, clusters))
        return label
