"""Images and sounds in files of their own, decoded by content and not by the name's ending."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.items import Files, Modality
from datamodules.layouts import broken


def read_image(path: Path, dataset: str) -> np.ndarray:
    """An image file as (H, W, 3) uint8.

    Raises:
        DataError: the file is missing, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise broken(path, f"is not a readable image ({type(error).__name__}: {error})", dataset) from error


def image_of_each(paths: Sequence[Path], dataset: str) -> Modality:
    """The image files of items, one path per item; an item whose path is no file has no entry."""
    owner = np.array([item for item, path in enumerate(paths) if path.is_file()], dtype=np.int64)
    return Modality(Files(tuple(paths[item] for item in owner), partial(read_image, dataset=dataset)), owner)


def read_sound(path: Path, rate: int, dataset: str) -> np.ndarray:
    """A sound file as its mono waveform, (T,) float32 in -1..1; several channels are averaged.

    Args:
        path: WAV, FLAC, OGG or MP3.
        rate: samples per second that the file must have.
        dataset: the data set it belongs to, for messages.

    Raises:
        DataError: the file is missing, truncated, silent of length, not a sound, or of another rate.
    """
    import soundfile  # here: it loads a C library that nothing but sound needs

    try:
        wave, found = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:  # LibsndfileError is a RuntimeError
        raise broken(path, f"is not a readable sound ({type(error).__name__}: {error})", dataset) from error
    if found != rate:
        raise broken(path, f"has {found} samples per second; expected {rate}", dataset)
    if not len(wave) or not np.isfinite(wave).all():
        raise broken(path, f"has {len(wave)} samples; expected finite ones, at least one", dataset)
    return wave.mean(axis=1)


def sound_rate(path: Path, dataset: str) -> int:
    """Samples per second of a sound file.

    Raises:
        DataError: the file is missing or not a sound.
    """
    import soundfile  # here: as above

    try:
        return soundfile.info(path).samplerate
    except (OSError, RuntimeError) as error:
        raise broken(path, f"is not a readable sound ({type(error).__name__}: {error})", dataset) from error
