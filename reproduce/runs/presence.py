"""Whether the data of a table's row are under the data root: a form of which nothing is there is a row not run."""

import inspect

from datamodules import DataError, DataMissing, data_root, root_is_named
from datamodules.datasets import DATASETS
from datamodules.declaration import Form
from datamodules.features.texts import model_folder
from datamodules.items import listed
from reproduce.runs.config import data_class
from reproduce.runs.spec import DataSet
from reproduce.runs.store import FOLDER_ENCODERS


def require_present(dataset: DataSet, named: str | None) -> None:
    """Refuse a row whose files are not there at all; what is there in part is for its module to refuse.

    Args:
        dataset: of the table.
        named: the data root as the user named it, or None. Where nobody named one, what can be fetched is not missing.

    Raises:
        DataMissing: there is no folder, or no file that the form that the row reads has alone.
    """
    if is_generated(dataset):
        return
    root = data_root(named)
    pairs = dataset.class_path == "OwnData"
    declared = None if pairs else DATASETS.get(dataset.dataset)
    folder = root / dataset.dataset if declared is None else declared.folder_below(root)
    if not folder.exists() and (root_is_named(named) or pairs):
        kind = " (its forms: docs/your-own-data.md)" * pairs
        raise DataMissing(f"no folder {folder.name}/ under the data root{kind}")
    if declared is None or not folder.exists():
        return
    form = form_of(dataset)
    if form is None or (declared.files and not root_is_named(named)):
        return
    if any(declared.forms[name] is form for name in declared.lacking(folder)):
        return
    gone = min(([path for path in paths if not any(folder.glob(path))] for paths in form.variants), key=len)
    raise DataMissing(f"{folder} lacks {listed(gone)}. Get it from {declared.source}.")


def is_generated(dataset: DataSet) -> bool:
    """Whether it is drawn, and has no files."""
    return getattr(data_class(dataset.class_path), "data_kind", "real") == "synthetic"


def form_of(dataset: DataSet) -> Form | None:
    """The declared form of the data set that a row reads: by its class, and by the arguments that its forms name."""
    declared = DATASETS.get(dataset.dataset)
    forms = [form for form in declared.forms.values() if form.class_path == dataset.class_path] if declared else []
    signature = inspect.signature(data_class(dataset.class_path)).parameters
    given = {key: argument.default for key, argument in signature.items()} | dict(dataset.init_args)
    fitting = [form for form in forms if form.init_args.items() <= given.items()]
    return max(fitting, key=lambda form: len(form.init_args), default=next(iter(forms), None))


def model_absent(dataset: DataSet) -> str:
    """Why the pretrained model of an encoder cannot be had; "" where all can."""
    for settings in dataset.model.get("encoders", {}).values():
        try:
            if settings["name"] in FOLDER_ENCODERS and "model" in settings:
                model_folder(settings["model"])
        except DataError as error:
            return str(error)
    return ""


def in_short(dataset: DataSet, reason: str) -> str:
    """Why a data set is not run, in one sentence; of a pretrained model also how to get it."""
    return reason if model_absent(dataset) else reason.partition(". ")[0]
