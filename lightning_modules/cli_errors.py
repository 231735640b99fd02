"""What the command line says about wrong words, wrong values and configurations that cannot be read."""

import linecache
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning import Callback
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

import datamodules
import lightning_modules
from datamodules import RetrievalData
from datamodules.files.sources import user_path
from lightning_modules.base import RetrievalModule
from losses import AlignmentLoss, available_losses, build_loss
from losses.registry import nearest

# A parser knows the classes that are imported, and these two packages import theirs when they are asked for.
OWN_CLASSES = [getattr(package, name) for package in (datamodules, lightning_modules) for name in package.__all__]
# Modules whose errors are meant for people: this suite's, and those that look at how a run was started.
SPEAKING = (
    "losses.",
    "datamodules.",
    "lightning_modules.",
    "lightning.fabric.plugins.environments.",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
)
# What jsonargparse adds about types that were never meant (every argument may also be None), and around a problem.
NOISE = re.compile(
    r"NoneType|Subtypes:|Union subtypes|Given value|Errors:$|Expected a path but|Problem with given class_path"
)
KEY = re.compile(r'Parser key "([^"]+)"')
TYPE = re.compile(r"Expected an? (?:<class '(?:\w+\.)*(\w+)'>|typing\.Literal\[(.+)\])")
CLASS = re.compile(r"Problem with given class_path '([^']+)'")
GIVEN = re.compile(r"Given value: (?!\{|NestedArg|Namespace)(.+)")
WRONG_OPTION = re.compile(
    r"Option '([^']+)' is not accepted|(?:Group '(.+)'|Subcommand '\w+') does not accept option '([^']+)'|"
    r"unrecognized arguments: --([^\s=]+)|[Kk]ey '([^']+)' is not expected"
)
WRONG_CLASS = re.compile(r"has no attribute '([^']+)'|Expected a dot import path string: (\S+)")
ALIGNMENT = re.compile(r"--model\.(?:init_args\.)?alignment(\..+)?")
CLASSES = {
    "model": [RetrievalModule],
    "data": [RetrievalData],
    "model.alignment": [AlignmentLoss],
    "trainer.callbacks": [Callback],
    "trainer.logger": [Logger],
}


class ConfigError(ValueError):
    """A configuration that no command takes; the message names the argument and what was expected."""


