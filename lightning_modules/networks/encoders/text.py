"""Text encoders: sentence embeddings, token embeddings of a transformers model, and characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from datamodules.features.precompute import frozen_inference
from datamodules.features.texts import SentenceEmbedding, embed_texts, encoder_identity, model_folder, warn_of_unknown
from lightning_modules.networks.encoders.base import Convolutions, Encoder, mean_over_steps, pool
from lightning_modules.networks.pretrained import adapt_low_rank, check_low_rank, pretrained

BATCH = 64


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


class Tokens(Encoder):
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
        super().__init__(source)
        check_low_rank(frozen, lora_rank)
        from transformers import AutoConfig  # takes seconds

        config = AutoConfig.from_pretrained(model_folder(model), local_files_only=True)
        if config.get_text_config() is not config:
            raise ValueError(f"{model} is of type {config.model_type}, not of texts alone; for CLIP name encoder clip")
        self.frozen, self.lora_rank = frozen, lora_rank
        self.front_end = FrozenTokens(model) if frozen else TokenIds(model)
        self.dim = self.token_dim = config.hidden_size
        if not frozen:
            self.model = pretrained(model)
        if lora_rank:
            adapt_low_rank(self.model, model, lora_rank)

    def train(self, mode: bool = True) -> Tokens:
        super().train(mode)
        if self.lora_rank:
            self.model.eval()
        return self

    def with_tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        if not self.frozen:
            x = self.model(input_ids=x, attention_mask=mask.long()).last_hidden_state
        return mean_over_steps(x, mask), x, mask


class TokenIds:
    """Front end: (T,) token numbers. A text longer than the model takes is cut.

    How many were cut is said, and whether some are mostly tokens that the model does not know.

    Args:
        model: local folder or name of a transformers model whose files are on this machine.
    """

    def __init__(self, model: str):
        self.model = model
        self.key = f"token ids {encoder_identity(model)}"

    def __call__(self, entries: Sequence[str], rate: int | None) -> list[np.ndarray]:
        from transformers import AutoConfig, AutoTokenizer

        folder = model_folder(self.model)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
        limit = min(tokenizer.model_max_length, config.max_position_embeddings)
        ids = tokenizer(list(entries), truncation=False, verbose=False)["input_ids"]
        warn_of_unknown(tokenizer, ids, self.model)
        cut = sum(len(row) > limit for row in ids)
        if cut:
            rank_zero_warn(f"{cut} of {len(ids)} texts are longer than the {limit} tokens of {self.model} and are cut.")
            ids = tokenizer(list(entries), truncation=True, max_length=limit)["input_ids"]
        return [np.asarray(row, dtype=np.int64) for row in ids]


class FrozenTokens(TokenIds):
    """Front end: (T, d) token embeddings."""

    def __init__(self, model: str):
        super().__init__(model)
        self.key = f"token embeddings {encoder_identity(model)}"

    def __call__(self, entries: Sequence[str], rate: int | None) -> list[np.ndarray]:
        model = pretrained(self.model).eval()
        embedded = []
        with frozen_inference():
            for ids, mask in padded_batches(super().__call__(entries, rate), BATCH):
                states = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
                embedded += [state[valid].float().numpy() for state, valid in zip(states, mask, strict=True)]
        return embedded


def padded_batches(rows: Sequence[np.ndarray], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Token numbers (B, T), B at most ``size``, and their mask (B, T), of rows (T_i,)."""
    for start in range(0, len(rows), size):
        batch = [torch.from_numpy(row) for row in rows[start : start + size]]
        ids = nn.utils.rnn.pad_sequence(batch, batch_first=True)
        yield ids, torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in batch])[:, None]


class CharacterIds:
    """Front end: (T,) numbers of a text's characters, lower-cased.

    1 to 37 are a-z, 0-9 and space; another letter, digit or mark of any script is 38 and its code point; 0 is all else.
    """

    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789 "
    key = f"characters {alphabet} and code points"

    def __call__(self, entries: Sequence[str], rate: int | None) -> list[np.ndarray]:
        return [np.array([self.number(c) for c in entry.lower()], dtype=np.int64) for entry in entries]

    def number(self, character: str) -> int:
        place = self.alphabet.find(character) + 1
        if place or unicodedata.category(character)[0] not in "LMN":
            return place
        return len(self.alphabet) + 1 + ord(character)


class Characters(Encoder):
    """Three convolutions of five characters over a text, trained: what is written is close to what is spoken.

    It knows a-z, 0-9 and space, and the most frequent other letters, digits and marks of the training texts, in any
    script; all other characters are one and the same to it.

    Args:
        source: of kind "text".
        width: channels.
        dropout: share of units dropped in training.
    """

    kinds = ("text",)
    blind_to = "mostly characters other than a-z, 0-9 and those of the training texts"
    vocabulary = 4096  # characters beyond the alphabet

    def __init__(self, source: Mapping[str, Any], width: int = 128, dropout: float = 0.2):
        super().__init__(source)
        self.front_end = CharacterIds()
        self.embedding = nn.Embedding(len(CharacterIds.alphabet) + 1, width)
        self.convolutions = Convolutions(width, width, 3, 5, dropout, first_stride=1)
        self.dim, self.token_dim = 2 * width, width
        # Drawn apart, so that the other parts of a model start as they would for a text in Latin letters.
        drawn = torch.randn(self.vocabulary, width, generator=torch.Generator().manual_seed(0))
        self.others = nn.Embedding(self.vocabulary, width, _weight=drawn)
        self.register_buffer("known", torch.full((self.vocabulary,), torch.iinfo(torch.int64).max))  # ascending

    def fit(self, rows: Tensor, mask: Tensor | None) -> None:
        """Take the characters beyond the alphabet from training texts (n, T)."""
        seen, counts = torch.unique(rows if mask is None else rows[mask], return_counts=True)
        beyond = seen > len(CharacterIds.alphabet)
        order = torch.argsort(counts[beyond], descending=True, stable=True)[: self.vocabulary]
        kept = seen[beyond][order].sort().values
        self.known.fill_(torch.iinfo(torch.int64).max)
        self.known[: len(kept)] = kept.to(self.known.device)

    def with_tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        place = torch.searchsorted(self.known, x.contiguous()).clamp(max=self.vocabulary - 1)
        vectors = self.embedding(torch.where(x > len(CharacterIds.alphabet), 0, x))
        vectors = torch.where((self.known[place] == x)[..., None], self.others(place), vectors)
        steps, mask = self.convolutions(vectors, mask)
        return pool(steps, mask), steps, mask

    def unknown(self, texts: Sequence[str]) -> list[bool]:
        known = set(self.known.tolist())
        numbers = self.front_end(texts, None)
        lost = [sum(n == 0 or (n > len(CharacterIds.alphabet) and n not in known) for n in row) for row in numbers]
        return [
            2 * count > len(text) - text.count(" ") for count, text in zip(lost, map(str.lower, texts), strict=True)
        ]
