"""One file over HTTP: continued where it broke off, verified by length and sha256, and only then put in its place."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pooch
import requests
from tqdm import tqdm
from urllib3.exceptions import NewConnectionError

# Seconds to connect, and seconds without a byte: a machine without a network must find out quickly.
TIMEOUT = (4, 20)
# Transfers in a row that bring nothing new before the download is given up; the wait before a further one doubles.
ATTEMPTS = 4
FIRST_WAIT = 0.5  # seconds
CHUNK = 1 << 16  # bytes; of a transfer that breaks off, up to one chunk is lost
# Answers that may be others a moment later.
PASSING = (408, 429, 500, 502, 503, 504)


class DownloadError(OSError):
    """A file could not be fetched; the message says why."""


def part_of(path: Path) -> Path:
    """Where the bytes of a file stand until all of them are there."""
    return path.with_name(f"{path.name}.part")


def download(url: str, path: Path, sha256: str, size: int) -> bool:
    """Fetch a file: afterwards `path` holds the known bytes, or is what it was before.

    Bytes that arrived stay in `<name>.part` after a failure, and the next call continues from there. A server that
    does not continue, or a part that turns out to be of other bytes, means a start from the first byte. A transfer that
    breaks off is repeated while it brings new bytes, and then three more times. Processes that want the same file wait
    for each other.

    Args:
        url: http or https.
        path: the file; one that is there and has the sha256 stays untouched, and nothing is asked of the server.
        sha256: of the file.
        size: of the file, in bytes.

    Returns:
        Whether the file had to be fetched.

    Raises:
        DownloadError: no connection, no such file, a transfer that keeps breaking off, other bytes than expected, or
            `path` holds something else already.
        OSError: the file cannot be written.
    """
    if _is_there(path, sha256):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(part_of(path)) as part:
        if _is_there(path, sha256):  # another process fetched it meanwhile
            return False
        had_bytes = _held(part) > 0
        _fill(url, part, size, path.name)
        if had_bytes and pooch.file_hash(part.name) != sha256:
            _empty(part)  # what an earlier run left there was not the beginning of this file
            _fill(url, part, size, path.name)
        found = pooch.file_hash(part.name)
        if found != sha256:
            part_of(path).unlink()
            raise DownloadError(f"other bytes than expected: sha256 {found}, known {sha256}")
        os.replace(part.name, path)
    return True


def _is_there(path: Path, sha256: str) -> bool:
    if not path.exists():
        return False
    if path.is_file() and pooch.file_hash(str(path)) == sha256:
        return True
    raise DownloadError("another file of that name is there and is left as it is; move it away to have the known one")


@contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """The file opened for this process alone; another that holds it is waited for."""
    while True:
        with part.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # The other process may have put it in its place, or removed it, while this one waited.
            if part.exists() and os.path.samestat(os.fstat(file.fileno()), part.stat()):
                try:
                    yield file
                finally:
                    if part.exists() and not _held(file):
                        part.unlink()
                return


def _held(part: BinaryIO) -> int:
    return part.seek(0, os.SEEK_END)


def _empty(part: BinaryIO) -> None:
    part.seek(0)
    part.truncate()


def _fill(url: str, part: BinaryIO, size: int, name: str) -> None:
    """Transfer what the part lacks, again while a broken transfer brought something new."""
    if _held(part) > size:
        _empty(part)
    longest, failures, first = _held(part), 0, True
    with tqdm(total=size, initial=longest, unit="B", unit_scale=True, desc=name, disable=None, leave=False) as bar:
        while _held(part) < size:
            try:
                _transfer(url, part, size, bar)
                reason = f"the server ended the transfer after {_held(part)} of {size} bytes"
            except requests.RequestException as error:
                reason = _reason(error, url)
                if _is_lasting(error, first):
                    raise DownloadError(reason) from error
            first = False
            failures = 0 if _held(part) > longest else failures + 1
            longest = max(longest, _held(part))
            if failures == ATTEMPTS:
                raise DownloadError(reason)
            if failures:
                time.sleep(FIRST_WAIT * 2 ** (failures - 1))
    part.flush()


def _transfer(url: str, part: BinaryIO, size: int, bar: tqdm) -> None:
    """One request: what the server sends is appended to the part, or replaces it where the server begins anew."""
    held = _held(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={held}-"} if held else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if not held or answer.status_code != requests.codes.range_not_satisfiable:
            answer.raise_for_status()
        if held and not answer.headers.get("Content-Range", "").startswith(f"bytes {held}-"):
            _empty(part)
            if answer.status_code != requests.codes.ok:
                return  # neither what was asked for nor the whole file: the next request asks for the whole
        # The known size counts, not the length that the server states.
        for chunk in answer.iter_content(CHUNK):
            part.write(chunk)
            held = part.tell()
            bar.update(held - bar.n)
            if held > size:
                _empty(part)
                raise DownloadError(f"other bytes than expected: more than the known {size}")


def _is_lasting(error: requests.RequestException, first: bool) -> bool:
    """Whether asking again is of no use."""
    if isinstance(error, requests.HTTPError):
        return error.response.status_code not in PASSING
    return first and _is_unreachable(error)


def _is_unreachable(error: requests.RequestException) -> bool:
    inner = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(error, requests.ConnectTimeout) or isinstance(inner, NewConnectionError)


def _reason(error: requests.RequestException, url: str) -> str:
    if _is_unreachable(error):
        return f"no connection to {urlsplit(url).netloc}"
    return f"{type(error).__name__}: {error}"
