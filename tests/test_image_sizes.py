"""The timm encoder on rectangles of height and width, as photographs of pedestrians are, beside squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_modules.networks.encoders import build_encoder
from lightning_modules.networks.encoders.image import Resize

IMAGE = {"kind": "file", "shape": [], "rate": None}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(50, 20), (48, 16), (24, 30), (60, 15), (5, 7)])
def test_images_cover_a_rectangle_whose_centre_is_cut_out(size):
    (found,) = Resize((24, 8))([noise(*size)], None)
    scale = max(24 / size[0], 8 / size[1])
    height, width = max(round(size[0] * scale), 24), max(round(size[1] * scale), 8)
    assert height == 24 or width == 8
    whole = np.asarray(Image.fromarray(noise(*size)).resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - 24) // 2, (width - 8) // 2
    np.testing.assert_array_equal(found, whole[top : top + 24, left : left + 8].transpose(2, 0, 1))


def test_crops_of_rectangles_are_contiguous_and_reach_every_place():
    """Each pixel says its row and column, so that a crop can be recognised."""
    module = build_encoder("timm", IMAGE, model="test_convnext", size=[56, 28]).train()
    assert module.front_end.size == (64, 32)
    row, column = np.mgrid[:64, :32]
    image = torch.from_numpy(np.stack([row, column, 0 * row]).astype(np.uint8)).expand(400, -1, -1, -1)
    torch.manual_seed(0)
    found = module._crop(image)
    assert found.shape == (400, 3, 56, 28)
    rows, columns = found[:, 0, :, 0].int(), found[:, 1, 0, :].int()
    assert (found[:, 0] == rows[:, :, None]).all()
    assert (found[:, 1] == columns[:, None, :]).all()
    assert (rows.diff(dim=1) == 1).all()
    assert set(columns.diff(dim=1).unique().tolist()) == {-1, 1}
    assert set(rows[:, 0].tolist()) == set(range(9))
    assert set(columns.amin(dim=1).tolist()) == set(range(5))
    assert module.eval()._crop(image)[0, :2, 0, 0].tolist() == [4, 2]


def test_squares_are_cropped_with_the_draws_of_one_number_for_both_sides():
    module = build_encoder("timm", IMAGE, model="test_convnext", size=28).train()
    images = torch.from_numpy(np.stack([noise(32, 32).transpose(2, 0, 1)] * 50))
    torch.manual_seed(1)
    found = module._crop(images)
    torch.manual_seed(1)
    offset, mirrored = torch.randint(0, 5, (2, 50, 1)), torch.rand(50, 1) < 0.5
    for crop, top, left, mirror in zip(found, *offset[..., 0].tolist(), mirrored.flatten().tolist(), strict=True):
        expected = images[0, :, top : top + 28, left : left + 28]
        assert torch.equal(crop, expected.flip(2) if mirror else expected)


@pytest.mark.parametrize("size", [[32], [32, 16, 3], [32, 0], [32.0, 16.0], "32"])
def test_sizes_of_neither_form_are_refused(size):
    with pytest.raises(ValueError, match=r"expected pixels of a side, or \[height, width\]"):
        build_encoder("timm", IMAGE, model="test_convnext", size=size)
