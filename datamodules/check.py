"""What is in a data set of several raw modalities, what is missing from it and what is broken."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from datamodules.features import SPLITS, DataError
from datamodules.flickr8k import Flickr8kTriples
from datamodules.flickr30k_narratives import Flickr30kNarratives
from datamodules.items import ItemSet, Modality, listed
from datamodules.motion_text import HumanML3D
from datamodules.multimodal import ItemDataModule
from datamodules.utd_mhad import UTDMHAD

# Data set -> what its folder can be read as.
ITEM_MODULES: dict[str, dict[str, Callable[[Path], ItemDataModule]]] = {
    "utd_mhad": {f: lambda root, f=f: UTDMHAD(root, features=f) for f in ("16f", "raw")},
    "flickr8k_tri": {"raw": Flickr8kTriples},
    "flickr30k": {"raw": Flickr30kNarratives},
    "humanml3d": {"new_joint_vecs": HumanML3D},
    "kit_ml": {"new_joint_vecs": lambda root: HumanML3D(root, dataset="kit_ml")},
}


def check_items(dataset: str, root: Path) -> int:
    """Print what a data set holds, every file read once; return the number of troubles."""
    trouble = 0
    for features, make in ITEM_MODULES[dataset].items():
        try:
            with warnings.catch_warnings(action="ignore"):  # what is broken is printed below
                data, broken = make(root).inspect()
        except DataError as error:
            print(f"BROKEN   {features}: {error}")
            trouble += 1
            continue
        describe_items(features, data)
        for name, lacking in data.missing().items():
            items = [item for item in lacking if item not in broken]
            if not items:
                continue
            trouble += 1
            print(f"MISSING  {features}: {name} of {len(items)} of {len(data)} items: {listed(items)}")
        for item, reason in broken.items():
            print(f"BROKEN   {features}: {item}: {reason}")
        trouble += len(broken)
    return trouble


def describe_items(features: str, data: ItemSet) -> None:
    """Print items per split, and entries and sizes per modality."""
    counts = ", ".join(f"{np.count_nonzero(data.split == split)} {split}" for split in SPLITS)
    print(f"ok       {features}: {data.origin}: {len(data)} items ({counts}), {len(np.unique(data.label))} labels")
    for name, modality in data.modalities.items():
        print(f"         {name}: {len(modality.entries)} entries{_size(modality)}")


def _size(modality: Modality) -> str:
    if modality.kind == "file":
        return " in files" + f", {modality.rate} samples per second" * (modality.rate is not None)
    if not len(modality.entries) or modality.kind == "vector":
        return f" of {modality.shape}" * (modality.kind == "vector")
    length = [len(entry.split() if isinstance(entry, str) else entry) for entry in modality.entries]
    unit = "words" if modality.kind == "text" else f"steps of {modality.shape}"
    return f", {min(length)} to {max(length)} {unit}"
