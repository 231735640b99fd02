"""Raw entries through frozen networks, batch by batch; each batch is kept until all are there, then they are joined."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from datamodules.errors import DataError
from datamodules.features.precompute import FrozenNetwork
from datamodules.files.extracted_features import FORMAT, Rows, read_metadata, write_features
from datamodules.files.sources import written_whole
from datamodules.items import ItemSet
from datamodules.retrieval_data import RetrievalData

DECODERS = 4  # threads


class DescribedNetwork(FrozenNetwork, Protocol):
    """A frozen network that returns one vector (d,) float32 per entry and says what it is.

    ``identity`` holds "model", "weights" (where they come from), their "sha256", and "versions" of the libraries.
    """

    identity: Mapping[str, str]


def extract_features(
    module: RetrievalData, networks: Mapping[str, Callable[[], DescribedNetwork]], out: Path, batch_size: int
) -> dict[str, float] | None:
    """Write the features of every entry of some modalities to a file; one that holds them already stays as it is.

    Batches that are done stand in a folder beside the file, named after a hash of data, networks and batch size: a run
    that was killed goes on from there, and the file comes out the same, byte for byte. One network and one batch are in
    memory at a time.

    Args:
        module: the data set; its items are read after the networks, so that missing weights are found at once.
        networks: modality -> what loads its network; called twice.
        out: the .safetensors file.
        batch_size: entries per batch. It may change the last digits of a feature.

    Returns:
        Modality -> entries per second, of those that were computed now; None where the file was there already.

    Raises:
        DataError: a network returns something that is not finite or cannot take an entry, `out` is a file of something
            else, or another process is writing it.
        OSError: the disk is full or the folder cannot be written.
    """
    encoders = {name: dict(load().identity) for name, load in networks.items()}
    data = module.data
    metadata = {
        "dataset": module.dataset,
        "read_as": module.features,
        "data_sha256": data.digest(),
        "batch_size": str(batch_size),
        "encoders": json.dumps(encoders),
    }
    named = [FORMAT, metadata, list(data.names)]
    if data.class_names is not None:
        named.append(list(data.class_names))
    metadata["key"] = hashlib.sha256(json.dumps(named).encode()).hexdigest()
    folder = out.with_name(f"{out.name}.parts-{metadata['key'][:16]}")
    if out.exists():
        if read_metadata(out).get("key") != metadata["key"]:
            raise DataError(
                f"{out} holds features of other data, class names or networks; remove it or name another file."
            )
        shutil.rmtree(folder, ignore_errors=True)
        return None
    folder.mkdir(parents=True, exist_ok=True)
    rates: dict[str, float] = {}
    with _alone(folder, out):
        features = {name: _encoded(data, name, load, folder, batch_size, rates) for name, load in networks.items()}
        with (folder / "joined").open("wb") as file:
            write_features(file, data, features, metadata)
        os.replace(folder / "joined", out)
        shutil.rmtree(folder)
    return rates


@contextmanager
def _alone(folder: Path, out: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another process is writing {out}; wait for it, or name another file.") from None
        yield


def _encoded(
    data: ItemSet,
    name: str,
    load: Callable[[], DescribedNetwork],
    folder: Path,
    batch_size: int,
    rates: dict[str, float],
) -> Rows:
    """The features of a modality, computed where they are missing, and read from the batches' files when written."""
    count = len(data.modalities[name].entries)
    batches = {
        folder / f"{name}-{start:09d}.npy": range(start, min(start + batch_size, count))
        for start in range(0, count, batch_size)
    }
    missing = {path: batch for path, batch in batches.items() if not _is_kept(path, len(batch))}
    if missing:
        network = load()
        done = count - sum(map(len, missing.values()))
        start = time.perf_counter()
        with (
            ThreadPoolExecutor(DECODERS) as pool,
            tqdm(total=count, initial=done, desc=name, unit="entries", disable=None) as bar,
        ):
            for path, batch in missing.items():
                features = _features(data, name, network, batch, pool)
                with written_whole(path) as file:
                    np.save(file, features)
                bar.update(len(batch))
        rates[name] = (count - done) / (time.perf_counter() - start)
    width = np.load(next(iter(batches)), mmap_mode="r").shape[1]
    return Rows("F32", (count, width), map(np.load, batches))


def _features(
    data: ItemSet, name: str, network: DescribedNetwork, batch: range, pool: ThreadPoolExecutor
) -> np.ndarray:
    """(len(batch), d) float32 of some entries."""
    modality = data.modalities[name]
    entries = list(pool.map(modality.entries.__getitem__, batch))  # decoders release the interpreter's lock
    owners = modality.owners()[batch.start : batch.stop]
    where = f"{data.origin}: {name} of items {data.names[owners[0]]} to {data.names[owners[-1]]}"
    model = network.identity["model"]
    try:
        found = np.stack(network(entries, modality.rate)).astype(np.float32)
    except (RuntimeError, ValueError) as error:  # such as memory that does not suffice
        raise DataError(f"{where} cannot go through {model} ({type(error).__name__}: {error}).") from error
    if not np.isfinite(found).all():
        raise DataError(f"{where}: {model} returns NaN or infinite values; check its weights and these files.")
    return found


def _is_kept(path: Path, rows: int) -> bool:
    try:
        return np.load(path, mmap_mode="r").shape[0] == rows
    except (OSError, ValueError, EOFError):  # none, or one that the disk lost half of
        return False
