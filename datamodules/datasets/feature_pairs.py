"""Any paired features that the user brings."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.features.texts import BUNDLED, ONE_HOT
from datamodules.files.extracted_features import networks_of, untrained
from datamodules.files.feature_files import brings_split, find_source, read_feature_pairs
from datamodules.items import ItemSet
from datamodules.paired_features import FeatureDataModule
from datamodules.repeats import samples_of_rows
from datamodules.splits import carve_groups

# Widths of image, text and class embedding -> what the features with which others published are called in tables.
AS_PUBLISHED = {(4096, 300, 300): "cnn4096-doc300"}


class FeaturePairs(FeatureDataModule):
    """Paired features with class labels from an .npz file, a folder in the layout of ACMR, JFSE or DSCMR, or `extract`.

    `python -m datamodules extract` writes files of features of two or more modalities. Where it read items that match
    themselves alone, every item is a class of its own, and the validation items are drawn from all training items.
    Where an image stands beside each of its captions, it goes to one part with all of them: test items that a file
    does not name, and validation items, are images drawn class by class, or whole classes where no test item has a
    class of training. `datamodules.repeats.repeated_rows` says when equal rows are one image.

    An .npz file holds image (N, d), text (N, e) and label, (N,) or (N, C). It may hold split (N,), class_names (C,),
    class_embedding (C, E), and samples without a partner: unpaired_image (n, d), unpaired_text (m, e), or one of them.
    Those have no label and no split. They are training data that :meth:`unpaired_entries` alone hands out, together
    with what `paired_fraction` sets free; nobody checks their classes, so that under class_split "zero-shot" it is for
    the user to leave out samples of unseen classes, as it is always to leave out those of test items.

    Args:
        path: file or folder; `datamodules.files.feature_files.read_feature_pairs` says which layouts it knows.
        dataset: name of the data set in results.
        class_encoder: see `FeatureDataModule`; by default the class embedding that an .npz file or a folder brings, and
            "all-MiniLM-L6-v2" where there is none or `extract` made the features: it has no other than of the texts.
            Of data with class numbers alone, it embeds "class 0", "class 1", ..., and a warning says so.
        test_fraction: share of test items where the data bring no split, 0 < test_fraction < 1; drawn by `split_seed`.
        **kwargs: arguments of `FeatureDataModule`.

    Raises:
        ValueError: an argument outside its range.
        DataError: on first use of data that cannot be read.
    """

    data_kind = "real"

    def __init__(
        self,
        path: str | Path,
        dataset: str = "feature-pairs",
        class_encoder: str | None = None,
        test_fraction: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(class_encoder=class_encoder, **kwargs)
        self.path = path
        self.dataset = dataset
        self.test_fraction = test_fraction

    @property
    def class_encoder(self) -> str:
        if self._class_encoder is not None:
            return self._class_encoder
        brought = self.data.class_embedding is not None and self.source.suffix != ".safetensors"
        return "from-data" if brought else BUNDLED

    @class_encoder.setter
    def class_encoder(self, encoder: str | None) -> None:
        self._class_encoder = encoder

    @property
    def features(self) -> str:
        """The networks that made them, where the file says so; else a name of published ones, or "own".

        Features are called as published ones are where image, text and class embedding have their widths, and the class
        embedding and the split are the data's own.

        Raises:
            DataError: the data cannot be read.
        """
        if self.source.suffix == ".safetensors":
            random = untrained(self.source)
            return ", ".join([*networks_of(self.source).values(), *(f"untrained {name}" for name in random)])
        if self.class_encoder != "from-data" or not brings_split(self.source):
            return "own"
        widths = tuple(array.shape[1] for array in self.data.vectors.values())
        return AS_PUBLISHED.get((*widths, self.class_embedding.shape[1]), "own")

    @cached_property
    def class_embedding(self) -> torch.Tensor:
        numbered = [name for name in self.class_names if re.fullmatch(r"class \d+", name)]
        if self.class_encoder not in (ONE_HOT, "from-data") and len(numbered) == len(self.class_names):
            rank_zero_warn(
                f"{self.data.origin}: class names are unknown, and {self.class_encoder} embeds {numbered[0]!r} to "
                f"{numbered[-1]!r}; add an array class_names to an .npz file, or choose class_encoder one-hot or "
                "from-data, where a model uses class embeddings."
            )
        return super().class_embedding

    @cached_property
    def source(self) -> Path:
        """The file of features, or the folder in a layout of separate ones."""
        return find_source(self.path)

    def read(self) -> ItemSet:
        return read_feature_pairs(self.source, self.test_fraction, self.split_seed)

    def carve(self, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Validation items drawn class by class, an image with all of its captions; or whole classes of one image."""
        if self._classes_are_samples():
            return carve_groups(self.data.label, train, self.validation_fraction, self.split_seed)
        sample = samples_of_rows(self.data.vectors, self.data.label, train)
        _, drawn = super().carve(np.unique(sample))
        held_out = np.isin(sample, drawn)
        return train[~held_out], train[held_out]

    def _classes_are_samples(self) -> bool:
        """Whether an item matches itself alone, or in data with repeated rows no test item matches one of training."""
        label, test = self.data.label, self.data.split == "test"
        if label.ndim == 2:
            return False
        alone = len(np.unique(label)) == len(label)
        return alone or bool(self.repeated and not np.isin(label[test], label[~test]).any())
