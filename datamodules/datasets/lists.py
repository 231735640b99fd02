"""Lists in which data sets name their items: line by line or as JSON, each item once, and with no file left over."""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.errors import DataError
from datamodules.files.text import broken, read_lines, require_parts

T = TypeVar("T")
# The words of files -> our splits.
SPLITS = {"train": "train", "val": "validation", "test": "test"}


def parsed(path: Path, where: str, entry: Any, parse: Callable[[Any], T], expected: str) -> T:
    """What a function makes of one entry of a file.

    Args:
        path: the file.
        where: the entry stands in it, such as "line 3".
        entry: as it stands there.
        parse: raises an error of look-up, type or value where the entry is not as expected.
        expected: what it should be, for messages.

    Raises:
        DataError: the entry is not as expected.
    """
    try:
        return parse(entry)
    except DataError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError):
        shown = repr(entry[:80]) if isinstance(entry, str) else json.dumps(entry)[:160]
        raise broken(path, f"{where} is {shown}; expected {expected}") from None


def text(value: Any) -> str:
    """A text without the blanks around it; ValueError where there is none."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("no text")
    return value.strip()


def names_in(path: Path) -> list[str]:
    """Lines of a file without the blanks around them; blank lines count for nothing."""
    return [line.strip() for line in read_lines(path) if line.strip()]


def parse_lines(path: Path, parse: Callable[[str], T], expected: str, skip_blank: bool = False) -> list[T]:
    """What `parsed` makes of every line; blank lines at the end count for nothing, or all of them."""
    lines = [(number, line) for number, line in enumerate(read_lines(path), 1) if line.strip() or not skip_blank]
    return [parsed(path, f"line {number}", line, parse, expected) for number, line in lines]


def read_split(lists: Mapping[str, Path], what: str = "") -> dict[str, str]:
    """Name -> split, in the order of files with a name per line.

    Args:
        lists: split -> the file that lists its names.
        what: the names are of, for messages, such as "the image ".

    Raises:
        DataError: a file is missing or lists nothing, or a name is listed twice.
    """
    listed = {path: names_in(path) for path in lists.values()}
    for path, names in listed.items():
        if not names:
            raise broken(path, "lists nothing; expected a name per line")
    refuse_repeated(listed, what)
    return {name: part for part, path in lists.items() for name in listed[path]}


class Captioned(NamedTuple):
    """One image: its path, its captions, its split, and its whole entry."""

    path: str
    captions: list[str]
    split: str
    fields: Mapping[str, Any]


def read_captioned(
    path: Path, entries: Any, parse: Callable[[Mapping[str, Any]], tuple[str, list[Any]]], expected: str
) -> list[Captioned]:
    """Images with their captions and splits, in the order of a JSON file.

    Args:
        path: the file.
        entries: what should be the list in it; every entry has a "split", train, val or test.
        parse: entry -> path of an image and its captions; see `parsed`.
        expected: what an entry should have, for messages.

    Raises:
        DataError: there is no list with an entry, an entry is not what it should be, an image is listed twice, or there
            is none to train or to test on.
    """

    def captioned(entry: Mapping[str, Any]) -> Captioned:
        name, captions = parse(entry)
        if not text(name) or not isinstance(captions, list):
            raise ValueError("no list of captions")
        return Captioned(name, [*map(text, captions)], SPLITS[entry["split"]], entry)

    if not isinstance(entries, list) or not entries:
        raise broken(path, "holds no JSON list with an entry")
    expected += f', and a "split" of {", ".join(SPLITS)}'
    images: dict[str, Captioned] = {}
    for number, entry in enumerate(entries, start=1):
        image = parsed(path, f"entry {number}", entry, captioned, expected)
        if image.path in images:
            first = list(images).index(image.path) + 1
            raise broken(path, f"entry {number} is of {image.path}, as entry {first} is; expected each image once")
        images[image.path] = image
    require_parts([image.split for image in images.values()], path)
    return list(images.values())


def refuse_repeated(lists: Mapping[Path, Iterable[Hashable]], what: str = "") -> None:
    """Refuse a name that is in two lists, or twice in one.

    Args:
        lists: file -> the names that it lists.
        what: the names are of, for messages, such as "the text ".

    Raises:
        DataError: there is such a name.
    """
    seen: dict[Hashable, str] = {}
    for path, names in lists.items():
        for name in names:
            if name in seen:
                raise broken(path, f"lists {what}{name}, which {seen[name]} lists already; expected it once")
            seen[name] = path.name


def warn_of_others(folder: Path, names: Sequence[str], endings: tuple[str, ...], source: str) -> None:
    """Warn of files that no entry names, which are not used.

    Args:
        folder: of the files.
        names: paths below it that are used.
        endings: of the files that count, in small letters.
        source: the file that names them.
    """
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    other = sorted(name for name in there - set(names) if name.lower().endswith(endings))
    if other:
        rank_zero_warn(f"{folder}: {len(other)} file(s) are not in {source} and are not used, first {other[0]}")
