"""Whether the data of a table's row are under the data root: a form of which nothing is there is a row not run."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import datamodules
from datamodules import DataMissing, data_root, root_is_named
from datamodules.datasets import DATASETS
from datamodules.items import listed
from reproduce.runs.spec import DataSet


def require_present(dataset: DataSet, named: str | None) -> None:
    """Refuse a row whose files are not there at all; what is there in part is for its module to refuse.

    Args:
        dataset: of the table.
        named: the data root as the user named it, or None. Where nobody named one, what can be fetched is not missing.

    Raises:
        DataMissing: there is no folder, or no file that the form that the row reads has alone.
    """
    root = data_root(named)
    pairs = dataset.class_path == "OwnData"
    declared = None if pairs else DATASETS.get(dataset.dataset)
    folder = root / dataset.dataset if declared is None else declared.folder_below(root)
    if not folder.exists() and (root_is_named(named) or pairs):
        kind = " (with one .npz file, a file of `extract`, or the ACMR, JFSE or DSCMR layout)" * pairs
        raise DataMissing(f"no folder {folder.name}/ under the data root{kind}")
    if declared is None or not folder.exists():
        return
    form = form_of(dataset)
    if form is None or (declared.files and not root_is_named(named)) or form in declared.lacking(folder):
        return
    variants = declared.forms[form].variants
    gone = min(([path for path in variant if not any(folder.glob(path))] for variant in variants), key=len)
    raise DataMissing(f"{folder} lacks {listed(gone)}. Get it from {declared.source}.")


def form_of(dataset: DataSet) -> str | None:
    """The form of the data set that a row reads: by its class, and the arguments in which the forms of that differ."""
    forms = {name: f for name, f in DATASETS[dataset.dataset].forms.items() if f.class_path == dataset.class_path}
    parameters = inspect.signature(getattr(datamodules, dataset.class_path)).parameters

    def value(arguments: Mapping[str, Any], key: str) -> Any:
        found = arguments.get(key, parameters[key].default if key in parameters else None)
        return tuple(found) if isinstance(found, list) else found

    keys = {key for form in forms.values() for key in form.init_args}
    deciding = [key for key in keys if len({value(form.init_args, key) for form in forms.values()}) > 1]
    for name, form in forms.items():
        if all(value(form.init_args, key) == value(dataset.init_args, key) for key in deciding):
            return name
    return next(iter(forms), None)
