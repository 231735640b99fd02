"""Paired features with class labels: items whose modalities are vectors, and whose classes have an embedding."""

import hashlib
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import DataError, check_choice
from datamodules.features.texts import embed_texts, encoder_identity
from datamodules.repeats import first_of_equal, repeated_rows
from datamodules.retrieval_data import RetrievalData
from datamodules.splits import carve_validation

Protocol = Literal["honest", "as_published"]


class FeatureDataModule(RetrievalData):
    """Paired features with class labels: a row of every modality per item, read as `ItemSet.of_features`.

    Batches have the "class_embedding" of their items, (B, E) float32, where `labels` is "class". Validation items are
    drawn class by class.

    In validation and test a sample counts once. Files of images with several captions hold an image's row again beside
    each: where `datamodules.repeats.repeated_rows` finds such rows in test, equal rows of equal label have the id of
    the first in validation and test batches.

    Args:
        class_encoder: "one-hot", "all-MiniLM-L6-v2" (installed with the suite), "from-data" (the embedding that came
            with the data), or the name or local folder of another sentence-transformers model.
        protocol: "honest"; or "as_published", as the public code of JFSE: train on all training items in their fixed
            order and validate on the test items, which then choose the epoch; for comparison with published
            numbers only.
        **kwargs: see RetrievalData. Under class_split "zero-shot" there is a third test part, "generalised": the items
            of the unseen half are its queries, and those of all classes its gallery.
    """

    zero_shot_splits = ("seen", "unseen", "generalised")
    evaluation_batch_size = 1024

    def __init__(self, class_encoder: str = "all-MiniLM-L6-v2", protocol: Protocol = "honest", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_choice("protocol", protocol, get_args(Protocol))
        if protocol == "as_published" and self.class_split != "standard":
            raise ValueError("as_published goes with class_split 'standard': the public code has no zero-shot split.")
        self.class_encoder, self.protocol = class_encoder, protocol
        self._shuffled = protocol == "honest"

    @cached_property
    def class_embedding(self) -> Tensor:
        """(C, E) float32, one row per class."""
        if self.class_encoder != "from-data":
            return torch.from_numpy(embed_texts(self.class_names, self.class_encoder))
        if self.data.class_embedding is None:
            raise DataError(
                f"{self.data.origin}: class_encoder is 'from-data', but the data bring no class embedding; "
                "choose 'one-hot', 'all-MiniLM-L6-v2' or another encoder."
            )
        return torch.from_numpy(self.data.class_embedding.astype(np.float32))

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.data.class_names or ())

    @property
    def has_class_embedding(self) -> bool:
        """Whether batches bring the embedding of the class; beside other labels it would tell the classes."""
        return self.labels == "class"

    @property
    def dims(self) -> dict[str, Any]:
        """Width of each modality's features, and of the class embedding where batches bring it."""
        return super().dims | ({"class_embedding": self.class_embedding.shape[1]} if self.has_class_embedding else {})

    @cached_property
    def digest(self) -> str:
        """sha256 of the data and of the class encoder with its weights."""
        return hashlib.sha256(f"{self.data.digest()} {encoder_identity(self.class_encoder)}".encode()).hexdigest()

    def train_entries(self, name: str) -> tuple[Any, Tensor | None]:
        """As every data module; and of "class_embedding" those of the training items."""
        if name == "class_embedding":
            return self._class_vectors(self._index("train"))[name], None
        return super().train_entries(name)

    def prepare_data(self) -> None:
        """As every data module, and embed the classes."""
        super().prepare_data()
        if self.has_class_embedding:
            _ = self.class_embedding

    def _class_vectors(self, items: Tensor) -> dict[str, Tensor]:
        """The embedding of items' classes, (n, E): that of the class, or the mean over the classes of an item."""
        if not self.has_class_embedding:
            return {}
        label = self._label[items]
        if label.ndim == 1:
            return {"class_embedding": self.class_embedding[label]}
        weight = label.to(self.class_embedding.dtype)
        return {"class_embedding": weight @ self.class_embedding / weight.sum(dim=1, keepdim=True)}

    def _carved(self, train: np.ndarray, validation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.protocol == "as_published":
            return np.union1d(train, validation), np.flatnonzero(self.data.split == "test")
        return super()._carved(train, validation)

    def carve(self, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Validation items drawn class by class."""
        label = self.data.label[train]
        lone = np.flatnonzero((label.sum(axis=0) if label.ndim == 2 else np.bincount(label)) == 1)
        if lone.size:
            raise DataError(
                f"{self.data.origin}: class {self.class_names[lone[0]]!r} has one training item: it cannot be in the "
                "training and the validation part; set validation_fraction to 0, or give it more items."
            )
        return carve_validation(self.data.label, train, self.validation_fraction, self.split_seed)

    @cached_property
    def repeated(self) -> tuple[str, ...]:
        """Modalities whose rows stand several times in the data and count once in validation and test."""
        test = np.flatnonzero(self.data.split == "test")
        said = f"{self.data.origin}: the {len(test)} test rows"
        return tuple(repeated_rows(self.data.vectors, self.data.label, test, said))

    def ids(self, split: str) -> dict[str, Tensor]:
        """Modality -> ids of its rows, of the modalities that have equal ones: that of the first equal row."""
        index, found = self.indices(split), {}
        for name in self.repeated:
            found[name] = torch.arange(len(self.data))
            found[name][index] = torch.from_numpy(first_of_equal(self.data.vectors[name], index, self.data.label))
        return found
