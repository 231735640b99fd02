"""`python -m datamodules check <data set>`: is a data set's copy on this machine the known one, and what is in it."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np

from datamodules.check import ITEM_MODULES, check_items
from datamodules.features import DataError, FeatureSet
from datamodules.sources import SOURCES, advice, data_root, missing_files, sha256_of
from datamodules.wikipedia import FEATURE_FILES, ITEMS, Wikipedia


def check_files(dataset: str, root: Path) -> int:
    """Print presence and sha256 of every file; return how many are missing or are not the known copy."""
    trouble = 0
    for file in SOURCES[dataset].files:
        path = root / dataset / file.name
        if not path.is_file():
            print(f"MISSING  {path}. {advice(dataset, file)}")
        elif (found := sha256_of(path)) != file.sha256:
            print(f"OTHER    {path}: sha256 {found}; the known copy has {file.sha256}. {advice(dataset, file)}")
        else:
            print(f"ok       {path}: sha256 {found}")
            continue
        trouble += 1
    return trouble


def repeated_rows(train: np.ndarray, test: np.ndarray) -> int:
    """Number of test rows that stand, value for value, among the training rows."""
    known = {row.tobytes() for row in np.ascontiguousarray(train)}
    return sum(row.tobytes() in known for row in np.ascontiguousarray(test))


def describe(data: FeatureSet) -> None:
    """Print sizes, classes per split and test rows that repeat a training row; `data` holds no NaN, or was refused."""
    train, test = data.split == "train", data.split == "test"
    sizes = ", ".join(f"{name} {array.shape[1]}-d" for name, array in data.features.items())
    print(f"ok       {data.origin}: {train.sum()} training and {test.sum()} test items; {sizes}; all values finite")
    for name, part in (("training", train), ("test", test)):
        counts = np.bincount(data.label[part], minlength=len(data.class_names))
        per_class = ", ".join(f"{c} {n}" for c, n in zip(data.class_names, counts, strict=True))
        print(f"         {name} classes: {per_class}")
    repeats = {name: repeated_rows(array[train], array[test]) for name, array in data.features.items()}
    repeats["the pair"] = repeated_rows(
        *(np.hstack([a[part] for a in data.features.values()]) for part in (train, test))
    )
    counted = ", ".join(f"{name} {count}" for name, count in repeats.items())
    print(f"         test items whose features also stand in the training part: {counted}")


def check_wikipedia(root: Path) -> int:
    """Check files and contents; return the number of troubles."""
    trouble = check_files("wikipedia", root)
    for features, file in FEATURE_FILES.items():
        if missing_files("wikipedia", root, (file, *ITEMS)):
            continue
        try:
            with warnings.catch_warnings(action="ignore"):  # other copies are reported by check_files
                data = Wikipedia(data_root=root, features=features, offline=True).data
            describe(data)
        except DataError as error:
            print(f"BROKEN   {features}: {error}")
            trouble += 1
    return trouble


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status, 1 where something is missing, unknown or broken."""
    parser = argparse.ArgumentParser(prog="python -m datamodules", description="Look after the data sets' files.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="verify a data set's files and print what they hold")
    check.add_argument("dataset", choices=["wikipedia", *ITEM_MODULES])
    check.add_argument("--data-root", help="folder that holds the data set's folder (default: CSD_DATA, else data/)")
    chosen = parser.parse_args(arguments)
    try:
        root = data_root(chosen.data_root)
        trouble = check_wikipedia(root) if chosen.dataset == "wikipedia" else check_items(chosen.dataset, root)
    except DataError as error:
        print(f"BROKEN   {error}")
        trouble = 1
    print(f"{trouble} trouble(s)" if trouble else f"{chosen.dataset}: everything in place")
    return int(trouble > 0)


if __name__ == "__main__":
    sys.exit(main())
