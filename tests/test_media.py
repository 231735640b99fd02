"""Images from files: as they were held, of more than eight bits, and with transparent parts."""

import numpy as np
import pytest
from PIL import Image

from datamodules import DataError
from datamodules.files.media import read_image

ORIENTATION = 0x0112  # EXIF


def test_a_photograph_is_turned_as_its_camera_was_held(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    plain, turned = tmp_path / "plain.png", tmp_path / "turned.png"
    Image.fromarray(pixels).save(plain)
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # a quarter turn clockwise shows it upright
    Image.fromarray(np.rot90(pixels).copy()).save(turned, exif=exif)
    np.testing.assert_array_equal(read_image(plain), pixels)
    np.testing.assert_array_equal(read_image(turned), pixels)


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_greys_of_sixteen_bits_are_scaled_and_not_clipped(tmp_path, ending):
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    path = tmp_path / f"ramp.{ending}"
    Image.fromarray(ramp).save(path)
    expected = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    np.testing.assert_array_equal(read_image(path), expected)


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
    expected = np.repeat(np.where(SHAPE, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_grey_that_a_png_calls_transparent_is_white(tmp_path, dtype):
    ramp = (np.arange(64).reshape(8, 8) * (np.iinfo(dtype).max // 63)).astype(dtype)
    path = tmp_path / "ramp.png"
    Image.fromarray(ramp).save(path, transparency=int(ramp[1, 2]))
    expected = (ramp // (np.iinfo(dtype).max // 255)).astype(np.uint8)
    expected[1, 2] = 255
    np.testing.assert_array_equal(read_image(path), np.repeat(expected[..., None], 3, axis=2))


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
