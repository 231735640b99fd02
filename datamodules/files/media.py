"""Images and sounds in files of their own, decoded by content and not by the name's ending."""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from PIL import ExifTags, Image

from datamodules.errors import DataError
from datamodules.files.cache import kept_arrays
from datamodules.files.text import broken, require
from datamodules.items import Files, ItemSet, Modality

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")  # endings of their names
SOUNDS = (".wav", ".mp3", ".flac", ".ogg")
# Bytes that the header of a WAV file claims where a program wrote it to a pipe, without knowing how many would come.
STREAMED = 2**31 - 2**16
# Numbers in a filter that resamples: rate times rate over their common divisor squared, gigabytes from 44,101 to
# 16,000.
FILTER = 2**27
UPWARDS = 64  # most samples that are made of one
# What turns an image upright, by its EXIF orientation; one of orientation 1 is upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8, upright where the file says how it was held; greys of 16 bits become 8.

    What is transparent shows a white ground. Of several images in a file the first is read.

    Raises:
        DataError: the file is missing, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            image.load()  # a PNG may have its metadata behind its pixels
            # Not by ImageOps.exif_transpose, which writes all metadata again, and fails where some are odd.
            turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation))
            upright = image if turn is None else image.transpose(turn)
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
    except Exception as error:  # a damaged file makes Pillow's parsers raise almost anything
        raise broken(path, f"is not a readable image ({type(error).__name__}: {error})") from error


def read_sound(path: Path, rate: int, resample: bool = False) -> np.ndarray:
    """A sound file as its mono waveform, (T,) float32 in -1..1; several channels are averaged.

    Args:
        path: WAV, FLAC, OGG or MP3.
        rate: samples per second that the waveform is to have.
        resample: whether a file of another rate is resampled, and not refused.

    Raises:
        DataError: the file is missing, truncated, without samples, not finite, not a sound, or of another rate; or
            resampling it would take gigabytes: its rate is far lower, or has too small a common divisor with the wanted
            one.
    """
    import soundfile  # here: it loads a C library that nothing but sound needs

    try:
        with soundfile.SoundFile(path) as file:
            wave, found, said = file.read(dtype="float32", always_2d=True), file.samplerate, file.extra_info
    except UnicodeEncodeError as error:
        raise broken(path, "has a name that is not valid in this machine's encoding; rename it") from error
    except (OSError, RuntimeError, MemoryError, ValueError) as error:  # LibsndfileError is a RuntimeError
        raise broken(path, f"is not a readable sound ({type(error).__name__}: {error})") from error
    if found != rate and not resample:
        raise broken(path, f"has {found} samples per second; expected {rate}")
    if found * rate // math.gcd(found, rate) ** 2 > FILTER or found * UPWARDS < rate:
        raise broken(path, f"has {found} samples per second, which cannot be resampled to {rate}; save it at {rate}")
    # libsndfile reads a WAV file that was cut off as far as it goes, and says so in its log alone.
    cut = re.search(r"^data : (\d+) \(should be (\d+)\)", said, re.MULTILINE)
    if cut and int(cut[1]) < STREAMED:
        raise broken(path, f"is truncated: it has {cut[2]} of its {cut[1]} bytes of sound")
    if not len(wave):
        raise broken(path, "has no samples; expected at least one")
    if not np.isfinite(wave).all():
        raise broken(path, "has samples that are NaN or infinite")
    mono = wave.mean(axis=1)
    if found == rate:
        return mono
    import torch  # here: as above
    import torchaudio

    return torchaudio.functional.resample(torch.from_numpy(mono), found, rate).numpy()


# Files of items -----------------------------------------------------------------------------------------------------


def image_of_each(folder: Path, names: Sequence[str], source: str | None = None) -> Modality:
    """The images of items in a folder, by the name of each; see `in_folder`."""
    return files_of_items("image", in_folder(folder, names, source))


def in_folder(folder: Path, names: Sequence[str], source: str | None = None) -> list[tuple[int, Path]]:
    """The file of each item, by its name in a folder; FileMissing is raised where there is no such folder.

    Where ``source``, the file that names them all, is given, other images and sounds in the folder are warned of.
    """
    require(folder)
    if source is not None:
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        other = sorted(name for name in there - set(names) if name.lower().endswith(IMAGES + SOUNDS))
        if other:
            rank_zero_warn(f"{folder}: {len(other)} file(s) are not in {source} and are not used, first {other[0]}")
    return [(item, folder / name) for item, name in enumerate(names)]


def files_of_items(kind: str, files: Iterable[tuple[int, Path]], rate: int | None = None) -> Modality:
    """The images or sounds of items; a file that is not there is no entry.

    Args:
        kind: "image" or "sound".
        files: the item of each file, ascending, and the file.
        rate: samples per second that sounds must have. None: the rate of most, of two that are as frequent the higher;
            the others are resampled to it, with a warning.
    """
    there = [(item, path) for item, path in files if path.is_file()]
    items, paths = np.array([item for item, _ in there], dtype=np.int64), tuple(path for _, path in there)
    if kind == "image":
        return Modality(Files(paths, read_image), items)
    if rate is not None:
        return Modality(Files(paths, partial(read_sound, rate=rate)), items, rate)
    import soundfile  # here: as above

    def rate_of(path: Path) -> int | None:
        with suppress(OSError, RuntimeError, ValueError):  # found again, and named, when every file is checked
            return soundfile.info(path).samplerate
        return None

    rates = _in_threads(rate_of, paths)
    counts = Counter(rate for rate in rates if rate is not None)
    rate = max(counts, key=lambda rate: (counts[rate], rate), default=0)
    other = [path for path, found in zip(paths, rates, strict=True) if found not in (rate, None)]
    if other:
        what = f"{len(other)} of {len(paths)} sounds have another rate than {rate} Hz and are resampled to it"
        rank_zero_warn(f"{what}, first {other[0]}")
    return Modality(Files(paths, partial(read_sound, rate=rate, resample=True)), items, rate)


def broken_files(data: ItemSet) -> dict[str, str]:
    """Item -> what is wrong, for items with a file that cannot be decoded.

    Every file is decoded once and remembered, those that are broken every time. Each of these is also warned about by
    name.
    """
    broken_items: dict[str, str] = {}
    for modality in data.modalities.values():
        if isinstance(modality.entries, Files):
            for entry, reason in _broken(modality).items():
                broken_items[data.names[modality.owners()[entry]]] = reason
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
