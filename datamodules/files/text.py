"""Text files: lines, JSON, and the lists in which data sets name their items, each once; refused by file and entry."""

import gzip
import json
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from datamodules.errors import DataError, FileMissing
from datamodules.files.rows import decoding

T = TypeVar("T")
# The words of files -> our splits.
SPLITS = {"train": "train", "val": "validation", "test": "test"}


def require(path: Path) -> Path:
    """The path, if there is a file or folder; FileMissing is raised where there is none."""
    if not path.exists():
        raise FileMissing(f"{path} is missing.")
    return path


def broken(path: Path, what: str) -> DataError:
    """The error for a file that is not what it should be."""
    return DataError(f"{path}: {what}.")


def read_json(path: Path) -> Any:
    """What a UTF-8 file of JSON holds; a DataError where it is missing or not JSON."""
    with decoding(require(path), "JSON text"):
        return json.loads(path.read_text(encoding="utf-8-sig"))


def read_lines(path: Path) -> list[str]:
    r"""Lines of a UTF-8 text file, also of .gz, which end in \n, \r\n or \r; blank lines at its end are left out.

    A DataError where it is missing or not text.
    """
    # By the file itself: str.splitlines also cuts at characters that stand within a text, such as U+2028.
    opened = gzip.open if path.suffix == ".gz" else open
    with decoding(require(path), "text"), opened(path, "rt", encoding="utf-8-sig") as file:
        lines = [line.removesuffix("\n") for line in file]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def text(value: Any) -> str:
    """A text without the blanks around it; ValueError where there is none."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("no text")
    return value.strip()


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


def parse_lines(path: Path, parse: Callable[[str], T], expected: str, skip_blank: bool = False) -> list[T]:
    """What `parsed` makes of every line; blank lines at the end count for nothing, or all of them."""
    lines = [(number, line) for number, line in enumerate(read_lines(path), 1) if line.strip() or not skip_blank]
    return [parsed(path, f"line {number}", line, parse, expected) for number, line in lines]


def names_in(path: Path) -> list[str]:
    """Lines of a file without the blanks around them; blank lines count for nothing."""
    return [line.strip() for line in read_lines(path) if line.strip()]


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


def refuse_repeated(lists: Mapping[Path, Iterable[Hashable]], what: str = "") -> None:
    """Refuse with a DataError a name that is in two lists, or twice in one.

    Args:
        lists: file -> the names that it lists.
        what: the names are of, for messages, such as "the text ".
    """
    seen: dict[Hashable, str] = {}
    for path, names in lists.items():
        for name in names:
            if name in seen:
                raise broken(path, f"lists {what}{name}, which {seen[name]} lists already; expected it once")
            seen[name] = path.name


def require_parts(split: Collection[str], path: Path) -> None:
    """Refuse with a DataError a split, which a file says of each item, without items to train on or to test on."""
    for part in ("train", "test"):
        if part not in split:
            raise broken(path, f"has no entry of the {part} part; expected some of train and some of test")


class Captioned(NamedTuple):
    """One image: its path, its captions, its split, and its whole entry."""

    path: str
    captions: list[str]
    split: str
    fields: Mapping[str, Any]


def read_captioned(
    path: Path, parse: Callable[[Mapping[str, Any]], tuple[str, list[Any]]], expected: str
) -> list[Captioned]:
    """Images with their captions and splits, in the order of a JSON file.

    Args:
        path: the file: a list, or an object with one as "images", of entries with a "split", train, val or test.
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

    content = read_json(path)
    entries = content.get("images") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not entries:
        raise broken(path, "holds no JSON list with an entry")
    expected += f', and a "split" of {", ".join(SPLITS)}'
    images, first = [], {}
    for number, entry in enumerate(entries, start=1):
        image = parsed(path, f"entry {number}", entry, captioned, expected)
        if first.setdefault(image.path, number) != number:
            other = first[image.path]
            raise broken(path, f"entry {number} is of {image.path}, as entry {other} is; expected each image once")
        images.append(image)
    require_parts([image.split for image in images], path)
    return images
