"""What a run returns, as values, and where it is kept: under a key over everything that its numbers depend on."""

import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from datamodules import DataError
from datamodules.features.texts import encoder_identity
from datamodules.features.timm_models import INSTALLED
from datamodules.files.cache import keep
from datamodules.files.sources import sha256_of
from reproduce.results.metrics import metric_of
from reproduce.runs.config import Config
from reproduce.runs.machine import VERSIONS

# Encoders whose `model` is a folder, or the name of one that was fetched before.
FOLDER_ENCODERS = ("clip", "sentence", "tokens")


class Score(NamedTuple):
    """One number of a run; ``k`` is "all", a cut-off or "", sizes are None where nothing is retrieved."""

    split: str
    gallery: str
    direction: str
    metric: str
    k: str
    value: float
    n_queries: int | None = None
    n_gallery: int | None = None


@dataclass(frozen=True)
class RunResult:
    """Everything that one training gave.

    Args:
        scores: its numbers.
        train_seconds: how long it took.
        device: where it ran.
        git_commit: with what code.
        torch: and with which torch.
        galleries_undefined: gallery -> why the data do not have it.
        curve: (training steps, average MAP on the validation part) along a training that is scored there.
        seen_classes: of a zero-shot split.
        unseen_classes: likewise.
        arrays: for every query its average precision, "AP/<split>/<direction>", and its item, "query/<split>/
            <direction>"; and the embeddings of test items, as ``flat_predictions`` has them.
    """

    scores: list[Score]
    train_seconds: float
    device: str
    git_commit: str
    torch: str
    galleries_undefined: Mapping[str, str] = field(default_factory=dict)
    curve: Sequence[tuple[int, float]] = ()
    seen_classes: Sequence[Any] = ()
    unseen_classes: Sequence[Any] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False)

    @property
    def frame(self) -> pd.DataFrame:
        """The scores with a column per field."""
        return pd.DataFrame(self.scores, columns=list(Score._fields))

    @property
    def splits(self) -> list[str]:
        """The splits scored, in order."""
        return list(dict.fromkeys(score.split for score in self.scores))

    def mean_average_precision(self, split: str | None = None, directions: Sequence[str] = ("average",)) -> float:
        """MAP in a whole gallery, by default of the first split, mean over directions (default: the single ones)."""
        places = [(split or self.splits[0], "full", direction, "MAP") for direction in directions]
        return math.fsum(next(s.value for s in self.scores if s[:4] == place) for place in places) / len(places)

    @property
    def per_query(self) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
        """(split, direction) -> item of every query and its average precision."""
        names = [name.split("/", 2)[1:] for name in self.arrays if name.startswith("AP/")]
        return {(s, d): (self.arrays[f"query/{s}/{d}"], self.arrays[f"AP/{s}/{d}"]) for s, d in names}


def scores_of(
    split: str, gallery: str, computed: Mapping[str, float], sizes: Mapping[str, tuple[int, int]]
) -> list[Score]:
    """What ``CrossModalRetrieval`` computed, as scores.

    Args:
        split: the split.
        gallery: the gallery.
        computed: "<direction>/<metric>" -> number.
        sizes: direction -> (queries, gallery items).
    """
    found = []
    for name, value in computed.items():
        direction, _, metric = name.partition("/")
        found.append(Score(split, gallery, direction, *metric_of(metric), float(value), *sizes.get(direction, ())))
    return found


def run_key(config: Config, digest: str) -> str:
    """First 16 hex digits of the sha256 over configuration, data, pretrained models and versions of the code of a run.

    Args:
        config: the resolved configuration.
        digest: sha256 of the data, as the data module gives it.

    Raises:
        DataError: a model or weights that an encoder names are not on this machine.
    """
    text = json.dumps([config, digest, VERSIONS, *_pretrained(config["model"]["init_args"])], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _pretrained(arguments: Mapping[str, Any]) -> list[str]:
    """sha256 of every model and file of weights that the encoders name."""
    settings = list((arguments.get("encoders") or {}).values())
    models = [each["model"] for each in settings if each["name"] in FOLDER_ENCODERS and "model" in each]
    weights = [each["weights"] for each in settings if each.get("weights") not in (None, INSTALLED)]
    return [*map(encoder_identity, models), *map(sha256_of, weights)]


class RunStore:
    """Finished runs on disk: a JSON file each, and its arrays beside it, written under a temporary name and renamed.

    Args:
        folder: where the files are.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def load(self, key: str, arrays: bool = False) -> RunResult | None:
        """The result of a finished run; None where it, or the file of its arrays, is missing or not whole.

        Args:
            key: of the run.
            arrays: whether its arrays are read too.

        Raises:
            DataError: an array is damaged, which is seen when it is read.
        """
        beside = self.folder / f"{key}.npz"
        try:
            kept = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))["result"]
            names = kept.pop("arrays")
            result = RunResult(**kept | {"scores": [Score(*score) for score in kept["scores"]]})
            if names:
                with np.load(beside, allow_pickle=False) as found:  # its list of contents stands at the end
                    if sorted(found.files) != names:
                        return None
                    result = replace(result, arrays=_read(found, beside) if arrays else {})
        except DataError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError, BadZipFile):
            return None
        return result

    def save(self, key: str, config: Config, result: RunResult) -> None:
        """Keep a result for good.

        Raises:
            DataError: it cannot be kept; what was there before stays.
        """
        path, arrays = self.folder / f"{key}.json", self.folder / f"{key}.npz"
        kept = asdict(replace(result, arrays={})) | {"arrays": sorted(result.arrays)}
        text = json.dumps({"config": config, "result": kept}, indent=1) + "\n"
        whole = not result.arrays or keep(arrays, lambda file: np.savez(file, **result.arrays))
        if not (whole and keep(path, lambda file: file.write(text.encode()))):  # why, it has said
            raise DataError(
                f"{path}: a finished run cannot be kept. Free space, or choose a folder that you may write to; the "
                "same command then goes on from the runs finished before."
            )


def _read(found: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    try:
        return dict(found)
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: is damaged ({error}); delete it, and the same command trains its run again."
        ) from error
