"""`python -m datamodules list | check | get | extract`: look after the data sets' files."""

from __future__ import annotations

import argparse
import sys

from datamodules import check, extract, get, listing
from datamodules.errors import DataError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status, 1 where something is missing, unknown or broken."""
    parser = argparse.ArgumentParser(prog="python -m datamodules", description="Look after the data sets' files.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (listing, check, get, extract):
        command.add_parser(commands)
    chosen = parser.parse_args(arguments)
    try:
        return chosen.func(chosen)
    except DataError as error:
        print(f"BROKEN   {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
