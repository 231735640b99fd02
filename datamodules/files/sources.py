"""Where each data set comes from: its files with address, sha256, licence and citation; the data root; fetching."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pooch
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.errors import DataError, DataMissing
from datamodules.files.download import download, part_of


@dataclass(frozen=True)
class SourceFile:
    """One file: its name in the data set's folder, what it holds, where it is, its sha256 and size in bytes."""

    name: str
    content: str
    url: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Source:
    """One data set: the folder its files stand in, under which terms, and whom to cite."""

    dataset: str
    files: tuple[SourceFile, ...]
    licence: str
    citation: str

    def file(self, name: str) -> SourceFile:
        return next(file for file in self.files if file.name == name)


_WIKIPEDIA = (
    "https://raw.githubusercontent.com/2012013382/JFSSL-Cross-Modal-Retrieval/"
    "6779ff11f033c22d5dbb5a1743a3b5ad1f766ccc/wikipedia_info"
)
_LIST = "list of text id, image id and class number 1..10, tab-separated, one item per line"

SOURCES = {
    "wikipedia": Source(
        dataset="wikipedia",
        files=(
            SourceFile(
                "raw_features.mat",
                "MATLAB file with I_tr, I_te (image SIFT bag of words, 128-d) and T_tr, T_te (text LDA, 10-d)",
                f"{_WIKIPEDIA}/raw_features.mat",
                "ca628f765a69575e168ab29eb97f5ade12fadf47b31de1328c7ff631c7f225ae",
                1_075_232,
            ),
            SourceFile(
                "wiki_roph.mat",
                "MATLAB file with data.X1 (image, 128 x 2866), data.X2 (text, 100 x 2866) and data.Y (10 x 2866)",
                "https://raw.githubusercontent.com/kding1225/RoPH/6d4a062b7f28e73385458a7171499ca2a47f133b/data/wiki.mat",
                "e417067eb501fbb41375b4461469089c9f0332ff9cdaf3b5f6570bbf0078d97c",
                3_846_773,
            ),
            SourceFile(
                "trainset_txt_img_cat.list",
                _LIST,
                f"{_WIKIPEDIA}/trainset_txt_img_cat.list",
                "30c1ba8afbe90da5986de9b12496b6dd2e4680d3876b79ab7aae2e437d5819a3",
                155_153,
            ),
            SourceFile(
                "testset_txt_img_cat.list",
                _LIST,
                f"{_WIKIPEDIA}/testset_txt_img_cat.list",
                "ec3123ee31cc89dd95fbeb23eb73b2ecfd1d8909bba863723471aad99408c1eb",
                49_494,
            ),
        ),
        licence="none stated",
        citation=(
            "N. Rasiwasia et al., A New Approach to Cross-Modal Multimedia Retrieval, ACM Multimedia 2010; "
            "wiki_roph.mat: features published with the RoPH code"
        ),
    ),
}


def root_is_named(named: str | Path | None) -> bool:
    """Whether the user says where the data are: by argument or by the environment variable CSD_DATA."""
    return named is not None or bool(os.environ.get("CSD_DATA"))


def data_root(named: str | Path | None = None) -> Path:
    """The folder that holds one folder per data set: `named`, else CSD_DATA, else `data/` of the current directory.

    Raises:
        DataError: the folder is named and does not exist, or the path is not a folder.
    """
    if named is not None:
        root, by = Path(named), "the data root"
    elif os.environ.get("CSD_DATA"):
        root, by = Path(os.environ["CSD_DATA"]), "the environment variable CSD_DATA"
    else:
        root, by = Path("data"), "the default data root"
    root = root.expanduser()
    if root.exists() and not root.is_dir():
        raise DataError(f"{root}, {by}, is not a folder; expected a folder with one folder per data set in it.")
    if root_is_named(named) and not root.exists():
        raise DataError(f"{root}, {by}, does not exist; expected a folder with one folder per data set in it.")
    return root


