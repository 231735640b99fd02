"""Flickr8k in its official split; the triples: captions, the fixed held-out part, images and sounds by content."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_trees import FLICKR8K_NAMES as NAMES
from tiny_trees import write_sound

from datamodules import DataError, Flickr8k, Flickr8kTriples
from datamodules.datasets.flickr8k import HELD_OUT, RATE, held_out, read_captions
from datamodules.files.media import read_sound

COUNT = len(NAMES)


@pytest.fixture
def written(tree):
    return tree("flickr8k_tri")


# The official split -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", ["Images", "Flicker8k_Dataset"])
def test_the_official_split_and_five_captions_in_the_order_of_their_numbers(tree, images):
    folder = tree("flickr8k")
    (folder / "Images").rename(folder / images)
    tokens = folder / "Flickr8k.token.txt"
    tokens.write_text("".join(sorted(tokens.read_text().splitlines(keepends=True), reverse=True)))
    module = Flickr8k(folder.parent)
    assert [module.data.names[item] for item in module.indices("standard")] == ["image0", "image1"]
    assert len(module.indices("validation")) == 2
    texts = module.data.modalities["text"]
    assert [texts.entries[i] for i in np.flatnonzero(texts.owners() == module.indices("standard")[1])] == [
        f"Caption {k} of image1.jpg ." for k in range(5)
    ]
    assert module.dims["image"]["kind"] == "image"


def test_without_a_folder_of_images_the_authors_name_of_it_is_said(tree):
    folder = tree("flickr8k")
    (folder / "Images").rename(folder / "pictures")
    with pytest.raises(DataError, match="Flicker8k_Dataset is missing"):
        _ = Flickr8k(folder.parent).data


# What is read -------------------------------------------------------------------------------------------------------


def test_items_have_an_image_five_captions_and_a_sound(written):
    module = Flickr8kTriples(written.parent)
    data = module.data
    assert list(data.modalities) == ["image", "text", "audio"]
    assert list(data.names) == NAMES
    np.testing.assert_array_equal(data.label, np.arange(COUNT))
    assert [len(data.modalities[m].entries) for m in data.modalities] == [COUNT, 5 * COUNT, COUNT]
    for entry, owner in enumerate(data.modalities["text"].owners()):
        assert data.modalities["text"].entries[entry] == f"Caption {entry % 5} of {NAMES[owner]} , with a comma ."
    image, sound = (data.modalities[m].entries[7] for m in ("image", "audio"))
    assert image.shape == (6, 8, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - 7).max() <= 2  # JPEG
    assert sound.ndim == 1
    assert sound.dtype == np.float32
    assert module.dims["audio"] == {"kind": "sound", "shape": [], "rate": 24_000}


def test_spoken_captions_are_the_first_ones(written):
    data = Flickr8kTriples(written.parent, captions="spoken", modalities=["text", "audio"]).data
    assert data.modalities["text"].entries == [f"Caption 0 of {name} , with a comma ." for name in NAMES]


def test_the_held_out_items_never_move(written):
    expected = np.sort(np.random.default_rng(0).permutation(COUNT)[:HELD_OUT])
    validation = set()
    for seed in (0, 1):
        module = Flickr8kTriples(written.parent, split_seed=seed, modalities=["text", "image"])
        np.testing.assert_array_equal(module.indices("held-out-200"), expected)
        parts = [module.indices(part) for part in ("train", "validation", "held-out-200")]
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(COUNT))
        validation.add(tuple(parts[1]))
    assert len(validation) == 2
    assert np.count_nonzero(held_out(1000) == "test") == 200


# Sounds and images by content ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["MP3", "WAV", "FLAC", "OGG"])
def test_sounds_are_read_by_content(tmp_path, form):
    path = tmp_path / "misnamed.wav"
    write_sound(path, seconds=0.5, form=form, channels=2)
    wave = read_sound(path, RATE)
    assert wave.shape == (12_000,)
    assert wave.dtype == np.float32
    middle = wave[2000:10_000]
    assert np.abs(np.fft.rfft(middle)).argmax() == pytest.approx(440 * len(middle) / RATE, abs=1)
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.05)


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_truncated_images_are_refused_or_dropped_by_name_and_the_held_out_items_stay(written):
    path = written / "images" / f"{NAMES[3]}.jpg"
    path.write_bytes(path.read_bytes()[:-20])
    module, whole = (Flickr8kTriples(written.parent, on_broken="drop", modalities=m) for m in (None, ["text", "audio"]))
    test = [{m.data.names[i] for i in m.indices("held-out-200")} for m in (module, whole)]
    assert test[0] == test[1] - {NAMES[3]}


def test_missing_and_unknown_files_are_said(written):
    (written / "audio" / f"{NAMES[5]}.wav").unlink()
    shutil.copy(written / "images" / f"{NAMES[0]}.jpg", written / "images" / "extra.jpg")
    with (
        pytest.warns(UserWarning, match=r"1 file\(s\) are not in captions.txt .* extra.jpg"),
        pytest.raises(DataError, match=f"audio is missing from 1: {NAMES[5]}"),
    ):
        _ = Flickr8kTriples(written.parent).data


# The real data ------------------------------------------------------------------------------------------------------

REAL = Path(os.environ.get("CSD_DATA") or "nowhere") / "flickr8k_tri"
OFFICIAL = REAL.with_name("flickr8k")
real = pytest.mark.skipif(not (REAL / "captions.txt").is_file(), reason="CSD_DATA is unset or has no flickr8k_tri/")


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="CSD_DATA is unset or has no flickr8k/")
def test_the_real_official_split_has_its_sizes():
    module = Flickr8k(OFFICIAL.parent)
    assert [len(module.indices(part)) for part in ("train", "validation", "standard")] == [6000, 1000, 1000]
    assert len(module.data.modalities["text"].entries) == 40_000


@real
def test_real_sounds_are_as_long_as_the_first_caption_and_no_other():
    """The sounds have a constant bit rate, so that a file's size is its duration."""
    captions = read_captions(REAL / "captions.txt")
    size = [(REAL / "audio" / f"{name}.wav").stat().st_size for name in captions]
    letters = np.array([[len(caption) for caption in found] for found in captions.values()])
    correlation = np.corrcoef(letters.T, size)[-1, :5]
    assert correlation[0] > 0.97
    assert (correlation[1:] < 0.2).all()


@real
@pytest.mark.slow
def test_every_real_file_can_be_read():
    data, broken = Flickr8kTriples(REAL.parent).inspect()
    assert broken == {}
    assert len(data) == 1000
    assert not any(data.missing().values())
    image, sound = (data.modalities[name].entries[0] for name in ("image", "audio"))
    assert image.ndim == 3
    assert min(image.shape[:2]) >= 100
    assert 1 < len(sound) / RATE < 12
    assert 0.05 < np.abs(sound).max() <= 1.1
