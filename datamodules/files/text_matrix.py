"""Matrices written as text, one row per line, of which some rows are wanted."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.files.cache import kept_arrays
from datamodules.files.rows import decoding
from datamodules.files.sources import sha256_of
from datamodules.files.text import broken, require

LARGE = 2**26


@dataclass(frozen=True)
class Part:
    """Some rows of files whose columns belong side by side."""

    files: Sequence[Path]  # row i of each describes the same item
    rows: np.ndarray  # numbers of the wanted rows, ascending, at least one
    count: int  # rows that every file must have


def read_parts(parts: Sequence[Part]) -> np.ndarray:
    """The wanted rows of every part, one part below the other, (n, d) float32.

    The files hold numbers divided by white space; empty lines count for nothing. They are read line by line, and only
    the wanted lines are parsed: beside the matrix that is returned nothing is held. What files of more than `LARGE`
    bytes together gave is kept in the user's cache folder under the sha256 of their contents: parsing takes minutes.

    Args:
        parts: all with as many files, each file as wide as that of the first part.

    Raises:
        DataError: a file is missing or has another number of rows, or a wanted row has something other than numbers, or
            another number of them than the first row of the file in the first part.
    """
    files = [require(path) for part in parts for path in part.files]
    if sum(path.stat().st_size for path in files) <= LARGE:
        return _parsed(parts)
    sha = hashlib.sha256()
    for part in parts:
        sha.update(f"{part.count} {len(part.files)} {len(part.rows)}\0".encode() + part.rows.astype("<i8").tobytes())
        for path in part.files:
            sha.update(sha256_of(path).encode())
    return kept_arrays(f"text-matrix-{sha.hexdigest()}", lambda: {"matrix": _parsed(parts)})["matrix"]


def _parsed(parts: Sequence[Part]) -> np.ndarray:
    widths = []
    for path in parts[0].files:
        with decoding(path, "rows of numbers"), path.open("rb") as file:
            widths.append(len(next((line for line in file if not line.isspace()), b"").split()))
    heights = [len(part.rows) for part in parts]
    matrix = np.empty((sum(heights), sum(widths)), dtype=np.float32)
    for part, rows in zip(parts, np.split(matrix, np.cumsum(heights)[:-1]), strict=True):
        for path, block in zip(part.files, np.split(rows, np.cumsum(widths)[:-1], axis=1), strict=True):
            _fill(block, path, part)
    return matrix


def _fill(block: np.ndarray, path: Path, part: Part) -> None:
    place_of = {row: place for place, row in enumerate(part.rows.tolist())}
    row = -1
    # numpy warns of text that is no number, and goes on with what stands before it.
    with decoding(path, "rows of numbers"), path.open("rb") as file, warnings.catch_warnings(action="error"):
        for row, line in enumerate(line for line in file if not line.isspace()):
            if row not in place_of:
                continue
            try:
                numbers = np.fromstring(line, dtype=np.float32, sep=" ")
            except (ValueError, DeprecationWarning) as error:
                raise broken(path, f"row {row + 1} is {line[:60]!r}; expected numbers") from error
            if len(numbers) != block.shape[1]:
                raise broken(path, f"row {row + 1} has {len(numbers)} numbers; expected {block.shape[1]}")
            block[place_of[row]] = numbers
    if row + 1 != part.count:
        raise broken(path, f"has {row + 1} rows; expected {part.count}, one for each item of its part")


def read_bits(path: Path) -> np.ndarray:
    """A column of zeros and ones, one per line, (n,) bool; a DataError where a line is neither."""
    with decoding(require(path), "zeros and ones"):
        lines = np.array(path.read_bytes().split())
    bad = np.flatnonzero((lines != b"0") & (lines != b"1"))
    if bad.size:
        what = f"line {bad[0] + 1} is {lines[bad[0]][:40].decode(errors='replace')!r}; expected 0 or 1"
        raise broken(path, what)
    return lines == b"1"
