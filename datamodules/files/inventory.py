"""Which forms of a data set a folder has, and which paths are missing from those it has in part."""

from __future__ import annotations

from pathlib import Path

from datamodules.datasets.catalogue import Facts


def lacking(facts: Facts, folder: Path) -> dict[str, tuple[str, ...]]:
    """Forms that the folder has, whole or in part -> the paths that each lacks, none where it is whole.

    A form is there in part where there is a path that no other form has. Where only paths are there that several forms
    share, the form that lacks the fewest stands for all. Only the presence of paths is looked at, not what they hold.

    Args:
        facts: the data set.
        folder: its folder.
    """
    needs = {name: {path for variant in form.variants for path in variant} for name, form in facts.forms.items()}
    there = {path for paths in needs.values() for path in paths if any(folder.glob(path))}
    nearest = {}
    for name, form in facts.forms.items():
        variant = min(form.variants, key=lambda paths: len(set(paths) - there) / len(paths))
        nearest[name] = tuple(path for path in variant if path not in there)
    shared = {name: set().union(*(needs[other] for other in needs if other != name)) for name in needs}
    begun = [name for name in needs if (needs[name] & there) - shared[name]]
    if there and not begun:
        begun = [min(nearest, key=lambda name: len(nearest[name]))]
    return {name: nearest[name] for name in begun}
