"""Which tables and experiments there are: files of YAML."""

from __future__ import annotations

from pathlib import Path

TABLES = Path(__file__).parent / "tables"
EXPERIMENTS = Path(__file__).parent / "experiments"


def available_tables() -> list[str]:
    """Names of the tables that can be regenerated, then those of the experiments."""
    return names(TABLES) + names(EXPERIMENTS)


def names(folder: Path) -> list[str]:
    """Of the tables, only those called so: the other files serve to be extended."""
    return sorted(path.stem for path in folder.glob("*.yaml" if folder == EXPERIMENTS else "table*.yaml"))
