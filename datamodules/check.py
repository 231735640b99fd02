"""Verify a data set's copy on this machine: that its folder has all files, that the known ones have the known sha256,
that every file can be read, that modalities and labels fit each other and that no item is in two splits, nor any
photograph, sound or motion. The exit status is 1 where something is wrong. Numbers of items and classes that differ
from the authors' copy are said, no more.
"""

import argparse
import hashlib
import warnings
from collections import Counter
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.datasets import DATASETS
from datamodules.declaration import Declaration, Form
from datamodules.errors import DataError
from datamodules.files.sources import data_root, sha256_of
from datamodules.files.text import names_in
from datamodules.items import SPLITS, Files, ItemSet, Modality, listed

TROUBLES = ("OTHER", "MISSING", "BROKEN", "REPEATED", "WIDTH")


def run(arguments: argparse.Namespace) -> int:
    """Check one data set, in every form that its folder has; return the exit status, 1 where something is wrong."""
    declared = DATASETS[arguments.dataset]
    where = f"{declared.layout}. Get it from {declared.source}."
    try:
        root = data_root(arguments.data_root)
        folder = declared.find(root)
    except DataError as error:
        print(f"ABSENT   {error} {where}")
        return 1
    said: Counter[str] = Counter()
    for line in check(declared, root, folder):
        print(line)
        said[line.split(maxsplit=1)[0]] += 1
    trouble = sum(said[word] for word in TROUBLES)
    if trouble:
        print(f"         {where}\n{trouble} trouble(s)")
    else:
        other_size = ", but not the numbers of the authors' copy" * ("DIFFERS" in said)
        print(f"{declared.name}: everything in place{other_size}")
    return int(trouble > 0)


def check(declared: Declaration, root: Path, folder: Path) -> Iterator[str]:
    """Check a data set's folder in every form that it has, and say line by line what is found.

    Lines of troubles begin with one of TROUBLES, those of other numbers of items or classes than in the authors' copy
    with DIFFERS, all others with "ok" or a blank.
    """
    for file in declared.files:
        path = folder / file.name
        if path.is_file() and (found := sha256_of(path)) == file.sha256:
            yield f"ok       {path}: sha256 {found}"
        elif path.is_file():
            yield f"OTHER    {path}: sha256 {found}; the known copy has {file.sha256}, from {file.url}"
    forms = declared.lacking(folder)
    if not forms:
        yield f"MISSING  {folder} has nothing of the data set."
    for path in dict.fromkeys(path for paths in forms.values() for path in paths):
        yield f"MISSING  {folder / path}"
    for name in [name for name, paths in forms.items() if not paths]:
        try:
            with warnings.catch_warnings(action="ignore"):  # what is broken is said below
                data, broken = declared.open(name, root).inspect()
        except DataError as error:
            yield f"BROKEN   {name}: {error}"
            continue
        form = declared.forms[name]
        yield from _described(name, data)
        if form.caution:
            yield f"         {form.caution}"
        yield from _differences(name, declared, form, data, folder)
        for modality, items in data.missing().items():
            if lacking := [item for item in items if item not in broken]:
                yield f"MISSING  {name}: {modality} of {len(lacking)} of {len(data)} items: {listed(lacking)}"
        for item, reason in broken.items():
            yield f"BROKEN   {name}: {item}: {reason}"
        if broken and len(broken) < len(data):
            data = data.without(set(broken))  # two empty files are the same, and no photograph
        yield from _repeated(name, form, data)


def _described(name: str, data: ItemSet) -> Iterator[str]:
    """Number of items in each split, entries and sizes of each modality, and classes where they have names."""
    counts = ", ".join(f"{np.count_nonzero(data.split == split)} {split}" for split in SPLITS)
    classes = data.label.shape[1] if data.label.ndim == 2 else len(np.unique(data.label))
    finite = "; all values finite" * bool(data.vectors)
    yield f"ok       {name}: {data.origin}: {len(data)} items ({counts}), {classes} labels{finite}"
    for modality_name, modality in data.modalities.items():
        yield f"         {modality_name}: {len(modality.entries)} entries{_size(modality)}"
    if data.class_names is not None and len(data.class_names) < len(data):
        member = data.label if data.label.ndim == 2 else data.label[:, None] == np.arange(len(data.class_names))
        for split in ("train", "test"):
            per_class = zip(data.class_names, member[data.split == split].sum(axis=0), strict=True)
            yield f"         {split} classes: {', '.join(f'{c} {count}' for c, count in per_class)}"


def _size(modality: Modality) -> str:
    if isinstance(modality.entries, Files):
        return " in files" + f", {modality.rate} samples per second" * (modality.rate is not None)
    if modality.kind == "vector":
        return f", {modality.shape[0]}-d"
    if not len(modality.entries):
        return ""
    length = [len(entry.split() if isinstance(entry, str) else entry) for entry in modality.entries]
    unit = "words" if modality.kind == "text" else f"steps of {modality.shape}"
    return f", {min(length)} to {max(length)} {unit}"


