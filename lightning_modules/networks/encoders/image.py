"""Images through any timm model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from datamodules.features import DataError
from datamodules.items import listed
from datamodules.sources import sha256_of
from lightning_modules.networks.encoders.base import Encoder
from lightning_modules.networks.encoders.installed import INSTALLED, efficientnet_lite0, weights_file

BATCH = 32


def timm_model(model: str, weights: str | None) -> nn.Module:
    """A timm model without its classifier, with the weights of a local file, or untrained where there are none.

    Args:
        model: one of ``timm.list_models()``.
        weights: path of a .safetensors or .pth file; "installed" for those that a package brings; or None.

    Raises:
        ValueError: no such model.
        DataError: the file is missing, or does not hold all of this model's weights.
    """
    if not timm.is_model(model):
        close = timm.list_models(f"*{model.split('_')[0]}*")[:5]
        raise ValueError(f"timm has no model {model!r}; nearest: {', '.join(close) or 'see timm.list_models()'}")
    if weights is None:
        return timm.create_model(model, num_classes=0)
    sha256_of(weights_file(model, weights))  # says which file is missing
    if weights == INSTALLED:
        return efficientnet_lite0()
    overlay = {"file": str(weights), "hf_hub_id": None}
    networks = []
    with torch.random.fork_rng(devices=[]):
        for seed in (0, 1):  # timm says nothing of weights that a file lacks: they would be random, and differ
            torch.manual_seed(seed)
            try:
                network = timm.create_model(model, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay)
            except Exception as error:  # timm, torch and safetensors each refuse in their own way
                raise DataError(
                    f"{weights} cannot be loaded into timm's {model} ({type(error).__name__}: {error})"
                ) from error
            networks.append(network)
    again = networks[1].state_dict()
    absent = [name for name, value in networks[0].state_dict().items() if not torch.equal(value, again[name])]
    if absent:
        raise DataError(f"{weights} lacks weights of timm's {model}, which would be random: {listed(absent)}")
    return networks[0]


def timm_width(network: nn.Module) -> int:
    """Width of what a timm model without its classifier returns."""
    return getattr(network, "head_hidden_size", network.num_features)


class Resize:
    """Front end: images as (3, size, size) uint8, the shorter side resized and the centre cut out.

    Args:
        size: pixels.
    """

    def __init__(self, size: int):
        self.size = size
        self.key = f"resize {size}"

    def __call__(self, entries: Sequence[np.ndarray], rate: int | None) -> list[np.ndarray]:
        return [self._resized(entry) for entry in entries]

    def _resized(self, pixels: np.ndarray) -> np.ndarray:
        image = Image.fromarray(pixels)
        scale = self.size / min(image.size)
        image = image.resize([max(round(side * scale), self.size) for side in image.size], Image.Resampling.BICUBIC)
        left, top = ((side - self.size) // 2 for side in image.size)
        image = image.crop((left, top, left + self.size, top + self.size))
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


class TimmImage(Encoder):
    """Images through a timm model, trained with crops and mirror images, or frozen and computed once.

    Args:
        source: of kind "file", decoded to (H, W, 3) uint8.
        model: one of ``timm.list_models()``.
        weights: path of the model's weights, or "installed" for tf_efficientnet_lite0 with those that the suite
            installs (ImageNet classification); without them the network starts untrained.
        frozen: whether the network stays as it is, which takes weights.
        size: pixels of a side that the network sees.

    Raises:
        ValueError: no such model, frozen without weights, or sound.
        DataError: the weights are missing or of another model.
    """

    kinds = ("file",)

    def __init__(
        self,
        source: Mapping[str, Any],
        model: str = "resnet10t",
        weights: str | None = None,
        frozen: bool = False,
        size: int = 224,
    ):
        super().__init__(source)
        if source["rate"] is not None:
            raise ValueError("TimmImage reads images, and the modality holds sound")
        if frozen and weights is None:
            raise ValueError("a frozen timm model takes weights: name their file, or set frozen to false to train it")
        network = timm_model(model, weights)
        self.dim = timm_width(network)
        self.frozen, self.size = frozen, size
        config = timm.data.resolve_model_data_config(network)
        mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
        if frozen:
            key = f"timm {model} {sha256_of(weights_file(model, weights))} {size}"
            self.front_end = _FrozenTimm(network, size, mean, std, key)
            return
        self.front_end = Resize(size * 8 // 7)  # room for random crops
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.frozen:
            return x
        return self.network((self._crop(x) / 255 - self.mean) / self.std)

    def _crop(self, x: Tensor) -> Tensor:
        room = x.shape[-1] - self.size
        if not self.training:
            return x[..., room // 2 : room // 2 + self.size, room // 2 : room // 2 + self.size]
        offset = torch.randint(0, room + 1, (2, len(x), 1), device=x.device) + torch.arange(self.size, device=x.device)
        mirrored = torch.rand(len(x), 1, device=x.device) < 0.5
        column = torch.where(mirrored, offset[1].flip(1), offset[1])
        item, channel = torch.arange(len(x), device=x.device), torch.arange(3, device=x.device)
        return x[item.view(-1, 1, 1, 1), channel.view(-1, 1, 1), offset[0][:, None, :, None], column[:, None, None, :]]


class _FrozenTimm:
    def __init__(self, network: nn.Module, size: int, mean: Tensor, std: Tensor, key: str):
        self.network, self.resize, self.mean, self.std, self.key = network.eval(), Resize(size), mean, std, key

    def __call__(self, entries: Sequence[np.ndarray], rate: int | None) -> list[np.ndarray]:
        embedded: list[np.ndarray] = []
        with torch.inference_mode():
            for start in range(0, len(entries), BATCH):
                chosen = [entries[i] for i in range(start, min(start + BATCH, len(entries)))]
                x = torch.from_numpy(np.stack(self.resize(chosen, rate)))
                embedded += list(self.network((x / 255 - self.mean) / self.std).numpy())
        return embedded