class Parser(LightningArgumentParser):
    """A parser that answers a wrong word with what was wrong and the nearest right words, not with all its options."""

    def parse_args(self, args: Sequence[str] | None = None, *others: Any, **settings: Any) -> Namespace:
        words = sys.argv[1:] if args is None else args
        return super().parse_args(with_loss_class(words, configurations(words)), *others, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # parsing the arguments of a class, for the parser of the command
            super().error(message, ex)
        raise ConfigError(explained(message, self))


def leave(message: str) -> NoReturn:
    """End this process with a message and status 2."""
    process = f" (process {rank_zero_only.rank})" if rank_zero_only.rank else ""
    print(f"csd{process}: {message}", file=sys.stderr)
    raise SystemExit(2)


def configurations(words: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Place among the words -> content of a file given with --config; leaves where one is no YAML mapping."""
    found = {}
    for place, (option, word) in enumerate(zip(("", *words), words, strict=False)):
        if not (option in ("-c", "--config") or word.startswith("--config=")):
            continue
        path = user_path(word.removeprefix("--config="))
        if not path.is_file():
            continue
        try:
            found[place] = yaml.safe_load(path.read_bytes())
        except yaml.YAMLError as error:
            mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
            where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else path
            leave(f"{where}: {problem}; expected YAML, which is indented by spaces, never by tabs")
        if not isinstance(found[place], dict):
            leave(f"{path} holds no settings: expected a YAML mapping with model: and data:, got {found[place]!r:.60}")
    return found


def with_loss_class(words: Sequence[str], files: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """The words, and after a loss that is named its class, where arguments on the command line need one.

    A name alone stays: the model builds the loss by it, and a checkpoint remembers it.
    """
    named, has_arguments = {}, False  # place -> name
    for place, content in files.items():
        match content:
            case {"model": {"init_args": {"alignment": str(name)}}}:
                named[place] = name
    for place, word in enumerate(words):
        option, equals, name = word.partition("=")
        if found := ALIGNMENT.fullmatch(option):
            has_arguments = has_arguments or bool(found[1])
            if not found[1]:
                named |= {place: name} if equals else dict(enumerate(words[place + 1 : place + 2], place + 1))
    changed = list(words)
    for place, name in sorted(named.items(), reverse=True) if has_arguments else ():
        if name in available_losses():
            changed.insert(place + 1, f"--model.init_args.alignment=losses.{type(build_loss(name)).__name__}")
    return changed


def explained(message: str, parser: ArgumentParser | None = None) -> str:
    """The problem in a message of jsonargparse, with its place and the right words nearest to a wrong one."""
    place = ".".join(dict.fromkeys(KEY.findall(message)))
    classes = CLASS.findall(message)
    lines = [KEY.sub("", line).strip(" -:") for line in message.splitlines() if not NOISE.search(line)]
    problems = [TYPE.sub(r"expected \1\2", line).replace(". Got value:", ", got") for line in lines if line.strip()]
    # A loss may be a text, its name, but where something else is wrong its name was not what was meant.
    problems = [problem for problem in problems if problem != "expected str"] or problems
    said = " or ".join(dict.fromkeys(problems))
    if parser and (option := WRONG_OPTION.search(message)):
        said = _wrong_option(".".join(group for group in option.groups() if group), classes, parser)
    elif (wrong := WRONG_CLASS.search(message)) and place in CLASSES:
        said = _wrong_class(wrong[1] or wrong[2], place)
    elif classes and "No module named" in said:
        said += f" for {classes[-1]}; your own are looked for in the current folder, {os.getcwd()}, and on PYTHONPATH"
    elif "is abstract" in said:
        said += "; give class_path and init_args, or the name of a loss alone"
    elif ", got" not in said and (given := GIVEN.search(message)):
        said += f", got {given[1]}"
    return f"{place}: {said}" if place else said


def _wrong_option(word: str, classes: list[str], parser: ArgumentParser) -> str:
    if not classes:
        return f"there is no option {word!r}; {nearest(word, set(_option_names(parser)))}"
    known = ArgumentParser().add_class_arguments(pkgutil.resolve_name(classes[-1]), fail_untyped=False)
    known = [name for name in known if name != "dims"]  # which the data give
    near = nearest(word, known)
    others = f". It takes {', '.join(known)}" if near.startswith("nearest") else ""
    return f"{classes[-1]} has no argument {word!r}; {near}{others}"


def _wrong_class(word: str, place: str) -> str:
    if word in available_losses():
        kind = type(build_loss(word)).__name__
        return f"{word!r} is the name of a loss; one with arguments is given by its class, {kind}, in place of its name"
    known = [name for kind in CLASSES[place] for name in _names_below(kind)]
    if place == "model.alignment":
        known += available_losses()
    return f"there is no class {word!r}; {nearest(word, known)}"


def _names_below(kind: type) -> Iterator[str]:
    for below in kind.__subclasses__():
        yield below.__name__
        yield from _names_below(below)


def _option_names(parser: ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield action.dest
        if isinstance(action.choices, dict):  # the parsers of the commands
            for command in action.choices.values():
                yield from _option_names(command)


def reason(error: BaseException) -> str:
    """What this suite said in a chain of errors, else what the first of them said and where."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    if told := next(filter(None, map(refusal, chain)), ""):
        return told
    frames = traceback.extract_tb(chain[-1].__traceback__)
    if not frames or re.search(r"[/\\](jsonargparse|lightning)[/\\]", frames[-1].filename):
        # A union names its first type's error as the cause, and for a loss that is a text, its name.
        others = [str(link) for link in chain if not str(link).startswith("Expected a <class 'str'>")]
        return explained((others or [str(error)])[-1])
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return f"{type(chain[-1]).__name__}: {chain[-1]} ({own[-1].filename}, line {own[-1].lineno})"


def refusal(error: BaseException) -> str:
    """What this suite, the environment of a run or the reader of ``hpc`` said with ``raise``; else nothing."""
    *_, (frame, line) = [(None, 0), *traceback.walk_tb(error.__traceback__)]
    if frame is None:  # never raised
        return ""
    raised = linecache.getline(frame.f_code.co_filename, line).lstrip().startswith("raise ")
    return str(error) if raised and frame.f_globals["__name__"].startswith(SPEAKING) else ""
