"""What a frozen network makes of a modality's entries, computed once and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.errors import DataError
from datamodules.files.cache import cache_folder, keep, one_at_a_time
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

    It is kept on disk under a hash of the network's key and of the entries or their files; of processes that want the
    same, one computes it.

    Raises:
        DataError: the network returns something that is not finite.
    """
    name = hashlib.sha256(f"{network.key}\0{modality.digest()}".encode()).hexdigest()
    path, what = cache_folder() / f"precomputed-{name}.npz", network.key.split(" ")[0]
    with one_at_a_time(path):
        entries = _read(path, len(modality.entries))
        if entries is None:
            rank_zero_info(f"{len(modality.entries)} entries through {what}, kept in {path}")
            entries = network(modality.entries, modality.rate)
            if any(entry.dtype.kind == "f" and not np.isfinite(entry).all() for entry in entries):
                raise DataError(f"{what} returns NaN or infinite values; check the files of its weights.")
            _write(path, entries)
    return Modality(rows_of(entries), modality.owner, modality.rate)


def rows_of(entries: Sequence[np.ndarray]) -> np.ndarray | Sequence[np.ndarray]:
    """Vectors (d,) as one array (n, d); sequences as they are."""
    return np.stack(entries) if _is_vector(entries[0]) else entries


def _is_vector(entry: np.ndarray) -> bool:
    return entry.ndim == 1 and entry.dtype.kind == "f"  # whole numbers in a row are a sequence of tokens


def _read(path: Path, count: int) -> list[np.ndarray] | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:
            values, lengths = kept["values"], kept["lengths"]
        if len(lengths) == count:
            return list(values) if (lengths < 0).all() else np.split(values, np.cumsum(lengths)[:-1])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        pass
    rank_zero_warn(f"{path} is damaged: its content is computed again.")
    return None


def _write(path: Path, entries: list[np.ndarray]) -> None:
    vectors = _is_vector(entries[0])
    lengths = np.array([-1 if vectors else len(entry) for entry in entries])
    values = np.stack(entries) if vectors else np.concatenate(entries)
    keep(path, lambda file: np.savez(file, values=values, lengths=lengths))
