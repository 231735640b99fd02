"""`python -m datamodules list`: which data sets are on this machine, what each is for and how to get the others."""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from datamodules.datasets.catalogue import CATALOGUE, Facts
from datamodules.files.inventory import lacking
from datamodules.files.layouts import folder_below
from datamodules.files.sources import SOURCES, data_root

# Read as files: data sets know nothing of the tables that are made of them.
TABLES = Path(__file__).parents[1] / "reproduce"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command to a parser's sub-commands."""
    parser = commands.add_parser("list", help="say which data sets are there, what they hold and how to get them")
    parser.add_argument("--data-root", help="folder that holds the data sets' folders (default: CSD_DATA, else data/)")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Print one line per data set; return 0.

    Raises:
        DataError: the data root is named and is no folder.
    """
    root, tables = data_root(arguments.data_root), used_by()
    for dataset, facts in CATALOGUE.items():
        state, detail = presence(facts, folder_below(root, dataset))
        used = f"used by {', '.join(tables[dataset])}" if dataset in tables else "used by no table"
        parts = [*detail, holds(facts), used, source(dataset, facts)]
        print(f"{dataset:<17} {state:<11} {'; '.join(parts)}")
    return 0


def presence(facts: Facts, folder: Path) -> tuple[str, list[str]]:
    """ "present", "incomplete" or "absent", and which forms are there and what the others lack.

    Only the presence of files and folders is looked at; `check` looks into them.
    """
    forms = lacking(facts, folder)
    whole = [name for name, paths in forms.items() if not paths]
    parts = [f"as {', '.join(whole)}"] if whole else []
    parts += [f"{name} lacks {', '.join(paths)}" for name, paths in forms.items() if paths]
    if not forms:
        return "absent", []
    return ("present" if len(whole) == len(forms) else "incomplete"), parts


def holds(facts: Facts) -> str:
    """How many items the authors' copy has, of how many classes."""
    counts = ", ".join(f"{count:,} {split}" for split, count in facts.items.items())
    classes = "each its own class" if facts.classes is None else f"{facts.classes:,} classes"
    return f"{sum(facts.items.values()):,} {facts.unit} ({counts}), {classes}"


def source(dataset: str, facts: Facts) -> str:
    """How to get it."""
    if dataset in SOURCES:
        return f"get it with `python -m datamodules get {dataset}` (licence: {facts.licence})"
    return f"from {facts.url} (licence: {facts.licence})"


def used_by() -> dict[str, list[str]]:
    """Data set -> tables, then experiments, that read it."""
    tables: dict[str, list[str]] = {}
    for path in (*sorted(TABLES.glob("tables/table*.yaml")), *sorted(TABLES.glob("experiments/*.yaml"))):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "datasets" not in content and "extends" in content:
            content = yaml.safe_load((path.parent / content["extends"]).read_text(encoding="utf-8"))
        for dataset in dict.fromkeys(entry["dataset"] for entry in content.get("datasets", [])):
            tables.setdefault(dataset, []).append(path.stem)
    return tables
