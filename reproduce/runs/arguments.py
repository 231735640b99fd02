"""Arguments of models, as a table's file gives them: put over one another, and with matched temperatures resolved."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from typing import Any

# Stands among a model's arguments for a temperature and a weight of its alignment, see `matched`.
MATCHED = "matched_temperature"


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with others put over them, mapping by mapping.

    Arguments given to an entry with a class_path go to its init_args, as on the command line of `csd fit`.
    """
    found = dict(base)
    for key, value in over.items():
        old = found.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            if "class_path" in old and "class_path" not in value:
                value = {"init_args": value}
            value = merged(old, value)
        found[key] = value
    return found


def matched(arguments: Mapping[str, Any], modalities: int, weighted: bool) -> dict[str, Any]:
    """A model's arguments with "matched_temperature", t, resolved: the effective temperature at which losses compare.

    The alignment takes f t as its temperature and f as its weight, with f = 1 for KL and InfoNCE, 2 for CS and M + 1
    for GCS over M modalities.

    Args:
        arguments: of the model.
        modalities: M.
        weighted: whether the model has an alignment_weight.

    Raises:
        ValueError: the factor of the alignment is not known, or it is given a temperature too.
    """
    arguments = dict(arguments)
    value = arguments.pop(MATCHED, None)
    if value is None:
        return arguments
    alignment = arguments.get("alignment") or {}
    if "temperature" in alignment.get("init_args", {}):
        raise ValueError(f"it has a temperature and a {MATCHED}; keep one of them")
    factor = effective_factor(alignment, modalities)
    temperature = round(factor * value, 12)  # so that 7 x 0.1 is 0.7
    weight = {"alignment_weight": factor} if weighted else {}
    return merged({**weight, **arguments}, {"alignment": {"temperature": temperature}})


def effective_factor(alignment: Mapping[str, Any], modalities: int) -> int:
    """f of an alignment over M modalities, as its loss states it, see ``matched``.

    Raises:
        ValueError: it has no temperature.
    """
    path = alignment.get("class_path")
    factor = None
    if path:
        factor = pkgutil.resolve_name(path)(**alignment.get("init_args", {})).effective_factor(modalities)
    if factor is None:
        raise ValueError(f"{MATCHED} is for a loss with a temperature, which {path or 'no alignment'} is not")
    return factor
