"""Flickr8k (Hodosh et al., JAIR 2013) in its official split; and a thousand of its images with a spoken caption."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.datasets import DATASETS
from datamodules.datasets.on_disk import OnDisk
from datamodules.errors import check_choice
from datamodules.files.media import files_of_items, image_of_each, in_folder
from datamodules.files.text import broken, parse_lines, parsed, read_lines, read_split, text
from datamodules.items import ItemSet, Modality

CAPTIONS = 5
LISTS = {"train": "trainImages", "validation": "devImages", "test": "testImages"}
RATE = 24_000
HELD_OUT = 200


class Flickr8k(OnDisk):
    """Images with five captions each, in the split of the authors; an item is an image and matches itself alone.

    Captions of images that no list names are not used.
    """

    declaration = DATASETS["flickr8k"]

    def read(self) -> ItemSet:
        """Read the lists and captions and look which images there are."""
        folder, path = self.folder, self.folder / "Flickr8k.token.txt"
        split = read_split({part: folder / f"Flickr_8k.{name}.txt" for part, name in LISTS.items()}, "the image ")
        numbered: dict[str, dict[int, str]] = {}
        tokens = parse_lines(path, _token, "<name>.jpg#<number>, a tab and a caption")
        for line, (name, number, caption) in enumerate(tokens, start=1):
            if number in numbered.setdefault(name, {}):
                raise broken(path, f"line {line} is caption {number} of {name}, which a line before is already")
            numbered[name][number] = caption
        captions = {name: [caption for _, caption in sorted(numbered.get(name, {}).items())] for name in split}
        _require_five(path, captions)
        folders = [folder / "Flicker8k_Dataset", folder / "Images"]
        images = next((path for path in folders if path.is_dir()), folders[0])
        readers = {
            "image": lambda: image_of_each(images, list(split)),
            "text": lambda: Modality.of_each(list(captions.values())),
        }
        return self.items(readers, [Path(name).stem for name in split], list(split.values()))


def _token(line: str) -> tuple[str, int, str]:
    key, caption = line.split("\t", 1)
    name, number = key.rsplit("#", 1)
    return text(name), int(number), text(caption)


def _require_five(path: Path, captions: Mapping[str, Sequence[str]]) -> None:
    for name, found in captions.items():
        if len(found) != CAPTIONS:
            raise broken(path, f"has {len(found)} captions of {name}; expected {CAPTIONS}")


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
        folder, source = self.folder, "captions.txt"
        captions = _read_captions(folder / source)
        names = sorted(captions)
        if len(names) <= HELD_OUT:
            what = f"names {len(names)} images; expected more than the {HELD_OUT} that are held out"
            raise broken(folder / source, what)
        split = np.full(len(names), "train", dtype="U5")
        split[np.random.default_rng(0).permutation(len(names))[:HELD_OUT]] = "test"
        images, sounds = ([f"{name}{ending}" for name in names] for ending in (".jpg", ".wav"))
        kept = 1 if self.captions == "spoken" else CAPTIONS
        readers = {
            "image": lambda: image_of_each(folder / "images", images, source),
            "text": lambda: Modality.of_each([captions[name][:kept] for name in names]),
            "audio": lambda: files_of_items("sound", in_folder(folder / "audio", sounds, source), RATE),
        }
        return self.items(readers, names, split)


def _read_captions(path: Path) -> dict[str, list[str]]:
    """Image name without its ending -> its five captions, in the order of the file."""
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
