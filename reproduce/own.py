"""``python -m reproduce own --data PATH``: linear methods and losses on data of one's own, as a table."""

import argparse
import fnmatch
from dataclasses import replace

from datamodules import OwnData
from losses.registry import nearest
from reproduce.names import TABLES
from reproduce.regenerate import regenerate as regenerate_table
from reproduce.runs.arguments import SpecError
from reproduce.runs.checks import load_table
from reproduce.runs.spec import Table


def regenerate(arguments: argparse.Namespace, argv: list[str]) -> int:
    """Run the table on the data, see ``regenerate.regenerate``.

    Raises:
        DataError: the data cannot be read.
        SpecError: no method of that name, or none that the data allow.
    """
    path = arguments.data.resolve()
    data = OwnData(path, modalities=arguments.modalities)
    data.prepare_data()
    arguments.data_root = str(path.parent)
    return regenerate_table(arguments, argv, table_of(data, path.name, arguments.methods))


def table_of(data: OwnData, name: str, patterns: list[str]) -> Table:
    """The table of `own.yaml` on some data, with the methods that these allow.

    Args:
        data: read by their path, below whose folder the runs look for `name`.
        name: of the file or folder, and in the table.
        patterns: names of methods, with * for any text.

    Raises:
        SpecError: a pattern that no method has, or no method is left.
    """
    table = load_table("own", TABLES)
    if wrong := [pattern for pattern in patterns if not fnmatch.filter(table.names, pattern)]:
        raise SpecError(f"--methods {wrong[0]!r} is no method; {nearest(wrong[0], table.names)}")
    named = {method for pattern in patterns for method in fnmatch.filter(table.names, pattern)}
    reasons = {one.method: _reason(one.model, data) for one in table.methods if one.method in named}
    run = [method for method, reason in reasons.items() if not reason]
    if not run:
        raise SpecError(f"{name} allows none of {', '.join(reasons)}: {data.describe()}")
    for method, reason in reasons.items():
        if reason:
            print(f"{method} is not run: {reason}")
    left_out = [method for method in table.names if method not in run]
    [own] = table.datasets
    own = replace(own, dataset=name, init_args={"modalities": list(data.modalities)}, exclude=left_out)
    return replace(table, datasets=[own])


def _reason(model: str, data: OwnData) -> str:
    """Why a model is not run on some data; nothing where it is."""
    model, count = model.rpartition(".")[2], len(data.modalities)
    if model == "LAVIMO":
        return ""
    if any(modality.kind != "vector" for modality in data.data.modalities.values()):
        return "it takes vectors; extract features first"
    if model in ("CCA", "JFSE") and count > 2:
        return "it takes two modalities"
    if model == "GeneralisedCCA" and count == 2:
        return "of two modalities it is CCA"
    if model in ("SemanticMatching", "JFSE") and not data.labelled:
        return "it needs labels"
    return ""
