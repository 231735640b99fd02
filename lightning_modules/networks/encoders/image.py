"""Images through any timm model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from datamodules.features.networks import FrozenImages
from datamodules.features.timm_models import cells_of, own_size, timm_model, timm_name, timm_width, weights_file
from datamodules.files.sources import sha256_of
from lightning_modules.networks.encoders.base import Encoder


class Resize:
    """Front end: images as (3, height, width) uint8, resized until they cover that rectangle, the centre cut out.

    Args:
        size: pixels of a side, or (height, width).
    """

    def __init__(self, size: int | tuple[int, int]):
        self.size, (self.height, self.width) = size, _sides(size)
        self.key = f"resize {size}"

    def __call__(self, entries: Sequence[np.ndarray], rate: int | None) -> list[np.ndarray]:
        return [self.resized(entry) for entry in entries]

    def resized(self, pixels: np.ndarray) -> np.ndarray:
        """One image."""
        image = Image.fromarray(pixels)
        scale = max(self.width / image.width, self.height / image.height)
        covering = max(round(image.width * scale), self.width), max(round(image.height * scale), self.height)
        image = image.resize(covering, Image.Resampling.BICUBIC)
        left, top = (image.width - self.width) // 2, (image.height - self.height) // 2
        image = image.crop((left, top, left + self.width, top + self.height))
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
        source: of kind "image", decoded to (H, W, 3) uint8.
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

    kinds = ("image",)

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
        if frozen and weights is None:
            raise ValueError("a frozen timm model takes weights: name their file, or set frozen to false to train it")
        if cells and not frozen:
            raise ValueError("cells are kept of a frozen network alone; leave the setting out, or set frozen to true")
        model = timm_name(model)
        self.frozen, self.sides = frozen, _sides((own_size(model) or 224) if size is None else size)
        network = timm_model(model, weights, self.sides)
        config = timm.data.resolve_model_data_config(network)
        mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
        if frozen:
            resize = Resize(_short(self.sides))
            key = f"timm {model} {sha256_of(weights_file(model, weights))} {resize.size}" + " cells" * cells
            self.front_end = FrozenImages(
                network, lambda entry: (torch.from_numpy(resize.resized(entry)) / 255 - mean) / std, key, cells
            )
            self.dim, self.token_dim = (network.num_features,) * 2 if cells else (timm_width(network), None)
            return
        self.front_end = Resize(_short([side * 8 // 7 for side in self.sides]))  # room for random crops
        self.augment = v2.Compose([v2.RandomCrop(self.sides), v2.RandomHorizontalFlip()])
        self.network, self.dim, self.token_dim = network, timm_width(network), network.num_features
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def with_tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The vectors, and the cells of the last feature map, row by row.

        Weights that a network has after that map, as ConvNeXt has, receive no gradient where cells alone are used.
        """
        if self.frozen:
            return x.mean(dim=1), x, None
        features = self.network.forward_features(self._pixels(x))
        return self.network.forward_head(features), cells_of(self.network, features), None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.frozen:
            return x if self.token_dim is None else x.mean(dim=1)
        return self.network(self._pixels(x))

    def _pixels(self, x: Tensor) -> Tensor:
        return (self._crop(x) / 255 - self.mean) / self.std

    def _crop(self, x: Tensor) -> Tensor:
        if self.training:
            return torch.stack([self.augment(image) for image in x])
        top, left = ((have - side) // 2 for have, side in zip(x.shape[-2:], self.sides, strict=True))
        return x[..., top : top + self.sides[0], left : left + self.sides[1]]


def _short(sides: Sequence[int]) -> int | tuple[int, int]:
    """Height and width, as one number where they are the same."""
    return sides[0] if sides[0] == sides[1] else tuple(sides)
