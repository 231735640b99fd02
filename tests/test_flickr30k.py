"""Flickr30K on tiny files in the layouts of its authors: Localized Narratives, and captions in Karpathy's split."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from check_cases import faulty, refused
from tiny_trees import FLICKR30K, NARRATED, SPOKEN_RATE, flickr30k, narrative, recording

from datamodules import Flickr30kCaptions, Flickr30kNarratives
from datamodules.datasets.flickr30k import read_narratives

SPLITS = {"train": "train", "val": "validation", "test": "test"}
SPOKEN = "flickr30k, spoken"


def test_narratives_of_one_image_are_one_item(tree):
    module = Flickr30kNarratives(tree(SPOKEN).parent)
    data = module.data
    images = [(image, SPLITS[word], word) for word, part in NARRATED.items() for image in part]
    assert list(data.names) == [image for image, _, _ in images]
    assert data.split.tolist() == [split for _, split, _ in images]
    assert list(data.modalities) == ["image", "text", "audio"]
    text, audio = data.modalities["text"], data.modalities["audio"]
    assert audio.rate == SPOKEN_RATE
    counts = [count for part in NARRATED.values() for count in part.values()]
    for modality in (text, audio):
        np.testing.assert_array_equal(np.bincount(modality.owners()), counts)
    turns = [turn for count in counts for turn in range(count)]
    for turn, owner, caption, sound in zip(turns, text.owners(), text.entries, audio.entries, strict=True):
        image, _, word = images[owner]
        assert caption == narrative(word, image, turn)["caption"].strip()
        assert len(sound) == 800 + 10 * int(image) + turn
    batch = next(iter(module.test_dataloader()[0]))
    assert batch["label"]["text"].tolist() == batch["label"]["audio"].tolist() == [8, 9, 9, 10]
    assert batch["label"]["image"].tolist() == [8, 9, 10]


def test_captions_files_have_no_voice(tree):
    folder = tree("flickr30k, narratives")
    data = Flickr30kNarratives(folder.parent, modalities=["image", "text"]).data
    assert len(data.modalities["text"].entries) == 16
    (folder / "voice-recordings").mkdir()
    assert "has no voice_recording; expected" in refused(SPOKEN, folder)


def test_one_recording_of_several_may_be_missing_or_be_called_otherwise(tree):
    folder = tree(SPOKEN)
    before = Flickr30kNarratives(folder.parent).data.modalities["audio"]
    expected = [len(sound) for sound in before.entries]
    recordings = folder / "voice-recordings"
    named = {
        ("11", 0): recordings / "flickr30k_train" / "flickr30k_train_11_0.ogg",
        ("12", 1): recordings / "flickr30k_train" / "flickr30k_train_12_1.wav",
        ("31", 0): recording(folder, "31").with_suffix(".wav"),
    }
    for (image, turn), path in named.items():
        recording(folder, image, turn).rename(path)
    recording(folder, "14").unlink()
    audio = Flickr30kNarratives(folder.parent).data.modalities["audio"]
    first_of_14 = int(np.flatnonzero(before.owners() == 3)[0])
    assert [len(sound) for sound in audio.entries] == expected[:first_of_14] + expected[first_of_14 + 1 :]
    assert set(named.values()) < set(audio.entries.paths)


def test_recordings_have_the_rate_of_most_and_the_others_are_resampled(tree):
    folder = tree(SPOKEN)
    wave = np.sin(np.arange(800) / 20).astype(np.float32)
    soundfile.write(recording(folder, "11"), wave, 16_000, format="WAV", subtype="FLOAT")
    with pytest.warns(UserWarning, match=r"1 of 16 sounds have another rate than 8000 Hz"):
        audio = Flickr30kNarratives(folder.parent).data.modalities["audio"]
    assert audio.rate == SPOKEN_RATE
    expected = torchaudio.functional.resample(torch.from_numpy(wave), 16_000, SPOKEN_RATE).numpy()
    np.testing.assert_array_equal(audio.entries[0], expected)


@pytest.mark.parametrize(("word", "content"), [("train", None), ("val", ""), ("test", "\n")])
def test_a_split_without_narratives_is_refused_and_found_by_check(tree, word, content, capsys):
    folder = tree(SPOKEN)
    path = folder / f"flickr30k_{word}_localized_narratives.jsonl"
    path.unlink() if content is None else path.write_text(content)
    expected = f"{path}: is missing or empty; expected the narratives of the {SPLITS[word]} part"
    assert expected in refused(SPOKEN, folder)
    assert expected in refused("flickr30k, narratives", folder)  # of images and texts alone
    assert str(path) in faulty("flickr30k", folder, capsys)


REAL = Path(os.environ.get("CSD_DATA") or "nowhere") / "flickr30k" / "flickr30k_test_captions.jsonl"


@pytest.mark.skipif(not REAL.is_file(), reason="CSD_DATA is unset or has no flickr30k/")
def test_real_narratives_of_the_test_images():
    found = read_narratives(REAL)
    count = np.unique([narrative.image_id for narrative in found], return_counts=True)[1]
    assert (len(found), len(count), (count > 1).sum()) == (1023, 1000, 9)


# Captions ------------------------------------------------------------------------------------------------------------


def test_an_image_has_its_five_captions_and_the_split_of_the_file(tree):
    folder = tree("flickr30k")
    module = Flickr30kCaptions(folder.parent)
    data = module.data
    assert list(data.names) == [str(entry["imgid"]) for entry in flickr30k()]
    assert data.split.tolist() == [SPLITS[entry["split"]] for entry in flickr30k()]
    assert data.label.tolist() == list(range(6))
    text = data.modalities["text"]
    assert text.entries == [sentence["raw"] for entry in flickr30k() for sentence in entry["sentences"]]
    np.testing.assert_array_equal(text.owners(), np.repeat(np.arange(6), 5))
    assert [path.name for path in data.modalities["image"].entries.paths] == [e["filename"] for e in flickr30k()]
    names = np.array(data.names)
    for part, word in (("train", "train"), ("validation", "val"), ("karpathy", "test")):
        assert sorted(names[module.indices(part)].tolist()) == [str(number) for number in FLICKR30K[word]]
