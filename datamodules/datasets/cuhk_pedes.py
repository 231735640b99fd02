"""CUHK-PEDES (Li et al., CVPR 2017): photographs of pedestrians, each described in a few sentences."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from datamodules.datasets import DATASETS
from datamodules.datasets.on_disk import OnDisk
from datamodules.files.media import image_of_each
from datamodules.files.text import Captioned, broken, read_captioned
from datamodules.items import ItemSet, Modality


class CUHKPEDES(OnDisk):
    """Photographs of pedestrians with their descriptions; an item is a photograph, its label the person it shows.

    Every description is a text of its own; all photographs and descriptions of a person match each other.

    The older caption_all.json is not read: it has no split, and numbers persons differently.

    Of the 13,003 persons 11,003 are for training (68,126 descriptions), 1,000 for validation (6,158) and 1,000 for test
    (6,156).
    """

    declaration = DATASETS["cuhk_pedes"]

    def read(self) -> ItemSet:
        """Read the descriptions and look which photographs there are."""
        path = self.folder / "reid_raw.json"
        expected = "file_path and captions as text and id as the number of a person, 1 or more"
        photographs = read_captioned(path, _described, expected)
        names, persons = [one.path for one in photographs], [one.fields["id"] for one in photographs]
        first_of: dict[int, Captioned] = {}
        for person, one in zip(persons, photographs, strict=True):
            first = first_of.setdefault(person, one)
            if first.split != one.split:
                what = f"person {person} is {first.split} in {first.path} and {one.split} in {one.path}"
                raise broken(path, f"{what}; expected each person in one split")
        readers = {
            "image": lambda: image_of_each(path.with_name("imgs"), names, path.name),
            "text": lambda: Modality.of_each([one.captions for one in photographs]),
        }
        return self.items(readers, names, [one.split for one in photographs], persons, group=np.array(persons))


def _described(entry: Mapping[str, Any]) -> tuple[str, list[Any]]:
    if type(entry["id"]) is not int or entry["id"] < 1:  # True is an int as well
        raise ValueError("no person")
    return entry["file_path"], entry["captions"]
