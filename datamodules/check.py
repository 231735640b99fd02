"""`python -m datamodules check NAME`: is a data set's copy on this machine whole, sound and the known one."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import datamodules
from datamodules.datasets import DATASETS
from datamodules.declaration import Declaration, Form
from datamodules.errors import DataError
from datamodules.files.sources import data_root, sha256_of
from datamodules.items import SPLITS, Files, ItemSet, Modality, listed
from datamodules.repeats import find_repeats
from datamodules.retrieval_data import RetrievalData


def open_form(declared: Declaration, name: str, root: Path, **arguments: Any) -> RetrievalData:
    """The data module that reads a form of a data set below a data root.

    Args:
        declared: the data set.
        name: of the form.
        root: the data root.
        **arguments: further ones of the data module.
    """
    form = declared.forms[name]
    place = {"path": declared.folder_below(root)} if form.class_path == "FeaturePairs" else {"data_root": root}
    return getattr(datamodules, form.class_path)(**place, **{**form.init_args, **arguments})


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command to a parser's sub-commands."""
    parser = commands.add_parser(
        "check",
        help="verify a data set's files and print what they hold",
        description="Verify that a data set's folder has all files, that the known ones have the known sha256, that "
        "every file can be read, that modalities and labels fit each other and that no item is in two splits, nor any "
        "photograph, sound or motion. The exit status is 1 where something is wrong. Numbers of items and classes that "
        "differ from the authors' copy are said, no more.",
    )
    parser.add_argument("dataset", choices=list(DATASETS))
    parser.add_argument("--data-root", help="folder that holds the data set's folder (default: CSD_DATA, else data/)")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Check one data set; return the exit status, 1 where something is missing, unknown or broken."""
    declared = DATASETS[arguments.dataset]
    try:
        root = data_root(arguments.data_root)
    except DataError as error:
        print(f"ABSENT   {error} {declared.layout}. Get it from {declared.source}.")
        return 1
    trouble, other = check(declared, root)
    if trouble:
        print(f"{trouble} trouble(s)")
    else:
        print(f"{declared.name}: everything in place" + ", but not the numbers of the authors' copy" * (other > 0))
    return int(trouble > 0)


def check(declared: Declaration, root: Path) -> tuple[int, int]:
    """Check every form in which the folder can be read, and print what is found.

    Args:
        declared: the data set.
        root: the data root.

    Returns:
        Number of troubles, and number of differences from the size of the authors' copy, which are no troubles.
    """
    try:
        folder = declared.find(root)
    except DataError as error:
        print(f"ABSENT   {error} {declared.layout}. Get it from {declared.source}.")
        return 1, 0
    trouble, other = check_hashes(declared, folder), 0
    forms = declared.lacking(folder)
    if not forms:
        print(f"MISSING  {folder} has nothing of the data set.")
        trouble += 1
    for path in dict.fromkeys(path for paths in forms.values() for path in paths):
        print(f"MISSING  {folder / path}")
        trouble += 1
    for name in [name for name, paths in forms.items() if not paths]:
        found = check_form(declared, name, root, folder)
        trouble, other = trouble + found[0], other + found[1]
    if trouble:
        print(f"         {declared.layout}. Get it from {declared.source}.")
    return trouble, other


def check_form(declared: Declaration, name: str, root: Path, folder: Path) -> tuple[int, int]:
    """Read a data set in one form, which is there as a whole, and print what is found; return the same two numbers."""
    try:
        with warnings.catch_warnings(action="ignore"):  # what is broken is printed below
            data, broken = open_form(declared, name, root).inspect()
    except DataError as error:
        print(f"BROKEN   {name}: {error}")
        return 1, 0
    (describe if len(data.vectors) == len(data.modalities) else describe_items)(name, data)
    form = declared.forms[name]
    other = say_differences(name, declared, form, data, folder)
    trouble = say_widths(name, form, data) + say_missing(name, data, broken, folder)
    if broken and len(broken) < len(data):
        data = data.without(set(broken))  # two empty files are the same, and no photograph
    return trouble + say_repeats(name, form, data), other


def check_hashes(declared: Declaration, folder: Path) -> int:
    """Print the sha256 of every file that is known and there; return how many are not the known copy."""
    trouble = 0
    for file in declared.files:
        path = folder / file.name
        if not path.is_file():
            continue
        if (found := sha256_of(path)) == file.sha256:
            print(f"ok       {path}: sha256 {found}")
        else:
            print(f"OTHER    {path}: sha256 {found}; the known copy has {file.sha256}, from {file.url}")
            trouble += 1
    return trouble


# What is there ------------------------------------------------------------------------------------------------------


def describe(name: str, data: ItemSet) -> None:
    """Print sizes and classes per split; `data` holds no NaN, or was refused."""
    counts = {split: int((data.split == split).sum()) for split in SPLITS}
    validation = f", {counts['validation']} validation" if counts["validation"] else ""
    sizes = ", ".join(f"{modality} {array.shape[1]}-d" for modality, array in data.vectors.items())
    print(
        f"ok       {name}: {data.origin}: {counts['train']} training and {counts['test']} test items{validation}; "
        f"{sizes}; all values finite"
    )
    if len(data.class_names) == len(data):
        print("         each item its own class")
        return
    member = data.label if data.label.ndim == 2 else data.label[:, None] == np.arange(len(data.class_names))
    for split, word in (("train", "training"), ("test", "test")):
        per_class = zip(data.class_names, member[data.split == split].sum(axis=0), strict=True)
        print(f"         {word} classes: {', '.join(f'{c} {count}' for c, count in per_class)}")


def describe_items(name: str, data: ItemSet) -> None:
    """Print items per split, and entries and sizes per modality."""
    counts = ", ".join(f"{np.count_nonzero(data.split == split)} {split}" for split in SPLITS)
    print(f"ok       {name}: {data.origin}: {len(data)} items ({counts}), {len(np.unique(data.label))} labels")
    for modality_name, modality in data.modalities.items():
        print(f"         {modality_name}: {len(modality.entries)} entries{_size(modality)}")


def _size(modality: Modality) -> str:
    if isinstance(modality.entries, Files):
        return " in files" + f", {modality.rate} samples per second" * (modality.rate is not None)
    if not len(modality.entries) or modality.kind == "vector":
        return f" of {modality.shape}" * (modality.kind == "vector")
    length = [len(entry.split() if isinstance(entry, str) else entry) for entry in modality.entries]
    unit = "words" if modality.kind == "text" else f"steps of {modality.shape}"
    return f", {min(length)} to {max(length)} {unit}"


# What is wrong ------------------------------------------------------------------------------------------------------


def say_differences(name: str, declared: Declaration, form: Form, data: ItemSet, folder: Path) -> int:
    """Print where there are other numbers of items or classes than in the authors' copy; return how many differ."""
    expected = dict(declared.items if form.items is None else form.items)
    if expected and declared.classes is not None:
        expected["classes"] = declared.classes
    differences = 0
    for what, count in expected.items():
        if what in form.lists:
            with (folder / form.lists[what]).open("rb") as lines:
                found = sum(not line.isspace() for line in lines)
        elif what == "classes":
            found = data.label.any(axis=0).sum() if data.label.ndim == 2 else len(np.unique(data.label))
        else:
            found = np.count_nonzero(data.split == what)
        if found != count:
            unit = what if what == "classes" else f"{what} items"
            print(f"DIFFERS  {name}: {found:,} {unit}; the authors' copy has {count:,}")
            differences += 1
    return differences


