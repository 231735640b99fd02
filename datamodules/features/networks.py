"""Networks of others that stay as they are and turn entries into features: timm, sentences, torchaudio bundles.

Each is a `FrozenNetwork`; those that `extract` uses also say what they are, in ``identity``, as it describes.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import timm
import torch
import torchaudio
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.errors import DataError
from datamodules.features.precompute import frozen_inference
from datamodules.features.texts import HUB, SentenceEmbedding, model_folder, sentence_model
from datamodules.features.timm_models import INSTALLED, cells_of, timm_model, timm_name
from datamodules.files.sources import sha256_of

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCH = 32  # images that pass a network together
DECODERS = 4  # threads
SAMPLE_RATE = 16000
WINDOW = 400  # samples, 25 ms: the least that the network of any of torchaudio's bundles takes
SECONDS = 30  # of a sound that pass a network together


class FrozenImages:
    """Images through a timm model without its classifier: pooled features, or the cells of the last feature map.

    Args:
        network: the model.
        transform: image (H, W, 3) uint8 -> what the network takes of it, (3, height, width).
        key: see `FrozenNetwork`.
        cells: whether the cells are returned, (T, d), row by row.
    """

    def __init__(self, network: nn.Module, transform: Callable[[np.ndarray], Tensor], key: str, cells: bool = False):
        self.network, self.transform, self.key, self.cells = network.eval(), transform, key, cells

    def __call__(self, entries: Sequence[np.ndarray], rate: int | None) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        device = next(self.network.parameters()).device
        with frozen_inference(), ThreadPoolExecutor(DECODERS) as pool:  # decoders release the interpreter's lock
            for start in range(0, len(entries), BATCH):
                numbers = range(start, min(start + BATCH, len(entries)))  # by number: files are decoded batch by batch
                images = pool.map(entries.__getitem__, numbers)
                pixels = torch.stack(list(map(self.transform, images))).to(device)
                if self.cells:
                    made = cells_of(self.network, self.network.forward_features(pixels))
                else:
                    made = self.network(pixels)
                found += list(made.float().cpu().numpy())
        return found


class ImageNetwork(FrozenImages):
    """Images -> pooled features of a timm model without its classifier.

    An image is resized, cut and normalised as the model's own configuration says.

    Args:
        model: one of ``timm.list_models()``, with or without the tag of its weights and what the hub puts before it.
        weights: path of a .safetensors or .pth file, or "installed"; by default the hub's.

    Raises:
        ValueError: no such model.
        DataError: the weights are missing, cannot be had, or are of another model.
    """

    def __init__(self, model: str, weights: str | None = None):
        model = timm_name(model)
        with torch.random.fork_rng(devices=[]):  # the initial weights are drawn, and then overwritten
            if weights is not None:
                network = timm_model(model, weights)
            else:
                published = partial(timm.create_model, model, pretrained=True, num_classes=0)
                network = _from_hub(published, f"timm's {model}", "--image-weights")
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
        self.identity = _identity(network, model, weights, "timm", "torchvision", "pillow")
        super().__init__(network.to(DEVICE), lambda entry: transform(Image.fromarray(entry)), _key(self.identity))


class SentenceNetwork(SentenceEmbedding):
    """A `SentenceEmbedding` that stays loaded, on a GPU where there is one; of images where the model reads them.

    Args:
        model: "all-MiniLM-L6-v2" (installed with the suite), or the name or local folder of another
            sentence-transformers or CLIP model; fetched from the hub where it is not on this machine.
        reads: "text" or "image".

    Raises:
        ValueError: the model does not read images.
        DataError: the model cannot be had, is damaged or lacks weights.
    """

    def __init__(self, model: str, reads: Literal["text", "image"] = "text"):
        from sentence_transformers import SentenceTransformer  # takes seconds, and the others do without

        try:
            folder = model_folder(model)
        except DataError:
            _from_hub(partial(SentenceTransformer, model, device="cpu"), f"the model {model}", f"--{reads}")
            folder = model_folder(model)
        super().__init__(model)
        self.network = sentence_model(folder, str(DEVICE)).eval()
        if not self.network.supports(reads):
            raise ValueError(f"--{reads} {model}: the model reads {' and '.join(self.network.modalities)}, no {reads}")
        local = Path(model).is_dir()
        self.model = Path(model).name if local else model.removeprefix(HUB)  # in messages too
        self.identity = {
            "model": self.model,
            "weights": f"folder {folder.name}" if local else "published",
            "sha256": self.key.removeprefix("sentence "),
            "versions": _versions("sentence-transformers", "transformers", "tokenizers"),
        }
        self.key = _key(self.identity)


class SoundNetwork:
    """Waveforms -> the mean over time of the last layer of a torchaudio bundle (wav2vec 2.0, HuBERT, WavLM).

    Sounds are resampled to 16 kHz, the rate of every bundle, and go through the network one by one: padding would
    change them. Memory grows with the square of the length, so that one of more than 30 seconds goes through in equal
    parts of at most 30 seconds, and the mean is over the steps of all. One of less than 25 ms is followed by silence.

    Args:
        model: name of a bundle in ``torchaudio.pipelines``, in capitals or not.
        weights: path of the bundle's state dictionary (.pt or .pth); by default the published one.

    Raises:
        ValueError: no such bundle.
        DataError: the weights are missing, cannot be had, or are of another model.
    """

    def __init__(self, model: str, weights: str | None = None):
        bundles = {
            name.lower(): bundle
            for name, bundle in vars(torchaudio.pipelines).items()
            if isinstance(bundle, torchaudio.pipelines.Wav2Vec2Bundle)
        }
        if model.lower() not in bundles:
            raise ValueError(f"torchaudio has no bundle {model!r}; it has {', '.join(bundles)}")
        self.bundle = bundles[model.lower()]
        with torch.random.fork_rng(devices=[]):  # as above
            if weights is None:
                fetched = _from_hub(self.bundle.get_model, f"torchaudio's {model}", "--sound-weights")
                network = getattr(fetched, "model", fetched)  # without the wrapper that normalises waveforms
            else:
                wavlm = self.bundle._model_type == "WavLM"
                build = torchaudio.models.wavlm_model if wavlm else torchaudio.models.wav2vec2_model
                network = build(**self.bundle._params)
                sha256_of(weights)  # says which file is missing
                try:
                    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
                except Exception as error:  # torch and pickle each refuse in their own way
                    said = f"does not hold the weights of that bundle ({_first_line(error)})"
                    raise DataError(f"{weights} {said}") from error
        self.network = network.eval().to(DEVICE)
        self.identity = _identity(network, model, weights, "torchaudio", "soundfile")
        self.key = _key(self.identity)

    def __call__(self, entries: Sequence[np.ndarray], rate: int | None) -> list[np.ndarray]:
        with frozen_inference():
            # By number: files are decoded one after the other.
            return [self._embedded(resampled(entries[i], rate).to(DEVICE)[None]) for i in range(len(entries))]

    def _embedded(self, wave: Tensor) -> np.ndarray:
        if self.bundle._normalize_waveform:
            wave = F.layer_norm(wave, wave.shape)
        parts = wave.tensor_split(math.ceil(wave.shape[1] / (SECONDS * SAMPLE_RATE)), dim=1)
        steps = [self.network.extract_features(part)[0][-1][0] for part in parts]
        return torch.cat(steps).float().mean(dim=0).cpu().numpy()


def resampled(wave: np.ndarray, rate: int, least: int = WINDOW) -> Tensor:
    """A waveform (n,) at 16 kHz, followed by silence where it has fewer samples than ``least``.

    The networks of torchaudio's bundles need a window of 25 ms.
    """
    found = torchaudio.functional.resample(torch.from_numpy(wave.astype(np.float32)), rate, SAMPLE_RATE)
    return F.pad(found, (0, max(least - len(found), 0)))


def _from_hub(fetch: Callable[[], nn.Module], what: str, option: str) -> nn.Module:
    try:
        return fetch()
    except Exception as error:  # each library and each kind of broken network has errors of its own
        raise DataError(
            f"the weights of {what} could not be fetched ({_first_line(error)}); connect to the network, or name a "
            f"local copy with {option}."
        ) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _identity(network: nn.Module, model: str, weights: str | None, *libraries: str) -> dict[str, str]:
    sha = hashlib.sha256()
    for name, value in network.state_dict().items():
        sha.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    origin = {None: "published", INSTALLED: INSTALLED}.get(weights) or f"file {Path(weights).name}"
    return {"model": model, "weights": origin, "sha256": sha.hexdigest(), "versions": _versions(*libraries)}


def _versions(*libraries: str) -> str:
    return ", ".join([f"{name} {version(name)}" for name in ("torch", *libraries)] + [f"on {DEVICE.type}"])


def _key(identity: Mapping[str, str]) -> str:
    """What decides the features; the name of a file of weights does not."""
    return " ".join([identity["model"], "of extract", identity["sha256"], identity["versions"]])
