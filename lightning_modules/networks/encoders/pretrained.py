"""Models of transformers as encoders, of texts and of CLIP: frozen, trained, or trained by low-rank adaptation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from datamodules.errors import DataError
from datamodules.features.precompute import frozen_inference
from datamodules.features.texts import (
    SentenceEmbedding,
    embed_texts,
    encoder_identity,
    model_folder,
    sentence_model,
    warn_of_tokens,
)
from lightning_modules.networks.encoders.base import Encoder, mean_over_steps

# Query and value projections of attention, as the models of transformers name them: what LoRA adapts.
PROJECTIONS = ("query", "value", "q_lin", "v_lin", "q_proj", "v_proj", "q", "v")
TEXTS_AT_ONCE = 64  # that pass a frozen network together


class Sentence(Encoder):
    """A frozen sentence-transformers model.

    Args:
        source: of kind "text".
        model: see :class:`SentenceEmbedding`.

    Raises:
        DataError: the model's files are not on this machine, are damaged, or lack weights.
    """

    kinds = ("text",)

    def __init__(self, source: Mapping[str, Any], model: str = "all-MiniLM-L6-v2"):
        super().__init__(source)
        self.front_end = SentenceEmbedding(model)
        self.dim = embed_texts(["text"], model).shape[1]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x


class _Adaptable(Encoder):
    """An encoder whose network is frozen, or trains, or trains low-rank updates alone."""

    def __init__(self, source: Mapping[str, Any], frozen: bool, lora_rank: int):
        super().__init__(source)
        if lora_rank < 0 or (frozen and lora_rank):
            raise ValueError(
                f"lora_rank is {lora_rank} and frozen is {frozen}; low-rank adaptation takes a rank of 1 or more and "
                "frozen false: only the model's own weights then stay as they are"
            )
        self.frozen, self.lora_rank = frozen, lora_rank

    def adapt(self, network: nn.Module, model: str) -> None:
        """Put updates of the encoder's rank, which alone train, beside the attention projections of a network.

        Source: Hu et al., ICLR 2022 (LoRA): W becomes W + B A, with B of `rank` columns and zero at the start.
        """
        if not self.lora_rank:
            return
        from peft import LoraConfig, inject_adapter_in_model  # takes seconds

        names = {name.rsplit(".", 1)[-1] for name, module in network.named_modules() if isinstance(module, nn.Linear)}
        found = sorted(names.intersection(PROJECTIONS))
        if not found:
            raise ValueError(
                f"{model} has no linear layers named {', '.join(PROJECTIONS)} for LoRA to adapt; they are "
                f"{', '.join(sorted(names))}. Set lora_rank to 0 to train all weights."
            )
        settings = LoraConfig(r=self.lora_rank, lora_alpha=self.lora_rank, target_modules=found)
        inject_adapter_in_model(settings, network)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for network in self.children() if self.lora_rank else ():
            network.eval()  # without dropout
        return self

    def once_each(self, network: Callable[..., Sequence[Tensor]], x: Tensor, mask: Tensor | None) -> Sequence[Tensor]:
        """What a network makes of entries, (B, ...) each; where low-rank updates train, it reads equal texts once.

        Without dropout nothing tells them apart, and of a batch of class names most are equal.
        """
        if mask is None or not (self.lora_rank and self.training):
            return network(x, mask)
        texts, which = torch.where(mask, x, -1).unique(dim=0, return_inverse=True)
        return [made.index_select(0, which) for made in network(texts.clamp(min=0), texts >= 0)]


class Tokens(_Adaptable):
    """Mean over the token embeddings of a transformers model: frozen, trained, or trained by low-rank adaptation.

    Args:
        source: of kind "text".
        model: local folder or name of a transformers model whose files are on this machine.
        frozen: whether the model stays as it is; its token embeddings are then computed once.
        lora_rank: r > 0 leaves the model's own weights as they are, without dropout, and trains W + B A in place of
            each query and value projection W, with B of r columns and zero at the start. 0 trains all weights.

    Raises:
        ValueError: a rank below 0 or of a frozen model, or a model without known names of attention projections.
        DataError: the model's files are not on this machine.

    Source of the low-rank adaptation: Hu et al., ICLR 2022 (LoRA); rank 8 in CS-Aligner, arXiv 2502.17028.
    """

    kinds = ("text",)

    def __init__(
        self, source: Mapping[str, Any], model: str = "all-MiniLM-L6-v2", frozen: bool = True, lora_rank: int = 0
    ):
        super().__init__(source, frozen, lora_rank)
        from transformers import AutoConfig  # takes seconds

        config = AutoConfig.from_pretrained(model_folder(model), local_files_only=True)
        if config.get_text_config() is not config:
            raise ValueError(f"{model} is of type {config.model_type}, not of texts alone; for CLIP name encoder clip")
        self.front_end = FrozenTokens(model) if frozen else TokenIds(model)
        self.dim = self.token_dim = config.hidden_size
        if not frozen:
            self.model = pretrained(model)
            self.adapt(self.model, model)

    def with_tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        if not self.frozen:
            (x,) = self.once_each(self._states, x, mask)
        return mean_over_steps(x, mask), x, mask

    def _states(self, x: Tensor, mask: Tensor) -> Sequence[Tensor]:
        return (self.model(input_ids=x, attention_mask=mask.long()).last_hidden_state,)


class Clip(_Adaptable):
    """Images or texts into the joint space of a CLIP model: frozen, trained, or trained by low-rank adaptation.

    The vector is the tower's pooled output times its projection. Its tokens, at hand where the tower is not frozen, are
    the patches of an image or the words of a text. Images are resized, cut and normalised as the model's own
    configuration says, without random crops.

    Args:
        source: of kind "text", or "image" decoded to images (H, W, 3) uint8.
        model: local folder of a CLIP model as transformers writes it, or its name where its files are on this machine
            (`hf download openai/clip-vit-base-patch32`).
        frozen: whether the tower stays as it is; its vectors are then computed once.
        lora_rank: r > 0 leaves the tower's own weights as they are, without dropout, and trains low-rank updates of its
            query and value projections, as in :class:`Tokens`. 0 trains all weights.

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
        super().__init__(source, frozen, lora_rank)
        tower = _Tower(model, source["kind"] == "text")
        self.dim = tower.dim
        if frozen:
            self.front_end = SentenceEmbedding(model, f"clip {source['kind']}s")
        else:
            self.front_end, self.tower, self.token_dim = tower.reader, tower, tower.token_dim
            self.adapt(tower, model)

    def with_tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        return *self.once_each(self.tower, x, mask), mask

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x if self.frozen else self.with_tokens(x, mask)[0]


