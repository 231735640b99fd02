"""Images through any timm model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from datamodules.errors import DataError
from datamodules.features.class_embeddings import refuse_missing
from datamodules.features.inference import frozen_inference
from datamodules.files.sources import sha256_of
from lightning_modules.networks.encoders.base import Encoder
from lightning_modules.networks.encoders.installed import INSTALLED, efficientnet_lite0, weights_file

BATCH = 32


def timm_model(model: str, weights: str | None, size: tuple[int, int] | None = None) -> nn.Module:
    """A timm model without its classifier, with the weights of a local file, or untrained where there are none.

    Args:
        model: one of ``timm.list_models()``, with or without the tag of its weights and what the hub puts before it.
        weights: path of a .safetensors or .pth file; "installed" for those that a package brings; or None.
        size: height and width of the images; by default what the model is made for. Where the weights are of another
            size, as those of a vision transformer are, timm interpolates the embeddings of positions.

    Raises:
        ValueError: no such model, or it cannot take images of that size.
        DataError: the file is missing, or does not hold all of this model's weights.
    """
    model = timm_name(model)
    own = own_size(model)
    settings: dict[str, Any] = {"num_classes": 0}
    if own is not None and size not in (None, own):
        settings["img_size"] = size
        _check_size(model, own, settings)
    if weights is None:
        return timm.create_model(model, **settings)
    path = weights_file(model, weights)
    sha256_of(path)  # says which file is missing
    return efficientnet_lite0() if weights == INSTALLED else _loaded(model, path, settings)


def timm_name(model: str) -> str:
    """A timm model's name, without what stands before it on the hub, as in hf-hub:timm/resnet10t.c3_in1k.

    Raises:
        ValueError: no such model.
    """
    name = re.sub("^(hf[-_]hub:)?timm/", "", model)
    try:
        if timm.is_model(name):
            timm.get_pretrained_cfg(name)
            return name
    except RuntimeError:  # no weights of that tag
        close = timm.list_pretrained(f"{name.split('.')[0]}.*")
    else:
        close = timm.list_models(f"*{name.split('_')[0]}*")
    raise ValueError(f"timm has no model {name!r}; nearest: {', '.join(close[:5]) or 'see timm.list_models()'}")


def own_size(model: str) -> tuple[int, int] | None:
    """Height and width of the images that a timm model is made for; None where it takes others as well."""
    config = timm.get_pretrained_cfg(model)
    return tuple(config.input_size[1:]) if config is not None and config.fixed_input_size else None


def _check_size(model: str, own: tuple[int, int], settings: Mapping[str, Any]) -> None:
    """Refuse a size that a model cannot be built for, or an image of which cannot go through it."""
    height, width = settings["img_size"]
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            timm.create_model(model, **settings).eval()(torch.zeros(1, 3, height, width))
    except Exception as error:  # each model has a check of its own, or none
        raise ValueError(
            f"timm's {model} cannot take images of {height} x {width} pixels ({type(error).__name__}: {error}); it is "
            f"made for {own[0]} x {own[1]}"
        ) from error


def _loaded(model: str, path: Path, settings: Mapping[str, Any]) -> nn.Module:
    overlay = {"file": str(path), "hf_hub_id": None, "custom_load": False}
    load, found = nn.Module.load_state_dict, []

    def recording(network: nn.Module, *given: Any, **more: Any) -> Any:
        found.append(load(network, *given, **more))
        return found[-1]

    try:
        # timm hands on what a file lacks to nobody, so that torch is asked when timm calls it.
        with patch.object(nn.Module, "load_state_dict", recording), torch.random.fork_rng(devices=[]):
            network = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay, **settings)
    except Exception as error:  # timm, torch and safetensors each refuse in their own way
        raise DataError(f"{path} cannot be loaded into timm's {model} ({type(error).__name__}: {error})") from error
    refuse_missing(f"{path}, read into timm's {model},", found[-1].missing_keys)
    return network


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
        size: pixels of a side that the network sees, or [height, width]. By default 224, or what the model is made for
            where that is one size, as it is for vision transformers.
        cells: a frozen network's output is kept as the cells of its last feature map, whose mean is the vector. A
            network that trains has its cells at hand.

    Raises:
        ValueError: no such model, frozen without weights, cells of one that is not frozen, a size of neither form or
            that the model cannot take, or sound.
        DataError: the weights are missing or of another model.
    """

    kinds = ("file",)

    def __init__(
        self,
        source: Mapping[str, Any],
        model: str = "resnet10t",
        weights: str | None = None,
        frozen: bool = False,
        size: int | Sequence[int] | None = None,
        cells: bool = False,
    ):
        super().__init__(source)
        if source["rate"] is not None:
            raise ValueError("TimmImage reads images, and the modality holds sound")
        if frozen and weights is None:
            raise ValueError("a frozen timm model takes weights: name their file, or set frozen to false to train it")
        if cells and not frozen:
            raise ValueError("cells are kept of a frozen network alone; leave the setting out, or set frozen to true")
        model = timm_name(model)
        size = (own_size(model) or 224) if size is None else size
        sides = _sides(size)
        size = sides[0] if sides[0] == sides[1] else sides
        network = timm_model(model, weights, sides)
        self.dim = network.num_features if cells else timm_width(network)
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
        with frozen_inference():
            for start in range(0, len(entries), BATCH):
                chosen = [entries[i] for i in range(start, min(start + BATCH, len(entries)))]
                x = (torch.from_numpy(np.stack(self.resize(chosen, rate))) / 255 - self.mean) / self.std
                if self.cells:
                    embedded += list(_cells(self.network, self.network.forward_features(x)).numpy())
                else:
                    embedded += list(self.network(x).numpy())
        return embedded
