"""Images, sounds or texts in a folder, or texts in one file, that belong to no data set."""

import csv
import io
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from datamodules.errors import DataError
from datamodules.files.media import IMAGES, SOUNDS, read_image, read_sound
from datamodules.items import Files

Content = Literal["text", "image", "sound"]
ENDINGS = {"text": (".txt",), "image": IMAGES, "sound": SOUNDS}
TEXT_COLUMNS = ("text", "caption")  # of CSV


def read_folder(where: Path, content: Content, rate: int | None) -> tuple[list[str], list[str] | Files]:
    """Names and entries of what a folder and its subfolders hold, in the order of their paths.

    Linked folders are entered once each. Links to nowhere and folders that may not be read are among the files, and
    cannot be decoded.

    Args:
        where: the folder. For texts also a file: of one text per line, or CSV of one column or with a column called
            text or caption; each text is then its own name. CSV is what ends in .csv or has a header of several columns
            with one of these.
        content: "text" (.txt files), "image" or "sound"; files of other endings, and hidden files and folders, are
            skipped.
        rate: samples per second that sounds are to have.

    Raises:
        DataError: there is none.
    """
    if not where.exists():
        raise DataError(f"{where} is missing; expected a folder{' or a file' * (content == 'text')} of {content}s")
    if content == "text" and where.is_file():
        return (texts := _texts(where)), texts
    if not where.is_dir():
        raise DataError(f"{where} is a file; expected a folder of {content}s")
    paths = _below(where, ENDINGS[content])
    if not paths:
        raise DataError(f"{where} holds no {content}; expected files that end in {', '.join(ENDINGS[content])}")
    names = [path.relative_to(where).as_posix() for path in paths]
    return names, Files(tuple(paths), _text if content == "text" else partial(decode, rate=rate))


def decode(path: Path, rate: int | None) -> np.ndarray:
    """An image (``rate`` is None), or a sound at ``rate`` samples per second; a DataError if it cannot be read."""
    return read_image(path) if rate is None else read_sound(path, rate, resample=True)


def _below(where: Path, endings: Sequence[str]) -> list[Path]:
    """Files of these endings below a folder, in order; whatever there cannot be looked at is among them."""
    found: list[Path] = []
    entered = {os.path.realpath(where)}

    def is_new(folder: str) -> bool:
        known = len(entered)
        entered.add(os.path.realpath(folder))
        return len(entered) > known

    walk = os.walk(where, onerror=lambda error: found.append(Path(error.filename)), followlinks=True)
    for place, folders, files in walk:
        folders[:] = [name for name in sorted(folders) if name[0] != "." and is_new(os.path.join(place, name))]
        for path in [Path(place, name) for name in files]:
            # No pipes; links to nowhere are to be named.
            if path.name[0] != "." and path.suffix.lower() in endings and (path.is_file() or not path.exists()):
                found.append(path)
    return sorted(found)


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}).") from error
    if not text:
        raise DataError(f"{path}: is empty.")
    return text


def _texts(path: Path) -> list[str]:
    """The texts of a file; a row of CSV that is too short has none."""
    text = _text(path)
    header = [name.strip('"') for name in text.partition("\n")[0].lower().split(",")]  # in prose a space follows ","
    if path.suffix.lower() == ".csv" or (len(header) > 1 and not {*header}.isdisjoint(TEXT_COLUMNS)):
        found = _column(path, text)
    else:
        found = text.split("\n")
    if texts := [line.strip() for line in found if line.strip()]:
        return texts
    raise DataError(f"{path}: holds no text.")


def _column(path: Path, text: str) -> list[str]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as error:
        raise DataError(f"{path}: is not CSV text ({error}).") from error
    header = [name.strip().lower() for name in rows[0]]
    named = [place for place, name in enumerate(header) if name in TEXT_COLUMNS]
    if not named and len(header) > 1:
        raise DataError(f"{path}: has {len(header)} columns; expected one, or a header with text or caption.")
    if long := next((row for row in rows if any(row[len(header) :])), None):  # most likely a comma of the text itself
        raise DataError(
            f"{path}: a row has {len(long)} columns and the first row {len(header)}, {','.join(long)[:80]!r}; put "
            "texts with commas into quotes."
        )
    column = named[0] if named else 0
    return [row[column] for row in rows[bool(named) :] if len(row) > column]


def printable(name: object) -> str:
    """A name with line breaks, and whatever else a terminal would act on or cannot show, as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(name))
