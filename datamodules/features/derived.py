"""What the fixed part of an encoder makes of a modality's entries, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.errors import DataError
from datamodules.files.cache import cache_folder, keep
from datamodules.files.media import faults
from datamodules.items import Files, ItemSet, Modality


class FrontEnd(Protocol):
    """The fixed part of an encoder: a frozen network, a tokenizer, a spectrogram, an image resized.

    ``key`` changes whenever what it returns would: it names the encoder, its settings and the hash of its weights.
    Called with entries of a modality and their rate in Hz (None but for sound) it returns one array each: a vector
    (d,), or a sequence (T, ...).
    """

    key: str

    def __call__(self, entries: Sequence[Any], rate: int | None) -> list[np.ndarray]: ...


def derive(modality: Modality, front_end: FrontEnd) -> Modality:
    """The modality with what the front end returns in place of its entries.

    It is kept on disk under a hash of the front end's key and of the entries or their files.

    Raises:
        DataError: the front end returns something that is not finite.
    """
    name = hashlib.sha256(f"{front_end.key}\0{modality.digest()}".encode()).hexdigest()
    path = cache_folder() / f"derived-{name}.npz"
    entries = _read(path, len(modality.entries))
    if entries is None:
        rank_zero_info(f"{len(modality.entries)} entries through {front_end.key.split(' ')[0]}, kept in {path}")
        entries = front_end(modality.entries, modality.rate)
        if any(entry.dtype.kind == "f" and not np.isfinite(entry).all() for entry in entries):
            raise DataError(f"{front_end.key.split(' ')[0]} returns NaN or infinite values; check the encoder's files.")
        _write(path, entries)
    return Modality(rows_of(entries), modality.owner, modality.rate)


def rows_of(entries: Sequence[np.ndarray]) -> np.ndarray | Sequence[np.ndarray]:
    """Vectors (d,) as one array (n, d); sequences as they are."""
    return np.stack(entries) if _is_vector(entries[0]) else entries


def _is_vector(entry: np.ndarray) -> bool:
    return entry.ndim == 1 and entry.dtype.kind == "f"  # whole numbers in a row are a sequence of tokens


def broken_files(data: ItemSet) -> dict[str, str]:
    """Item -> what is wrong, for items with a file that cannot be decoded.

    Every file is decoded once and remembered, those that are broken every time. Each of these is also warned about by
    name.
    """
    broken: dict[str, str] = {}
    for modality in data.modalities.values():
        if not isinstance(modality.entries, Files):
            continue
        owners = modality.owners()
        for entry, reason in _broken(modality).items():
            broken[data.names[owners[entry]]] = reason
            rank_zero_warn(reason)
    return broken


def _broken(modality: Modality) -> dict[int, str]:
    path = cache_folder() / f"checked-{modality.digest()}.json"
    try:
        known = [int(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError):
        found = faults(modality.entries, range(len(modality.entries)))
        keep(path, lambda file: file.write(json.dumps(list(found)).encode()))
        return found
    return faults(modality.entries, known)  # anew: the reasons name files, and copies in two folders have one digest


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
