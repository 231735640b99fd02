"""``csd``, also ``python -m lightning_modules``: its help is answered at once, everything else by :mod:`.cli`."""

from __future__ import annotations

import argparse
import sys

COMMANDS = {
    "fit": "train a model, with --config FILE",
    "validate": "score the validation items with a checkpoint",
    "test": "score the test items with a checkpoint",
    "predict": "write the embeddings of the test items",
    "export": "write what retrieval needs of a trained model into one folder",
    "search": "index a folder with an exported model, and search in it",
}


def main() -> None:
    """Print the help of the program, or run a command."""
    if sys.argv[1:] in (["-h"], ["--help"]):
        parser = argparse.ArgumentParser(prog="csd", description="Train, test and use retrieval models.")
        commands = parser.add_subparsers(metavar="COMMAND", help="each has a --help of its own")
        for name, text in COMMANDS.items():
            commands.add_parser(name, help=text)
        parser.print_help()
        return
    from lightning_modules.cli import main as run

    run()


if __name__ == "__main__":
    main()
