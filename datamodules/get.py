"""`python -m datamodules get <data set>`: its files from where they are published, verified."""

from __future__ import annotations

import argparse
from pathlib import Path

from datamodules.datasets.catalogue import CATALOGUE
from datamodules.errors import DataError
from datamodules.files.layouts import layout_advice
from datamodules.files.sources import SOURCES, data_root, fetch_file, user_path


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command to a parser's sub-commands."""
    parser = commands.add_parser("get", help="download a data set's files, or continue to, and verify them")
    parser.add_argument("dataset", choices=sorted(CATALOGUE))
    help_root = "folder to hold the data set's folder, made where it is missing (default: CSD_DATA, else data/)"
    parser.add_argument("--data-root", type=user_path, help=help_root)
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Fetch what is missing; return the exit status, 1 where files are still missing."""
    if arguments.dataset not in SOURCES:
        print(
            f"{arguments.dataset} is not downloaded: no file of it is public at a fixed address with a sha256 that is "
            f"known here. {layout_advice(arguments.dataset)}"
        )
        return 1
    try:
        if arguments.data_root is not None:
            arguments.data_root.mkdir(parents=True, exist_ok=True)
        root = data_root(arguments.data_root)
    except (DataError, OSError) as error:
        print(f"FAILED   {error}")
        return 1
    return int(get(arguments.dataset, root) > 0)


def get(dataset: str, root: Path) -> int:
    """Fetch every file of a data set that is not in its folder under `root`, and say so; return how many failed.

    A failure does not keep the other files from being fetched.

    Args:
        dataset: a key of SOURCES.
        root: the folder that holds the data set's folder.
    """
    source, folder = SOURCES[dataset], root / dataset
    print(f"{dataset} into {folder} (licence: {source.licence}; cite {source.citation})", flush=True)
    failed = 0
    for file in source.files:
        try:
            fetched = fetch_file(dataset, file, folder)
        except DataError as error:
            print(f"FAILED   {error}", flush=True)
            failed += 1
        else:
            print(f"{'fetched ' if fetched else 'ok      '} {folder / file.name}: sha256 {file.sha256}", flush=True)
    if failed:
        print(
            f"{failed} of {len(source.files)} file(s) missing. Run the same command again: it continues where a "
            f"transfer broke off. Or put them into {folder} by other means."
        )
    return failed
