"""CMPM in training: what it learns by heart, what a checkpoint keeps, and real photographs."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from cmpm_cases import PERSONS, WORDS, model, persons
from tiny_items import Tiny, item_set
from tiny_pedes import write_pedes
from training import assert_same_weights, scores, trainer

from datamodules import CUHKPEDES
from lightning_modules import CMPM

# Pedestrians --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pedestrians_are_learned_by_heart(tmp_path):
    """Each description finds photographs of its person first, and each photograph its descriptions."""
    data = CUHKPEDES(write_pedes(tmp_path / "root").parent, batch_size=12)
    L.seed_everything(0, verbose=False)
    encoders = {
        "image": {"name": "timm", "model": "test_convnext", "size": [64, 32]},
        "text": {**WORDS, "width": 16, "hidden": 16},
    }
    module = CMPM(data.dims, encoders, classification_weight=1.0, dim=16, learning_rate=5e-3)
    trainer(tmp_path, max_epochs=60, limit_val_batches=0).fit(module, data)
    (batch,) = data.train_dataloader()
    with torch.no_grad():
        image, text = (torch.nn.functional.normalize(x) for x in module.eval().embed(batch).values())
    label = batch["label"]
    for cosine in (image @ text.T, text @ image.T):
        assert torch.equal(label[cosine.argmax(1)], label)
    assert module.classification.identities.tolist() == [1, 2, 3, 4, 5, 6]
    found = scores(tmp_path, module, data)
    assert {"image->text/MAP", "text->image/R@1", "average/MAP"} <= set(found)


# What is kept -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model trained with classification, and its checkpoint."""
    folder, data = tmp_path_factory.mktemp("trained"), persons()
    module = model(data, classification_weight=0.5)
    fitted = trainer(folder, max_epochs=2, limit_val_batches=0)
    fitted.fit(module, data)
    fitted.save_checkpoint(folder / "model.ckpt")
    return module, folder / "model.ckpt"


def test_a_checkpoint_brings_vocabulary_and_identities_and_encodes_new_texts_without_data(trained):
    module, path = trained
    loaded = CMPM.load_from_checkpoint(path, weights_only=True).eval()
    assert_same_weights(module, loaded)
    assert loaded.classification.identities.tolist() == sorted(set(PERSONS.tolist()))
    (row,) = loaded.encoders["text"].front_end(["a caption nobody wrote of item 7"], None)
    new = {"text": torch.from_numpy(row)[None], "masks": {"text": torch.ones(1, len(row), dtype=torch.bool)}}
    with torch.no_grad():
        found, expected = loaded.embed(new), module.eval().embed(new)
    assert list(found) == ["text"]
    assert torch.equal(found["text"], expected["text"])


def test_only_words_of_training_texts_have_a_vector(trained):
    module, _ = trained
    data = persons()
    text = data.data.modalities["text"]
    train = set(data.indices("train").tolist())
    numbers = module.encoders["text"].front_end(text.entries, None)
    seen, unseen = set(), set()
    for row, owner in zip(numbers, text.owners(), strict=True):
        (seen if owner in train else unseen).update(row.tolist())
    known = {number for number in module.encoders["text"].known.tolist() if number != torch.iinfo(torch.int64).max}
    assert known == seen
    assert unseen - seen


def test_training_on_other_identities_is_refused(trained, tmp_path):
    module = CMPM.load_from_checkpoint(trained[1], weights_only=True)
    data = Tiny(item_set(label=PERSONS + 1), modalities=["code", "text"])
    with pytest.raises(ValueError, match=r"6 identities of the training items are unknown to the model, the first is"):
        trainer(tmp_path).fit(module, data)


def test_a_run_resumed_on_other_training_items_keeps_the_vocabulary_of_its_weights(tmp_path):
    first = model(persons(validation_fraction=0.4))
    fitted = trainer(tmp_path, max_epochs=1, limit_val_batches=0)
    fitted.fit(first, persons(validation_fraction=0.4))
    fitted.save_checkpoint(tmp_path / "model.ckpt")
    resumed, other = model(persons()), persons(validation_fraction=0)
    resumed.allow_other_data = True
    trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(
        resumed, other, ckpt_path=tmp_path / "model.ckpt", weights_only=True
    )
    assert torch.equal(resumed.encoders["text"].known, first.encoders["text"].known)
    anew = model(persons())
    trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(anew, other)
    assert not torch.equal(anew.encoders["text"].known, first.encoders["text"].known)


# Real photographs ---------------------------------------------------------------------------------------------------
