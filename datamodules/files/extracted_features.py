"""The file that `python -m datamodules extract` writes: features of every entry, whose they are and what made them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors import safe_open

from datamodules.errors import DataError
from datamodules.files.rows import decoding
from datamodules.items import SPLITS, ItemSet, Modality

FORMAT = "extracted features, version 1"
WHOLE = f"a whole file of {FORMAT!r}, as `python -m datamodules extract` writes it"
# Element type -> safetensors' name of it.
TYPES = {"int64": "I64", "float32": "F32", "uint8": "U8"}


def write_features(
    file: BinaryIO, data: ItemSet, features: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file with everything that a reader needs of the items.

    Its tensors: ``features/<modality>`` (n, d) float32, one row per entry; ``owner/<modality>`` (n,) int64, the item of
    each entry; ``label`` (N,) int64, classes numbered from 0; ``split`` (N,) 0, 1 or 2 for train, validation and test;
    ``item_names`` and ``class_names``, lists of texts as the bytes of their JSON. Where the items bring no class names,
    and every item has a label of its own, the classes are called as the items are.

    Args:
        file: open for writing.
        data: the items, without their features.
        features: modality -> the vectors of its entries.
        metadata: what made them; "encoders" is JSON, modality -> {"model", "weights", "sha256", "versions"}.
    """
    values, first, label = np.unique(data.label, return_index=True, return_inverse=True)
    if data.class_names is not None:
        class_names = [data.class_names[value] for value in values.tolist()]
    else:
        alone = len(values) == len(data)
        class_names = [data.names[item] for item in first] if alone else [f"class {value}" for value in values]
    tensors = {f"owner/{name}": data.modalities[name].owners() for name in features}
    tensors["label"] = label
    tensors |= {f"features/{name}": rows.astype(np.float32, copy=False) for name, rows in features.items()}
    tensors["split"] = np.array([SPLITS.index(name) for name in data.split.tolist()], dtype=np.uint8)
    for name, texts in {"item_names": data.names, "class_names": class_names}.items():
        tensors[name] = np.frombuffer(json.dumps(list(texts)).encode(), dtype=np.uint8)
    write_safetensors(file, tensors, {"format": FORMAT, **metadata})


def write_safetensors(file: BinaryIO, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write the safetensors format: the header's length (8 bytes), the header as JSON, the tensors one by one.

    The same file every time: the library writes the metadata in an order that changes from process to process.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    begin = 0
    for name, array in tensors.items():
        offsets = [begin, begin + array.nbytes]
        header[name] = {"dtype": TYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
        begin = offsets[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for array in tensors.values():
        file.write(np.ascontiguousarray(array).data)


def read_metadata(path: Path) -> dict[str, str]:
    """What made the features of a file; a DataError where it is none that `extract` wrote."""
    with decoding(path, WHOLE), safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise DataError(f"{path}: says {metadata.get('format', 'no')!r} as its format; expected {WHOLE}.")
    return metadata


def networks_of(path: Path) -> dict[str, str]:
    """Modality -> the model that made its features, with the file of its weights where they were the user's."""
    with decoding(path, WHOLE):
        said = json.loads(read_metadata(path)["encoders"])
        made = {name: (str(one["model"]), str(one["weights"])) for name, one in said.items()}
    if any(weights.startswith("untrained") for _, weights in made.values()):  # as version 0.1 could write them
        raise DataError(f"{path}: holds features of untrained networks; expected {WHOLE}.")
    own = {name: f" ({weights[5:]})" * weights.startswith("file ") for name, (_, weights) in made.items()}
    return {name: model + own[name] for name, (model, _) in made.items()}


def read_extracted(path: Path) -> ItemSet:
    """Read extracted features: of every item all entries of a modality, such as the captions of an image.

    With texts the set brings class embeddings (class_encoder "from-data"), for classes whose names say nothing, such as
    persons or single images: the mean text vector of a class's training items, or of all where it has none.

    Raises:
        DataError: it is not a file that `extract` wrote, or is damaged.
    """
    names_of_modalities = networks_of(path)  # in their order
    with decoding(path, WHOLE), safe_open(path, framework="np") as file:
        read = file.get_tensor
        label, split = read("label"), np.array(SPLITS)[read("split")]
        if not 0 <= label.min() <= label.max() < len(label):
            raise ValueError(f"labels run from {label.min()} to {label.max()}, of {len(label)} items")
        class_names, names = (tuple(json.loads(read(f"{x}_names").tobytes())) for x in ("class", "item"))
        modalities = {
            name: _modality(read(f"features/{name}"), read(f"owner/{name}"), len(label)) for name in names_of_modalities
        }
    embedding = None
    if "text" in modalities:
        text, train = modalities["text"], split == "train"
        of_items = text.entries if text.owner is None else _means(text.entries, text.owner)
        counted = train | ~np.isin(label, label[train])
        embedding = _means(of_items, np.where(counted, label, -1))
    return ItemSet(modalities, label, split, names, str(path), None, class_names, embedding)


def _modality(vectors: np.ndarray, owner: np.ndarray, count: int) -> Modality:
    entries = np.bincount(owner, minlength=count)
    if len(entries) > count or not entries.all() or len(owner) != len(vectors) or (np.diff(owner) < 0).any():
        raise ValueError("entries and items do not belong together")
    return Modality(vectors, None if len(owner) == count else owner)


def _means(vectors: np.ndarray, group: np.ndarray) -> np.ndarray:
    """(G, d) float32: the mean over the rows of each group 0, 1, ..., G - 1; rows of group -1 are left out."""
    rows = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group + 1))[:-1])[1:]
    # Group by group: all at once would be a copy of the vectors and their sums in float64.
    return np.stack([vectors[of_group].mean(axis=0, dtype=np.float64).astype(np.float32) for of_group in rows])