def missing_files(dataset: str, root: Path, names: Sequence[str] | None = None) -> tuple[SourceFile, ...]:
    """Files of a data set (or those of them in `names`) that are not in its folder under `root`."""
    wanted = [file for file in SOURCES[dataset].files if names is None or file.name in names]
    return tuple(file for file in wanted if not (root / dataset / file.name).is_file())


def advice(dataset: str, file: SourceFile) -> str:
    """What a file should be, where to get it and how to check it: the second half of every message about a file."""
    return (
        f"Expected: {file.content}. Get it from {file.url} or with `python -m datamodules get {dataset}`, and check "
        f"with `python -m datamodules check {dataset}`."
    )


def locate(
    dataset: str, named: str | Path | None = None, names: Sequence[str] | None = None, offline: bool = False
) -> Path:
    """The folder with a data set's files, fetched into `data/` first if nobody named a root and some are missing.

    A file whose sha256 is not the known one is used with a warning: whoever reads it checks what it holds.

    Args:
        dataset: a key of SOURCES.
        named: the data root, or None for CSD_DATA or `data/`.
        names: the files that are needed; all by default.
        offline: never fetch.

    Raises:
        DataError: a root is named and lacks a file.
        DataMissing: no root is named, and a file could not be fetched.
    """
    root = data_root(named)
    missing = missing_files(dataset, root, names)
    if missing and root_is_named(named):
        hint = f" {root} looks like the folder {dataset}/ itself: name the one above it." * (
            (root / missing[0].name).is_file()
        )
        raise DataError(f"{root / dataset / missing[0].name} is missing.{hint} {advice(dataset, missing[0])}")
    if missing and offline:
        raise DataMissing(
            f"{root / dataset / missing[0].name} is missing and offline=True forbids fetching it. "
            f"{advice(dataset, missing[0])}"
        )
    if missing:
        fetch(SOURCES[dataset], missing, root / dataset)
    for file in SOURCES[dataset].files:
        if (names is None or file.name in names) and file not in missing:
            _warn_if_other(root / dataset / file.name, file)
    return root / dataset


def user_path(text: str) -> Path:
    """A path as it is typed on a command line, where "~" is the home folder."""
    return Path(text).expanduser()


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return pooch.file_hash(str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); make it a file that you may read.") from error


def _warn_if_other(path: Path, file: SourceFile) -> None:
    found = sha256_of(path)
    if found != file.sha256:
        rank_zero_warn(
            f"{path} is not the known copy (sha256 {found[:12]}, known {file.sha256[:12]}); used if it fits."
        )


@cache
def _say_once(line: str) -> None:
    print(line, flush=True)  # a caller that asks again after a failure has been told already


def fetch(source: Source, files: Sequence[SourceFile], folder: Path) -> None:
    """Fetch files into `folder`; each appears there whole and with its sha256 verified, or not at all.

    Raises:
        DataMissing: no network, no such file, a broken-off transfer, or other bytes than expected.
    """
    size = sum(file.size for file in files) / 1e6
    _say_once(
        f"Fetching {', '.join(file.name for file in files)} ({size:.1f} MB) of {source.dataset} from "
        f"{' and '.join(sorted({file.url.rsplit('/', 1)[0] for file in files}))} into {folder} "
        f"(licence: {source.licence}; cite {source.citation})."
    )
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        for file in files:
            fetch_file(source.dataset, file, folder)
    except BaseException:
        for file in files:
            part_of(folder / file.name).unlink(missing_ok=True)
        for path in created:  # an empty data/ would look like a data root
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        raise


def fetch_file(dataset: str, file: SourceFile, folder: Path) -> bool:
    """Fetch one file into `folder`, unless it is there; return whether it had to be fetched.

    Raises:
        DataMissing: no network, no such file, a broken-off transfer, or other bytes than expected.
    """
    try:
        return download(file.url, folder / file.name, file.sha256, file.size)
    except OSError as error:
        raise DataMissing(f"{folder / file.name} could not be fetched ({error}). {advice(dataset, file)}") from None
