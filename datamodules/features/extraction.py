"""Raw entries through frozen networks, written as one file of features."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from datamodules.errors import DataError
from datamodules.features.precompute import FrozenNetwork, precompute
from datamodules.files.extracted_features import FORMAT, read_metadata, write_features
from datamodules.files.sources import written_whole
from datamodules.retrieval_data import RetrievalData


class DescribedNetwork(FrozenNetwork, Protocol):
    """A frozen network that returns one vector (d,) float32 per entry and says what it is.

    ``identity`` holds "model", "weights" (where they come from), their "sha256", and "versions" of the libraries; its
    key says the same.
    """

    identity: Mapping[str, str]


def extract_features(module: RetrievalData, networks: Mapping[str, Callable[[], DescribedNetwork]], out: Path) -> bool:
    """Write the features of every entry of some modalities to a file; one that holds them already stays as it is.

    What is done is kept as by `precompute`: a run that was killed goes on from there, and the file comes out the same,
    byte for byte. One network is in memory at a time.

    Args:
        module: the data set; its items are read after the networks, so that missing weights are found at once.
        networks: modality -> what loads its network; called twice.
        out: the .safetensors file.

    Returns:
        Whether the file was written now.

    Raises:
        DataError: a network returns something that is not finite or cannot take an entry, or `out` is a file of
            something else.
        OSError: the disk is full or the folder cannot be written.
    """
    encoders = {name: dict(load().identity) for name, load in networks.items()}
    data = module.data
    metadata = {
        "dataset": module.dataset,
        "read_as": module.features,
        "data_sha256": data.digest(),
        "encoders": json.dumps(encoders),
    }
    named = [FORMAT, metadata, list(data.names), list(data.class_names or ())]
    metadata["key"] = hashlib.sha256(json.dumps(named).encode()).hexdigest()
    if out.exists():
        if read_metadata(out).get("key") != metadata["key"]:
            raise DataError(
                f"{out} holds features of other data, class names or networks; remove it or name another file."
            )
        return False
    features = {}
    for name, load in networks.items():
        try:
            features[name] = precompute(data.modalities[name], load()).entries
        except DataError:
            raise
        except (RuntimeError, ValueError) as error:  # such as memory that does not suffice
            what = f"{name} cannot go through {encoders[name]['model']} ({type(error).__name__}: {error})"
            raise DataError(f"{data.origin}: {what}.") from error
    with written_whole(out) as file:
        write_features(file, data, features, metadata)
    return True
