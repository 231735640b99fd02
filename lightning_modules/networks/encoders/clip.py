"""Images and texts through the two towers of a CLIP model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datamodules.errors import DataError
from datamodules.features.precompute import frozen_inference
from datamodules.features.texts import encoder_identity, model_folder
from lightning_modules.networks.encoders.base import Encoder
from lightning_modules.networks.encoders.text import TokenIds, padded_batches
from lightning_modules.networks.pretrained import adapt_low_rank, check_low_rank, pretrained

BATCH = 32


class Clip(Encoder):
    """Images or texts into the joint space of a CLIP model: frozen, trained, or trained by low-rank adaptation.

    The vector is the tower's pooled output times its projection. Its tokens, at hand where the tower is not frozen, are
    the patches of an image or the words of a text. Images are resized, cut and normalised as the model's own
    configuration says, without random crops.

    Args:
        source: of kind "text", or "image" decoded to images (H, W, 3) uint8.
        model: local folder of a CLIP model as transformers writes it, or its name where its files are on this machine
            (`hf download openai/clip-vit-base-patch32`).
        frozen: whether the tower stays as it is; its vectors are then computed once.
        lora_rank: r > 0 leaves the tower's own weights as they are and trains low-rank updates of its query and value
            projections (:func:`lightning_modules.networks.pretrained.adapt_low_rank`). 0 trains all weights.

    Raises:
        ValueError: sound, a model that is not CLIP, or a rank below 0 or of a frozen model.
        DataError: the model's files are not on this machine, are damaged, or lack weights.

    Source: Radford et al., ICML 2021 (CLIP); rank 8 in CS-Aligner, arXiv 2502.17028.
    """

    kinds = ("text", "image")

    def __init__(
        self,
        source: Mapping[str, Any],
        model: str = "openai/clip-vit-base-patch32",
        frozen: bool = True,
        lora_rank: int = 0,
    ):
        super().__init__(source)
        check_low_rank(frozen, lora_rank)
        tower = _Tower(model, source["kind"] == "text")
        self.frozen, self.lora_rank = frozen, lora_rank
        self.dim = tower.dim
        if frozen:
            self.front_end = _FrozenTower(tower, model)
            return
        self.front_end, self.tower, self.token_dim = tower.reader, tower, tower.token_dim
        if lora_rank:
            adapt_low_rank(tower, model, lora_rank)

    def train(self, mode: bool = True) -> Clip:
        super().train(mode)
        if self.lora_rank:
            self.tower.eval()
        return self

    def with_tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        return *self.tower(x, mask), mask

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x if self.frozen else self.tower(x, mask)[0]


class _Tower(nn.Module):
    """One half of a CLIP model: what its reader makes of entries -> vectors (B, d) and tokens (B, T, h)."""

    def __init__(self, model: str, of_texts: bool):
        super().__init__()
        whole = pretrained(model)
        if whole.config.model_type != "clip":
            raise ValueError(f"{model} is of type {whole.config.model_type}; the encoder clip reads CLIP models alone")
        self.of_texts = of_texts
        self.network = whole.text_model if of_texts else whole.vision_model
        self.projection = whole.text_projection if of_texts else whole.visual_projection
        self.token_dim, self.dim = self.projection.in_features, self.projection.out_features
        if of_texts:
            self.reader = TokenIds(model)
        else:
            self.reader = _Pixels(model)
            mean, std = (torch.tensor(side).view(3, 1, 1) for side in (self.reader.mean, self.reader.std))
            self.register_buffer("mean", mean)
            self.register_buffer("std", std)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.of_texts:
            found = self.network(input_ids=x, attention_mask=None if mask is None else mask.long())
            return self.projection(found.pooler_output), found.last_hidden_state
        found = self.network(pixel_values=(x / 255 - self.mean) / self.std)
        return self.projection(found.pooler_output), found.last_hidden_state[:, 1:]  # without the class token


class _Pixels:
    """Front end: images as (3, side, side) uint8, resized and cut as a CLIP model's configuration says."""

    def __init__(self, model: str):
        from transformers import AutoImageProcessor  # takes seconds

        folder = model_folder(model)
        try:
            self.processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{folder} does not say how images are prepared ({error}); fetch the model again"
            ) from error
        self.mean, self.std = self.processor.image_mean, self.processor.image_std
        self.key = f"clip pixels {encoder_identity(model)}"

    def __call__(self, entries: Sequence[np.ndarray], rate: int | None) -> list[np.ndarray]:
        return [self._prepared(entry) for entry in entries]

    def _prepared(self, entry: np.ndarray) -> np.ndarray:
        found = self.processor(
            entry.copy(), do_rescale=False, do_normalize=False, input_data_format="channels_last", return_tensors="np"
        )
        return found["pixel_values"][0]


class _FrozenTower:
    """Front end: the vectors of a tower."""

    def __init__(self, tower: _Tower, model: str):
        self.tower = tower.eval()
        self.key = f"clip {'texts' if tower.of_texts else 'images'} {encoder_identity(model)}"

    def __call__(self, entries: Sequence[Any], rate: int | None) -> list[np.ndarray]:
        with frozen_inference():
            return [vector for x, mask in self._batches(entries, rate) for vector in self.tower(x, mask)[0].numpy()]

    def _batches(self, entries: Sequence[Any], rate: int | None) -> Iterator[tuple[Tensor, Tensor | None]]:
        if self.tower.of_texts:  # read all at once, so that it is said once how many are too long
            yield from padded_batches(self.tower.reader(entries, rate), BATCH)
            return
        for start in range(0, len(entries), BATCH):
            chosen = [entries[i] for i in range(start, min(start + BATCH, len(entries)))]
            yield torch.from_numpy(np.stack(self.tower.reader(chosen, rate))), None
