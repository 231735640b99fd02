"""Frozen networks: how they run, and what they make of a modality's entries, computed once and kept on disk."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.backends import cuda, cudnn, mkldnn
from tqdm import tqdm

from datamodules.errors import DataError
from datamodules.files.cache import cache_folder, kept_arrays
from datamodules.items import Files, Modality

# Files that are kept together until all are done. A multiple of the networks' batches, which then hold the same entries
# as if all were done at once: their numbers are the same to the last digit.
PIECE = 512
# From the general to the particular: a setting that is "none" reads as the one above it. That of mkldnn itself is left
# out, as torch sets the general one in its place; so is the older allow_tf32, which cannot be read beside these.
_PRECISIONS = (torch.backends, cudnn, cudnn.conv, cudnn.rnn, cuda.matmul, mkldnn.conv, mkldnn.rnn, mkldnn.matmul)


class FrozenNetwork(Protocol):
    """The fixed part of an encoder: a frozen network, a tokenizer, a spectrogram, an image resized.

    ``key`` changes whenever what it returns would: it names the network, its settings and the hash of its weights.
    Called with entries of a modality and their rate in Hz (None but for sound) it returns one array each: a vector
    (d,), or a sequence (T, ...).
    """

    key: str

    def __call__(self, entries: Sequence[Any], rate: int | None) -> list[np.ndarray]: ...


@contextmanager
def frozen_inference() -> Iterator[None]:
    """No gradients, float32 in full, and on a GPU the convolutions that give the same result every time.

    Precisions and flags that the program had set are as they were afterwards.
    """
    precisions, flags = [], (cudnn.benchmark, cudnn.deterministic)
    try:
        for setting in _PRECISIONS:
            precisions.append(setting.fp32_precision)
            setting.fp32_precision = "none"
        torch.backends.fp32_precision = "ieee"
        cudnn.benchmark, cudnn.deterministic = False, True
        with torch.inference_mode():
            yield
    finally:
        cudnn.benchmark, cudnn.deterministic = flags
        for setting, precision in zip(_PRECISIONS, precisions, strict=False):
            setting.fp32_precision = precision


def precompute(modality: Modality, network: FrozenNetwork) -> Modality:
    """The modality with what the network returns in place of its entries.

    It is kept on disk under a hash of the network's key and of the entries or their files. Entries in files of their
    own are computed and kept piece by piece: a run that was stopped goes on where it was.

    Raises:
        DataError: the network returns something that is not finite.
    """
    name, what = hashlib.sha256(f"{network.key}\0{modality.digest()}".encode()).hexdigest(), network.key.split(" ")[0]

    def run(entries: Sequence[Any]) -> dict[str, np.ndarray]:
        made = network(entries, modality.rate)
        if any(entry.dtype.kind == "f" and not np.isfinite(entry).all() for entry in made):
            raise DataError(f"{what} returns NaN or infinite values; check the files of its weights.")
        if _is_vector(made[0]):
            return {"values": np.stack(made)}
        return {"values": np.concatenate(made), "lengths": np.array([len(entry) for entry in made])}

    def run_all() -> dict[str, np.ndarray]:
        entries = modality.entries
        rank_zero_info(f"{len(entries)} entries through {what}, kept in {cache_folder()}")
        if len(entries) <= PIECE or not isinstance(entries, Files):
            return run(entries)
        pieces = [replace(entries, paths=entries.paths[i : i + PIECE]) for i in range(0, len(entries), PIECE)]
        shown = tqdm(pieces, desc=what, unit_scale=PIECE, disable=None)
        parts = [kept_arrays(f"precomputed-{name}-{i}", partial(run, piece)) for i, piece in enumerate(shown)]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    kept = kept_arrays(f"precomputed-{name}", run_all)
    for piece in cache_folder().glob(f"precomputed-{name}-*.npz"):
        piece.unlink(missing_ok=True)
    values, lengths = kept["values"], kept.get("lengths")
    if lengths is None:
        entries = values
    elif values.ndim > 1 and len(set(lengths.tolist())) == 1:  # one array, which tensors need not copy
        entries = values.reshape(len(lengths), -1, *values.shape[1:])
    else:
        entries = np.split(values, np.cumsum(lengths)[:-1])
    return Modality(entries, modality.owner, modality.rate)


def rows_of(entries: Sequence[np.ndarray]) -> np.ndarray | Sequence[np.ndarray]:
    """Vectors (d,) as one array (n, d); sequences as they are."""
    return np.stack(entries) if _is_vector(entries[0]) else entries


def _is_vector(entry: np.ndarray) -> bool:
    return entry.ndim == 1 and entry.dtype.kind == "f"  # whole numbers in a row are a sequence of tokens
