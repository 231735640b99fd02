"""The timm encoder on rectangles of height and width, beside squares, and at sizes that a model is not made for."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from lightning_modules.networks.encoders import build_encoder
from lightning_modules.networks.encoders.image import Resize

IMAGE = {"kind": "image", "shape": [], "rate": None}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(50, 20), (48, 16), (24, 30), (60, 15), (5, 7)])
def test_images_cover_a_rectangle_whose_centre_is_cut_out(size):
    np.testing.assert_array_equal(*(Resize(side)([noise(*size)], None) for side in (16, (16, 16))))
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


@pytest.mark.parametrize("size", [[32], [32, 16, 3], [32, 0], [32.0, 16.0], "32"])
def test_sizes_of_neither_form_are_refused(size):
    with pytest.raises(ValueError, match=r"expected pixels of a side, or \[height, width\]"):
        build_encoder("timm", IMAGE, model="test_convnext", size=size)


# Models that are built for one size ----------------------------------------------------------------------------------


def seen(module: torch.nn.Module) -> torch.Tensor:
    return torch.from_numpy(np.stack(module.front_end([noise(200, 90), noise(70, 80)], None)))


@pytest.mark.parametrize(("model", "size"), [("test_vit", 160), ("test_resnet", 224), ("vit_tiny_patch16_384", 384)])
def test_the_size_is_that_of_the_model_where_it_is_made_for_one(model, size):
    module = build_encoder("timm", IMAGE, model=model)
    assert module.sides == (size, size)
    assert module.front_end.size == size * 8 // 7


@pytest.mark.parametrize("model", ["test_vit", "levit_128s", "test_convnext"])
def test_networks_train_at_the_sizes_of_pedestrians(model):
    module = build_encoder("timm", IMAGE, model=model, size=[192, 64]).train()
    vectors, cells, _ = module.with_tokens(seen(module))
    assert vectors.shape == (2, module.dim)
    assert cells.shape[2] == module.token_dim
    vectors.square().sum().backward()
    assert module.network.state_dict().keys() == timm.create_model(model, num_classes=0).state_dict().keys()


def test_the_initial_weights_at_another_size_are_those_of_the_seed():
    torch.manual_seed(0)
    module, after = build_encoder("timm", IMAGE, model="test_vit", size=[96, 32]), torch.rand(1)
    torch.manual_seed(0)
    expected, alike = timm.create_model("test_vit", num_classes=0, img_size=(96, 32)).state_dict(), torch.rand(1)
    assert torch.equal(after, alike)
    for name, value in module.network.state_dict().items():
        assert torch.equal(value, expected[name])


@pytest.fixture
def vit_of_96(tmp_path) -> Path:
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", img_size=96).state_dict(), tmp_path / "vit.pth")
    return tmp_path / "vit.pth"


@pytest.mark.parametrize("size", [96, [64, 32], None])
def test_weights_of_another_size_are_those_that_timm_interpolates(vit_of_96, size):
    arguments = {"model": "test_vit", "weights": str(vit_of_96), "size": size}
    frozen = build_encoder("timm", IMAGE, frozen=True, cells=True, **arguments)
    sides = (160, 160) if size is None else (size, size) if size == 96 else tuple(size)
    settings = {"num_classes": 0, "img_size": sides, "pretrained_cfg_overlay": {"file": str(vit_of_96)}}
    expected = timm.create_model("test_vit", pretrained=True, **settings).eval()
    pixels = torch.from_numpy(Resize(sides)([noise(50, 40)], None)[0]) / 255
    mean, std = (torch.tensor(expected.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        cells = expected.forward_features(((pixels - mean) / std)[None])[0, expected.num_prefix_tokens :]
    assert len(cells) == sides[0] * sides[1] // 256
    np.testing.assert_allclose(frozen.front_end([noise(50, 40)], None)[0], cells, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "size", "own"),
    [("test_vit", 100, 160), ("nest_tiny", [192, 64], 224), ("efficientformer_l1", 160, 224)],
    ids=["not divisible", "no square", "known by an image alone"],
)
def test_a_size_that_a_model_cannot_take_is_refused_with_its_own(model, size, own):
    height, width = (size, size) if isinstance(size, int) else size
    message = rf"timm's {model} cannot take images of {height} x {width} pixels .* it is made for {own} x {own}"
    with pytest.raises(ValueError, match=message):
        build_encoder("timm", IMAGE, model=model, size=size)
