"""Texts that an encoder can hardly tell apart: in a script, or of words, that it does not know."""

import logging
import warnings
from collections.abc import Sequence

import lightning as L
import numpy as np
import pytest
import torch
from tiny_clip import write_clip
from tiny_items import N, Tiny, item_set, with_modality
from training import Trainer

from datamodules.features.texts import SentenceEmbedding
from datamodules.items import Modality
from lightning_modules import CMPM
from lightning_modules.networks.encoders import build_encoder
from lightning_modules.networks.encoders.pretrained import TokenIds

TEXT = {"kind": "text", "shape": (), "rate": None}
CHARACTERS = {"name": "characters", "width": 8}
WORDS = {"name": "words", "min_count": 1, "width": 4, "hidden": 4}
TEST = np.flatnonzero(item_set().split == "test")


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("A brown dog runs over the grass.", False),
        ("Un café crème, déjà bu !", False),
        ("Trời đẹp quá, chúng tôi đi chơi", False),
        ("2 dogs", False),
        ("рыжая собака бежит по траве", True),
        ("一只狗在草地上奔跑", True),
        ("كلب بني يركض", True),
        ("٣ ٤ ٥", True),
        ("собака brown", True),  # five letters of eleven are known, spaces do not count
        ("собаки browns", False),  # six of twelve
        ("?!", True),
    ],
)
def test_characters_do_not_know_texts_of_mostly_other_characters(text, unknown):
    assert build_encoder("characters", TEXT).unknown([text, "a"]) == [unknown, False]


def run(encoder: dict[str, object], items: Sequence[int], test: bool = False, other: str = "рыжая собака") -> list[str]:
    """Train, or train and test, on a text per item, of some items another, Russian; what is warned of."""
    texts = [other if i in items else "a brown dog" for i in range(N)]
    data = Tiny(with_modality("text", Modality(texts)), modalities=("text", "code"))
    L.seed_everything(0, verbose=False)
    model = CMPM(data.dims, encoders={"text": encoder}, dim=8)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, **quiet)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(model, data)
        if test:
            trainer.test(model, data, verbose=False)
    return [str(warning.message) for warning in caught if "tell them apart" in str(warning.message)]


@pytest.mark.parametrize("encoder", ["characters", "words"])
@pytest.mark.parametrize("texts", [("рыжая собака", "белая кошка"), ("一只狗在跑", "两只猫在睡"), ("หมาวิ่ง", "แมวนอน")])
def test_any_script_is_learned_from_the_training_texts(encoder, texts):
    settings = {"min_count": 1, "width": 8, "hidden": 8} if encoder == "words" else {"width": 8}
    built = build_encoder(encoder, TEXT, **settings).eval()
    rows = [torch.from_numpy(row) for row in built.front_end([*texts, "a dog"], None)]
    rows = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    assert built.unknown(texts) == [True, True]
    built.fit(rows, rows != 0)
    assert built.unknown([*texts, "a dog"]) == [False, False, False]
    first, second, _ = built(rows, rows != 0)
    assert not torch.allclose(first, second)


def test_training_on_texts_of_nothing_known_is_refused_with_the_share_and_what_to_use():
    with pytest.raises(ValueError, match=r"'characters' of 'text': 100% of the texts in the train .*'sentence'"):
        run(CHARACTERS, range(N), other="?! ...")


def test_some_unknown_texts_in_training_are_said_and_none_is_silence():
    items = np.setdiff1d(np.arange(N), TEST)[::3]  # a third of those for training and validation
    (said,) = run(CHARACTERS, items, other="?! ...")
    assert "of the texts in the train part have mostly characters other than a-z" in said
    assert run(CHARACTERS, items) == []
    assert run(CHARACTERS, [], test=True) == []


@pytest.mark.parametrize(
    ("encoder", "blind_to"), [(CHARACTERS, "mostly characters other"), (WORDS, "no word of the encoder's vocabulary")]
)
def test_unknown_texts_in_test_are_said_with_their_share(encoder, blind_to):
    (said,) = run(encoder, TEST[::2], test=True)
    assert f"{encoder['name']!r} of 'text': 50% of the texts in the standard part have {blind_to}" in said


# Models with a vocabulary of their own ------------------------------------------------------------------------------

MINILM = "all-MiniLM-L6-v2"


@pytest.mark.parametrize("kind", [SentenceEmbedding, TokenIds])
def test_a_model_says_that_its_vocabulary_lacks_a_script(kind):
    with pytest.warns(UserWarning, match=f"Some texts are mostly tokens that {MINILM} does not know"):
        kind(MINILM)(["a dog", "ውሻ በሣር ላይ ይሮጣል"], None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kind(MINILM)(["a dog", "рыжая собака", "un café, déjà vu"], None)


def test_a_model_that_ends_texts_with_the_number_of_an_unknown_token_says_nothing(tmp_path):
    model = str(write_clip(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TokenIds(model)(["a", "dog", "a dog"], None)
