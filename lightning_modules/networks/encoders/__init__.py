"""Encoders by name: any modality to one vector per entry."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from lightning_modules.networks.encoders.base import Encoder
from lightning_modules.networks.encoders.clip import Clip
from lightning_modules.networks.encoders.convolutions import DepthConv, PoseConv, SignalConv
from lightning_modules.networks.encoders.features import MLP, Features
from lightning_modules.networks.encoders.image import TimmImage
from lightning_modules.networks.encoders.sound import LogMel, Wav2Vec2
from lightning_modules.networks.encoders.text import Characters, Sentence, Tokens
from lightning_modules.networks.encoders.transformers import Frames, PoseTransformer
from lightning_modules.networks.encoders.words import Words
from losses.registry import nearest

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
    "wav2vec2": Wav2Vec2,
    "frames": Frames,
    "pose_transformer": PoseTransformer,
    "pose_conv": PoseConv,
    "signal_conv": SignalConv,
    "depth_conv": DepthConv,
}

__all__ = ["ENCODERS", "Encoder", "build_encoder"]


def build_encoder(name: str, source: Mapping[str, Any], **kwargs: Any) -> Encoder:
    """Build an encoder for a modality.

    Args:
        name: one of ``ENCODERS``.
        source: "kind", "shape" and "rate" of the modality.
        **kwargs: settings of the encoder.

    Raises:
        ValueError: unknown name, or the encoder does not read such entries.
        TypeError: unknown setting; either message gives the nearest words.
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}; {nearest(name, ENCODERS)}")
    known = [setting for setting in inspect.signature(ENCODERS[name]).parameters if setting != "source"]
    for setting in kwargs:
        if setting not in known:
            raise TypeError(f"encoder {name!r} has no setting {setting!r}; {nearest(setting, known)}")
    return ENCODERS[name](source, **kwargs)
