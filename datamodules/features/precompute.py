"""What a frozen network makes of a modality's entries, computed once and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from datamodules.errors import DataError
from datamodules.files.cache import cache_folder, kept_arrays
from datamodules.items import Modality


class FrozenNetwork(Protocol):
    """The fixed part of an encoder: a frozen network, a tokenizer, a spectrogram, an image resized.

    ``key`` changes whenever what it returns would: it names the network, its settings and the hash of its weights.
    Called with entries of a modality and their rate in Hz (None but for sound) it returns one array each: a vector
    (d,), or a sequence (T, ...).
    """

    key: str

    def __call__(self, entries: Sequence[Any], rate: int | None) -> list[np.ndarray]: ...


def precompute(modality: Modality, network: FrozenNetwork) -> Modality:
    """The modality with what the network returns in place of its entries.

    It is kept on disk under a hash of the network's key and of the entries or their files.

    Raises:
        DataError: the network returns something that is not finite.
    """
    name, what = hashlib.sha256(f"{network.key}\0{modality.digest()}".encode()).hexdigest(), network.key.split(" ")[0]

    def compute() -> dict[str, np.ndarray]:
        rank_zero_info(f"{len(modality.entries)} entries through {what}, kept in {cache_folder()}")
        entries = network(modality.entries, modality.rate)
        if any(entry.dtype.kind == "f" and not np.isfinite(entry).all() for entry in entries):
            raise DataError(f"{what} returns NaN or infinite values; check the files of its weights.")
        if _is_vector(entries[0]):
            return {"values": np.stack(entries)}
        return {"values": np.concatenate(entries), "lengths": np.array([len(entry) for entry in entries])}

    kept = kept_arrays(f"precomputed-{name}", compute)
    values = kept["values"]
    entries = np.split(values, np.cumsum(kept["lengths"])[:-1]) if "lengths" in kept else values
    return Modality(entries, modality.owner, modality.rate)


def rows_of(entries: Sequence[np.ndarray]) -> np.ndarray | Sequence[np.ndarray]:
    """Vectors (d,) as one array (n, d); sequences as they are."""
    return np.stack(entries) if _is_vector(entries[0]) else entries


def _is_vector(entry: np.ndarray) -> bool:
    return entry.ndim == 1 and entry.dtype.kind == "f"  # whole numbers in a row are a sequence of tokens
