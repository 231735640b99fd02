"""The words encoder: numbers of words, its vocabulary, and a bidirectional LSTM against plain NumPy."""

from collections import Counter
from hashlib import blake2b

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_modules.networks.encoders import build_encoder
from lightning_modules.networks.encoders.words import FREE, WordNumbers, Words

TEXT = {"kind": "text", "shape": [], "rate": None}
TEXTS = [
    "A man in a red shirt.",
    "The woman's T-shirt is red, her trousers are black",
    "black trousers",
    "a woman , a man , a red shirt , and a very very long walk in the park",
]
SMALL = {"vocabulary": 30, "min_count": 1, "width": 6, "hidden": 5, "dropout": 0.0}


def numbers(*texts: str) -> list[list[int]]:
    return [row.tolist() for row in WordNumbers()(texts, None)]


def padded(texts: list[str], extra: int = 0) -> tuple[Tensor, Tensor]:
    """Word numbers and mask, with steps of padding after the longest text that look like words."""
    rows = [torch.tensor(row) for row in numbers(*texts)]
    lengths = torch.tensor([len(row) for row in rows])
    filling = numbers("red")[0][0]
    x = torch.nn.functional.pad(pad_sequence(rows, batch_first=True, padding_value=filling), (0, extra), value=filling)
    return x, torch.arange(x.shape[1]) < lengths[:, None]


def fitted(texts: list[str] = TEXTS, **changed) -> Words:
    torch.manual_seed(0)
    module = build_encoder("words", TEXT, **{**SMALL, **changed})
    module.fit(*padded(texts))
    return module


# Words and their numbers ------------------------------------------------------------------------------------------


def test_words_are_lower_cased_runs_of_letters_and_digits():
    assert numbers("A Man, in 2 RED-shirts!") == numbers("a man in 2 red shirts")
    assert numbers("Ünder") == numbers("ünder") != numbers("under")
    assert len(set(numbers("one two three two")[0])) == 3


def test_a_number_is_the_hash_of_the_word_and_the_same_everywhere():
    expected = np.frombuffer(b"".join(blake2b(w.encode(), digest_size=8).digest() for w in ("red", "shirt")), "<i8")
    (found,) = WordNumbers()(["Red shirt"], None)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("text", ["...", "!?", "—"])
def test_a_text_without_a_word_has_the_empty_word(text):
    assert numbers(text) == [[int.from_bytes(blake2b(b"", digest_size=8).digest(), "little", signed=True)]]


# The vocabulary ---------------------------------------------------------------------------------------------------

WORDS = st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(WORDS, st.integers(1, 3), st.integers(1, 6))
def test_the_vocabulary_is_the_most_frequent_words_of_the_training_texts(texts, min_count, vocabulary):
    texts = [" ".join(words) for words in texts]
    counted = Counter(number for row in numbers(*texts) for number in row)
    ranked = sorted((-count, number) for number, count in counted.items() if count >= min_count)
    limits = {"min_count": min_count, "vocabulary": vocabulary}
    if not ranked:
        with pytest.raises(ValueError, match=f"no word occurs {min_count} times in the {len(texts)} training texts"):
            fitted(texts, **limits)
        return
    module = fitted(texts, **limits)
    expected = sorted(number for _, number in ranked[:vocabulary])
    assert module.known.tolist() == expected + [FREE] * (vocabulary - len(expected))


def test_padding_is_not_counted():
    """The padding looks like the word red."""
    module = build_encoder("words", TEXT, **{**SMALL, "min_count": 2})
    module.fit(*padded(["red shirt shirt", "a"], extra=5))
    assert [number for number in module.known.tolist() if number != FREE] == numbers("shirt")[0]


def test_words_outside_the_vocabulary_share_one_vector():
    module = fitted(["red red shirt shirt hat"], min_count=2).eval()
    rare, new, other, known = (module(*padded([f"a {word} b"])) for word in ("hat", "unheard", "zebra", "red"))
    assert torch.equal(rare, new)
    assert torch.equal(new, other)
    assert not torch.allclose(new, known)


# The LSTM ---------------------------------------------------------------------------------------------------------


def lstm(x: np.ndarray, w: dict[str, np.ndarray], ending: str) -> np.ndarray:
    """States (T, d) of one direction, from the gates' formulas, starting from zero."""

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    state = cell = np.zeros(w[f"lstm.weight_hh_l0{ending}"].shape[1])
    states = []
    for step in x:
        gates = w[f"lstm.weight_ih_l0{ending}"] @ step + w[f"lstm.bias_ih_l0{ending}"]
        gates = gates + w[f"lstm.weight_hh_l0{ending}"] @ state + w[f"lstm.bias_hh_l0{ending}"]
        enter, forget, candidate, out = np.split(gates, 4)
        cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(candidate)
        state = sigmoid(out) * np.tanh(cell)
        states.append(state)
    return np.stack(states)


def test_a_text_is_the_maximum_over_the_states_of_both_directions():
    module = fitted(TEXTS[:3]).double().eval()
    w = {name: x.detach().numpy() for name, x in module.state_dict().items()}
    found = module(*padded(TEXTS))
    for row, words in zip(found.detach().numpy(), numbers(*TEXTS), strict=True):
        known = w["known"].tolist()
        vectors = w["embedding.weight"][[known.index(word) + 1 if word in known else 0 for word in words]]
        states = np.hstack([lstm(vectors, w, ""), lstm(vectors[::-1], w, "_reverse")[::-1]])
        np.testing.assert_allclose(row, states.max(axis=0), rtol=1e-9)
    vectors, tokens, mask = module.with_tokens(*padded(TEXTS))
    torch.testing.assert_close(vectors, found)
    assert tokens.shape == (*mask.shape, module.token_dim)
    np.testing.assert_allclose(tokens[-1][mask[-1]].detach(), states, rtol=1e-9)
