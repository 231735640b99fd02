"""Small encoders of short clips: poses, by convolutions or a transformer, signals and depth video."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.networks.encoders.base import (
    Convolutions,
    Encoder,
    Standardise,
    TemporalTransformer,
    pool,
    whole,
)

# Steps between frames are small beside the values themselves.
STEP_SCALE = 5.0
SEGMENTS = 4  # windows in time of the motion maps of depth clips
# Most by which training changes an entry: the angle of poses in radians, samples of signals, pixels and share of depth.
TURN, SIGNAL_SHIFT, DEPTH_SHIFT, DEPTH_STRETCH = 0.5, 4, 1, 0.1


class PoseTransformer(Encoder):
    """A transformer over poses: every step, flattened and standardised, is projected to a token.

    Args:
        source: of kind "sequence" of poses, (joints, 3) or pose vectors.
        dim: width.
        depth: layers.
        heads: attention heads.
        dropout: share of units dropped in training.

    Source: Yin et al., CVPR 2024 (LAVIMO), six layers.
    """

    kinds = ("sequence",)

    def __init__(self, source: Mapping[str, Any], dim: int = 256, depth: int = 6, heads: int = 8, dropout: float = 0.1):
        super().__init__(source)
        width = math.prod(source["shape"])
        self.dim = self.token_dim = dim
        self.standardise = Standardise(width)
        self.project = nn.Linear(width, dim)
        self.transformer = TemporalTransformer(dim, depth, heads, dropout)

    def fit(self, rows: Tensor, mask: Tensor | None) -> None:
        self.standardise.fit(rows.flatten(2), mask)

    def with_tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        return *self.transformer(self.project(self.standardise(x.flatten(2))), mask), mask


class PoseConv(Encoder):
    """Poses and their frame differences through three temporal convolutions, mean and maximum over time.

    In training every clip is turned about the vertical axis, scaled, given other bone lengths and noise, and warped in
    time.

    Args:
        source: of kind "sequence" of poses (joints, 3), the second coordinate upwards.
        width: channels.
        dropout: share of units dropped in training.
    """

    kinds = ("sequence",)

    def __init__(self, source: Mapping[str, Any], width: int = 128, dropout: float = 0.3):
        super().__init__(source)
        shape = tuple(source["shape"])
        if len(shape) != 2 or shape[1] != 3:
            raise ValueError(f"PoseConv reads poses of shape (joints, 3), and the modality holds {shape}")
        self.convolutions = Convolutions(6 * shape[0], width, 3, 3, dropout, first_stride=1)
        self.dim, self.token_dim = 2 * width, width

    def with_tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        mask = whole(x, mask)
        if self.training:
            x = warp_time(self._moved(x), mask, 0.1)
        step = STEP_SCALE * F.pad(x[:, 1:] - x[:, :-1], (0, 0, 0, 0, 1, 0))
        steps, mask = self.convolutions(torch.cat([x, step], dim=-1).flatten(2), mask)
        return pool(steps, mask), steps, mask

    def _moved(self, x: Tensor) -> Tensor:
        batch, _, joints, _ = x.shape
        angle = (2 * torch.rand(batch, device=x.device) - 1) * TURN
        cos, sin, one, zero = angle.cos(), angle.sin(), torch.ones_like(angle), torch.zeros_like(angle)
        turned = x @ torch.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], dim=1).view(-1, 1, 3, 3)
        scale = 1 + 0.1 * torch.randn(batch, 1, 1, 1, device=x.device)
        bones = 0.03 * torch.randn(batch, 1, joints, 3, device=x.device)
        return turned * scale + bones + 0.01 * torch.randn_like(x)


class SignalConv(Encoder):
    """Signals of a sensor, standardised, through three temporal convolutions, mean and maximum over time.

    In training every channel has its own gain, noise is added, and the signal is shifted, its edges repeated, and
    warped in time.

    Args:
        source: of kind "sequence" of (channels,).
        width: channels of the convolutions.
        dropout: share of units dropped in training.
    """

    kinds = ("sequence",)

    def __init__(self, source: Mapping[str, Any], width: int = 96, dropout: float = 0.3):
        super().__init__(source)
        (channels,) = source["shape"]
        self.standardise = Standardise(channels)
        self.convolutions = Convolutions(channels, width, 3, 5, dropout, first_stride=1)
        self.dim, self.token_dim = 2 * width, width

    def fit(self, rows: Tensor, mask: Tensor | None) -> None:
        self.standardise.fit(rows, mask)

    def with_tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        x, mask = self.standardise(x), whole(x, mask)
        steps, mask = self.convolutions(self._moved(x, mask) if self.training else x, mask)
        return pool(steps, mask), steps, mask

    def _moved(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, steps, channels = x.shape
        x = x * (1 + 0.1 * torch.randn(batch, 1, channels, device=x.device)) + 0.1 * torch.randn_like(x)
        index = torch.arange(steps, device=x.device)
        index = index + torch.randint(-SIGNAL_SHIFT, SIGNAL_SHIFT + 1, (batch, 1), device=x.device)
        index = torch.minimum(index.clamp(min=0), mask.sum(dim=1, keepdim=True) - 1)
        return warp_time(x, mask, 0.1).gather(1, index[..., None].expand_as(x))


class MotionMaps:
    """Front end: depth clip (T, H, W) -> how many pixels of each column are foreground (W,), then eight motion maps.

    With D_t = 5 (x_{t+1} - x_t) and four triangular windows w_s that overlap and sum to one over the clip, the maps are
    sum_t w_s(t) |D_t| and sum_t w_s(t) D_t, (8, H, W), all flattened. The background has depth 0.
    """

    key = f"motion-maps {SEGMENTS} {STEP_SCALE}"

    def __call__(self, entries: Sequence[np.ndarray], rate: int | None) -> list[np.ndarray]:
        return [self._of_clip(torch.as_tensor(np.asarray(entry, np.float32))) for entry in entries]

    def _of_clip(self, x: Tensor) -> np.ndarray:
        foreground = (x > 0).sum(dim=(0, 1)).to(x.dtype)
        steps = len(x) - 1
        position = (torch.arange(1, steps + 1) - 0.5) / max(steps, 1)
        knots = torch.linspace(0, 1, SEGMENTS)[:, None]
        weight = (1 - (position - knots).abs() * (SEGMENTS - 1)).clamp(min=0)
        step = (STEP_SCALE * (x[1:] - x[:-1])).flatten(1)
        return torch.cat([foreground, (weight @ step.abs()).flatten(), (weight @ step).flatten()]).numpy()


class DepthConv(Encoder):
    """Depth clips as soft motion maps in relative time, through a two-dimensional convolution.

    The maps of a clip, see :class:`MotionMaps`, are cut to ``window`` columns about its foreground. In training the cut
    is shifted by up to a pixel and stretched by up to a tenth.

    Args:
        source: of kind "sequence" of frames (H, W).
        window: columns; 0 keeps all.
        width: channels of the first convolution.
        dropout: share of units dropped in training.

    Source: a soft, ordered form of depth motion maps, Yang, Zhang and Tian, ACM Multimedia 2012.
    """

    kinds = ("sequence",)

    def __init__(self, source: Mapping[str, Any], window: int = 0, width: int = 32, dropout: float = 0.3):
        super().__init__(source)
        if len(source["shape"]) != 2:
            raise ValueError(f"DepthConv reads frames of shape (H, W), and the modality holds {tuple(source['shape'])}")
        self.front_end = MotionMaps()
        self.height, self.columns = source["shape"]
        self.window = window or self.columns
        layers: list[nn.Module] = []
        for before, after, kernel in ((2 * SEGMENTS, width, 5), (width, 2 * width, 3), (2 * width, 2 * width, 3)):
            layers += [nn.Conv2d(before, after, kernel, 2, kernel // 2), nn.GroupNorm(8, after), nn.ReLU()]
        layers.insert(6, nn.Dropout2d(dropout / 2))
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout))
        self.dim = 2 * width * math.ceil(self.height / 8) * math.ceil(self.window / 8)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        foreground, maps = x[:, : self.columns], x[:, self.columns :]
        return self.layers(self._cut(foreground, maps.unflatten(1, (2 * SEGMENTS, self.height, self.columns))))

    def _cut(self, foreground: Tensor, maps: Tensor) -> Tensor:
        place, total = torch.arange(self.columns, device=maps.device, dtype=maps.dtype), foreground.sum(dim=1)
        centre = (foreground * place).sum(dim=1) / total.clamp(min=1)
        centre = torch.where(total > 0, centre, self.columns / 2)
        left = (centre - self.window / 2).round().long()
        middle = torch.full_like(centre, self.height / 2)[:, None]
        down = self._axis(self.height, torch.zeros_like(left), self.height, middle)
        across = self._axis(self.window, left, self.columns, left[:, None] + (self.window - 1) / 2)
        cells = (down[:, :, None] * (self.columns + 2) + across[:, None, :]).flatten(1)  # of a map and its margin
        padded = F.pad(maps, (1, 1, 1, 1)).flatten(2)
        cut = padded.gather(2, cells[:, None].expand(-1, len(maps[0]), -1))  # many times as fast as indexing
        return cut.unflatten(2, (self.height, self.window))

    def _axis(self, size: int, start: Tensor, length: int, centre: Tensor) -> Tensor:
        """Indices (B, size) into an axis of ``length`` with a zero at both ends."""
        index = start[:, None] + torch.arange(size, device=start.device)
        if self.training:
            batch = (len(start), 1)
            index = index + torch.randint(-DEPTH_SHIFT, DEPTH_SHIFT + 1, batch, device=start.device)
            factor = 1 + DEPTH_STRETCH * (2 * torch.rand(batch, device=start.device) - 1)
            index = ((index - centre) * factor + centre).round().long()
        return (index + 1).clamp(0, length + 1)


def warp_time(x: Tensor, mask: Tensor, strength: float) -> Tensor:
    """Resample the valid steps of every clip along a random crop and power of time; length and mask stay.

    t(u) = (n - 1) (a + (b - a) u^g) with a, 1 - b ~ U[0, s], g ~ U[1 - 2 s, 1 + 2 s] and u = 0..1 over the n steps.

    Args:
        x: (B, T, ...).
        mask: (B, T) bool, the valid steps first.
        strength: s.
    """
    batch, steps = x.shape[:2]
    if steps < 2:
        return x
    a, b, g = torch.rand(3, batch, 1, device=x.device)
    last = mask.sum(dim=1, keepdim=True).to(x.dtype) - 1
    u = (torch.arange(steps, device=x.device) / last.clamp(min=1)).clamp(max=1)
    a, b = a * strength, 1 - b * strength
    t = last * (a + (b - a) * u ** (1 + (2 * g - 1) * 2 * strength))
    low = t.floor().long().clamp(max=steps - 2)
    part = (t - low).view(batch, steps, *[1] * (x.ndim - 2))
    rows = torch.arange(batch, device=x.device)[:, None]
    return x[rows, low] * (1 - part) + x[rows, low + 1] * part
