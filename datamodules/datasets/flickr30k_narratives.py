"""Flickr30K with Localized Narratives (Pont-Tuset et al., ECCV 2020): images described by voice, with transcripts."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.files.layouts import broken, find_folder, read_lines, require
from datamodules.files.media import image_of_each, most_common_rate, read_resampled
from datamodules.items import Files, ItemSet, Modality
from datamodules.retrieval_data import RetrievalData

MODALITIES = ("image", "text", "audio")
# Our split -> the word in the file names.
SPLIT_FILES = {"train": "train", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Narrative:
    """One description of one image: transcript and, if there is a recording, its possible paths below
    `voice-recordings/`."""

    image_id: str
    caption: str
    recordings: tuple[str, ...]


class Flickr30kNarratives(RetrievalData):
    """Images, narratives and voice recordings in the published splits.

    An item is an image and matches only itself; several narratives of one image are several texts and several sounds
    of one item, and so match each other. In training a text and a sound of an image are drawn independently. The
    folder, as its authors give it::

        flickr30k/
            flickr30k_val_localized_narratives.jsonl  one {"image_id": "219843859", "annotator_id": <number>,
                "caption": "...", "voice_recording": "flickr30k_val/flickr30k_val_219843859_180.ogg", ...} per line;
                the same with train and test in place of val. A file ..._captions.jsonl has no voice recordings.
            flickr30k-images/219843859.jpg
            voice-recordings/flickr30k_val/flickr30k_val_0000000219843859_<annotator_id>.ogg

    The field voice_recording is not the name of the file: that has the number of the image in 16 digits and the
    annotator_id, as in `voice_recording_url` of the authors' loader (google/localized-narratives). A recording that is
    called as the field says is found too, and either name may end in .wav. The audio has the sampling rate of most
    recordings; those of another rate are resampled to it.

    There are 30,546 narratives for training, 1,009 for validation, and 1,023 of 1,000 images for test.

    Args:
        data_root: folder that holds `flickr30k/`; by default the environment variable CSD_DATA, else `data/`. Of each
            split whichever of the two files is there is read.
        **kwargs: see RetrievalData.

    Raises:
        DataError: on first use, if a file is missing or is not what it should be, or a split has no narrative.
    """

    dataset = "flickr30k"
    features = "raw, Localized Narratives"
    data_kind = "real"
    test_split = "standard"

    def __init__(self, data_root: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_root = data_root

    def read(self) -> ItemSet:
        """Read the narratives of every split there is, and look which images and recordings there are."""
        folder = find_folder(self.dataset, self.data_root)
        wanted = self.wanted(MODALITIES)
        narratives, split = read_splits(folder, voice="audio" in wanted)
        names = list(split)
        item = {name: number for number, name in enumerate(names)}
        narratives.sort(key=lambda narrative: item[narrative.image_id])  # stable: in the order of the files
        modalities = {}
        if "image" in wanted:
            images = require(folder / "flickr30k-images", self.dataset)
            modalities["image"] = image_of_each([images / f"{name}.jpg" for name in names], self.dataset)
        if "text" in wanted:
            owner = np.array([item[narrative.image_id] for narrative in narratives])
            modalities["text"] = Modality([narrative.caption for narrative in narratives], owner)
        if "audio" in wanted:
            modalities["audio"] = _recordings(folder, narratives, item)
        _require_splits(folder, set(split.values()))
        return ItemSet(
            {name: modalities[name] for name in wanted},
            label=np.arange(len(names)),
            split=np.array(list(split.values())),
            names=names,
            origin=str(folder),
        )


def read_splits(folder: Path, voice: bool) -> tuple[list[Narrative], dict[str, str]]:
    """Narratives of all splits, and image id -> split.

    Args:
        folder: with the .jsonl files.
        voice: whether voice recordings are needed; where not, the far smaller captions files are preferred.

    Raises:
        DataError: no file at all, a file without voice recordings where they are needed, or an image in two splits.
    """
    narratives: list[Narrative] = []
    split: dict[str, str] = {}
    contents = ("localized_narratives", "captions") if voice else ("captions", "localized_narratives")
    for name, word in SPLIT_FILES.items():
        paths = [folder / f"flickr30k_{word}_{content}.jsonl" for content in contents]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            continue
        found = read_narratives(path)
        if voice and found and not any(narrative.recordings for narrative in found):
            what = "has no voice_recording; expected flickr30k_<split>_localized_narratives.jsonl, or modalities"
            raise broken(path, f"{what} without audio", "flickr30k")
        for narrative in found:
            other = split.setdefault(narrative.image_id, name)
            if other != name:
                raise broken(path, f"image {narrative.image_id} is in the {other} part too", "flickr30k")
        narratives += found
    if not narratives:
        raise broken(folder, "has no narratives flickr30k_<split>_*.jsonl", "flickr30k")
    return narratives, split


def _require_splits(folder: Path, found: set[str]) -> None:
    for part, word in SPLIT_FILES.items():
        if part not in found:
            path = folder / f"flickr30k_{word}_localized_narratives.jsonl"
            raise broken(path, f"is missing or empty; expected the narratives of the {part} part", "flickr30k")


def read_narratives(path: Path) -> list[Narrative]:
    """Narratives of one .jsonl file.

    Raises:
        DataError: a line that is not a JSON object with image_id and caption.
    """
    narratives = []
    for number, line in enumerate(read_lines(path, "flickr30k"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError:
            fields = None
        fields = fields if isinstance(fields, dict) else {}
        image_id, caption, voice = (fields.get(name) for name in ("image_id", "caption", "voice_recording"))
        if not (isinstance(image_id, str) and image_id and isinstance(caption, str) and caption.strip()) or not (
            voice is None or isinstance(voice, str)
        ):
            what = f"line {number} is {line[:80]!r}; expected a JSON object with image_id and caption, both text"
            raise broken(path, what, "flickr30k")
        narratives.append(Narrative(image_id, caption.strip(), _names(voice, fields.get("annotator_id"))))
    return narratives


def _names(voice: str | None, annotator: Any) -> tuple[str, ...]:
    """Names of a recording, the authors' before that of the field."""
    names = [voice] if voice else []
    found = re.search(r"(\w+)/\w+_([0-9]+)_[0-9]+\.", voice or "")
    if found and isinstance(annotator, int):
        names.insert(0, f"{found[1]}/{found[1]}_{found[2].zfill(16)}_{annotator}.ogg")
    return tuple(dict.fromkeys(name for given in names for name in (given, f"{os.path.splitext(given)[0]}.wav")))


def _recordings(folder: Path, narratives: list[Narrative], item: dict[str, int]) -> Modality:
    """Recordings that are there, at the rate that most of them have."""
    recordings = require(folder / "voice-recordings", "flickr30k")
    there = []
    for narrative in narratives:
        named = (recordings / name for name in narrative.recordings)
        path = next((path for path in named if path.is_file()), None)
        if path is not None:
            there.append((item[narrative.image_id], path))
    paths = tuple(path for _, path in there)
    rate, other = most_common_rate(paths, "flickr30k")
    if other:
        what = f"{len(other)} of {len(paths)} recordings have another rate than {rate} Hz and are resampled to it"
        rank_zero_warn(f"{recordings}: {what}, first {other[0]}")
    decode = partial(read_resampled, rate=rate, dataset="flickr30k")
    return Modality(Files(paths, decode), np.array([owner for owner, _ in there], dtype=np.int64), rate)
