"""``csd``, also ``python -m lightning_modules``: its help is answered at once, everything else by :mod:`.cli`."""

import argparse
import sys

from lightning_modules.commands import FURTHER_COMMANDS, TRAINER_COMMANDS


def main() -> None:
    """Print the help of the program, or run a command."""
    if sys.argv[1:] in (["-h"], ["--help"]):
        print_help()
        return
    from lightning_modules.cli import main as run

    run()


def print_help() -> None:
    """Print the commands of ``csd``, with a sentence on each."""
    lines = ["Commands:", *(f"  {name:<10}{text}" for name, text in TRAINER_COMMANDS.items())]
    lines += ["", "Further commands:", *(f"  {name:<10}{text}" for name, text in FURTHER_COMMANDS.items())]
    parser = argparse.ArgumentParser(
        prog="csd",
        usage="csd COMMAND ...",
        description="Train, test and use retrieval models.",
        epilog="\n".join([*lines, "", "Each command has a --help of its own."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.print_help()


if __name__ == "__main__":
    main()
