"""Flickr30K with Localized Narratives on tiny files in the layout of its authors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from PIL import Image

from datamodules import DataError, Flickr30kNarratives
from datamodules.__main__ import main
from datamodules.datasets.flickr30k import read_narratives

OGG_RATE = 16_000


def refused(module) -> str:
    with pytest.raises(DataError) as error:
        _ = module.data
    return str(error.value)


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
            "annotator_id": 40 + turn,
            "caption": f"In image {image}, {turn}",
            "timed_caption": [],
            "traces": [],
            "voice_recording": f"flickr30k_{word}/flickr30k_{word}_{image}_{turn}.ogg",
        }
        for turn in range(most)
        for image, count in IMAGES[word].items()
        if turn < count
    ]


def recording(folder: Path, image: str, turn: int = 0) -> Path:
    """Where the authors' loader finds a recording; the number at the end of the field voice_recording is another."""
    word = next(word for word, images in IMAGES.items() if image in images)
    return folder / "voice-recordings" / f"flickr30k_{word}" / f"flickr30k_{word}_{int(image):016d}_{40 + turn}.ogg"


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
            image, turn = narrative["image_id"], narrative["annotator_id"] - 40
            path = recording(folder, image, turn)
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.full(int(image) + turn, 0.25), OGG_RATE)
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
    recording(flickr30k, "100").unlink()
    recording(flickr30k, "700", 1).write_bytes(b"OggS")
    recording(flickr30k, "500").write_bytes(recording(flickr30k, "500").read_bytes()[:60])
    assert main(["check", "flickr30k", "--data-root", str(flickr30k.parent)]) == 1
    said = capsys.readouterr().out
    for part in (
        "7 items (4 train, 1 validation, 2 test), 7 labels",
        "MISSING  raw: image of 1 of 7 items: 200",
        "MISSING  raw: audio of 1 of 7 items: 100",
        "BROKEN   raw: 700: ",
        f"BROKEN   raw: 500: {recording(flickr30k, '500')}: is not a readable sound",
        "4 trouble(s)",
    ):
        assert part in said
    assert "2 item(s) with a broken file" in refused(Flickr30kNarratives(flickr30k.parent))
    kept = Flickr30kNarratives(flickr30k.parent, on_broken="drop", on_missing="drop").data
    assert list(kept.names) == ["300", "400", "600"]


def test_one_recording_of_several_may_be_missing(flickr30k):
    recording(flickr30k, "700").unlink()
    data = Flickr30kNarratives(flickr30k.parent).data
    assert np.bincount(data.modalities["audio"].owners())[-1] == 2
    assert np.bincount(data.modalities["text"].owners())[-1] == 3


def test_a_recording_may_be_called_as_its_narrative_says_or_be_a_wav(flickr30k):
    expected = [len(sound) for sound in Flickr30kNarratives(flickr30k.parent).data.modalities["audio"].entries]
    recordings = flickr30k / "voice-recordings"
    named = {
        ("100", 0): recordings / "flickr30k_train" / "flickr30k_train_100_0.ogg",
        ("200", 1): recordings / "flickr30k_train" / "flickr30k_train_200_1.wav",
        ("600", 0): recording(flickr30k, "600").with_suffix(".wav"),
    }
    for (image, turn), path in named.items():
        recording(flickr30k, image, turn).rename(path)
    audio = Flickr30kNarratives(flickr30k.parent).data.modalities["audio"]
    assert [len(sound) for sound in audio.entries] == expected
    assert set(named.values()) < set(audio.entries.paths)


def test_recordings_have_the_rate_of_most_and_the_others_are_resampled(flickr30k):
    first, length = recording(flickr30k, "100"), 800
    wave = np.sin(np.arange(length) / 20).astype(np.float32)
    soundfile.write(first, wave, 8000, format="WAV", subtype="FLOAT")
    with pytest.warns(UserWarning, match=rf"1 of 10 recordings have another rate than 16000 Hz .* first {first}"):
        audio = Flickr30kNarratives(flickr30k.parent).data.modalities["audio"]
    assert audio.rate == OGG_RATE
    expected = torchaudio.functional.resample(torch.from_numpy(wave), 8000, OGG_RATE).numpy()
    np.testing.assert_array_equal(audio.entries[0], expected)
    np.testing.assert_array_equal(audio.entries[0], audio.entries[0])
    assert len(audio.entries[1]) == 200


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("word", IMAGES)
def test_a_split_without_narratives_is_refused_and_found_by_check(flickr30k, word, empty, capsys):
    path = flickr30k / f"flickr30k_{word}_localized_narratives.jsonl"
    path.write_text("\n") if empty else path.unlink()
    expected = f"{path}: is missing or empty; expected the narratives of the {SPLITS[word]} part"
    for modalities in (["image", "text"], None):
        assert expected in refused(Flickr30kNarratives(flickr30k.parent, modalities=modalities))
    assert main(["check", "flickr30k", "--data-root", str(flickr30k.parent)]) == 1
    assert str(path) in capsys.readouterr().out


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"image_id": "1"}', '{"image_id": 1, "caption": "a"}', '{"caption": "a"}']
)
def test_a_broken_narrative_is_named_by_file_and_line(flickr30k, line):
    path = flickr30k / "flickr30k_val_localized_narratives.jsonl"
    path.write_text(path.read_text() + "\n" + line + "\n")
    said = refused(Flickr30kNarratives(flickr30k.parent))
    assert f"{path}: line 3 is" in said
    assert "expected a JSON object with image_id and caption" in said


def test_parts_of_the_layout_that_are_missing_are_named(flickr30k):
    for part in ("voice-recordings", "flickr30k-images"):
        (flickr30k / part).rename(flickr30k / "elsewhere")
        assert f"{flickr30k / part} is missing" in refused(Flickr30kNarratives(flickr30k.parent))
        (flickr30k / "elsewhere").rename(flickr30k / part)
    for path in flickr30k.glob("*.jsonl"):
        path.unlink()
    assert "expected the narratives of the train part" in refused(Flickr30kNarratives(flickr30k.parent))


REAL = Path(os.environ.get("CSD_DATA") or "nowhere") / "flickr30k" / "flickr30k_test_captions.jsonl"


@pytest.mark.skipif(not REAL.is_file(), reason="CSD_DATA is unset or has no flickr30k/")
def test_real_narratives_of_the_test_images():
    found = read_narratives(REAL)
    count = np.unique([narrative.image_id for narrative in found], return_counts=True)[1]
    assert (len(found), len(count), (count > 1).sum()) == (1023, 1000, 9)
