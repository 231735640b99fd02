"""Encoders of texts that learn what they know from the training texts: their characters, or their words."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lightning_modules.networks.encoders.base import Convolutions, Encoder, pool, whole

# Number of a place in a vocabulary that nothing has taken.
FREE = torch.iinfo(torch.int64).max
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789 "
# Scripts that put no spaces between words: of these a character is a word.
UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")


class _Vocabulary(Encoder):
    """Numbers of training texts that have a vector of their own, the most frequent, ascending in the buffer `known`."""

    kinds = ("text",)

    def learn(self, numbers: Tensor, counts: Tensor) -> None:
        """Take the vocabulary from numbers and how often each occurs; of equally frequent ones, the lower."""
        order = torch.argsort(counts, descending=True, stable=True)[: len(self.known)]
        kept = numbers[order].sort().values
        self.known.fill_(FREE)
        self.known[: len(kept)] = kept.to(self.known.device)

    def places(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where numbers stand in the vocabulary, and whether they do."""
        place = torch.searchsorted(self.known, x.contiguous()).clamp(max=len(self.known) - 1)
        return place, self.known[place] == x


class CharacterIds:
    """Front end: (T,) numbers of a text's characters, lower-cased.

    1 to 37 are a-z, 0-9 and space; another letter, digit or mark of any script is 38 and its code point; 0 is all else.
    """

    key = f"characters {ALPHABET} and code points"

    def __call__(self, entries: Sequence[str], rate: int | None) -> list[np.ndarray]:
        return [np.array([self.number(c) for c in entry.lower()], dtype=np.int64) for entry in entries]

    def number(self, character: str) -> int:
        place = ALPHABET.find(character) + 1
        if place or unicodedata.category(character)[0] not in "LMN":
            return place
        return len(ALPHABET) + 1 + ord(character)


class Characters(_Vocabulary):
    """Three convolutions of five characters over a text, trained: what is written is close to what is spoken.

    It knows a-z, 0-9 and space, and the most frequent other letters, digits and marks of the training texts, in any
    script; all other characters are one and the same to it.

    Args:
        source: of kind "text".
        width: channels.
        dropout: share of units dropped in training.
    """

    blind_to = "mostly characters other than a-z, 0-9 and those of the training texts"
    vocabulary = 4096  # characters beyond the alphabet

    def __init__(self, source: Mapping[str, Any], width: int = 128, dropout: float = 0.2):
        super().__init__(source)
        self.front_end = CharacterIds()
        self.embedding = nn.Embedding(len(ALPHABET) + 1, width)
        self.convolutions = Convolutions(width, width, 3, 5, dropout, first_stride=1)
        self.dim, self.token_dim = 2 * width, width
        # Drawn apart, so that the other parts of a model start as they would for a text in Latin letters.
        drawn = torch.randn(self.vocabulary, width, generator=torch.Generator().manual_seed(0))
        self.others = nn.Embedding(self.vocabulary, width, _weight=drawn)
        self.register_buffer("known", torch.full((self.vocabulary,), FREE))

    def fit(self, rows: Tensor, mask: Tensor | None) -> None:
        """Take the characters beyond the alphabet from training texts (n, T)."""
        seen, counts = torch.unique(rows if mask is None else rows[mask], return_counts=True)
        beyond = seen > len(ALPHABET)
        self.learn(seen[beyond], counts[beyond])

    def with_tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        place, known = self.places(x)
        vectors = self.embedding(torch.where(x > len(ALPHABET), 0, x))
        vectors = torch.where(known[..., None], self.others(place), vectors)
        steps, mask = self.convolutions(vectors, mask)
        return pool(steps, mask), steps, mask

    def unknown(self, texts: Sequence[str]) -> list[bool]:
        known = {*range(1, len(ALPHABET) + 1), *self.known.tolist()}
        lost = [sum(number not in known for number in row) for row in self.front_end(texts, None)]
        return [2 * n > len(text) - text.count(" ") for n, text in zip(lost, map(str.lower, texts), strict=True)]


class WordNumbers:
    """Front end: (T,) int64 numbers of a text's words: its runs of letters, digits and underscores, in lower case.

    Of scripts without spaces, such as Chinese, Japanese and Thai, every character is a word.

    A word's number is its 64-bit BLAKE2 hash: the same in every text, data set and process, so that a text needs no
    vocabulary to be read, and two of ten thousand words share a number with a chance of 3e-12. A text without a word
    has the empty word.
    """

    key = f"words blake2b-64 of {WORD.pattern} in lower case"

    def __call__(self, entries: Sequence[str], rate: int | None) -> list[np.ndarray]:
        words = [WORD.findall(entry.lower()) or [""] for entry in entries]
        hashes = [b"".join(blake2b(word.encode(), digest_size=8).digest() for word in of_text) for of_text in words]
        return [np.frombuffer(of_text, "<i8").astype(np.int64) for of_text in hashes]


class Words(_Vocabulary):
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
        self.register_buffer("known", torch.full((vocabulary,), FREE))
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
        self.learn(words[frequent], counts[frequent])

    def unknown(self, texts: Sequence[str]) -> list[bool]:
        known = set(self.known.tolist())
        return [known.isdisjoint(row.tolist()) for row in self.front_end(texts, None)]

    def with_tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The vectors, and the states of both directions at each word."""
        mask = whole(x, mask)
        place, known = self.places(x)
        vectors = self.dropout(self.embedding(torch.where(known, place + 1, 0)))
        packed = pack_padded_sequence(vectors, mask.sum(dim=1).cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])
        states = self.dropout(states)
        return states.masked_fill(~mask[..., None], float("-inf")).amax(dim=1), states, mask
