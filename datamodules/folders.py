"""Images, sounds or texts in a folder, or texts in one file, that belong to no data set."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from datamodules.errors import DataError
from datamodules.files.media import faults, read_image, read_resampled
from datamodules.items import Files

Content = Literal["text", "image", "sound"]
ENDINGS = {
    "text": (".txt",),
    "image": (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    "sound": (".wav", ".flac", ".mp3", ".ogg"),
}
# Columns of a .csv file that hold texts.
TEXT_COLUMNS = ("text", "caption")


def read_folder(where: Path, content: Content, rate: int | None) -> tuple[list[str], list[str] | Files]:
    """Names and entries of what stands in a folder and its subfolders, in the order of their paths.

    Linked folders are entered too, each once. Links to nowhere and folders that may not be read are among the files,
    which turn out not to be readable.

    Args:
        where: the folder. For texts also a file: of one text per line, or CSV text of one column or with a column
            called text or caption; each text is then its own name. CSV is what ends in .csv or has a header of several
            columns with one of these.
        content: "text" (.txt files), "image" or "sound"; files of other endings, and hidden files and folders, are
            passed over.
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
    if not where.is_dir():
        raise DataError(f"{where} is a file; expected a folder of {content}s")
    paths = _below(where, ENDINGS[content])
    if not paths:
        raise DataError(f"{where} holds no {content}; expected files that end in {', '.join(ENDINGS[content])}")
    names = [path.relative_to(where).as_posix() for path in paths]
    return names, Files(tuple(paths), _text if content == "text" else partial(decode, rate=rate))


def decode(path: Path, rate: int | None) -> np.ndarray:
    """An image (``rate`` is None), or a sound at ``rate`` samples per second, as the data sets decode them.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return read_image(path) if rate is None else read_resampled(path, rate)
    except UnicodeEncodeError as error:  # which the library of sounds cannot pass on
        raise DataError(f"{path}: has a name that is no text of this machine's encoding; rename it.") from error


def readable(files: Files, rows: Sequence[int]) -> tuple[list[int], list[str]]:
    """Those of the rows whose files can be decoded, and what is wrong with each of the others."""
    found = faults(files, rows)
    return [row for row in rows if row not in found], list(found.values())


def _below(where: Path, endings: Sequence[str]) -> list[Path]:
    """Files of these endings below a folder, in order; whatever there cannot be looked at is among them."""
    found: list[Path] = []
    entered: set[str] = set()
    starts = [where]
    for start in starts:  # grows by the linked folders: a file has the name under which it really stands, if it does
        for place, folders, files in os.walk(start, onerror=lambda error: found.append(Path(error.filename))):
            real = os.path.realpath(place)
            if real in entered:
                folders.clear()
                continue
            entered.add(real)
            folders[:] = sorted(name for name in folders if name[0] != ".")
            starts += [Path(place, name) for name in folders if os.path.islink(Path(place, name))]
            found.extend(Path(place, name) for name in files if _is_entry(Path(place, name), endings))
    return sorted(found)


def _is_entry(path: Path, endings: Sequence[str]) -> bool:
    named = path.name[0] != "." and path.suffix.lower() in endings
    return named and (os.path.isfile(path) or not os.path.exists(path))  # no pipes; links to nowhere are to be named


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}).") from error
    if not text:
        raise DataError(f"{path}: is empty.")
    return text


def _lines(path: Path) -> list[str]:
    text = _text(path)
    of_columns = path.suffix.lower() == ".csv" or _has_header(text)
    texts = [found.strip() for found in (_column(path, text) if of_columns else text.split("\n"))]
    texts = [found for found in texts if found]
    if not texts:
        raise DataError(f"{path}: holds no text.")
    return texts


def _has_header(text: str) -> bool:
    """Whether the first line names several columns, and one of texts; in prose a space follows the comma."""
    names = text.partition("\n")[0].rstrip().split(",")
    named = all(re.fullmatch(r'"?\w([\w .-]*\w)?"?', name) for name in names)
    return named and len(names) > 1 and not {name.strip('"').lower() for name in names}.isdisjoint(TEXT_COLUMNS)


def _column(path: Path, text: str) -> list[str]:
    """The texts of CSV; a row that is too short has none."""
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as error:
        raise DataError(f"{path}: is not CSV text ({error}).") from error
    header = [name.strip().lower() for name in rows[0]]
    column = next((header.index(name) for name in TEXT_COLUMNS if name in header), None)
    if column is None and len(header) > 1:
        raise DataError(f"{path}: has {len(header)} columns; expected one, or a header with text or caption.")
    for row in rows:
        if any(row[len(header) :]):  # most likely a comma of the text itself
            row_is = f"a row has {len(row)} columns and the first row {len(header)}, {','.join(row)[:80]!r}"
            raise DataError(f"{path}: {row_is}; put texts with commas into quotes.")
    if column is None:
        return [row[0] for row in rows]
    return [row[column] for row in rows[1:] if len(row) > column]
