"""The base of every data module: items of several modalities, split into parts, as batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from datamodules.batches import Batch
from datamodules.errors import DataError, check_choice, require_modalities
from datamodules.features.precompute import FrozenNetwork, precompute
from datamodules.files.media import broken_files
from datamodules.items import ItemSet
from datamodules.modalities import Modality
from datamodules.noisy_labels import noisy_labels, parse_labels
from datamodules.splits import carve_groups, seen_unseen, split_paired


class RetrievalData(L.LightningDataModule):
    """Items of several modalities, split into training, validation and test parts; `datamodules.batches` says as what.

    A subclass sets `dataset`, `features` and `data_kind`, and `test_split` where its test items are not a "standard"
    split, and implements `read`. Data are read once, on first use, and every property works without a Trainer. What
    frozen networks make of a modality is put into the batches by `precompute`.

    Args:
        modalities: those to use, in the order of the ring; all by default.
        batch_size: items per training batch and process.
        validation_fraction: share of the training items carved off for validation, in whole groups where the data have
            groups (subjects). A data set with validation items of its own keeps those. 0: train on training and
            validation items, validate on none.
        split_seed: draws the validation items, and the test items of a data set without a split.
        shuffle_seed: draws the training order and, where an item has several entries of a modality, one of them; the
            order depends on this seed and the epoch alone.
        paired_fraction: share of the training items whose pairing is used, above 0, at most 1. The others are no part
            of the training batches; :meth:`unpaired_entries` hands out their modalities as unpaired samples.
        on_missing: "refuse" or "drop" items that lack a modality.
        on_broken: "refuse" or "drop" items with a file that cannot be read; all are read before training.
        class_split: "standard", or "zero-shot": train on one half of the classes, test on items of the "seen" and of
            the "unseen" half.
        class_seed: draws the half of the classes that is seen.
        labels: of the training and validation items: "class"; "instance", every item another; "clusters-K", K clusters
            of the training items; "merged-K", the classes joined to K; or "flips-P", P per cent of them wrong
            (:func:`datamodules.noisy_labels.noisy_labels`). The test items keep their classes.
        label_seed: draws the clusters, merged classes and flips.

    Raises:
        ValueError: an argument outside its range.
        DataError: on first use of data that are missing, cannot be read or do not allow what is asked for.
    """

    dataset: str
    features: str
    data_kind: Literal["real", "synthetic"]
    test_split: str = "standard"
    zero_shot_splits: ClassVar[tuple[str, ...]] = ("seen", "unseen")
    evaluation_batch_size: ClassVar[int] = 256

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
        labels: str = "class",
        label_seed: int = 0,
        paired_fraction: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value, fits, expected in (
            ("batch_size", batch_size, batch_size >= 1, "at least 1"),
            ("validation_fraction", validation_fraction, 0 <= validation_fraction < 1, "0 (none) up to 1"),
            ("paired_fraction", paired_fraction, 0 < paired_fraction <= 1, "above 0, at most 1"),
            ("split_seed", split_seed, split_seed >= 0, "0 or more"),
            ("shuffle_seed", shuffle_seed, shuffle_seed >= 0, "0 or more"),
            ("class_seed", class_seed, class_seed >= 0, "0 or more"),
            ("label_seed", label_seed, label_seed >= 0, "0 or more"),
        ):
            if not fits:
                raise ValueError(f"{name} is {value}; expected {expected}.")
        check_choice("on_missing", on_missing, ("refuse", "drop"))
        check_choice("on_broken", on_broken, ("refuse", "drop"))
        check_choice("class_split", class_split, ("standard", "zero-shot"))
        parse_labels(labels)
        self.chosen = None if modalities is None else tuple(modalities)
        self.batch_size, self.paired_fraction = batch_size, paired_fraction
        self.validation_fraction = validation_fraction
        self.split_seed, self.class_seed, self.shuffle_seed = split_seed, class_seed, shuffle_seed
        self.class_split, self.labels, self.label_seed = class_split, labels, label_seed
        self.on_missing, self.on_broken = on_missing, on_broken
        self._unreadable: dict[str, str] = {}
        self._precomputed: dict[str, Modality] = {}  # what was made of modalities

    def read(self) -> ItemSet:
        """Read the whole data set; implemented by each data set, called once."""
        raise NotImplementedError(f"{type(self).__name__} must implement read() -> ItemSet.")

    def wanted(self, available: Sequence[str]) -> tuple[str, ...]:
        """Modalities to read, in order: those chosen, of those that the data set has.

        Raises:
            DataError: one that the data set does not have.
        """
        chosen = tuple(available) if self.chosen is None else self.chosen
        require_modalities(chosen, available, self.dataset)
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
        data = self.read()
        wanted = self.wanted(tuple(data.modalities))
        data = data if wanted == tuple(data.modalities) else data.select(wanted)
        return data, self._unreadable | broken_files(data)

    @cached_property
    def data(self) -> ItemSet:
        """The chosen modalities of the data set, read on first use, without what is to be dropped."""
        data, broken = self.inspect()
        if broken and self.on_broken == "refuse":
            first = next(iter(broken.values()))
            raise DataError(f"{len(broken)} item(s) with a broken file: {first} Or set on_broken to 'drop'.")
        return (data.without(set(broken)) if broken else data).complete(self.on_missing)

    def share(self, other: RetrievalData) -> None:
        """Take what another data module of the same files has read, in place of reading it again."""
        self.data = other.data

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.data.modalities)

    @property
    def dims(self) -> dict[str, Any]:
        """Modality -> width of its vectors; of others "kind", "shape" (of a step) and "rate" (Hz, of sound)."""
        return {
            name: modality.shape[0]
            if modality.kind == "vector"
            else {"kind": modality.kind, "shape": list(modality.shape), "rate": modality.rate}
            for name, modality in self.data.modalities.items()
        }

    @classmethod
    def split_names(cls, class_split: str) -> tuple[str, ...]:
        """Names of the test parts under a class split, in the order of `test_dataloader`."""
        return (cls.test_split,) if class_split == "standard" else cls.zero_shot_splits

    @property
    def test_splits(self) -> tuple[str, ...]:
        return self.split_names(self.class_split)

    @cached_property
    def digest(self) -> str:
        """sha256 of the data."""
        return self.data.digest()

    @cached_property
    def learned_digest(self) -> str:
        """sha256 of the items that a model is trained on or chosen by, whatever the test items are."""
        return self.data.digest([self.indices(split) for split in ("train", "unpaired", "validation")])

    @cached_property
    def class_halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the classes that are trained on, and of those that are not: none in the standard split."""
        names = self.data.class_names
        classes = np.unique(self.data.label) if names is None else np.arange(len(names))
        if self.class_split == "standard":
            return classes, classes[:0]
        seen, unseen = seen_unseen(len(classes), self.class_seed)
        return classes[seen], classes[unseen]

    # Which items belong where -----------------------------------------------------------------------------------

    def indices(self, split: str) -> np.ndarray:
        """Items of "train", "unpaired", "validation" or one of `test_splits`, ascending."""
        if split not in self._parts:
            raise ValueError(f"split {split!r} is unknown; {self.dataset} has {', '.join(self._parts)}.")
        return self._parts[split]

    @cached_property
    def _parts(self) -> dict[str, np.ndarray]:
        seen, unseen = map(self.data.has_class, self.class_halves)
        mixed = seen & unseen
        if mixed.any():
            rank_zero_info(f"{self.dataset}: {mixed.sum()} items with both seen and unseen classes are left out.")
        of_split = {name: self.data.split == name for name in ("train", "validation", "test")}
        train, validation = self._carved(*(np.flatnonzero(of_split[s] & ~unseen) for s in ("train", "validation")))
        paired, unpaired = split_paired(train, self.paired_fraction, self.split_seed)
        parts = {"train": paired, "unpaired": unpaired, "validation": validation}
        kept = {"seen": seen & ~mixed, "unseen": unseen & ~mixed, "generalised": ~mixed}
        for name in self.test_splits:
            parts[name] = np.flatnonzero(of_split["test"] & kept.get(name, True))
        for name, index in parts.items():
            if not len(index) and name not in ("unpaired", "validation"):
                raise DataError(f"{self.data.origin}: no items in the {name} part of the {self.class_split} split.")
        return parts

    def _carved(self, train: np.ndarray, validation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The training and the validation items, made of those that the data set calls so."""
        if self.validation_fraction == 0:
            return np.union1d(train, validation), np.arange(0)
        return (train, validation) if len(validation) else self.carve(train)

    def carve(self, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Training items, divided into those that stay and those held out for validation."""
        group = np.arange(len(self.data)) if self.data.group is None else self.data.group
        return carve_groups(group, train, self.validation_fraction, self.split_seed)

    # Entries ----------------------------------------------------------------------------------------------------

    def precompute(self, networks: Mapping[str, FrozenNetwork]) -> None:
        """Put what frozen networks return for every entry into the batches, from the disk where they ran before.

        Args:
            networks: modality -> the network whose output takes the place of its entries.
        """
        for name, network in networks.items():
            self._precomputed[name] = precompute(self.data.modalities[name], network)

    def entries(self, name: str) -> Modality:
        """Entries of a modality, or what was precomputed of them."""
        return self._precomputed.get(name, self.data.modalities[name])

    def raw_entries(self, name: str, split: str) -> list[Any]:
        """Entries of a modality that belong to items of a split, as they were read."""
        modality = self.data.modalities[name]
        return [modality.entries[entry] for entry in modality.of_items(self._index(split)).tolist()]

    def train_entries(self, name: str) -> tuple[Any, Tensor | None]:
        """Entries of a modality that belong to training items, as `Modality.rows` gives them with their mask."""
        return self._rows(name, "train")

    def entries_to_fit(self, name: str) -> tuple[Any, Tensor | None]:
        """As `train_entries`; but all entries of vectors, with the mask (n,) of those, so that none is copied."""
        entries = self.entries(name)
        if entries.kind != "vector":
            return self.train_entries(name)
        mask = torch.zeros(len(entries.tensors), dtype=torch.bool)
        mask[entries.of_items(self._index("train"))] = True
        return entries.tensors, mask

    def train_labels_of_items(self) -> Tensor:
        """(n,) or (n, C) labels of the training items, as the training batches bring them."""
        return self._learned_label[self._index("train")]

    def unpaired_entries(self, name: str) -> tuple[Any, Tensor | None]:
        """Entries of a modality that count as samples without a partner, with their mask.

        They are those of the training items whose pairing is not used; where a paired item has several entries of the
        modality (captions), all those of the paired items too, since a batch holds one entry of an item alone; and
        those that the data bring without a partner (`ItemSet.unpaired`).
        """
        several = (self.entries(name).count[self._index("train")] > 1).any()
        rows, mask = self._rows(name, "unpaired", *["train"] * bool(several))
        if name in self.data.unpaired:
            rows = torch.cat([rows, torch.from_numpy(self.data.unpaired[name].astype(np.float32))])
        return rows, mask

    def arrays(self, split: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Vectors and labels of a split as NumPy arrays, for methods that are not trained by gradient descent.

        Of items with several entries of a modality, as many rows as of the one that has most; the others recur.
        """
        items, entries = self._index(split), {name: self.entries(name) for name in self.modalities}
        rows = torch.stack([e.count[items] for e in entries.values()]).amax(dim=0)
        items = torch.repeat_interleave(items, rows)
        place = torch.arange(len(items)) - torch.repeat_interleave(rows.cumsum(0) - rows, rows)
        index = {name: e.first[items] + place % e.count[items] for name, e in entries.items()}
        return {name: e.rows(index[name])[0].numpy() for name, e in entries.items()}, self._label[items].numpy()

    def _rows(self, name: str, *splits: str) -> tuple[Any, Tensor | None]:
        entries, items = self.entries(name), torch.cat([self._index(split) for split in splits])
        return entries.rows(entries.of_items(items.sort().values))

    def _index(self, split: str) -> Tensor:
        return torch.from_numpy(self.indices(split))

    # Batches ----------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Read, and check files, in one process before the others do."""
        _ = self.data

    def train_dataloader(self) -> DataLoader:
        items = self.indices("train")
        # Dropping the remainder keeps an item from standing twice in one global batch, as its own false negative.
        sampler = DistributedSampler(
            items, *self._share(len(items)), shuffle=self._shuffled, seed=self.shuffle_seed, drop_last=True
        )
        # By keyword throughout: Lightning rebuilds loaders, and finds only keywords again.
        return DataLoader(
            dataset=items,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=len(sampler) > self.batch_size,
            collate_fn=partial(self._training_batch, self._learned_label, sampler),
        )

    def _share(self, items: int) -> tuple[int, int]:
        """Number of processes among which the training items are shared, and rank of this one."""
        if self.trainer is None:
            return 1, 0
        processes = self.trainer.world_size
        if items < processes:
            raise DataError(
                f"{self.data.origin}: {items} training items for {processes} processes, and each needs one of its own; "
                f"start at most {items} (--trainer.devices times --trainer.num_nodes)."
            )
        return processes, self.trainer.global_rank

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        return self._loader_of("validation", self.ids("validation")) if len(self.indices("validation")) else []

    def test_dataloader(self) -> list[DataLoader]:
        """One loader per name in `test_splits`."""
        return [self._loader_of(name, self.ids(name)) for name in self.test_splits]

    def predict_dataloader(self) -> DataLoader:
        """All test items, in order, each entry with its number as id."""
        return self._loader_of(self.test_splits[-1], ids={})

    def _loader_of(self, split: str, ids: Mapping[str, Tensor]) -> DataLoader:
        label = self._learned_label if split == "validation" else self._label
        return DataLoader(
            dataset=self.indices(split),
            batch_size=self.evaluation_batch_size,
            collate_fn=partial(self._evaluation_batch, split, ids, label),
        )

    def _training_batch(self, label: Tensor, sampler: DistributedSampler, chosen: Sequence[np.integer]) -> Batch:
        """One entry of every modality of some items, drawn anew in every epoch where an item has several."""
        items = torch.from_numpy(np.array(chosen))
        # From seed, epoch and items alone, so that a resumed run draws what an uninterrupted one would have.
        generator = np.random.default_rng((self.shuffle_seed, sampler.epoch, *items[:2].tolist()))
        batch: dict[str, Any] = {"label": label[items], "id": items, "masks": {}}
        for name in self.modalities:
            entries = self.entries(name)
            offset = torch.from_numpy(generator.random(len(items))) * entries.count[items]
            self._add_entries(batch, name, entries.first[items] + offset.long())
        return batch | self._class_vectors(items)

    def _evaluation_batch(
        self, split: str, ids: Mapping[str, Tensor], label: Tensor, chosen: Sequence[np.integer]
    ) -> Batch:
        """All entries of every modality of some items; entries of one id count once."""
        items = torch.from_numpy(np.array(chosen))
        batch: dict[str, Any] = {"label": {}, "id": {}, "item": {}, "masks": {}, "split": split}
        for name in self.modalities:
            entries = self.entries(name)
            index = entries.of_items(items)
            owner = torch.repeat_interleave(items, entries.count[items])
            self._add_entries(batch, name, index)
            batch["label"][name], batch["item"][name] = label[owner], owner
            batch["id"][name] = ids[name][index] if name in ids else index
            if split == "generalised":
                batch.setdefault("query", {})[name] = self._unseen[owner]
        return batch | self._class_vectors(items)

    def _add_entries(self, batch: dict[str, Any], name: str, index: Tensor) -> None:
        batch[name], mask = self.entries(name).rows(index)
        if mask is not None:
            batch["masks"][name] = mask

    def _class_vectors(self, items: Tensor) -> dict[str, Tensor]:
        """ "class_embedding" of some items, where the data bring embeddings of their classes."""
        return {}

    def ids(self, split: str) -> dict[str, Tensor]:
        """Modality -> (entries,) ids, of the modalities in which several entries of a part count once."""
        return {}

    _shuffled = True  # whether every epoch has an order of its own

    @cached_property
    def _label(self) -> Tensor:
        return torch.from_numpy(self.data.label.astype(bool if self.data.label.ndim == 2 else np.int64))

    @cached_property
    def _unseen(self) -> Tensor:
        """(N,) bool, True for items of classes that are not trained on."""
        return torch.from_numpy(self.data.has_class(self.class_halves[1]))

    @cached_property
    def _learned_label(self) -> Tensor:
        """Labels that a model is trained and chosen by."""
        if self.labels == "class":
            return self._label
        parts = (self.indices(part) for part in ("train", "validation"))
        return torch.from_numpy(noisy_labels(self.data, *parts, self.labels, self.label_seed))
