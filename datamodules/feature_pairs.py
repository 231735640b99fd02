"""Any paired features that the user brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import FeatureDataModule
from datamodules.extracted_features import untrained
from datamodules.feature_files import read_feature_pairs
from datamodules.features import FeatureSet
from datamodules.splits import carve_groups


class FeaturePairs(FeatureDataModule):
    """Paired features with class labels from an .npz file, a folder in the layout of ACMR, JFSE or DSCMR, or `extract`.

    `python -m datamodules extract` writes files of features of two or more modalities. Where it read items that match
    themselves alone, every item is a class of its own, and the validation items are drawn from all training items.

    An .npz file holds image (N, d), text (N, e) and label, (N,) or (N, C). It may hold split (N,), class_names (C,),
    class_embedding (C, E), and samples without a partner: unpaired_image (n, d), unpaired_text (m, e), or one of them.
    Those have no label and no split. They are training data that :meth:`unpaired_entries` alone hands out, together
    with what `paired_fraction` sets free; nobody checks their classes, so that under class_split "zero-shot" it is for
    the user to leave out samples of unseen classes, as it is always to leave out those of test items.

    Args:
        path: file or folder; `datamodules.feature_files.read_feature_pairs` says which layouts it knows.
        dataset: name of the data set in results.
        features: name of the features in results; where a network of random weights made them, that is added to it.
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
        features: str = "own",
        test_fraction: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.dataset = dataset
        self.named_features = features
        self.test_fraction = test_fraction

    @property
    def features(self) -> str:
        path = Path(self.path).expanduser()
        random = untrained(path) if path.suffix == ".safetensors" and path.is_file() else {}
        return self.named_features + "".join(f", untrained {name}" for name in random)

    def read(self) -> FeatureSet:
        return read_feature_pairs(self.path, self.test_fraction, self.split_seed)

    def _training_parts(self, train: np.ndarray, validation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        label = self.data.label
        alone = label.ndim == 1 and len(np.unique(label)) == len(label)
        if alone and not len(validation) and self.validation_fraction and not self.as_published:
            return carve_groups(label, train, self.validation_fraction, self.split_seed)
        return super()._training_parts(train, validation)
