"""Arguments as a table's file gives them: put over one another, with matched temperatures resolved, and checked."""

import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from losses import AlignmentLoss
from losses.registry import nearest

# Stands among a model's arguments for a temperature and a weight of its alignment, see `matched`.
MATCHED = "matched_temperature"


class SpecError(ValueError):
    """A table file that cannot be used; the message names the file and entry and what was expected."""


@contextmanager
def said_of(place: str) -> Iterator[None]:
    """Within it, what arguments are refused for is a SpecError that names the place first."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise SpecError(f"{place}: {error}") from error


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
    for GCS over M modalities, as each loss states it.

    Args:
        arguments: of the model.
        modalities: M.
        weighted: whether the model has an alignment_weight.

    Raises:
        SpecError: the alignment has no such factor, or it is given a temperature too.
    """
    arguments = dict(arguments)
    value = arguments.pop(MATCHED, None)
    if value is None:
        return arguments
    if "temperature" in (arguments.get("alignment") or {}).get("init_args", {}):
        raise SpecError(f"it has a temperature and a {MATCHED}; keep one of them")
    loss = loss_of(arguments)
    factor = loss.effective_factor(modalities) if loss else None
    if factor is None:
        said = type(loss).__name__ if loss else "no alignment"
        raise SpecError(f"{MATCHED} is for a loss with a temperature, which {said} is not")
    temperature = round(factor * value, 12)  # so that 7 x 0.1 is 0.7
    weight = {"alignment_weight": factor} if weighted else {}
    return merged({**weight, **arguments}, {"alignment": {"temperature": temperature}})


def loss_of(arguments: Mapping[str, Any]) -> AlignmentLoss | None:
    """The alignment loss that a model's arguments name, None where they name none."""
    alignment = arguments.get("alignment") or {}
    path = alignment.get("class_path")
    return pkgutil.resolve_name(path)(**alignment.get("init_args", {})) if path else None


@cache
def signature(kind: type, skip: frozenset[str] = frozenset()) -> tuple[ArgumentParser, dict[str, Any]]:
    """A parser of the arguments of a class and of its bases, and their defaults, None where there is none."""
    parser = ArgumentParser(exit_on_error=False)
    names = parser.add_class_arguments(kind, skip=set(skip), fail_untyped=False)
    return parser, {name: parser.get_default(name) for name in names}


def check_arguments(kind: type, given: Mapping[str, Any], place: str, skip: Iterable[str] = ()) -> None:
    """Check what a class is given by its signature.

    Args:
        kind: the class.
        given: its arguments.
        place: what they stand for, for the message.
        skip: arguments that come from elsewhere.

    Raises:
        SpecError: an unknown argument, with the nearest; a missing one, or a value of another type.
    """
    parser, known = signature(kind, frozenset(skip))
    if unknown := [name for name in given if name not in known]:
        raise SpecError(f"{place} has no argument {unknown[0]!r}; {nearest(unknown[0], known)}")
    try:
        parser.parse_object(deepcopy(dict(given)))
    except ArgumentError as error:
        lines = (line.strip(" -") for line in str(error).splitlines())
        raise SpecError(f"{place}: {' '.join(filter(None, lines))}") from error
