"""Flickr8k (Hodosh et al., JAIR 2013) in its official split; and a thousand of its images with a spoken caption."""

import csv
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.datasets import DATASETS
from datamodules.errors import check_choice
from datamodules.files.media import file_of_each, image_of_each, read_sound
from datamodules.files.text import broken, parse_lines, parsed, read_lines, read_split, text
from datamodules.items import ItemSet, Modality
from datamodules.on_disk import OnDisk

CAPTIONS = 5
LISTS = {"train": "trainImages", "validation": "devImages", "test": "testImages"}
RATE = 24_000
HELD_OUT = 200


# The official split -------------------------------------------------------------------------------------------------


class Flickr8k(OnDisk):
    """Images with five captions each, in the split of the authors; an item is an image and matches itself alone.

    Captions of images that no list names are not used.
    """

    declaration = DATASETS["flickr8k"]

    def read(self) -> ItemSet:
        """Read the lists and captions and look which images there are."""
        folder = self.folder
        split = read_split({part: folder / f"Flickr_8k.{name}.txt" for part, name in LISTS.items()}, "the image ")
        captions = read_tokens(folder / "Flickr8k.token.txt")
        _require_five(folder / "Flickr8k.token.txt", {name: captions.get(name, []) for name in split})
        images = next((folder / name for name in ("Flicker8k_Dataset", "Images") if (folder / name).is_dir()), None)
        return self.items(
            {
                "image": lambda: image_of_each(images or folder / "Flicker8k_Dataset", list(split)),
                "text": lambda: Modality.of_each([captions[name] for name in split]),
            },
            names=[Path(name).stem for name in split],
            split=list(split.values()),
        )


def _require_five(path: Path, captions: Mapping[str, Sequence[str]]) -> None:
    for name, found in captions.items():
        if len(found) != CAPTIONS:
            raise broken(path, f"has {len(found)} captions of {name}; expected {CAPTIONS}")


def read_tokens(path: Path) -> dict[str, list[str]]:
    """File name of an image -> its captions, in the order of their numbers.

    Raises:
        DataError: not text, a line without "<name>#<number>", a tab and a caption, or a number that stands twice.
    """
    captions: dict[str, dict[int, str]] = {}
    tokens = parse_lines(path, _token, "<name>.jpg#<number>, a tab and a caption")
    for line, (name, number, caption) in enumerate(tokens, start=1):
        if number in captions.setdefault(name, {}):
            raise broken(path, f"line {line} is caption {number} of {name}, which a line before is already")
        captions[name][number] = caption
    return {name: [caption for _, caption in sorted(found.items())] for name, found in captions.items()}


def _token(line: str) -> tuple[str, int, str]:
    key, caption = line.split("\t", 1)
    name, number = key.rsplit("#", 1)
    return text(name), int(number), text(caption)


# A thousand images with a spoken caption ----------------------------------------------------------------------------


class Flickr8kTriples(OnDisk):
    """Images, captions and synthetic speech; an item is an image, and matches only itself.

    They are the alphabetically first images of Flickr8k, of all parts of its official split; whoever made the triples
    gives no split. The 200 test items are the first of `numpy.random.default_rng(0).permutation` of all names in sorted
    order: they stay the same for every seed. The sounds are named .wav and hold MP3; they are read by content.

    Args:
        data_root: see OnDisk.
        captions: "all": five captions per image. "spoken": the first alone, said to be the one that is spoken. The
            length of the sounds follows the length of the first caption and of no other; that they say its words
            was not verified.
        **kwargs: see RetrievalData.
    """

    declaration = DATASETS["flickr8k_tri"]
    test_split = f"held-out-{HELD_OUT}"

    def __init__(
        self, data_root: str | Path | None = None, captions: Literal["all", "spoken"] = "all", **kwargs: Any
    ) -> None:
        super().__init__(data_root, **kwargs)
        check_choice("captions", captions, ("all", "spoken"))
        self.captions = captions
        self.features = "raw" if captions == "all" else "raw, spoken caption"

    def read(self) -> ItemSet:
        """Read the captions and look which images and sounds there are."""
        folder = self.folder
        captions = read_captions(folder / "captions.txt")
        names = sorted(captions)
        if len(names) <= HELD_OUT:
            what = f"names {len(names)} images; expected more than the {HELD_OUT} that are held out"
            raise broken(folder / "captions.txt", what)
        kept = 1 if self.captions == "spoken" else CAPTIONS
        return self.items(
            {
                "image": lambda: image_of_each(folder / "images", [f"{name}.jpg" for name in names], "captions.txt"),
                "text": lambda: Modality.of_each([captions[name][:kept] for name in names]),
                "audio": lambda: file_of_each(
                    folder / "audio",
                    [f"{name}.wav" for name in names],
                    partial(read_sound, rate=RATE),
                    RATE,
                    "captions.txt",
                ),
            },
            names,
            split=held_out(len(names)),
        )


def held_out(count: int) -> np.ndarray:
    """(count,) "train" or "test": the fixed draw of the test items."""
    split = np.full(count, "train", dtype="U5")
    split[np.random.default_rng(0).permutation(count)[:HELD_OUT]] = "test"
    return split


def read_captions(path: Path) -> dict[str, list[str]]:
    """Image name without its ending -> its five captions, in the order of the file.

    Raises:
        DataError: not CSV text, another header, a row without two fields, or another number of captions of an image.
    """
    try:
        lines = (f"{line}\n" for line in read_lines(path))  # a caption in quotes may have several
        header, *rows = list(csv.reader(lines, strict=True)) or [[]]
    except csv.Error as error:
        raise broken(path, f"is not CSV text ({error})") from error
    if header != ["image", "caption"]:
        raise broken(path, f"starts with {','.join(header)[:80]!r}; expected the header image,caption")
    captions: dict[str, list[str]] = {}
    for number, row in enumerate(rows, start=2):
        if row:  # no blank line
            name, caption = parsed(path, f"entry {number}", row, _captioned, "<name>.jpg,<caption>")
            captions.setdefault(name, []).append(caption)
    _require_five(path, captions)
    return {name.removesuffix(".jpg"): found for name, found in captions.items()}


def _captioned(row: list[str]) -> tuple[str, str]:
    name, caption = row
    if not name.endswith(".jpg"):
        raise ValueError("no image")
    return name, text(caption)
