"""Sound: log-mel spectrograms through a small network."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torchaudio
from torch import Tensor

from datamodules.features.networks import SAMPLE_RATE, WINDOW, resampled
from lightning_modules.networks.encoders.base import Convolutions, Encoder, Standardise, pool

HOP = 320  # samples: the windows of 25 ms stand 20 ms apart


class LogMelSpectrogram:
    """Front end: waveform -> (T, mels) log-mel spectrogram, log(mel + 1e-6), windows of 25 ms every 20 ms at 16 kHz.

    Half a window is mirrored at both ends; a sound that is too short for that, 12.5 ms or less, is followed by silence.

    Args:
        mels: bands.
    """

    def __init__(self, mels: int):
        self.key = f"log-mel {mels} {WINDOW} {HOP} {SAMPLE_RATE}"
        self.spectrogram = torchaudio.transforms.MelSpectrogram(SAMPLE_RATE, WINDOW, hop_length=HOP, n_mels=mels)

    def __call__(self, entries: Sequence[np.ndarray], rate: int | None) -> list[np.ndarray]:
        # By number: files are decoded one after the other.
        waves = (resampled(entries[i], rate, least=WINDOW // 2 + 1) for i in range(len(entries)))
        return [(self.spectrogram(wave) + 1e-6).log().T.numpy().astype(np.float16) for wave in waves]


class LogMel(Encoder):
    """Log-mel spectrograms through three temporal convolutions, mean and maximum over time.

    In training a band and a stretch of every spectrogram are masked.

    Args:
        source: of kind "sound", decoded to a waveform.
        mels: bands of the spectrogram.
        width: channels.
        dropout: share of units dropped in training.

    Source of the masking: Park et al., Interspeech 2019 (SpecAugment).
    """

    kinds = ("sound",)

    def __init__(self, source: Mapping[str, Any], mels: int = 64, width: int = 128, dropout: float = 0.2):
        super().__init__(source)
        self.front_end = LogMelSpectrogram(mels)
        self.standardise = Standardise(mels)
        self.convolutions = Convolutions(mels, width, 3, 5, dropout)
        self.dim, self.token_dim = 2 * width, width

    def fit(self, rows: Tensor, mask: Tensor | None) -> None:
        self.standardise.fit(rows, mask)

    def with_tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        x = self.standardise(x)
        x, mask = self.convolutions(_masked(x, mask) if self.training else x, mask)
        return pool(x, mask), x, mask


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Set a stretch of steps, up to a tenth of an entry's, and a band, up to 15% of all, to the mean of 0."""
    steps = torch.full((len(x),), x.shape[1], device=x.device) if mask is None else mask.sum(dim=1)
    bands = torch.full((len(x),), x.shape[2], device=x.device)
    return x * _kept(steps, x.shape[1], 0.1)[:, :, None] * _kept(bands, x.shape[2], 0.15)[:, None]


def _kept(length: Tensor, longest: int, most: float) -> Tensor:
    """(B, longest), False in one stretch of each row, up to a share ``most`` of the row's length and within it."""
    width = torch.rand(len(length), device=length.device) * most * length
    start = torch.rand(len(length), device=length.device) * (length - width)
    step = torch.arange(longest, device=length.device)
    return (step < start[:, None]) | (step >= (start + width)[:, None])
