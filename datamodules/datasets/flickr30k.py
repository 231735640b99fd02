"""Flickr30K (Young et al., TACL 2014): images with captions, or with narratives that are spoken."""

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.datasets import DATASETS
from datamodules.datasets.on_disk import OnDisk
from datamodules.files.media import files_of_items, image_of_each
from datamodules.files.text import SPLITS, broken, parse_lines, read_captioned, require, text
from datamodules.items import ItemSet, Modality

# Captions, in the split of Karpathy and Fei-Fei (CVPR 2015) ---------------------------------------------------------


class Flickr30kCaptions(OnDisk):
    """Images with five captions each; an item is an image and matches only itself and its captions.

    Images that the file does not name are not used.
    """

    declaration = DATASETS["flickr30k"]
    features = "raw, captions"
    test_split = "karpathy"

    def read(self) -> ItemSet:
        """Read the captions and look which images there are."""
        folder = self.folder
        self.wanted(("image", "text"))  # what is asked for in vain is said before the files are read
        path = folder / "dataset_flickr30k.json"
        captioned = read_captioned(path, _karpathy, 'a "filename" <name>.jpg and "sentences" with a "raw" text')
        readers = {
            "image": lambda: image_of_each(folder / "flickr30k-images", [image.path for image in captioned]),
            "text": lambda: Modality.of_each([image.captions for image in captioned]),
        }
        names = [Path(image.path).stem for image in captioned]
        return self.items(readers, names, [image.split for image in captioned])


def _karpathy(entry: Mapping[str, Any]) -> tuple[str, list[Any]]:
    if not entry["filename"].endswith(".jpg") or not entry["sentences"]:
        raise ValueError("no image with sentences")
    return entry["filename"], [sentence["raw"] for sentence in entry["sentences"]]


# Localized Narratives (Pont-Tuset et al., ECCV 2020) ----------------------------------------------------------------


class Narrative(NamedTuple):
    """A description of an image: its file, transcript and the possible paths of its recording, if there is one."""

    source: Path
    image_id: str
    caption: str
    recordings: tuple[str, ...]


class Flickr30kNarratives(OnDisk):
    """Images, narratives and voice recordings in the published splits.

    An item is an image and matches only itself; several narratives of one image are several texts and several sounds
    of one item, and so match each other. In training a text and a sound of an image are drawn independently. Of each
    split whichever of its two files is there is read.

    The field voice_recording is not the name of the file: that has the number of the image in 16 digits and the
    annotator_id, as in `voice_recording_url` of the authors' loader (google/localized-narratives). A recording that is
    called as the field says is found too, and either name may end in .wav. The audio has the sampling rate of most
    recordings; those of another rate are resampled to it.

    There are 30,546 narratives for training, 1,009 for validation, and 1,023 of 1,000 images for test.
    """

    declaration = DATASETS["flickr30k"]
    features = "raw, Localized Narratives"

    def read(self) -> ItemSet:
        """Read the narratives of every split there is, and look which images and recordings there are."""
        folder, voice = self.folder, "audio" in self.wanted(("image", "text", "audio"))
        narratives: list[Narrative] = []
        split: dict[str, str] = {}
        for word, part in SPLITS.items():
            for narrative in _read_part(folder, word, voice):
                other = split.setdefault(narrative.image_id, part)
                if other != part:
                    raise broken(narrative.source, f"image {narrative.image_id} is in the {other} part too")
                narratives.append(narrative)
        item = {name: number for number, name in enumerate(split)}
        narratives.sort(key=lambda narrative: item[narrative.image_id])  # stable: in the order of the files
        owner = np.array([item[narrative.image_id] for narrative in narratives])

        def recordings(folder: Path) -> Modality:
            there = []
            for number, narrative in zip(owner.tolist(), narratives, strict=True):
                paths = [folder / name for name in narrative.recordings if (folder / name).is_file()]
                there += [(number, path) for path in paths[:1]]
            return files_of_items("sound", there)

        readers = {
            "image": lambda: image_of_each(folder / "flickr30k-images", [f"{name}.jpg" for name in split]),
            "text": lambda: Modality([narrative.caption for narrative in narratives], owner),
            "audio": lambda: recordings(require(folder / "voice-recordings")),
        }
        return self.items(readers, list(split), list(split.values()))


def _read_part(folder: Path, word: str, voice: bool) -> list[Narrative]:
    """Narratives of a split; without a need of recordings the far smaller file of captions alone is preferred."""
    full = folder / f"flickr30k_{word}_localized_narratives.jsonl"
    alone = full.with_name(f"flickr30k_{word}_captions.jsonl")
    path = next((path for path in ((full, alone) if voice else (alone, full)) if path.is_file()), full)
    expected = "a JSON object with image_id and caption, both text"
    found = parse_lines(path, partial(_narrative, path), expected, skip_blank=True) if path.is_file() else []
    if not found:
        raise broken(path, f"is missing or empty; expected the narratives of the {SPLITS[word]} part")
    if voice and not any(narrative.recordings for narrative in found):
        what = "has no voice_recording; expected flickr30k_<split>_localized_narratives.jsonl, or modalities"
        raise broken(path, f"{what} without audio")
    return found


def _narrative(source: Path, line: str) -> Narrative:
    """A line with the possible names of its recording, the authors' before that of the field."""
    fields = json.loads(line)
    voice, annotator = fields.get("voice_recording"), fields.get("annotator_id")
    names = [text(voice)] if voice else []
    found = re.search(r"(\w+)/\w+_([0-9]+)_[0-9]+\.", voice or "")
    if found and isinstance(annotator, int):
        names.insert(0, f"{found[1]}/{found[1]}_{found[2].zfill(16)}_{annotator}.ogg")
    either = dict.fromkeys(name for given in names for name in (given, str(Path(given).with_suffix(".wav"))))
    return Narrative(source, text(fields["image_id"]), text(fields["caption"]), tuple(either))
