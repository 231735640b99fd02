"""Download a data set's files from where they are published, and verify them; the data root is made where it is not."""

import argparse

from datamodules.datasets import DATASETS
from datamodules.errors import DataError
from datamodules.files.download import fetch
from datamodules.files.sources import data_root


def run(arguments: argparse.Namespace) -> int:
    """Fetch every file that is missing, whatever becomes of the others; return the exit status, 1 where one failed."""
    declared = DATASETS[arguments.dataset]
    if not declared.files:
        print(
            f"{declared.name} is not downloaded: no file of it is public at a fixed address with a known sha256. "
            f"{declared.layout}. Get it from {declared.source}."
        )
        return 1
    if arguments.data_root is not None:
        arguments.data_root.mkdir(parents=True, exist_ok=True)
    folder = data_root(arguments.data_root) / declared.folder
    print(f"{declared.name} into {folder} (licence: {declared.licence}; cite {declared.citation})", flush=True)
    failed = 0
    for file in declared.files:
        try:
            fetched = fetch(file, folder)
            print(f"{'fetched ' if fetched else 'ok      '} {folder / file.name}: sha256 {file.sha256}", flush=True)
        except DataError as error:
            print(f"FAILED   {error}", flush=True)
            failed += 1
    if failed:
        print(f"{failed} of {len(declared.files)} file(s) missing. Run the command again, or put them into {folder}.")
    return int(failed > 0)
