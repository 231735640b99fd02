"""Images and sounds from files: turned, deep and transparent pixels; sounds of few samples, cut off or not finite."""

import struct
from functools import partial

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from extract_cases import TINY, tiny_bundle, write_weights
from PIL import Image, ImageOps
from tiny_items import Tiny, with_modality

from datamodules import DataError
from datamodules.features.networks import SoundNetwork
from datamodules.features.precompute import precompute
from datamodules.files.media import read_image, read_sound
from datamodules.items import Files, Modality
from lightning_modules.networks.encoders import build_encoder
from lightning_modules.networks.encoders.sound import LogMelSpectrogram

# Images -------------------------------------------------------------------------------------------------------------

ORIENTATION = 0x0112  # EXIF


def in_colour(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_every_orientation_is_that_of_pillow(tmp_path, orientation, ending):
    pixels, path = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8), tmp_path / f"photo.{ending}"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    found = read_image(path)
    assert found.shape == ((30, 20, 3) if orientation in (5, 6, 7, 8) else (20, 30, 3))
    np.testing.assert_array_equal(found, np.asarray(ImageOps.exif_transpose(Image.open(path))))


def test_a_photograph_whose_other_metadata_are_odd_is_turned_too(tmp_path):
    """Text in a field of numbers, which Pillow reads and does not write."""
    pixels, path, exif = np.zeros((20, 30, 3), dtype=np.uint8), tmp_path / "photo.webp", Image.Exif()
    exif[ORIENTATION], exif[0x010E] = 6, "a description"
    odd = exif.tobytes().replace(b"\x01\x0e", b"\x01\x4e")  # the number of inks
    Image.fromarray(pixels).save(path, exif=odd)
    assert Image.open(path).getexif()[0x014E] == "a description"
    assert read_image(path).shape == (30, 20, 3)


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_greys_of_sixteen_bits_are_scaled_and_not_clipped(tmp_path, ending):
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    path = tmp_path / f"ramp.{ending}"
    Image.fromarray(ramp).save(path)
    np.testing.assert_array_equal(read_image(path), in_colour(ramp // 257))


def test_pixels_of_no_known_range_are_refused(tmp_path):
    path = tmp_path / "depth.tiff"
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(path)
    with pytest.raises(DataError, match=r"depth.tiff: is not a readable image .*mode F, of no known range"):
        read_image(path)


# Transparency -------------------------------------------------------------------------------------------------------

SHAPE = np.indices((8, 8)).sum(axis=0) % 3 == 0  # where something is drawn


def black_on_transparent(mode: str) -> Image.Image:
    if mode != "P":
        image = Image.new(mode, SHAPE.shape)
        image.putalpha(Image.fromarray(SHAPE.astype(np.uint8) * 255))
        return image
    image = Image.fromarray(SHAPE.astype(np.uint8))
    image.putpalette([0, 0, 0] * 2)  # two colours that differ in transparency alone
    image.info["transparency"] = 0
    return image


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        *[("RGBA", ending) for ending in ("png", "webp", "tiff", "gif", "ico")],
        *[("LA", ending) for ending in ("png", "webp", "tiff")],
        *[("P", ending) for ending in ("png", "gif")],
        ("PA", "tiff"),
    ],
)
def test_what_is_transparent_is_white(tmp_path, mode, ending):
    path = tmp_path / f"drawing.{ending}"
    black_on_transparent(mode).save(path, **({"lossless": True, "exact": True} if ending == "webp" else {}))
    np.testing.assert_array_equal(read_image(path), in_colour(np.where(SHAPE, 0, 255)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_grey_that_a_png_calls_transparent_is_white(tmp_path, dtype):
    ramp = (np.arange(64).reshape(8, 8) * (np.iinfo(dtype).max // 63)).astype(dtype)
    path = tmp_path / "ramp.png"
    Image.fromarray(ramp).save(path, transparency=int(ramp[1, 2]))
    expected = (ramp // (np.iinfo(dtype).max // 255)).astype(np.uint8)
    expected[1, 2] = 255
    np.testing.assert_array_equal(read_image(path), in_colour(expected))


def test_half_transparent_pixels_are_mixed_with_white(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    path = tmp_path / "glass.png"
    Image.fromarray(pixels).save(path)
    alpha = pixels[..., 3:] / 255
    np.testing.assert_allclose(read_image(path), alpha * pixels[..., :3] + (1 - alpha) * 255, atol=1)


@pytest.mark.parametrize("ending", ["png", "tiff", "webp"])
def test_an_opaque_alpha_channel_changes_nothing(tmp_path, ending):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"opaque.{ending}"
    image = Image.fromarray(pixels)
    image.putalpha(255)
    image.save(path, **({"lossless": True} if ending == "webp" else {}))
    np.testing.assert_array_equal(read_image(path), pixels)


def test_a_turned_drawing_keeps_its_transparency(tmp_path):
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[ORIENTATION] = 3  # upside down
    black_on_transparent("P").save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path)[..., 0], np.where(SHAPE, 0, 255)[::-1, ::-1])


def test_inks_are_read_without_an_alpha_channel(tmp_path):
    path = tmp_path / "print.tiff"
    inks = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8), "CMYK")
    inks.save(path)
    np.testing.assert_array_equal(read_image(path), np.asarray(inks.convert("RGB")))


RATE = 16_000
SOUND = {"kind": "sound", "shape": (), "rate": RATE}


def sound(samples: int) -> np.ndarray:
    return np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)


def with_silence(wave: np.ndarray, samples: int) -> np.ndarray:
    return np.concatenate([wave, np.zeros(samples - len(wave), dtype=np.float32)])


def wav(folder, wave: np.ndarray, rate: int = RATE):
    path = folder / f"{len(wave)}.wav"
    soundfile.write(path, wave, rate, subtype="FLOAT")
    return path


# Sounds: what the networks make of short ones -----------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 100, 200])
def test_a_spectrogram_of_a_short_sound_is_that_with_silence_after_it(samples):
    short, padded = LogMelSpectrogram(20)([sound(samples), with_silence(sound(samples), 201)], RATE)
    assert short.shape == (1, 20)
    np.testing.assert_array_equal(short, padded)


def test_silence_is_the_floor_of_the_spectrogram():
    (found,) = LogMelSpectrogram(20)([np.zeros(3000, dtype=np.float32)], RATE)
    np.testing.assert_array_equal(found, np.full((10, 20), np.log(1e-6), dtype=np.float16))


@pytest.mark.parametrize("training", [True, False])
def test_a_short_sound_is_encoded_as_it_is_alone_in_a_batch_with_a_long_one(training):
    module = build_encoder("log_mel", SOUND, mels=20, width=16, dropout=0.0).double().train(training)
    rows = [torch.from_numpy(row.astype(np.float64)) for row in module.front_end([sound(5), sound(5000)], RATE)]
    mask = torch.arange(len(rows[1])) < torch.tensor([[len(row)] for row in rows])
    found = module(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), mask)
    assert found.isfinite().all()
    if not training:  # where nothing is masked at random
        torch.testing.assert_close(found[:1], module(rows[0][None], None), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("samples", [1, 399])
def test_a_bundle_embeds_a_short_sound_with_silence_after_it(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(torchaudio.pipelines, "TINY", tiny_bundle(), raising=False)
    weights = str(write_weights(tmp_path)["sound"])
    short, padded = SoundNetwork("tiny", weights)([sound(samples), with_silence(sound(samples), 400)], RATE)
    assert short.shape == (TINY["encoder_embed_dim"],)
    np.testing.assert_array_equal(short, padded)


# Sounds: what is broken ---------------------------------------------------------------------------------------------


def test_a_short_sound_is_whole_and_one_without_samples_is_broken(tmp_path):
    paths = tuple(wav(tmp_path, sound(samples)) for samples in (1, 0, 290, 3000))
    files = Files(paths, partial(read_sound, rate=RATE))
    module = Tiny(with_modality("audio", Modality(files, np.arange(4), RATE)), on_missing="drop", on_broken="drop")
    with pytest.warns(UserWarning, match=r"0.wav: has no samples"):
        _, broken = module.inspect()
    assert list(broken) == ["item-1"]
    assert module.data.names == ["item-0", "item-2", "item-3"]
    kept = precompute(module.data.modalities["audio"], LogMelSpectrogram(20))
    assert [len(entry) for entry in kept.entries] == [1, 1, 10]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sound_that_is_not_finite_is_refused_by_name(tmp_path, value):
    wave = sound(300)
    wave[7] = value
    with pytest.raises(DataError, match=r"300.wav: has samples that are NaN or infinite"):
        read_sound(wav(tmp_path, wave), RATE)


@pytest.mark.parametrize("rate", [44_101, 200])
def test_a_rate_from_which_resampling_would_take_gigabytes_is_refused(rate, tmp_path):
    soundfile.write(tmp_path / "sound.wav", sound(100), rate)
    with pytest.raises(DataError, match=rf"sound.wav: has {rate} samples per second, .*16000"):
        read_sound(tmp_path / "sound.wav", 16_000, resample=True)


def test_a_truncated_wav_file_is_refused_and_one_of_a_pipe_is_read(tmp_path):
    path = tmp_path / "sound.wav"
    soundfile.write(path, sound(100), RATE)
    whole, expected = path.read_bytes(), read_sound(path, RATE)
    path.write_bytes(whole[:-60])
    with pytest.raises(DataError, match=r"sound.wav: is truncated: it has 140 of its 200 bytes of sound"):
        read_sound(path, RATE)
    for claimed in (2**32 - 1, 2**31 - 1):  # as ffmpeg and others write it who do not know the length yet
        path.write_bytes(whole[:40] + struct.pack("<I", claimed) + whole[44:])
        np.testing.assert_array_equal(read_sound(path, RATE), expected)
