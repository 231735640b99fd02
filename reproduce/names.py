"""Which tables and experiments there are: files of YAML."""

from pathlib import Path

TABLES = Path(__file__).parent / "tables"
EXPERIMENTS = Path(__file__).parent / "experiments"


def table_files(folder: Path | None = None) -> dict[str, Path]:
    """Name -> file of the tables, then of the experiments; or of all that are in a folder.

    Of the tables, only those called so: the other files serve to be extended.
    """
    places = [(TABLES, "table*.yaml"), (EXPERIMENTS, "*.yaml")] if folder is None else [(folder, "*.yaml")]
    return {path.stem: path for place, names in places for path in sorted(place.glob(names))}