def say_widths(name: str, form: Form, data: ItemSet) -> int:
    """Print where features are as wide as no file of the authors' is; return the number of troubles."""
    trouble = 0
    for modality, width in form.widths.items():
        found = data.vectors[modality].shape[1]
        if found != width:
            trouble += 1
            print(
                f"DIFFERS  {name}: {modality} has {found:,} numbers per item; the authors' copy has {width:,}: these "
                "are other files, or files of two modalities are exchanged"
            )
    return trouble


def say_missing(name: str, data: ItemSet, broken: dict[str, str], folder: Path) -> int:
    """Print what items lack and what of them cannot be read; return the number of troubles."""
    trouble = len(broken)
    for modality, lacking_items in data.missing().items():
        items = [item for item in lacking_items if item not in broken]
        if items:
            trouble += 1
            hint = _capitals(data.modalities[modality], folder)
            print(f"MISSING  {name}: {modality} of {len(items)} of {len(data)} items: {listed(items)}{hint}")
    for item, reason in broken.items():
        print(f"BROKEN   {name}: {item}: {reason}")
    return trouble


def _capitals(modality: Modality, folder: Path) -> str:
    """What to say of files that may not have been found for the capitals that their names end in."""
    if not isinstance(modality.entries, Files):
        return ""
    used = set(modality.entries.paths)
    other = sorted(str(path) for path in set(folder.rglob("*")) - used if path.suffix != path.suffix.lower())
    return f"; names that end in capitals are other names: {listed(other, most=3)}" if other else ""


def say_repeats(name: str, form: Form, data: ItemSet) -> int:
    """Print what stands in the training part again; return how many items or files are in several splits."""
    repeats = find_repeats(data)
    what, whole = ("features", "the pair") if data.vectors else ("entries", "the whole item")
    counted = ", ".join(f"{modality} {count}" for modality, count in repeats.entries.items())
    print(
        f"         test items whose {what} also stand in the training part: {counted}, {whole} {repeats.pairs}"
        + f"; {repeats.within} item(s) twice in one split" * (repeats.within > 0)
    )
    trouble = 0
    for group in repeats.across:
        items = listed([f"{item} ({split})" for item, split in group.items.items()])
        same = "are the same in every modality" if group.modality is None else f"have the same {group.modality}"
        if frozenset(group.items) in form.repeats:
            print(f"         {items} {same}, as in the authors' copy")
            continue
        trouble += 1
        what = "expected each item in one split: remove it from the others"
        print(f"REPEATED {name}: {data.origin}: {items} {same}; {what}")
    return trouble
