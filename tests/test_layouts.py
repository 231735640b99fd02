"""Missing layouts, and Flickr30K with Localized Narratives on tiny files in the layout of its authors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from datamodules import DataError, DataMissing, Flickr30kNarratives, HumanML3D
from datamodules.__main__ import main
from datamodules.catalogue import CATALOGUE
from datamodules.flickr30k_narratives import read_narratives

OGG_RATE = 16_000


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """A cache folder of the test's own."""
    monkeypatch.setattr("datamodules.derived.cache_folder", lambda: tmp_path / "cache")


def refused(module) -> str:
    with pytest.raises(DataError) as error:
        _ = module.data
    return str(error.value)


@pytest.mark.parametrize("dataset", CATALOGUE)
def test_a_missing_folder_is_reported_with_layout_source_and_command(dataset, tmp_path, monkeypatch, capsys):
    module = {"flickr30k": Flickr30kNarratives, "humanml3d": HumanML3D}.get(dataset)
    if module is not None:
        said = refused(module(tmp_path))
        for part in (CATALOGUE[dataset].content, CATALOGUE[dataset].url, f"python -m datamodules check {dataset}"):
            assert part in said
        monkeypatch.delenv("CSD_DATA", raising=False)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(DataMissing, match="is missing"):
            _ = module().data
    assert main(["check", dataset, "--data-root", str(tmp_path)]) == 1
    assert f"{CATALOGUE[dataset].folder} is missing" in capsys.readouterr().out


# Flickr30K with Localized Narratives --------------------------------------------------------------------------------

# Split in the file name -> image ids and the number of narratives of each; the second image of "test" has three.
IMAGES = {"train": {"100": 1, "200": 2, "300": 1, "400": 1}, "val": {"500": 1}, "test": {"600": 1, "700": 3}}
SPLITS = {"train": "train", "val": "validation", "test": "test"}


def narratives(word: str) -> list[dict]:
    """Narratives of one split: all first ones, then all second ones."""
    most = max(IMAGES[word].values())
    return [
        {
            "dataset_id": "Flick30k",
            "image_id": image,
            "annotator_id": turn,
            "caption": f"In image {image}, {turn}",
            "timed_caption": [],
            "traces": [],
            "voice_recording": f"flickr30k_{word}/flickr30k_{word}_{image}_{turn}.ogg",
        }
        for turn in range(most)
        for image, count in IMAGES[word].items()
        if turn < count
    ]


