"""Say which data sets are on this machine, what each is for and how to get the others, in a line each."""

import argparse
from pathlib import Path

import yaml

from datamodules.datasets import DATASETS
from datamodules.files.sources import data_root

# Read as files: data sets know nothing of the tables that are made of them.
TABLES = Path(__file__).parents[1] / "reproduce"


def run(arguments: argparse.Namespace) -> int:
    """Print one line per data set; return 0.

    It is present, incomplete or absent: only whether files and folders are there is looked at; `check` looks into them.

    Raises:
        DataError: the data root is named and is no folder.
    """
    root, tables = data_root(arguments.data_root), used_by()
    for name, declared in DATASETS.items():
        forms = declared.lacking(declared.folder_below(root))
        whole = [form for form, paths in forms.items() if not paths]
        state = "absent" if not forms else "present" if len(whole) == len(forms) else "incomplete"
        counts = ", ".join(f"{count:,} {split}" for split, count in declared.items.items())
        classes = "each its own class" if declared.classes is None else f"{declared.classes:,} classes"
        parts = [
            *([f"as {', '.join(whole)}"] if whole else []),
            *(f"{form} lacks {', '.join(paths)}" for form, paths in forms.items() if paths),
            f"{sum(declared.items.values()):,} {declared.unit} ({counts}), {classes}",
            f"used by {', '.join(tables.get(name, ['no table']))}",
            f"from {declared.source} (licence: {declared.licence})",
        ]
        print(f"{name:<17} {state:<11} {'; '.join(parts)}")
    return 0


def used_by() -> dict[str, list[str]]:
    """Data set -> tables, then experiments, that read it."""
    tables: dict[str, list[str]] = {}
    for path in (*sorted(TABLES.glob("tables/table*.yaml")), *sorted(TABLES.glob("experiments/*.yaml"))):
        for dataset in dict.fromkeys(entry["dataset"] for entry in _datasets(path)):
            tables.setdefault(dataset, []).append(path.stem)
    return tables


def _datasets(path: Path) -> list[dict]:
    """Entries of a table's file, else those of the last file it extends that has some."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "datasets" in content:
        return content["datasets"]
    names = content.get("extends", [])
    found = [_datasets(path.parent / name) for name in ([names] if isinstance(names, str) else names)]
    return next((entries for entries in reversed(found) if entries), [])
