"""Images from files: as they were held, and of more than eight bits."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from datamodules import DataError
from datamodules.media import read_image

ORIENTATION = 0x0112  # EXIF


def test_a_photograph_is_turned_as_its_camera_was_held(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    plain, turned = tmp_path / "plain.png", tmp_path / "turned.png"
    Image.fromarray(pixels).save(plain)
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # a quarter turn clockwise shows it upright
    Image.fromarray(np.rot90(pixels).copy()).save(turned, exif=exif)
    np.testing.assert_array_equal(read_image(plain, "flickr8k_tri"), pixels)
    np.testing.assert_array_equal(read_image(turned, "flickr8k_tri"), pixels)


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_greys_of_sixteen_bits_are_scaled_and_not_clipped(tmp_path, ending):
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    path = tmp_path / f"ramp.{ending}"
    Image.fromarray(ramp).save(path)
    expected = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    np.testing.assert_array_equal(read_image(path, "flickr8k_tri"), expected)


def test_pixels_of_no_known_range_are_refused(tmp_path):
    path = tmp_path / "depth.tiff"
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(path)
    with pytest.raises(DataError, match=r"depth.tiff: is not a readable image .*mode F, of no known range"):
        read_image(path, "flickr8k_tri")
