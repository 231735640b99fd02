"""Images, sounds or texts in a folder, or texts in one file, that belong to no data set."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torchaudio

from datamodules.features import DataError
from datamodules.items import Files
from datamodules.layouts import layout_advice
from datamodules.media import read_image, read_sound, sound_rate

Content = Literal["text", "image", "sound"]
ENDINGS = {
    "text": (".txt",),
    "image": (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    "sound": (".wav", ".flac", ".mp3", ".ogg"),
}
# Columns of a .csv file that hold texts.
TEXT_COLUMNS = ("text", "caption")
# Seconds: the longest window that an encoder of sounds looks through.
SHORTEST_SOUND = 0.025


def read_folder(where: Path, content: Content, rate: int | None) -> tuple[list[str], list[str] | Files]:
    """Names and entries of what stands in a folder and its subfolders, in the order of their paths.

    Args:
        where: the folder. For texts also a .txt file of one text per line, or a .csv file of one column or with a
            column called text or caption; each text is then its own name.
        content: "text" (.txt files), "image" or "sound"; files of other endings and hidden files are passed over.
        rate: samples per second that sounds are to have.

    Returns:
        Names, and texts or files, which are decoded when they are asked for.

    Raises:
        DataError: there is none.
    """
    if not where.exists():
        raise DataError(f"{where} is missing; expected a folder{' or a file' * (content == 'text')} of {content}s")
    if content == "text" and where.is_file():
        texts = _lines(where)
        return texts, texts
    paths = sorted(
        path
        for path in where.rglob("*")
        if path.suffix.lower() in ENDINGS[content] and path.name[0] != "." and path.is_file()
    )
    if not paths:
        raise DataError(f"{where} holds no {content}; expected files that end in {', '.join(ENDINGS[content])}")
    names = [path.relative_to(where).as_posix() for path in paths]
    return names, Files(tuple(paths), _text if content == "text" else partial(decode, rate=rate))


def decode(path: Path, rate: int | None) -> np.ndarray:
    """An image (``rate`` is None), or a sound at ``rate`` samples per second, as the data sets decode them.

    Raises:
        DataError: it cannot be read, or is a sound that is too short to be encoded.
    """
    dataset = "flickr8k_tri"  # the readers advise on its layout, which is no use here
    try:
        if rate is None:
            return read_image(path, dataset)
        found = sound_rate(path, dataset)
        wave = read_sound(path, found, dataset)
    except DataError as error:
        raise DataError(str(error).removesuffix(layout_advice(dataset)).strip()) from error
    if len(wave) < SHORTEST_SOUND * found:
        lasts = f"{1000 * len(wave) / found:.0f} ms; expected at least {1000 * SHORTEST_SOUND:.0f}"
        raise DataError(f"{path}: lasts {lasts}.")
    if found != rate:
        wave = torchaudio.functional.resample(torch.from_numpy(wave), found, rate).numpy()
    return wave


def readable(files: Files, rows: Sequence[int]) -> tuple[list[int], list[str]]:
    """Those of the rows whose files can be decoded, and what is wrong with each of the others."""

    def fault(row: int) -> str:
        try:
            files[row]
        except DataError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # decoders release the interpreter's lock
        faults = list(pool.map(fault, rows))
    return [row for row, reason in zip(rows, faults, strict=True) if not reason], [
        reason for reason in faults if reason
    ]


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}).") from error
    if not text:
        raise DataError(f"{path}: is empty.")
    return text


def _lines(path: Path) -> list[str]:
    lines = _text(path).splitlines()
    texts = [line.strip() for line in (_column(path, lines) if path.suffix.lower() == ".csv" else lines)]
    texts = [text for text in texts if text]
    if not texts:
        raise DataError(f"{path}: holds no text.")
    return texts


def _column(path: Path, lines: list[str]) -> list[str]:
    """The texts of a .csv file; a row that is too short has none."""
    try:
        rows = [row for row in csv.reader(lines, strict=True) if row]
    except csv.Error as error:
        raise DataError(f"{path}: is not CSV text ({error}).") from error
    header = [name.strip().lower() for name in rows[0]]
    column = next((header.index(name) for name in TEXT_COLUMNS if name in header), None)
    if column is None and len(header) > 1:
        raise DataError(f"{path}: has {len(header)} columns; expected one, or a header with text or caption.")
    if column is None:
        return [row[0] for row in rows]
    return [row[column] for row in rows[1:] if len(row) > column]