def pretrained(model: str) -> nn.Module:
    """A model of transformers in float32, with all of its weights, without the pooling layer of BERT and its kin.

    Args:
        model: its local folder, or its name where its files are on this machine.

    Raises:
        DataError: it is not here, is damaged, or lacks weights.
    """
    folder = model_folder(model)
    network = sentence_model(folder).transformers_model
    if network is None:
        raise DataError(f"{folder} holds no model of transformers")
    if getattr(network, "pooler", None) is not None:
        network.pooler = None  # it would never receive a gradient
    return network


class TokenIds:
    """Front end: (T,) token numbers. A text longer than the model takes is cut.

    How many were cut is said, and whether some are mostly tokens that the model does not know.

    Args:
        model: local folder or name of a transformers model whose files are on this machine.
    """

    makes = "token ids"

    def __init__(self, model: str):
        self.model = model
        self.key = f"{self.makes} {encoder_identity(model)}"

    def __call__(self, entries: Sequence[str], rate: int | None) -> list[np.ndarray]:
        from transformers import AutoConfig, AutoTokenizer

        folder = model_folder(self.model)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
        limit = min(tokenizer.model_max_length, config.max_position_embeddings)
        ids = tokenizer(list(entries), truncation=False, verbose=False)["input_ids"]
        warn_of_tokens(tokenizer, limit, ids, self.model)
        if max(map(len, ids), default=0) > limit:
            ids = tokenizer(list(entries), truncation=True, max_length=limit)["input_ids"]
        return [np.asarray(row, dtype=np.int64) for row in ids]


class FrozenTokens(TokenIds):
    """Front end: (T, d) token embeddings."""

    makes = "token embeddings"

    def __call__(self, entries: Sequence[str], rate: int | None) -> list[np.ndarray]:
        rows = [torch.from_numpy(row) for row in super().__call__(entries, rate)]
        model, embedded = pretrained(self.model).eval(), []
        with frozen_inference():
            for start in range(0, len(rows), TEXTS_AT_ONCE):
                batch = rows[start : start + TEXTS_AT_ONCE]
                ids, mask = (pad_sequence(each, batch_first=True) for each in (batch, [*map(torch.ones_like, batch)]))
                states = model(input_ids=ids, attention_mask=mask).last_hidden_state
                embedded += [state[: len(row)].clone().numpy() for state, row in zip(states, batch, strict=True)]
        return embedded


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
        self.reader = TokenIds(model) if of_texts else _Pixels(model)
        for name in () if of_texts else ("mean", "std"):
            of_channels = getattr(self.reader.processor, f"image_{name}")
            self.register_buffer(name, torch.tensor(of_channels).view(3, 1, 1))

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

        self.processor = AutoImageProcessor.from_pretrained(model_folder(model), local_files_only=True)
        self.key = f"clip pixels {encoder_identity(model)}"

    def __call__(self, entries: Sequence[np.ndarray], rate: int | None) -> list[np.ndarray]:
        as_they_are = {"do_rescale": False, "do_normalize": False}
        forms = {"input_data_format": "channels_last", "return_tensors": "np"}
        return [self.processor(entry.copy(), **as_they_are, **forms)["pixel_values"][0] for entry in entries]
