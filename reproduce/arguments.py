"""Arguments that a table's file gives to a class: names, types and values, before anything is trained with them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from functools import cache
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

import lightning_modules
from lightning_modules.networks.adapters import ADAPTERS
from lightning_modules.networks.encoders import ENCODERS
from losses import AlignmentLoss, build_loss
from losses.registry import nearest
from reproduce.baselines import BASELINES

# Arguments of a model that are not for init_args, trials and scales: of the data, and entries of the method itself.
OF_THE_METHOD = ("dims", "alignment", "preset")
# Arguments of a data module that the command line and the seed decide.
OF_THE_RUN = ("data_root", "path", "offline", "shuffle_seed", "class_seed")
IN_WORDS = {
    **{"int": "an integer", "float": "a number", "str": "a text", "bool": "true or false", "None": "null"},
    **{"list[int]": "a list of integers", "list[str]": "a list of texts", "list[list[str]]": "a list of lists"},
    **{"dict[str, Any]": "a mapping", "list[dict[str, Any]]": "a list of mappings"},
    **{"Mapping[str, Any]": "a mapping", "Mapping[str, Mapping[str, Any]]": "a mapping of mappings"},
}


class SpecError(ValueError):
    """A table file that cannot be used; the message names the file and entry and what was expected."""


def model_class(name: str) -> type:
    """The class that a method's model names."""
    return BASELINES.get(name) or getattr(lightning_modules, name)


def check_call(kind: type, arguments: Any, place: str, skip: Iterable[str] = (), whole: bool = False) -> None:
    """Refuse arguments that a class does not take, or that have another type than it states.

    Args:
        kind: the class.
        arguments: argument -> value.
        place: file and entry, for the message.
        skip: arguments of the class that are not given there.
        whole: whether nothing that the class needs may be missing.

    Raises:
        SpecError: naming the argument, with the nearest ones or the type.
    """
    known = [name for name in parameters(kind) if name not in skip]
    if not isinstance(arguments, dict):
        raise SpecError(f"{place}: expected a mapping with {', '.join(known)}, got {arguments!r}")
    for name, value in arguments.items():
        if name in skip:
            raise SpecError(f"{place}: {name!r} is not given here; the table or its command sets it")
        if name not in known:
            raise SpecError(f"{place}: unknown key {name!r}; {nearest(name, known)}")
        if not _fits(kind, name, value):
            text = ", a text" * isinstance(value, str)
            raise SpecError(f"{place}: {name} is {value!r}{text}; expected {_in_words(_annotation(kind, name))}")
    needed = [name for name, each in inspect.signature(kind).parameters.items() if each.default is each.empty]
    missing = [name for name in needed if name in known and name not in arguments]
    if whole and missing:
        raise SpecError(f"{place}: {' and '.join(missing)} missing; give a value")


@cache
def parameters(kind: type) -> list[str]:
    """Names of the arguments of a class, those that it hands on to its bases among them."""
    return ArgumentParser().add_class_arguments(kind, fail_untyped=False)


@cache
def _reader(kind: type, name: str) -> ArgumentParser:
    """Reads one argument of a class by its type."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, skip={*parameters(kind)} - {name}, fail_untyped=False)
    return parser


def _fits(kind: type, name: str, value: Any) -> bool:
    annotation = _annotation(kind, name)
    if value is None:
        return "None" in annotation
    try:
        read = _reader(kind, name).parse_object({name: deepcopy(value)})[name]
    except ArgumentError:
        return False
    read = list(read) if isinstance(read, tuple) else read
    return "Any" in annotation or read == value  # a number written as a text is read, but would stay a text


def _annotation(kind: type, name: str) -> str:
    signatures = (inspect.signature(base).parameters for base in kind.__mro__)
    return next(str(found[name].annotation) for found in signatures if name in found)


def _in_words(annotation: str) -> str:
    types = re.sub(r"Literal\[(.*?)\]", lambda choices: choices[1].replace(", ", " or "), annotation).split(" | ")
    return " or ".join(IN_WORDS.get(name, name) for name in types)


def check_model(name: str, arguments: Any, place: str) -> None:
    """Refuse arguments that a model, or one of its encoders or its adapter, does not take.

    Raises:
        SpecError: naming the argument.
    """
    check_call(model_class(name), arguments, place, OF_THE_METHOD)
    for modality, settings in (arguments.get("encoders") or {}).items():
        _check_named(ENCODERS, settings, f"{place}: encoder of {modality!r}", ("source",))
    if arguments.get("adapter") is not None:
        _check_named(ADAPTERS, arguments["adapter"], f"{place}: adapter", ("input_dim", "dim"))


def _check_named(kinds: Mapping[str, type], settings: Any, place: str, skip: tuple[str, ...]) -> None:
    if not isinstance(settings, dict) or settings.get("name") not in kinds:
        name = settings.get("name") if isinstance(settings, dict) else settings
        raise SpecError(f"{place} has the name {name!r}; {nearest(name, kinds)}")
    check_call(
        kinds[settings["name"]], {key: x for key, x in settings.items() if key != "name"}, place, skip, whole=True
    )


def check_loss(settings: dict[str, Any], place: str) -> None:
    """Refuse an alignment loss that there is not, and arguments that it does not take.

    Args:
        settings: "name" and the keywords of the loss.
        place: file and entry, for the message.

    Raises:
        SpecError: naming the loss or the argument.
    """
    if "name" not in settings:
        raise SpecError(f"{place}: alignment is {settings!r}; expected a mapping with a name, as in {{name: cs}}")
    bare = built(place, build_loss, **{key: settings[key] for key in ("name", "divergence") if key in settings})
    for kind in {type(part) for part in bare.modules() if isinstance(part, AlignmentLoss)}:
        check_call(kind, {key: x for key, x in settings.items() if key in parameters(kind)}, place)
    built(place, build_loss, **settings)


def built(place: str, build: Callable[..., Any], **arguments: Any) -> Any:
    """What a call returns; SpecError with the place where it refuses its arguments."""
    try:
        return build(**arguments)
    except (ValueError, TypeError) as error:
        raise SpecError(f"{place}: {error}") from error
