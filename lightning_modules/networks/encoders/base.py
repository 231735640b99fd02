"""What every encoder is: a fixed part computed once, and a trained part from its output to one vector per entry."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from datamodules.features.precompute import FrozenNetwork


class Encoder(nn.Module):
    """Entries of one modality (B, ...), with a mask (B, T) for sequences -> vectors (B, dim).

    An encoder either computes its vector in `forward`, or, where the vector is made of tokens (words, image cells,
    steps in time), implements `with_tokens` and sets ``token_dim``.

    Args:
        source: "kind", "shape" and "rate" of the modality, as `RetrievalData.dims` gives them.

    Raises:
        ValueError: the encoder does not read entries of that kind.
    """

    kinds: ClassVar[tuple[str, ...]]
    dim: int
    # Width of a token; None where the encoder knows an entry as one vector alone.
    token_dim: int | None = None
    # Computed once per entry and kept on disk; None where the entries come as they are.
    front_end: FrozenNetwork | None = None
    # What texts have that `unknown` finds.
    blind_to: ClassVar[str] = ""

    def __init__(self, source: Mapping[str, Any]):
        super().__init__()
        if source["kind"] not in self.kinds:
            raise ValueError(
                f"{type(self).__name__} reads {' or '.join(self.kinds)}, and the modality holds {source['kind']}"
            )

    def fit(self, rows: Tensor, mask: Tensor | None) -> None:
        """Take what is fixed before training, such as means and scales, from the training entries.

        Args:
            rows: the training entries; of vectors (n, d), all entries.
            mask: (n, T) steps that are no padding; of vectors (n,), entries that belong to training items.
        """

    def unknown(self, texts: Sequence[str]) -> list[bool]:
        """Which texts the encoder can hardly tell apart, for it does not know what they are made of."""
        return [False] * len(texts)

    def with_tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Vectors (B, dim), the tokens (B, T, token_dim) that they are made of, and the tokens' mask (B, T) or None."""
        raise NotImplementedError(f"{type(self).__name__} has no tokens")

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.with_tokens(x, mask)[0]


COLUMNS = 32  # that are held in float64 at a time


def mean_and_variance(x: Tensor, mask: Tensor | None = None, correction: int = 1) -> tuple[Tensor, Tensor]:
    """Mean and variance (dim,) of entries (n, ..., dim), those of the mask (n, ...) if one is given, in float64.

    In float32 a constant column would seem to vary, by the rounding of its mean; and all at once, in float64, the
    columns would need thrice the memory of the entries.
    """
    entries, found = x.numpy(), []
    for start in range(0, x.shape[-1], COLUMNS):
        columns = entries[..., start : start + COLUMNS]
        # Copied by NumPy: of PyTorch's blocks, which are aligned, glibc would keep each and reuse none.
        copied = (columns if mask is None else columns[mask.numpy()]).astype(np.float64)
        rows = torch.from_numpy(copied).flatten(0, -2)
        found.append((rows.mean(dim=0), rows.var(dim=0, correction=correction)))
    mean, variance = map(torch.cat, zip(*found, strict=True))
    return mean, variance


class Standardise(nn.Module):
    """(x - mean) / standard deviation of the training entries, over all but the last dimension, padding left out.

    Args:
        dim: size of the last dimension.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def fit(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Take mean and scale from entries (n, ..., dim), those of the mask (n, ...) if one is given.

        A constant column keeps scale 1.
        """
        mean, variance = mean_and_variance(x, mask)
        scale = variance.sqrt()
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(scale > 1e-8, scale, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale


def whole(x: Tensor, mask: Tensor | None) -> Tensor:
    """The mask of entries (B, T, ...), where there is none one of all steps."""
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask


def mean_over_steps(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the valid steps: (B, T, d) -> (B, d)."""
    if mask is None:
        return x.mean(dim=1)
    keep = mask[..., None]
    return (x * keep).sum(dim=1) / keep.sum(dim=1)


def pool(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean and maximum over the valid steps: (B, T, d) -> (B, 2 d)."""
    valid = x if mask is None else x.masked_fill(~mask[..., None], float("-inf"))
    return torch.cat([mean_over_steps(x, mask), valid.amax(dim=1)], dim=1)


class TemporalTransformer(nn.Module):
    """Transformer over the steps of a sequence, with a class token: (B, T, dim) -> (B, dim) and (B, T, dim).

    Positions are sinusoidal, so that any length is accepted; padding is not attended to.

    Args:
        dim: width of a step, a multiple of ``heads``.
        depth: layers.
        heads: attention heads.
        dropout: share of units dropped in training.

    Raises:
        ValueError: the width is no multiple of the heads.
    """

    def __init__(self, dim: int, depth: int, heads: int, dropout: float):
        super().__init__()
        if dim % heads:
            raise ValueError(f"a transformer of width {dim} cannot have {heads} heads; choose a divisor of its width")
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        layer = nn.TransformerEncoderLayer(dim, heads, 2 * dim, dropout, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, nn.LayerNorm(dim), enable_nested_tensor=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """What becomes of the class token, and of the steps."""
        frequency = 10000.0 ** (-torch.arange(0, x.shape[2], 2) / x.shape[2])
        angle = torch.arange(x.shape[1])[:, None] * frequency
        positions = torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, : x.shape[2]]
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x + positions.to(x)], dim=1)
        padding = None if mask is None else nn.functional.pad(~mask, (1, 0), value=False)
        x = self.layers(x, src_key_padding_mask=padding)
        return x[:, 0], x[:, 1:]


class Convolutions(nn.Module):
    """Temporal convolutions with group normalisation, ReLU and dropout: (B, T, input) -> (B, T', width).

    Padding is zero before every layer and left out of the normalisation, so that an entry does not depend on the
    lengths of the others in its batch.

    Args:
        input_dim: width of a step.
        width: channels, a multiple of 8.
        layers: their number; each has stride 2.
        kernel: steps that a convolution sees, odd.
        dropout: share of units dropped in training.
        first_stride: stride of the first layer.
    """

    def __init__(self, input_dim: int, width: int, layers: int, kernel: int, dropout: float, first_stride: int = 2):
        super().__init__()
        strides = [first_stride, *[2] * (layers - 1)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(input_dim if i == 0 else width, width, kernel, stride, kernel // 2)
            for i, stride in enumerate(strides)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in strides)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The sequence and its mask (B, T')."""
        mask = whole(x, mask)
        x = (x * mask[..., None]).transpose(1, 2)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            mask = mask[:, :: convolution.stride[0]]
            x = self.dropout(_normalise(norm, convolution(x), mask).relu()) * mask[:, None]
        return x.transpose(1, 2), mask


def _normalise(norm: nn.GroupNorm, x: Tensor, mask: Tensor) -> Tensor:
    """Group normalisation over the valid steps of (B, C, T)."""
    dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))  # half precision cannot count the steps
    keep = mask[:, None].to(x.dtype)
    grouped = (x * keep).view(len(x), norm.num_groups, -1, x.shape[2])
    count = keep.sum(dim=2)[:, :, None, None] * grouped.shape[2]
    mean = grouped.sum(dim=(2, 3), keepdim=True) / count
    centred = (grouped - mean) * keep[:, None]
    variance = centred.square().sum(dim=(2, 3), keepdim=True) / count
    x = (centred / (variance + norm.eps).sqrt()).view_as(x)
    return (x * norm.weight[:, None] + norm.bias[:, None]).to(dtype)
