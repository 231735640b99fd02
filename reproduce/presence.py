"""Whether the data of a table's row are under the data root: a form of which nothing is there is a row not run."""

from __future__ import annotations

from pathlib import Path

from datamodules import DataMissing, RetrievalData, data_root, root_is_named
from datamodules.check import FEATURE_MODULES, ITEM_MODULES
from datamodules.datasets.catalogue import CATALOGUE
from datamodules.files.inventory import lacking
from datamodules.files.layouts import folder_below, layout_advice
from datamodules.files.sources import SOURCES
from datamodules.items import listed
from reproduce.spec import DataSet


def require_present(dataset: DataSet, module: RetrievalData, named: str | None) -> None:
    """Refuse a row whose files are not there at all; what is there in part is for its module to refuse.

    Args:
        dataset: of the table.
        module: what reads it.
        named: the data root as the user named it, or None. Where nobody named one, what can be fetched is not missing.

    Raises:
        DataMissing: there is no folder, or no file that the form that the module reads has alone.
    """
    root = data_root(named)
    pairs = dataset.class_path == "FeaturePairs"
    known = dataset.dataset in CATALOGUE and not pairs
    folder = folder_below(root, dataset.dataset) if known else root / dataset.dataset
    if not folder.exists() and (root_is_named(named) or pairs):
        kind = " (with one .npz file, a file of `extract`, or the ACMR, JFSE or DSCMR layout)" * pairs
        raise DataMissing(f"no folder {folder.name}/ under the data root{kind}")
    if not known or not folder.exists():
        return
    form = _form(dataset.dataset, module, root)
    fetched = dataset.dataset in SOURCES and not root_is_named(named)
    if form is None or fetched or form in lacking(CATALOGUE[dataset.dataset], folder):
        return
    variants = CATALOGUE[dataset.dataset].forms[form].variants
    gone = min(([path for path in variant if not any(folder.glob(path))] for variant in variants), key=len)
    raise DataMissing(f"{folder} lacks {listed(gone)}. {layout_advice(dataset.dataset)}")


def _form(dataset: str, module: RetrievalData, root: Path) -> str | None:
    """The form of the data set that the module reads, as its catalogue calls it."""
    readers = {**FEATURE_MODULES.get(dataset, {}), **ITEM_MODULES.get(dataset, {})}
    for form, reader in readers.items():
        other = reader(root)
        if type(other) is type(module) and other.features == module.features:
            return form
    return None
