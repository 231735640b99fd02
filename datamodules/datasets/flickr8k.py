"""Flickr8k (Hodosh et al., JAIR 2013) in its official split; and a thousand of its images with a spoken caption."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.datasets import DATASETS
from datamodules.datasets.lists import refuse_repeated, warn_of_others
from datamodules.errors import check_choice
from datamodules.files.media import image_of_each, read_image, read_sound
from datamodules.files.text import broken, read_lines, require
from datamodules.items import ItemSet, Modality
from datamodules.on_disk import OnDisk

CAPTIONS = 5
LISTS = {"train": "trainImages", "validation": "devImages", "test": "testImages"}
RATE = 24_000
HELD_OUT = 200

# The official split -------------------------------------------------------------------------------------------------


class Flickr8k(OnDisk):
    """Images with five captions each, in the split of the authors; an item is an image and matches itself alone.

    The folder::

        flickr8k/
            Flickr8k.token.txt                       <name>.jpg#0 to #4, a tab and a caption per line
            Flickr_8k.{train,dev,test}Images.txt     a <name>.jpg per line: 6,000, 1,000 and 1,000
            Flicker8k_Dataset/<name>.jpg             as the authors spell it, or Images/

    Captions of images that no list names are not used. Cite M. Hodosh, P. Young and J. Hockenmaier, Framing Image
    Description as a Ranking Task, JAIR 2013.

    Args:
        data_root: folder that holds `flickr8k/`; by default the environment variable CSD_DATA, else `data/`.
        **kwargs: see RetrievalData.

    Raises:
        ValueError: an argument outside its range.
        DataError: on first use, if a file is missing or is not what it should be.
    """

    declaration = DATASETS["flickr8k"]

    def read(self) -> ItemSet:
        """Read the lists and captions and look which images there are."""
        folder = self.folder
        lists = {part: folder / f"Flickr_8k.{name}.txt" for part, name in LISTS.items()}
        listed = {part: [line.strip() for line in read_lines(path) if line.strip()] for part, path in lists.items()}
        for part, path in lists.items():
            if not listed[part]:
                raise broken(path, "lists no image; expected a <name>.jpg per line")
        refuse_repeated({path: listed[part] for part, path in lists.items()}, "the image ")
        captions = read_tokens(folder / "Flickr8k.token.txt")
        names = [name for part in listed.values() for name in part]
        for name in names:
            if len(captions.get(name, ())) != CAPTIONS:
                found = len(captions.get(name, ()))
                raise broken(folder / "Flickr8k.token.txt", f"has {found} captions of {name}; expected {CAPTIONS}")
        images = next((folder / name for name in ("Flicker8k_Dataset", "Images") if (folder / name).is_dir()), None)
        return self.read_items(
            {
                "image": lambda: image_of_each(images or folder / "Flicker8k_Dataset", names),
                "text": lambda: Modality.of_each([captions[name] for name in names]),
            },
            label=np.arange(len(names)),
            split=np.repeat(list(listed), [len(part) for part in listed.values()]),
            names=[Path(name).stem for name in names],
            origin=str(folder),
        )


def read_tokens(path: Path) -> dict[str, list[str]]:
    """File name of an image -> its captions, in the order of their numbers.

    Raises:
        DataError: not text, a line without "<name>#<number>", a tab and a caption, or a number that stands twice.
    """
    captions: dict[str, dict[str, str]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        key, _, caption = line.partition("\t")
        name, _, which = key.rpartition("#")
        if not name or not which.isdigit() or not caption.strip():
            raise broken(path, f"line {number} is {line[:80]!r}; expected <name>.jpg#<number>, a tab and a caption")
        if which in captions.setdefault(name, {}):
            raise broken(path, f"line {number} is caption {which} of {name}, which a line before is already")
        captions[name][which] = caption.strip()
    return {name: [found[which] for which in sorted(found, key=int)] for name, found in captions.items()}


# A thousand images with a spoken caption ----------------------------------------------------------------------------


class Flickr8kTriples(OnDisk):
    """Images, captions and synthetic speech; an item is an image, and matches only itself.

    The folder::

        flickr8k_tri/
            captions.txt        CSV with the header image,caption; <name>.jpg and a caption per line, five per image
            images/<name>.jpg   224 x 224
            audio/<name>.wav    24 kHz mono

    There are 1,000 images, the alphabetically first of Flickr8k, of all parts of its official split; whoever made the
    triples gives no split. Cite M. Hodosh, P. Young and J. Hockenmaier,
    Framing Image Description as a Ranking Task, JAIR 2013.

    The 200 test items are the first of `numpy.random.default_rng(0).permutation` of all names in sorted order: they
    stay the same for every seed. The sounds are named .wav and hold MP3; they are read by content.

    Args:
        data_root: folder that holds `flickr8k_tri/`; by default the environment variable CSD_DATA, else `data/`.
        captions: "all": five captions per image. "spoken": the first alone, said to be the one that is spoken. The
            length of the sounds follows the length of the first caption and of no other; that they say its words
            was not verified.
        **kwargs: see RetrievalData.

    Raises:
        ValueError: an argument outside its range.
        DataError: on first use, if a file is missing or is not what it should be.
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
        return self.read_items(
            {
                "image": lambda: _files(folder / "images", ".jpg", names, read_image),
                "text": lambda: Modality.of_each([captions[name][:kept] for name in names]),
                "audio": lambda: _files(folder / "audio", ".wav", names, partial(read_sound, rate=RATE), RATE),
            },
            label=np.arange(len(names)),
            split=held_out(len(names)),
            names=names,
            origin=str(folder),
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
        if not row:  # a blank line
            continue
        if len(row) != 2 or not row[0].endswith(".jpg") or not row[1].strip():
            what = f"entry {number} is {','.join(row)[:80]!r}; expected <name>.jpg,<caption>"
            raise broken(path, what)
        captions.setdefault(row[0].removesuffix(".jpg"), []).append(row[1].strip())
    for name, found in captions.items():
        if len(found) != CAPTIONS:
            raise broken(path, f"has {len(found)} captions of {name}.jpg; expected {CAPTIONS}")
    return captions


def _files(
    folder: Path, ending: str, names: list[str], decode: Callable[[Path], np.ndarray], rate: int | None = None
) -> Modality:
    files = [f"{name}{ending}" for name in names]
    warn_of_others(require(folder), files, (ending,), "captions.txt")
    return Modality.of_files([folder / file for file in files], decode, rate)
