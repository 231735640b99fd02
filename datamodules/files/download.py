"""Files over HTTP, verified by their sha256."""

from dataclasses import dataclass
from pathlib import Path

import pooch

from datamodules.errors import DataMissing
from datamodules.files.sources import sha256_of


@dataclass(frozen=True)
class SourceFile:
    """One file: its name in the data set's folder, what it holds, where it is, its sha256 and size in bytes."""

    name: str
    content: str
    url: str
    sha256: str
    size: int


def fetch(file: SourceFile, folder: Path) -> bool:
    """Fetch a file into a folder, where it then stands whole and with the known sha256, or not at all.

    Returns:
        Whether it had to be fetched: one that is there already stays as it is.

    Raises:
        DataMissing: no connection, no such file, other bytes than expected, or another file of that name is there.
    """
    path = folder / file.name
    if path.exists():
        if sha256_of(path) == file.sha256:
            return False
        raise DataMissing(f"{path} is another file than the known one and is left as it is; move it away.")
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        # Without a sign of life of the server for so many seconds, a machine without a network finds out.
        downloader = pooch.HTTPDownloader(progressbar=False, timeout=20)
        pooch.retrieve(file.url, f"sha256:{file.sha256}", fname=file.name, path=folder, downloader=downloader)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; pooch raises ValueError for other bytes
        for parent in made:  # an empty data/ would look like a data root
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        reason = str(error).strip().splitlines()[0]
        raise DataMissing(f"{path} could not be fetched from {file.url} ({type(error).__name__}: {reason}).") from None
    return True
