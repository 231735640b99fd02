"""`python -m datamodules list | check | get | extract`: look after the data sets' files."""

import argparse
import os
import sys
from importlib import import_module

from datamodules.datasets import DATASETS
from datamodules.files.sources import user_path

# Command -> its module, and what it does. The module of the chosen command alone is imported: `list` and `get` need no
# torch, which takes seconds.
COMMANDS = {
    "list": ("listing", "say which data sets are there, what they hold and how to get them"),
    "check": ("check", "verify a data set's files and print what they hold"),
    "get": ("get", "download a data set's files and verify them"),
    "extract": ("extract", "features of a data set's raw images, texts and sounds"),
}
ROOT = "folder that holds the data sets' folders (default: CSD_DATA, else data/)"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status, 1 where something is missing, unknown or broken."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m datamodules", description="Look after the data sets' files.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, (name, said) in COMMANDS.items():
        of_command = commands.add_parser(command, help=said)
        if command == next(iter(arguments), None):
            module = import_module(f"datamodules.{name}")
            of_command.description = module.__doc__
            if command == "extract":
                module.add_arguments(of_command)
            elif command != "list":
                of_command.add_argument("dataset", choices=list(DATASETS))
            of_command.add_argument("--data-root", type=user_path, help=ROOT)
    chosen = parser.parse_args(arguments)
    try:
        status = module.run(chosen)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever reads the output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
        return 1
    except (ValueError, OSError) as error:  # of which DataError is one
        print(f"FAILED   {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