def _differences(name: str, declared: Declaration, form: Form, data: ItemSet, folder: Path) -> Iterator[str]:
    """Where there are other numbers of items, classes or features than in the authors' copy."""
    expected = dict(declared.items if form.items is None else form.items)
    if expected and declared.classes is not None:
        expected["classes"] = declared.classes
    for what, count in expected.items():
        if what in form.lists:
            found = len(names_in(folder / form.lists[what]))
        elif what == "classes":
            found = data.label.any(axis=0).sum() if data.label.ndim == 2 else len(np.unique(data.label))
        else:
            found = np.count_nonzero(data.split == what)
        if found != count:
            unit = what if what == "classes" else f"{what} items"
            yield f"DIFFERS  {name}: {found:,} {unit}; the authors' copy has {count:,}"
    for modality, width in form.widths.items():
        found = data.vectors[modality].shape[1]
        if found != width:
            yield (
                f"WIDTH    {name}: {modality} has {found:,} numbers per item; the authors' copy has {width:,}: these "
                "are other files, or files of two modalities are exchanged"
            )


def _repeated(name: str, form: Form, data: ItemSet) -> Iterator[str]:
    """What stands in the training part again, and which items or files are in several splits."""
    again, groups = find_repeats(data)
    across = [group for group in groups if len(set(group.items.values())) > 1]
    twice = sum(len(group.items) - 1 for group in groups if group not in across)
    counted = ", ".join(f"{modality} {count}" for modality, count in again.items())
    yield f"         test items with an entry that a training item has too: {counted}; {twice} item(s) twice in a split"
    known = {frozenset(group) for group in form.repeats}
    for group in across:
        items = listed([f"{item} ({split})" for item, split in group.items.items()])
        same = "are the same in every modality" if group.modality is None else f"have the same {group.modality}"
        if frozenset(group.items) in known:
            yield f"         {items} {same}, as in the authors' copy"
        else:
            what = "expected each item in one split: remove it from the others"
            yield f"REPEATED {name}: {data.origin}: {items} {same}; {what}"


class Repeated(NamedTuple):
    """Items (name -> split) that are the same in a modality, in an entry or more; wholly where it is None."""

    items: dict[str, str]
    modality: str | None = None


def find_repeats(data: ItemSet) -> tuple[dict[str, int], list[Repeated]]:
    """Compare all items by content; one that lacks a modality is compared in the others alone, and never as a whole.

    Returns:
        Modality -> number of test items with an entry that a training item has too, and items that are the same, group
        by group: first those that are so as wholes, with the same entries in the same order in every modality; then
        those of several splits that share a file or a sequence (a photograph, a sound, a motion). Texts and vectors are
        not looked at alone: those of two items may honestly be the same.
    """
    contents = {name: _contents(modality, len(data)) for name, modality in data.modalities.items()}
    train, test = (np.flatnonzero(data.split == split).tolist() for split in ("train", "test"))
    again = {}
    for name, of_items in contents.items():
        known = {entry for item in train for entry in of_items[item]}
        again[name] = sum(not known.isdisjoint(of_items[item]) for item in test)
    alone = [name for name, modality in data.modalities.items() if modality.kind not in ("text", "vector")]
    wholes = [[tuple(map(tuple, of))] if all(of) else [] for of in zip(*contents.values(), strict=True)]
    repeated: list[Repeated] = []
    whole: dict[int, tuple[int, ...]] = {}  # item -> those that it is the same as
    for name, of_items in {None: wholes, **{name: contents[name] for name in alone}}.items():
        sharing: dict[Hashable, list[int]] = {}
        for item, entries in enumerate(of_items):
            for entry in dict.fromkeys(entries):
                sharing.setdefault(entry, []).append(item)
        for group in dict.fromkeys(tuple(items) for items in sharing.values() if len(items) > 1):
            if name is None:
                whole |= dict.fromkeys(group, group)
            elif len({whole.get(item, item) for item in group}) == 1 or len({data.split[item] for item in group}) == 1:
                continue
            repeated.append(Repeated({data.names[item]: str(data.split[item]) for item in group}, name))
    return again, repeated


def _contents(modality: Modality, items: int) -> list[list[str]]:
    """Every item's entries: texts as they are, and sha256 of others or of their files."""
    contents: list[list[str]] = [[] for _ in range(items)]
    for owner, entry in zip(modality.owners().tolist(), modality.stored, strict=True):
        if isinstance(entry, Path):
            entry = sha256_of(entry)
        elif not isinstance(entry, str):
            entry = hashlib.sha256(f"{entry.shape}".encode() + np.ascontiguousarray(entry).tobytes()).hexdigest()
        contents[owner].append(entry)
    return contents
