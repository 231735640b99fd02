"""Text encoders: sentence embeddings, and token embeddings of a transformers model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from datamodules.class_embeddings import embed_classes, encode_texts, encoder_identity, model_folder
from lightning_modules.networks.encoders.base import Convolutions, Encoder, mean_over_steps, pool

BATCH = 64
# Query and value projections of attention, as the text models of transformers name them: what LoRA adapts.
PROJECTIONS = ("query", "value", "q_lin", "v_lin", "q_proj", "v_proj", "q", "v")


class SentenceEmbedding:
    """Front end: one vector per text from a frozen sentence-transformers model.

    Args:
        model: "all-MiniLM-L6-v2" (installed with the suite), or the local folder or name of another model whose files
            are on this machine.
    """

    def __init__(self, model: str):
        self.model = model
        self.key = f"sentence {encoder_identity(model)}"

    def __call__(self, entries: Sequence[str], rate: int | None) -> list[np.ndarray]:
        texts = list(dict.fromkeys(entries))
        vector = dict(zip(texts, encode_texts(texts, self.model), strict=True))
        return [vector[text] for text in entries]


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
        self.dim = embed_classes(("text",), model).shape[1]

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
        if lora_rank < 0 or (frozen and lora_rank):
            raise ValueError(
                f"lora_rank is {lora_rank} and frozen is {frozen}; low-rank adaptation takes a rank of 1 or more and "
                "frozen false: only the model's own weights then stay as they are"
            )
        from transformers import AutoConfig, AutoModel  # takes seconds

        folder = model_folder(model)
        self.frozen, self.lora_rank = frozen, lora_rank
        self.front_end = _FrozenTokens(folder, model) if frozen else _TokenIds(folder, model)
        self.dim = self.token_dim = AutoConfig.from_pretrained(folder, local_files_only=True).hidden_size
        if not frozen:
            self.model = AutoModel.from_pretrained(folder, local_files_only=True)
            if getattr(self.model, "pooler", None) is not None:
                self.model.pooler = None  # its weights would never receive a gradient
        if lora_rank:
            _adapt(self.model, model, lora_rank)

    def train(self, mode: bool = True) -> Tokens:
        super().train(mode)
        if self.lora_rank:
            self.model.eval()
        return self

    def with_tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        if not self.frozen:
            x = self.model(input_ids=x, attention_mask=mask.long()).last_hidden_state
        return mean_over_steps(x, mask), x, mask


def _adapt(network: nn.Module, model: str, rank: int) -> None:
    """Put low-rank updates, which alone train, beside the attention projections of a network."""
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds

    names = {name.rsplit(".", 1)[-1] for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    found = sorted(names.intersection(PROJECTIONS))
    if not found:
        raise ValueError(
            f"{model} has no linear layers named {', '.join(PROJECTIONS)} for LoRA to adapt; they are "
            f"{', '.join(sorted(names))}. Set lora_rank to 0 to train all weights."
        )
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=found), network)


class _TokenIds:
    """Front end: (T,) token numbers. A text longer than the model takes is cut, and how many were is said."""

    def __init__(self, folder: Path, model: str):
        self.folder, self.model = folder, model
        self.key = f"token ids {encoder_identity(model)}"

    def __call__(self, entries: Sequence[str], rate: int | None) -> list[np.ndarray]:
        from transformers import AutoConfig, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        limit = min(tokenizer.model_max_length, AutoConfig.from_pretrained(self.folder).max_position_embeddings)
        ids = tokenizer(list(entries), truncation=False, verbose=False)["input_ids"]
        cut = sum(len(row) > limit for row in ids)
        if cut:
            rank_zero_warn(f"{cut} of {len(ids)} texts are longer than the {limit} tokens of {self.model} and are cut.")
            ids = tokenizer(list(entries), truncation=True, max_length=limit)["input_ids"]
        return [np.asarray(row, dtype=np.int64) for row in ids]


class _FrozenTokens(_TokenIds):
    """Front end: (T, d) token embeddings."""

    def __init__(self, folder: Path, model: str):
        super().__init__(folder, model)
        self.key = f"token embeddings {encoder_identity(model)}"

    def __call__(self, entries: Sequence[str], rate: int | None) -> list[np.ndarray]:
        from transformers import AutoModel

        model = AutoModel.from_pretrained(self.folder, local_files_only=True).eval()
        rows = [torch.from_numpy(row) for row in super().__call__(entries, rate)]
        embedded = []
        with torch.inference_mode():
            for start in range(0, len(rows), BATCH):
                batch = rows[start : start + BATCH]
                lengths = torch.tensor([len(row) for row in batch])
                mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
                ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
                states = model(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()
                embedded += [state[:n].astype(np.float32) for state, n in zip(states, lengths.tolist(), strict=True)]
        return embedded


class CharacterIds:
    """Front end: (T,) numbers of a text's characters, lower-cased; 0 is any character but a-z, 0-9 and space."""

    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789 "
    key = f"characters {alphabet}"

    def __call__(self, entries: Sequence[str], rate: int | None) -> list[np.ndarray]:
        return [np.array([self.alphabet.find(c) + 1 for c in entry.lower()], dtype=np.int64) for entry in entries]


class Characters(Encoder):
    """Temporal convolutions over the characters of a text, trained: what is written is close to what is spoken.

    Args:
        source: of kind "text".
        width: channels.
        layers: convolutions of five characters, the second and later ones with stride 2.
        dropout: share of units dropped in training.
    """

    kinds = ("text",)

    def __init__(self, source: Mapping[str, Any], width: int = 128, layers: int = 3, dropout: float = 0.2):
        super().__init__(source)
        self.front_end = CharacterIds()
        self.embedding = nn.Embedding(len(CharacterIds.alphabet) + 1, width)
        self.convolutions = Convolutions(width, width, layers, 5, dropout, first_stride=1)
        self.dim, self.token_dim = 2 * width, width

    def with_tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        steps, mask = self.convolutions(self.embedding(x), mask)
        return pool(steps, mask), steps, mask
