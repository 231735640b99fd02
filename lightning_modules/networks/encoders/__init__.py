"""Encoders by name: any modality to one vector per entry."""

from collections.abc import Mapping
from typing import Any

from lightning_modules.networks import build
from lightning_modules.networks.encoders.base import Encoder
from lightning_modules.networks.encoders.clips import DepthConv, PoseConv, PoseTransformer, SignalConv
from lightning_modules.networks.encoders.features import MLP, Features
from lightning_modules.networks.encoders.image import TimmImage
from lightning_modules.networks.encoders.pretrained import Clip, Sentence, Tokens
from lightning_modules.networks.encoders.sound import LogMel
from lightning_modules.networks.encoders.words import Characters, Words

ENCODERS: dict[str, type[Encoder]] = {
    "features": Features,
    "mlp": MLP,
    "sentence": Sentence,
    "tokens": Tokens,
    "characters": Characters,
    "words": Words,
    "timm": TimmImage,
    "clip": Clip,
    "log_mel": LogMel,
    "pose_transformer": PoseTransformer,
    "pose_conv": PoseConv,
    "signal_conv": SignalConv,
    "depth_conv": DepthConv,
}

__all__ = ["ENCODERS", "Encoder", "build_encoder"]


def build_encoder(name: str, source: Mapping[str, Any], **settings: Any) -> Encoder:
    """An encoder by its name in ``ENCODERS``, for a modality whose "kind", "shape" and "rate" are the source."""
    return build("encoder", ENCODERS, name, source, **settings)
