"""A bidirectional LSTM over the words of a text."""

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lightning_modules.networks.encoders.base import Encoder

# Number of a place in the vocabulary that no word has taken.
FREE = torch.iinfo(torch.int64).max


# Scripts that put no spaces between words: of these a character is a word.
UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")


class WordNumbers:
    """Front end: (T,) int64 numbers of a text's words: its runs of letters, digits and underscores, in lower case.

    Of scripts without spaces, such as Chinese, Japanese and Thai, every character is a word.

    A word's number is its 64-bit BLAKE2 hash: the same in every text, data set and process, so that a text needs no
    vocabulary to be read, and two of ten thousand words share a number with a chance of 3e-12. A text without a word
    has the empty word.
    """

    key = f"words blake2b-64 of {WORD.pattern} in lower case"

    def __call__(self, entries: Sequence[str], rate: int | None) -> list[np.ndarray]:
        return [
            np.array([_number(word) for word in WORD.findall(entry.lower()) or [""]], dtype=np.int64)
            for entry in entries
        ]


def _number(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little", signed=True)


class Words(Encoder):
    """A bidirectional LSTM over word vectors, both trained; the maximum over time of both directions' states.

    s = max_t [forward state_t; backward state_t], padding left out. The vocabulary is the most frequent words of the
    training texts (equally frequent ones by their number); all other words share one vector, which the rare words of
    the training texts train. It is a buffer of the model: no text but those of training shapes it, and a model read
    from a checkpoint encodes any text.

    Args:
        source: of kind "text".
        vocabulary: most words that have a vector of their own.
        min_count: how often a word must occur in the training texts to be one of them.
        width: of a word vector.
        hidden: width of the state of one direction; a text's vector is twice as wide.
        dropout: share of word vectors' and states' entries dropped in training.

    Raises:
        ValueError: a setting outside its range; on fitting, no word is frequent enough.

    Source: the text branch of Zhang and Lu, ECCV 2018, with the sizes, the dropout, the least count and the room for
    12,000 words of their code, which also trains the states that the LSTM starts from: here they are zero.
    """

    kinds = ("text",)
    blind_to = "no word of the encoder's vocabulary"

    def __init__(
        self,
        source: Mapping[str, Any],
        vocabulary: int = 12_000,
        min_count: int = 3,
        width: int = 512,
        hidden: int = 512,
        dropout: float = 0.3,
    ):
        super().__init__(source)
        for name, value in (("vocabulary", vocabulary), ("min_count", min_count)):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        self.front_end = WordNumbers()
        self.min_count = min_count
        self.register_buffer("known", torch.full((vocabulary,), FREE))  # ascending, to be searched
        self.embedding = nn.Embedding(vocabulary + 1, width)  # row 0 is that of all other words
        self.lstm = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.dim = self.token_dim = 2 * hidden

    def fit(self, rows: Tensor, mask: Tensor | None) -> None:
        """Take the vocabulary from training texts (n, T)."""
        words, counts = torch.unique(rows if mask is None else rows[mask], return_counts=True)
        frequent = counts >= self.min_count
        if not frequent.any():
            raise ValueError(
                f"no word occurs {self.min_count} times in the {len(rows)} training texts; lower min_count"
            )
        order = torch.argsort(counts[frequent], descending=True, stable=True)[: len(self.known)]
        kept = words[frequent][order].sort().values
        self.known.fill_(FREE)
        self.known[: len(kept)] = kept.to(self.known.device)

    def unknown(self, texts: Sequence[str]) -> list[bool]:
        known = set(self.known.tolist())
        return [known.isdisjoint(row.tolist()) for row in self.front_end(texts, None)]

    def with_tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The vectors, and the states of both directions at each word."""
        mask = torch.ones(x.shape, dtype=torch.bool, device=x.device) if mask is None else mask
        place = torch.searchsorted(self.known, x.contiguous()).clamp(max=len(self.known) - 1)
        vectors = self.dropout(self.embedding(torch.where(self.known[place] == x, place + 1, 0)))
        lengths = mask.sum(dim=1).cpu()
        packed = pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])
        states = self.dropout(states)
        return states.masked_fill(~mask[..., None], float("-inf")).amax(dim=1), states, mask
