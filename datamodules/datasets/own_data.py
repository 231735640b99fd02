"""Data of one's own, in whatever form they are: features or raw texts, images and sounds, of two modalities or more."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.errors import DataError
from datamodules.features.texts import BUNDLED, ONE_HOT
from datamodules.files.array_files import CLASS_EMBEDDING_FILE
from datamodules.files.extracted_features import networks_of, read_extracted
from datamodules.files.feature_files import TABLES, Own, class_embedding_of, find_source, read_features
from datamodules.files.labels import class_labels, require_one_kind, require_trained, split_of, text_list
from datamodules.files.manifests import parallel_texts, read_manifest
from datamodules.files.rows import decoding
from datamodules.items import ItemSet, Modality
from datamodules.paired_features import FeatureDataModule
from datamodules.repeats import samples_of_rows
from datamodules.splits import carve_groups, carve_validation

# Widths of image, text and class embedding -> what the features with which others published are called in tables.
AS_PUBLISHED = {(4096, 300, 300): "cnn4096-doc300"}
RANDOM = "random"
FROM_FILE = "split from the file"
MANY = 1000  # classes, of which a one-hot embedding would be too wide


class OwnData(FeatureDataModule):
    """Features or a manifest of two modalities or more, from a file or folder whose form is found out; see the docs.

    What was understood is said once, and by `describe`. Data without labels match item by item. Where an image stands
    beside each of its captions it counts once in a gallery, and goes to one part with all of them: by ids, or, in
    features without ids, where equal rows say so (`datamodules.repeats.repeated_rows`).

    Without a split in the data the test items are drawn class by class, and without validation items these are drawn
    from the training items; where every item has a class of its own, items are drawn from all.

    With two modalities of features and labels, batches bring the embedding of the class, which JFSE reads: that of the
    data, else of the class names by all-MiniLM-L6-v2, or one-hot where there are numbers alone and at most 1000.

    Args:
        path: file or folder; `datamodules.files.feature_files.read_features` and `datamodules.files.manifests` say
            which forms are known.
        split: the array or column that says of each item train, validation or test; None: that called split, else
            drawn; "random": drawn, whatever the data say.
        fractions: shares of training, validation and test items where they are drawn, which sum to 1.
        seed: draws them.
        dataset: name of the data set in results.
        class_encoder: see `FeatureDataModule`.
        validation_fraction: share of the training items drawn for validation; None: as `fractions` say.
        **kwargs: see FeatureDataModule.
    """

    data_kind = "real"
    _notes: Sequence[str] = ()
    _drawn = ""  # where the split is from
    _said = False  # whether what was understood has been

    def __init__(
        self,
        path: str | Path,
        split: str | None = None,
        fractions: Sequence[float] = (0.7, 0.1, 0.2),
        seed: int = 0,
        dataset: str = "own",
        class_encoder: str | None = None,
        validation_fraction: float | None = None,
        **kwargs: Any,
    ) -> None:
        if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
            raise ValueError(
                f"fractions are {list(fractions)}; expected the shares of training, validation and test items, each "
                "above 0, with sum 1."
            )
        if validation_fraction is None:
            validation_fraction = fractions[1] / (fractions[0] + fractions[1])
        super().__init__(
            class_encoder=class_encoder, validation_fraction=validation_fraction, split_seed=seed, **kwargs
        )
        self.path, self.split, self.fractions, self.seed, self.dataset = path, split, tuple(fractions), seed, dataset

    # What was understood ----------------------------------------------------------------------------------------

    def describe(self) -> str:
        """One line: modalities with their widths, numbers of items and classes, where the split is from."""
        data = self.data
        said = ", ".join(f"{name} {_described(modality, len(data))}" for name, modality in data.modalities.items())
        classes = data.label.shape[1] if data.label.ndim == 2 else len(np.unique(data.label))
        matching = f"{classes:,} classes" + ", several per item" * (data.label.ndim == 2)
        if not self.labelled:
            matching = "no labels (each item matches itself)"
        parts = ("train", "validation", *self.test_splits)
        counts = ", ".join(f"{len(self.indices(part)):,} {'test' if part == 'standard' else part}" for part in parts)
        notes = "".join(f"; {note}" for note in self._notes)
        read = f"{len(data.modalities)} modalities: {said}; {len(data):,} items, {matching}"
        return f"{read}, {self._drawn} ({counts}){notes}"

    @property
    def labelled(self) -> bool:
        """Whether the items have labels; without, each matches itself alone."""
        return self.data.class_names is not None

    def prepare_data(self) -> None:
        """As every data module, and say what was understood."""
        super().prepare_data()
        if not self._said:
            rank_zero_info(f"{self.source}: {self.describe()}")
        self._said = True

    @cached_property
    def source(self) -> Path:
        """The file, or the folder in a layout of separate ones."""
        path = Path(self.path).expanduser()
        return path if parallel_texts(path) else find_source(path)

    @property
    def _extracted(self) -> bool:
        return self.source.suffix.lower() == ".safetensors"

    @property
    def features(self) -> str:
        """The networks that made them, where the file says so; else a name of published ones, or "own".

        Features are called as published ones are where image, text and class embedding have their widths, and the class
        embedding and the split are the data's own.

        Raises:
            DataError: the data cannot be read.
        """
        if self._extracted:
            return ", ".join(networks_of(self.source).values())
        widths = tuple(array.shape[1] for array in self.data.vectors.values())
        if self._drawn != FROM_FILE or not self.has_class_embedding or self.class_encoder != "from-data":
            return "own"
        return AS_PUBLISHED.get((*widths, self.class_embedding.shape[1]), "own")

    # Class embeddings -------------------------------------------------------------------------------------------

    @property
    def has_class_embedding(self) -> bool:
        """Whether batches bring the embedding of the class."""
        if not super().has_class_embedding:
            return False
        given = self._class_encoder is not None or self.data.class_embedding is not None
        two_vectors = len(self.data.vectors) == len(self.data.modalities) == 2
        return given or (two_vectors and self.labelled)

    @cached_property
    def digest(self) -> str:
        """sha256 of the data, and of the class encoder with its weights where batches bring its embeddings."""
        return super().digest if self.has_class_embedding else self.data.digest()

    @property
    def class_encoder(self) -> str:
        if self._class_encoder is not None:
            return self._class_encoder
        # Of what `extract` made, classes that are single items have names that say nothing, and others are embedded.
        alone = len(self.class_names) == len(self.data)
        if self.data.class_embedding is not None and (alone or not self._extracted):
            return "from-data"
        return ONE_HOT if self._numbered and len(self.class_names) <= MANY else BUNDLED

    @class_encoder.setter
    def class_encoder(self, encoder: str | None) -> None:
        self._class_encoder = encoder

    @property
    def _numbered(self) -> bool:
        return all(re.fullmatch(r"class -?\d+", name) for name in self.class_names)

    @cached_property
    def class_embedding(self) -> torch.Tensor:
        if self.class_encoder not in (ONE_HOT, "from-data") and self._numbered:
            rank_zero_warn(
                f"{self.data.origin}: class names are unknown, and {self.class_encoder} embeds "
                f"{self.class_names[0]!r} to {self.class_names[-1]!r}; add an array class_names, or choose "
                "class_encoder one-hot or from-data, where a model uses class embeddings."
            )
        return super().class_embedding

    def share(self, other: OwnData) -> None:
        super().share(other)
        self._notes, self._drawn = other._notes, other._drawn

    # Reading ----------------------------------------------------------------------------------------------------

    def read(self) -> ItemSet:
        source = self.source
        try:
            with decoding(source, "data of one's own"):  # what a damaged file holds may look whole to its parser
                if self._extracted:
                    self._drawn = FROM_FILE
                    return read_extracted(source)
                read = read_manifest if source.suffix.lower() in TABLES or parallel_texts(source) else read_features
                return self._items(read(source, self.chosen, None if self.split == RANDOM else self.split), str(source))
        except DataError as error:
            if str(source) in str(error):
                raise
            raise DataError(f"{source}: {error}") from error

    def _items(self, own: Own, origin: str) -> ItemSet:
        """The items with numbered labels and their split."""
        self._notes, self._drawn = own.notes, FROM_FILE if self.split is None else f"split from {self.split!r}"
        if own.split is None or self.split == RANDOM:
            shares = " / ".join(f"{100 * share:g}" for share in self.fractions)
            split, self._drawn = None, f"split drawn by seed {self.split_seed} as {shares} %"
        else:
            split = split_of(own.split, f"{origin}, split")
        names, embedding = own.class_names, own.class_embedding
        names = None if names is None else text_list(np.asarray(names), f"{origin}, class_names")
        if own.label is None:
            label, class_names, places = np.arange(len(own.names)), None, None
        else:
            if split is not None:
                require_one_kind(own.label, split, origin)
            known = None if embedding is None else len(embedding)
            label, class_names, places = class_labels(own.label, f"{origin}, label", names, known)
            if split is not None and label.ndim == 1:
                require_trained(label, split, class_names, origin)
            elif split is not None:
                tested, trained = (label[of].any(axis=0) for of in (split == "test", split != "test"))
                if count := int((tested & ~trained).sum()):
                    own.notes.append(f"{count} class(es) of test items without a training item")
        if embedding is not None and places is not None:
            embedding = embedding[places]
        split = self._draw(own, label, origin) if split is None else split
        if own.embedding_of_each is not None:
            train, file = label[split == "train"], f"{origin}/{CLASS_EMBEDDING_FILE}"
            embedding = class_embedding_of(own.embedding_of_each, train, len(class_names), file)
        return ItemSet(own.modalities, label, split, own.names, origin, None, class_names, embedding, own.unpaired)

    def _draw(self, own: Own, label: np.ndarray, origin: str) -> np.ndarray:
        """Test items, class by class; of an image with several captions, all rows or none."""
        rows, said = np.arange(len(label)), f"{origin}: the {len(label)} rows"
        sample = samples_of_rows(_aligned(own.modalities), label, rows, said)
        samples = np.unique(sample)
        alone = label.ndim == 1 and len(np.unique(label[samples])) == len(samples)
        _, test = (carve_groups if alone else carve_validation)(label, samples, self.fractions[2], self.split_seed)
        return np.where(np.isin(sample, test), "test", "train")

    def carve(self, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Validation items drawn class by class, an image with all of its captions; or whole classes of one image."""
        label, test = self.data.label, self.data.split == "test"
        # An item matches itself alone; or in data with repeated rows no test item matches one of training.
        if label.ndim == 1 and (
            len(np.unique(label)) == len(label) or (self.repeated and not np.isin(label[test], label[~test]).any())
        ):
            return carve_groups(label, train, self.validation_fraction, self.split_seed)
        sample = samples_of_rows(_aligned(self.data.modalities), label, train)
        _, drawn = carve_validation(label, np.unique(sample), self.validation_fraction, self.split_seed)
        held_out = np.isin(sample, drawn)
        return train[~held_out], train[held_out]

    @cached_property
    def repeated(self) -> tuple[str, ...]:
        """As of all features; none where the data say by ids which entries belong together."""
        return super().repeated if _aligned(self.data.modalities) else ()


def _aligned(modalities: dict[str, Modality]) -> dict[str, np.ndarray]:
    """Vectors of modalities that have a row per item; none where one has entries of its own."""
    if any(modality.owner is not None for modality in modalities.values()):
        return {}
    return {name: modality.entries for name, modality in modalities.items() if modality.kind == "vector"}


def _described(modality: Modality, items: int) -> str:
    count = len(modality.entries)
    if modality.kind == "vector":
        return f"{modality.shape[0]}-d" + f" ({count:,})" * (count != items)
    return f"({count:,} {modality.kind}s)"
