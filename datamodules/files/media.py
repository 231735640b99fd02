"""Images and sounds in files of their own, decoded by content and not by the name's ending."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image, ImageOps

from datamodules.errors import DataError
from datamodules.files.cache import kept_arrays
from datamodules.files.text import broken, require
from datamodules.items import Files, ItemSet, Modality

# Bytes that the header of a WAV file claims where a program wrote it to a pipe, without knowing how many would come.
STREAMED = 2**31 - 2**16
# Numbers in a filter that resamples: rate times rate over their common divisor squared, gigabytes from 44,101 to
# 16,000.
FILTER = 2**27
UPWARDS = 64  # most samples that are made of one


def read_image(path: Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8, upright where the file says how it was held; greys of 16 bits become 8.

    What is transparent shows a white ground. Of several images in a file the first is read.

    Raises:
        DataError: the file is missing, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("I", "F"):
                raise ValueError(f"its pixels are of mode {upright.mode}, of no known range; expected 8 or 16 bits")
            if upright.mode.startswith("I;16"):  # which `convert` would clip at 255
                grey = np.asarray(upright)
                grey = np.where(grey == upright.info.get("transparency", -1), 65_535, grey)
                upright = Image.fromarray((grey // 257).astype(np.uint8))
            if upright.has_transparency_data:  # `convert` alone would show what the transparent pixels hide
                drawn, upright = upright.convert("RGBA"), Image.new("RGBA", upright.size, "white")
                upright.alpha_composite(drawn)
            return np.asarray(upright.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise broken(path, f"is not a readable image ({type(error).__name__}: {error})") from error


def image_of_each(folder: Path, names: Sequence[str]) -> Modality:
    """The image files of items in a folder that must be there; an item whose name is no file has no entry."""
    return Modality.of_files([require(folder) / name for name in names], read_image)


def read_sound(path: Path, rate: int) -> np.ndarray:
    """A sound file as its mono waveform, (T,) float32 in -1..1; several channels are averaged.

    Args:
        path: WAV, FLAC, OGG or MP3.
        rate: samples per second that the file must have.

    Raises:
        DataError: the file is missing, truncated, without samples, not finite, not a sound, or of another rate.
    """
    import soundfile  # here: it loads a C library that nothing but sound needs

    try:
        with soundfile.SoundFile(path) as file:
            wave, found, said = file.read(dtype="float32", always_2d=True), file.samplerate, file.extra_info
    except (OSError, RuntimeError, MemoryError, ValueError) as error:  # LibsndfileError is a RuntimeError
        raise broken(path, f"is not a readable sound ({type(error).__name__}: {error})") from error
    if found != rate:
        raise broken(path, f"has {found} samples per second; expected {rate}")
    # libsndfile reads a WAV file that was cut off as far as it goes, and says so in its log alone.
    cut = re.search(r"^data : (\d+) \(should be (\d+)\)", said, re.MULTILINE)
    if cut and int(cut[1]) < STREAMED:
        raise broken(path, f"is truncated: it has {cut[2]} of its {cut[1]} bytes of sound")
    if not len(wave):
        raise broken(path, "has no samples; expected at least one")
    if not np.isfinite(wave).all():
        raise broken(path, "has samples that are NaN or infinite")
    return wave.mean(axis=1)


def read_resampled(path: Path, rate: int) -> np.ndarray:
    """A sound file as `read_sound` reads it, resampled where it has another rate.

    Args:
        path: WAV, FLAC, OGG or MP3.
        rate: samples per second that the waveform is to have.

    Raises:
        DataError: the file is missing, truncated, without samples, not finite or not a sound, or resampling it would
            take gigabytes: its rate is far lower, or has too small a common divisor with the wanted one.
    """
    found = sound_rate(path)
    if found * rate // math.gcd(found, rate) ** 2 > FILTER or found * UPWARDS < rate:
        raise broken(path, f"has {found} samples per second, which cannot be resampled to {rate}; save it at {rate}")
    wave = read_sound(path, found)
    if found == rate:
        return wave
    import torch  # here: as above
    import torchaudio

    return torchaudio.functional.resample(torch.from_numpy(wave), found, rate).numpy()


def sound_rate(path: Path) -> int:
    """Samples per second of a sound file.

    Raises:
        DataError: the file is missing or not a sound.
    """
    import soundfile  # here: as above

    try:
        return soundfile.info(path).samplerate
    except (OSError, RuntimeError) as error:
        raise broken(path, f"is not a readable sound ({type(error).__name__}: {error})") from error


def most_common_rate(paths: Sequence[Path]) -> tuple[int | None, list[Path]]:
    """Samples per second that most of the sound files have, the higher of two, and the files that have others.

    Files that cannot be read are in neither; without one that can, the rate is None.
    """

    def rate_of(path: Path) -> int | None:
        try:
            return sound_rate(path)
        except DataError:
            return None  # found again, and named, when every file is checked

    rates = _in_threads(rate_of, paths)
    counts = Counter(rate for rate in rates if rate is not None)
    most = max(counts, key=lambda rate: (counts[rate], rate), default=None)
    return most, [path for path, rate in zip(paths, rates, strict=True) if rate not in (most, None)]


def broken_files(data: ItemSet) -> dict[str, str]:
    """Item -> what is wrong, for items with a file that cannot be decoded.

    Every file is decoded once and remembered, those that are broken every time. Each of these is also warned about by
    name.
    """
    broken_items: dict[str, str] = {}
    for modality in data.modalities.values():
        if not isinstance(modality.entries, Files):
            continue
        owners = modality.owners()
        for entry, reason in _broken(modality).items():
            broken_items[data.names[owners[entry]]] = reason
            rank_zero_warn(reason)
    return broken_items


def _broken(modality: Modality) -> dict[int, str]:
    found: dict[int, str] = {}

    def compute() -> dict[str, np.ndarray]:
        found.update(faults(modality.entries, range(len(modality.entries))))
        return {"broken": np.array(list(found), dtype=np.int64)}

    known = kept_arrays(f"checked-{modality.digest()}", compute)["broken"]
    # Anew: the reasons name files, and copies in two folders have one digest.
    return found or faults(modality.entries, known.tolist())


def faults(files: Files, rows: Sequence[int]) -> dict[int, str]:
    """Row -> what is wrong, for those of the rows whose files cannot be decoded."""

    def fault(row: int) -> str:
        try:
            files[row]
        except DataError as error:
            return str(error)
        return ""

    return {row: reason for row, reason in zip(rows, _in_threads(fault, rows), strict=True) if reason}


def _in_threads(function: Callable, values: Sequence) -> list:
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # decoders release the interpreter's lock
        return list(pool.map(function, values))