def write_lines(path: Path, lines: list[dict]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def flickr30k(tmp_path):
    folder = tmp_path / "root" / "flickr30k"
    (folder / "flickr30k-images").mkdir(parents=True)
    for word, images in IMAGES.items():
        write_lines(folder / f"flickr30k_{word}_localized_narratives.jsonl", narratives(word))
        for image in images:
            picture = Image.new("RGB", (5, 4), (int(image) % 251, 0, 0))
            picture.save(folder / "flickr30k-images" / f"{image}.jpg")
        for narrative in narratives(word):
            path = folder / "voice-recordings" / narrative["voice_recording"]
            path.parent.mkdir(parents=True, exist_ok=True)
            length = int(narrative["image_id"]) + narrative["annotator_id"]
            soundfile.write(path, np.full(length, 0.25), OGG_RATE)
    return folder


def test_narratives_of_one_image_are_one_item(flickr30k):
    module = Flickr30kNarratives(flickr30k.parent)
    data = module.data
    images = [(image, SPLITS[word]) for word, part in IMAGES.items() for image in part]
    assert list(data.names) == [image for image, _ in images]
    assert data.split.tolist() == [split for _, split in images]
    assert list(data.modalities) == ["image", "text", "audio"]
    text, audio = data.modalities["text"], data.modalities["audio"]
    assert audio.rate == OGG_RATE
    counts = [count for part in IMAGES.values() for count in part.values()]
    for modality in (text, audio):
        np.testing.assert_array_equal(np.bincount(modality.owners()), counts)
    turns = [turn for count in counts for turn in range(count)]
    for turn, owner, caption, sound in zip(turns, text.owners(), text.entries, audio.entries, strict=True):
        assert caption == f"In image {data.names[owner]}, {turn}"
        assert len(sound) == int(data.names[owner]) + turn
    (loader,) = module.test_dataloader()
    batch = next(iter(loader))
    assert batch["label"]["text"].tolist() == batch["label"]["audio"].tolist() == [5, 6, 6, 6]
    assert batch["label"]["image"].tolist() == [5, 6]
    assert module.indices("validation").tolist() == [4]


def test_captions_files_have_no_voice(flickr30k):
    for word in IMAGES:
        kept = ("dataset_id", "image_id", "annotator_id", "caption")
        write_lines(
            flickr30k / f"flickr30k_{word}_captions.jsonl", [{key: n[key] for key in kept} for n in narratives(word)]
        )
        (flickr30k / f"flickr30k_{word}_localized_narratives.jsonl").unlink()
    module = Flickr30kNarratives(flickr30k.parent, modalities=["image", "text"])
    assert len(module.data.modalities["text"].entries) == sum(sum(part.values()) for part in IMAGES.values())
    assert "has no voice_recording; expected flickr30k_<split>_localized" in refused(
        Flickr30kNarratives(flickr30k.parent)
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_missing_and_broken_files_of_narratives(flickr30k, capsys):
    (flickr30k / "flickr30k-images" / "200.jpg").unlink()
    recordings = flickr30k / "voice-recordings"
    (recordings / "flickr30k_train" / "flickr30k_train_100_0.ogg").unlink()
    (recordings / "flickr30k_test" / "flickr30k_test_700_1.ogg").write_bytes(b"OggS")
    soundfile.write(recordings / "flickr30k_val" / "flickr30k_val_500_0.ogg", np.zeros(9), 8000)
    assert main(["check", "flickr30k", "--data-root", str(flickr30k.parent)]) == 1
    said = capsys.readouterr().out
    for part in (
        "7 items (4 train, 1 validation, 2 test), 7 labels",
        "MISSING  raw: image of 1 of 7 items: 200",
        "MISSING  raw: audio of 1 of 7 items: 100",
        "BROKEN   raw: 700: ",
        "has 8000 samples per second; expected 16000",
        "4 trouble(s)",
    ):
        assert part in said
    assert "2 item(s) with a broken file" in refused(Flickr30kNarratives(flickr30k.parent))
    kept = Flickr30kNarratives(flickr30k.parent, on_broken="drop", on_missing="drop").data
    assert list(kept.names) == ["300", "400", "600"]


def test_one_recording_of_several_may_be_missing(flickr30k):
    (flickr30k / "voice-recordings" / "flickr30k_test" / "flickr30k_test_700_0.ogg").unlink()
    data = Flickr30kNarratives(flickr30k.parent).data
    assert np.bincount(data.modalities["audio"].owners())[-1] == 2
    assert np.bincount(data.modalities["text"].owners())[-1] == 3


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"image_id": "1"}', '{"image_id": 1, "caption": "a"}', '{"caption": "a"}']
)
def test_a_broken_narrative_is_named_by_file_and_line(flickr30k, line):
    path = flickr30k / "flickr30k_val_localized_narratives.jsonl"
    path.write_text(path.read_text() + "\n" + line + "\n")
    said = refused(Flickr30kNarratives(flickr30k.parent))
    assert f"{path}: line 3 is" in said
    assert "expected a JSON object with image_id and caption" in said


def test_an_image_in_two_splits_is_refused(flickr30k):
    path = flickr30k / "flickr30k_test_localized_narratives.jsonl"
    write_lines(path, [*narratives("test"), *narratives("val")])
    assert "image 500 is in the validation part too" in refused(Flickr30kNarratives(flickr30k.parent))


def test_parts_of_the_layout_that_are_missing_are_named(flickr30k):
    for part in ("voice-recordings", "flickr30k-images"):
        (flickr30k / part).rename(flickr30k / "elsewhere")
        assert f"{flickr30k / part} is missing" in refused(Flickr30kNarratives(flickr30k.parent))
        (flickr30k / "elsewhere").rename(flickr30k / part)
    for path in flickr30k.glob("*.jsonl"):
        path.unlink()
    assert "has no narratives" in refused(Flickr30kNarratives(flickr30k.parent))


REAL = Path(os.environ.get("CSD_DATA") or "nowhere") / "flickr30k" / "flickr30k_test_captions.jsonl"


@pytest.mark.skipif(not REAL.is_file(), reason="CSD_DATA is unset or has no flickr30k/")
def test_real_narratives_of_the_test_images():
    found = read_narratives(REAL)
    count = np.unique([narrative.image_id for narrative in found], return_counts=True)[1]
    assert (len(found), len(count), (count > 1).sum()) == (1023, 1000, 9)
