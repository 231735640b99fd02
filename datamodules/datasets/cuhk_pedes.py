"""CUHK-PEDES (Li et al., CVPR 2017): photographs of pedestrians, each described in a few sentences."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.declaration import Declaration, Form
from datamodules.files.media import read_image
from datamodules.files.text import broken, read_json, require, require_parts
from datamodules.items import Files, ItemSet, Modality
from datamodules.retrieval_data import RetrievalData

# The words of the file -> our splits.
SPLITS = {"train": "train", "val": "validation", "test": "test"}
# Identities of each part, as published.
PARTS = {"train": 11_003, "validation": 1_000, "test": 1_000}
ENDINGS = (".jpg", ".png", ".bmp")


@dataclass(frozen=True)
class Photograph:
    """One photograph: its path below `imgs/`, who it shows, its descriptions, and its split where the file says it."""

    file_path: str
    identity: int
    captions: tuple[str, ...]
    split: str | None


CUHK_PEDES = Declaration(
    name="cuhk_pedes",
    folder="CUHK-PEDES",
    content="imgs/ (cam_a, cam_b, CUHK01, CUHK03, Market, test_query and train_query) and reid_raw.json, a list of "
    '{"split": train, val or test, "captions": [...], "file_path": a path below imgs/, "id": the person}, or '
    "caption_all.json, the same without a split",
    url="https://github.com/ShuangLI59/Person-Search-with-Natural-Language-Description (reid_raw.json; the rest "
    "from the authors, on request by e-mail)",
    licence="non-commercial research and education alone, not to be passed on",
    citation="S. Li et al., Person Search with Natural Language Description, CVPR 2017",
    items={"train": 34_054, "validation": 3_078, "test": 3_074},
    unit="photographs with descriptions",
    classes=13_003,
    forms={
        "raw": Form("CUHKPEDES", [("reid_raw.json", "imgs")]),
        # How many photographs its parts have is not stated, as they are parts by number; its persons are counted when
        # it is read.
        "caption_all": Form("CUHKPEDES", [("caption_all.json", "imgs")], {"annotations": "caption_all"}, items={}),
    },
)


class CUHKPEDES(RetrievalData):
    """Photographs of pedestrians with their descriptions; an item is a photograph, its label the person it shows.

    Every description is a text of its own; all photographs and descriptions of a person match each other. The folder,
    as its authors give it::

        CUHK-PEDES/  (or cuhk_pedes/)
            reid_raw.json     list of {"split": "train", "captions": [...], "file_path": "CUHK01/0363004.png", "id": 1,
                              "processed_tokens": [...]}; split is train, val or test; the tokens are not read
            caption_all.json  list of {"id": 1, "file_path": "test_query/p10376_s14337.jpg", "captions": [...]}
            imgs/             cam_a/, cam_b/, CUHK01/, CUHK03/, Market/, test_query/ and train_query/

    Published are 40,206 photographs of 13,003 persons: 11,003 for training (34,054 photographs, 68,126 descriptions),
    1,000 for validation (3,078 and 6,158), 1,000 for test (3,074 and 6,156). Cite S. Li et al., Person Search with
    Natural Language Description, CVPR 2017.

    Args:
        data_root: folder that holds `CUHK-PEDES/`; by default the environment variable CSD_DATA, else `data/`.
        annotations: "reid_raw": that file, which says the published split. "caption_all": that file, which says none.
            Its persons are split by ascending number, the first 11,003, the next 1,000 and the last 1,000; the two
            files number persons differently, so unless yours was renumbered these are other persons than the published
            ones, and the test split is called "identity-order".
        **kwargs: see RetrievalData.

    Raises:
        ValueError: an argument outside its range.
        DataError: on first use, if a file is missing or is not what it should be; no person to train or to test on, a
            person in two splits, a photograph without a description or a description without its photograph.
    """

    declaration = CUHK_PEDES
    dataset = "cuhk_pedes"
    features = "raw"
    data_kind = "real"
    test_split = "standard"

    def __init__(
        self,
        data_root: str | Path | None = None,
        annotations: Literal["reid_raw", "caption_all"] = "reid_raw",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if annotations not in ("reid_raw", "caption_all"):
            raise ValueError(f"annotations is {annotations!r}; expected 'reid_raw' or 'caption_all'.")
        self.data_root = data_root
        self.annotations = annotations
        if annotations == "caption_all":
            self.test_split = "identity-order"

    def read(self) -> ItemSet:
        """Read the descriptions and look which photographs there are."""
        folder = self.declaration.find(self.data_root)
        path = self._annotation_file(folder)
        photographs = read_photographs(path, says_split=self.annotations == "reid_raw")
        identity = np.array([photograph.identity for photograph in photographs])
        if self.annotations == "reid_raw":
            split = np.array([photograph.split for photograph in photographs])
        else:
            split = split_by_identity(identity, path)
        require_parts(split.tolist(), path)
        names = [photograph.file_path for photograph in photographs]
        return self.read_items(
            {
                "image": lambda: _photographs(folder / "imgs", names),
                "text": lambda: Modality.of_each([photograph.captions for photograph in photographs]),
            },
            label=identity,
            split=split,
            names=names,
            origin=str(folder),
            group=identity,
        )

    def _annotation_file(self, folder: Path) -> Path:
        path = folder / f"{self.annotations}.json"
        if self.annotations == "reid_raw" and not path.exists() and (folder / "caption_all.json").exists():
            what = (
                "is missing. caption_all.json is there, but says no split and numbers persons differently; set "
                "annotations to 'caption_all' to split by its numbers, which is not the published split"
            )
            raise broken(path, what)
        return require(path)


def read_photographs(path: Path, says_split: bool) -> list[Photograph]:
    """Photographs with their descriptions, in the order of the file.

    Args:
        path: reid_raw.json or caption_all.json.
        says_split: whether every entry has a split.

    Raises:
        DataError: the file is not a JSON list, an entry is not what it should be, a photograph is listed twice, or a
            person is in two splits.
    """
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise broken(path, "holds no JSON list with an entry")
    photographs: list[Photograph] = []
    numbers: dict[str, int] = {}
    splits: dict[int, tuple[str | None, int]] = {}
    for number, entry in enumerate(entries, start=1):
        photograph = _photograph(entry, number, path, says_split)
        first = numbers.setdefault(photograph.file_path, number)
        if first != number:
            raise broken(path, f"entry {number} is of {photograph.file_path}, as entry {first} is")
        split, first = splits.setdefault(photograph.identity, (photograph.split, number))
        if split != photograph.split:
            what = f"person {photograph.identity} is {split} in entry {first} and {photograph.split} in entry {number}"
            raise broken(path, f"{what}; expected each person in one split")
        photographs.append(photograph)
    return photographs


def _photograph(entry: Any, number: int, path: Path, says_split: bool) -> Photograph:
    fields = entry if isinstance(entry, dict) else {}
    file_path, identity, captions = (fields.get(name) for name in ("file_path", "id", "captions"))
    fits = (
        isinstance(file_path, str)
        and bool(file_path.strip())
        and type(identity) is int  # True is an int as well
        and isinstance(captions, list)
        and all(isinstance(caption, str) and caption.strip() for caption in captions)
    )
    if not fits:
        expected = "file_path and captions as text and id as a whole number"
        raise broken(path, f"entry {number} is {json.dumps(entry)[:160]}; expected {expected}")
    if identity < 1:
        what = f"entry {number} ({file_path}) has the id {identity}; expected the number of a person, 1 or more"
        raise broken(path, what)
    if says_split and fields.get("split") not in tuple(SPLITS):
        what = f"entry {number} has the split {fields.get('split')!r}; expected {', '.join(SPLITS)}"
        raise broken(path, what)
    split = SPLITS[fields["split"]] if says_split else None
    return Photograph(file_path, identity, tuple(caption.strip() for caption in captions), split)


def split_by_identity(identity: np.ndarray, path: Path) -> np.ndarray:
    """(n,) split of each photograph: persons in ascending order of their numbers, 11,003, 1,000 and 1,000 of them.

    Raises:
        DataError: another number of persons.
    """
    numbers, place = np.unique(identity, return_inverse=True)
    expected = sum(PARTS.values())
    if len(numbers) != expected:
        raise broken(path, f"has {len(numbers)} persons; expected {expected} to split them by number")
    return np.repeat(list(PARTS), list(PARTS.values()))[place]


def _photographs(folder: Path, names: list[str]) -> Modality:
    """Files by item; those that no entry names are left out with a warning."""
    folder = require(folder)
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    other = sorted(name for name in set(there) - set(names) if name.lower().endswith(ENDINGS))
    if other:
        rank_zero_warn(f"{folder}: {len(other)} photograph(s) have no description and are not used, first {other[0]}")
    owner = np.array([item for item, name in enumerate(names) if name in there], dtype=np.int64)
    decode = read_image
    return Modality(Files(tuple(there[names[item]] for item in owner), decode), owner)
