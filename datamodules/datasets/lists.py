"""Lists in which data sets name their items: each once, with a split and captions, and with no file left over."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.files.text import broken, require_parts

# The words of files -> our splits.
SPLITS = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Captioned:
    """One image: its path, its split, its captions, and what else its entry says."""

    path: str
    split: str
    captions: tuple[str, ...]
    fields: Mapping[str, Any]


def read_captioned(
    path: Path, entries: Any, parse: Callable[[Mapping[str, Any]], tuple[Any, Any] | None], expected: str
) -> list[Captioned]:
    """Images with their captions and splits, in the order of a JSON file.

    Args:
        path: the file.
        entries: what should be the list in it; every entry has a "split", train, val or test.
        parse: entry -> path of an image and list of its captions, or None where it has other fields.
        expected: what an entry should have, for messages.

    Raises:
        DataError: there is no list with an entry, an entry is not what it should be, an image is listed twice, or there
            is none to train or to test on.
    """
    if not isinstance(entries, list) or not entries:
        raise broken(path, "holds no JSON list with an entry")
    images: dict[str, Captioned] = {}
    for number, entry in enumerate(entries, start=1):
        name, captions = (parse(entry) if isinstance(entry, dict) else None) or (None, None)
        texts = [name, *captions] if isinstance(captions, list) else [None]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise broken(path, f"entry {number} is {json.dumps(entry)[:160]}; expected {expected}")
        if entry.get("split") not in tuple(SPLITS):
            what = f"entry {number} ({name}) has the split {entry.get('split')!r}; expected {', '.join(SPLITS)}"
            raise broken(path, what)
        if name in images:
            first = list(images).index(name) + 1
            raise broken(path, f"entry {number} is of {name}, as entry {first} is; expected each image once")
        images[name] = Captioned(name, SPLITS[entry["split"]], tuple(caption.strip() for caption in captions), entry)
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
