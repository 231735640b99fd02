"""Images through any timm model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from datamodules.features import DataError
from datamodules.sources import sha256_of
from lightning_modules.networks.encoders.base import Encoder
from lightning_modules.networks.encoders.installed import INSTALLED, efficientnet_lite0, weights_file
from lightning_modules.networks.pretrained import loaded_whole

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

    def load() -> nn.Module:
        try:
            return timm.create_model(model, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay)
        except Exception as error:  # timm, torch and safetensors each refuse in their own way
            raise DataError(
                f"{weights} cannot be loaded into timm's {model} ({type(error).__name__}: {error})"
            ) from error

    return loaded_whole(load, f"{weights} lacks weights of timm's {model}")  # of which timm says nothing


def timm_width(network: nn.Module) -> int:
    """Width of what a timm model without its classifier returns."""
    return getattr(network, "head_hidden_size", network.num_features)


class Resize:
    """Front end: images as (3, height, width) uint8, resized until they cover that rectangle, the centre cut out.

    Args:
        size: pixels of a side, or (height, width).
    """

    def __init__(self, size: int | tuple[int, int]):
        self.size = size
        self.key = f"resize {size}"

    def __call__(self, entries: Sequence[np.ndarray], rate: int | None) -> list[np.ndarray]:
        return [self._resized(entry) for entry in entries]

    def _resized(self, pixels: np.ndarray) -> np.ndarray:
        image = Image.fromarray(pixels)
        height, width = _sides(self.size)
        scale = max(width / image.width, height / image.height)
        covering = max(round(image.width * scale), width), max(round(image.height * scale), height)
        image = image.resize(covering, Image.Resampling.BICUBIC)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _sides(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"size is {size}; expected pixels of a side, or [height, width]")
    return sides


class TimmImage(Encoder):
    """Images through a timm model, trained with crops and mirror images, or frozen and computed once.

    Args:
        source: of kind "file", decoded to (H, W, 3) uint8.
        model: one of ``timm.list_models()``.
        weights: path of the model's weights, or "installed" for tf_efficientnet_lite0 with those that the suite
            installs (ImageNet classification); without them the network starts untrained.
        frozen: whether the network stays as it is, which takes weights.
        size: pixels of a side that the network sees, or [height, width].
        cells: a frozen network's output is kept as the cells of its last feature map, whose mean is the vector. A
            network that trains has its cells at hand.

    Raises:
        ValueError: no such model, frozen without weights, cells of one that is not frozen, a size of neither form, or
            sound.
        DataError: the weights are missing or of another model.
    """

    kinds = ("file",)

    def __init__(
        self,
        source: Mapping[str, Any],
        model: str = "resnet10t",
        weights: str | None = None,
        frozen: bool = False,
        size: int | Sequence[int] = 224,
        cells: bool = False,
    ):
        super().__init__(source)
        if source["rate"] is not None:
            raise ValueError("TimmImage reads images, and the modality holds sound")
        if frozen and weights is None:
            raise ValueError("a frozen timm model takes weights: name their file, or set frozen to false to train it")
        if cells and not frozen:
            raise ValueError("cells are kept of a frozen network alone; leave the setting out, or set frozen to true")
        network = timm_model(model, weights)
        self.dim = network.num_features if cells else timm_width(network)
        sides = _sides(size)
        size = size if isinstance(size, int) else sides
        self.frozen, self.size = frozen, size
        config = timm.data.resolve_model_data_config(network)
        mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
        if frozen:
            key = f"timm {model} {sha256_of(weights_file(model, weights))} {size}"
            self.front_end = _FrozenTimm(network, size, mean, std, key + " cells" * cells, cells)
            self.token_dim = network.num_features if cells else None
            return
        margin = tuple(side * 8 // 7 for side in sides)  # room for random crops
        self.front_end = Resize(margin[0] if isinstance(size, int) else margin)
        self.network, self.token_dim = network, network.num_features
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def with_tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The vectors, and the cells of the last feature map, row by row.

        Weights that a network has after that map, as ConvNeXt has, receive no gradient where cells alone are used.
        """
        if self.frozen:
            return x.mean(dim=1), x, None
        features = self.network.forward_features(self._pixels(x))
        return self.network.forward_head(features), _cells(self.network, features), None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.frozen:
            return x if self.token_dim is None else x.mean(dim=1)
        return self.network(self._pixels(x))

    def _pixels(self, x: Tensor) -> Tensor:
        return (self._crop(x) / 255 - self.mean) / self.std

    def _crop(self, x: Tensor) -> Tensor:
        sides = _sides(self.size)
        rooms = [have - side for have, side in zip(x.shape[-2:], sides, strict=True)]
        if not self.training:
            top, left = (room // 2 for room in rooms)
            return x[..., top : top + sides[0], left : left + sides[1]]
        # One draw serves both sides: of a common multiple of their numbers of places, each remainder is as likely.
        draw = torch.randint(0, math.lcm(*(room + 1 for room in rooms)), (2, len(x), 1), device=x.device)
        row, column = (
            one % (room + 1) + torch.arange(side, device=x.device)
            for one, room, side in zip(draw, rooms, sides, strict=True)
        )
        mirrored = torch.rand(len(x), 1, device=x.device) < 0.5
        column = torch.where(mirrored, column.flip(1), column)
        item, channel = torch.arange(len(x), device=x.device), torch.arange(3, device=x.device)
        return x[item.view(-1, 1, 1, 1), channel.view(-1, 1, 1), row[:, None, :, None], column[:, None, None, :]]


def _cells(network: nn.Module, features: Tensor) -> Tensor:
    """Cells (B, T, d) of a timm model's last feature map, row by row."""
    if features.ndim == 3:  # patches of a vision transformer, after its class token and the like
        return features[:, getattr(network, "num_prefix_tokens", 0) :]
    channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
    return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)


class _FrozenTimm:
    def __init__(
        self, network: nn.Module, size: int | tuple[int, int], mean: Tensor, std: Tensor, key: str, cells: bool
    ):
        self.network, self.resize, self.mean, self.std = network.eval(), Resize(size), mean, std
        self.key, self.cells = key, cells

    def __call__(self, entries: Sequence[np.ndarray], rate: int | None) -> list[np.ndarray]:
        embedded: list[np.ndarray] = []
        with torch.inference_mode():
            for start in range(0, len(entries), BATCH):
                chosen = [entries[i] for i in range(start, min(start + BATCH, len(entries)))]
                x = (torch.from_numpy(np.stack(self.resize(chosen, rate))) / 255 - self.mean) / self.std
                if self.cells:
                    embedded += list(_cells(self.network, self.network.forward_features(x)).numpy())
                else:
                    embedded += list(self.network(x).numpy())
        return embedded
