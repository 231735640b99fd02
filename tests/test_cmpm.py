"""CMPM: its losses against plain NumPy, what it trains on and learns by heart, what a checkpoint keeps, refusals."""

import math

import lightning as L
import numpy as np
import pytest
import reference
import torch
from small_models import PERSONS, WORDS, first_step, pairs, persons
from small_models import cmpm as model
from tiny_items import Tiny, item_set
from tiny_pedes import write_pedes
from torch.autograd import gradcheck
from training import assert_same_weights, scores, trainer

from datamodules import CUHKPEDES, Synthetic, SyntheticItems
from lightning_modules import CMPM
from lightning_modules.cmpm import ProjectionClassification


def cmpc(x: np.ndarray, z: np.ndarray, weight: np.ndarray, target: np.ndarray) -> float:
    """Cross-entropy of each embedding projected onto its partner's direction, class weights of length one."""
    weight, total = weight / np.linalg.norm(weight, axis=1, keepdims=True), 0.0
    for one, other in ((x, z), (z, x)):
        direction = other / np.linalg.norm(other, axis=1, keepdims=True)
        projected = (one * direction).sum(1, keepdims=True) * direction
        probability = reference.softmax(projected @ weight.T)
        total -= np.log(probability[np.arange(len(x)), target]).mean()
    return total


# Projection classification -----------------------------------------------------------------------------------------


def drawn(rows: int = 9, dim: int = 5, identities: int = 4):
    torch.manual_seed(0)
    names = torch.tensor([-3, 0, 8, 2**40])[:identities]
    head = ProjectionClassification(names, dim).double()
    x, z = (3 * torch.randn(rows, dim, dtype=torch.float64) for _ in range(2))
    return head, x, z, names[torch.randint(identities, (rows,))]


def test_the_classification_is_that_of_the_formula():
    head, x, z, labels = drawn()
    target = np.array([[-3, 0, 8, 2**40].index(label) for label in labels.tolist()])
    expected = cmpc(x.numpy(), z.numpy(), head.weight.detach().numpy(), target)
    assert head(x, z, labels).item() == pytest.approx(expected, rel=1e-12)
    assert head(z, x, labels).item() == pytest.approx(expected, rel=1e-12)


def test_its_gradients_are_those_of_finite_differences():
    head, x, z, labels = drawn(rows=3)

    def loss(x, z, weight):
        return torch.func.functional_call(head, {"weight": weight}, (x, z, labels))

    assert gradcheck(loss, [x.requires_grad_(), z.requires_grad_(), head.weight.detach().requires_grad_()])


def test_zero_embeddings_and_half_precision_are_finite():
    head, x, z, labels = drawn()
    x = torch.zeros_like(x).requires_grad_()
    head(x, z, labels).backward()
    assert x.grad.isfinite().all()
    assert head.float()(x.half(), z.half(), labels).item() == pytest.approx(2 * math.log(4), rel=1e-3)


def test_the_class_weights_start_from_their_seed_alone():
    """So they do however many numbers were drawn before, which differs between one process and several."""
    names, started = torch.arange(7), []
    for seed, before in ((0, 1), (0, 2), (1, 2)):
        torch.manual_seed(before)
        started.append(ProjectionClassification(names, 5, seed).weight)
    assert torch.equal(started[0], started[1])
    assert not torch.equal(started[1], started[2])
    assert started[0].abs().max() <= math.sqrt(6 / 12)


# The training step -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.7, 0.3), (0.0, 2.0)])
@pytest.mark.parametrize("kind", [persons, pairs])
def test_the_loss_of_a_step_is_that_of_the_formulas(tmp_path, kind, weights):
    data = kind(batch_size=12)
    settings = {"alignment_weight": weights[0], "classification_weight": weights[1]}
    module, seen = first_step(tmp_path, model, data, **settings)
    (batch,) = seen.batches
    w = {name: x.numpy() for name, x in module.state_dict().items()}
    with torch.no_grad():
        encoded = {name: x.numpy() for name, x in module.train().encode(batch).items()}
    embeddings = {
        name: x @ w[f"projections.{name}.1.weight"].T + w[f"projections.{name}.1.bias"] for name, x in encoded.items()
    }
    labels = batch["label"].numpy()
    expected = weights[0] * sum(reference.cmpm_kl_parts(embeddings, labels).values())
    if weights[1]:
        known = sorted(set(data.data.label[data.indices("train")].tolist()))
        assert w["classification.identities"].tolist() == known
        target = np.array([known.index(label) for label in labels])
        expected += weights[1] * cmpc(*embeddings.values(), w["classification.weight"], target)
    assert seen.losses == [pytest.approx(expected, rel=1e-9)]
    assert (module.classification is None) == (weights[1] == 0)


def test_it_trains_on_the_labels_that_the_training_batches_bring(tmp_path):
    """Every item its own identity: the head tells all training items apart."""
    data = persons(labels="instance")
    module = model(data, classification_weight=1.0)
    trainer(tmp_path, limit_val_batches=0).fit(module, data)
    assert module.classification.identities.tolist() == data.indices("train").tolist()


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alignment_weight": -1}, "alignment_weight is -1; expected 0 or more"),
        ({"classification_weight": -0.1}, "classification_weight is -0.1; expected 0 or more"),
        ({"alignment": "cmpm"}, "unknown loss 'cmpm'; nearest: cmpm_kl"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        model(persons(), **settings)


@pytest.mark.parametrize("names", [("text",), ("text", "video", "motion")])
def test_other_than_two_modalities_are_refused(names):
    dims = {name: dim for name, dim in SyntheticItems().dims.items() if name in names}
    with pytest.raises(ValueError, match=rf"CMPM takes two modalities, and the data have {len(names)} \(text"):
        CMPM(dims)


class ManyHot(Synthetic):
    """Synthetic pairs of which some have two classes."""

    def read(self):
        data = super().read()
        label = np.eye(len(data.class_names), dtype=bool)[data.label]
        label[::5] |= np.roll(label[::5], 1, axis=1)
        object.__setattr__(data, "label", label)
        return data


def test_labels_of_several_classes_or_of_one_are_refused_for_classification_alone(tmp_path):
    data = ManyHot(class_encoder="one-hot")
    with pytest.raises(ValueError, match="one identity per item, and the labels of synthetic are multi-hot"):
        trainer(tmp_path).fit(model(data, classification_weight=1.0), data)
    trainer(tmp_path, limit_val_batches=0, max_steps=2).fit(model(data), data)
    alone = Tiny(item_set(label=np.zeros(24, int)), modalities=["code", "text"])
    with pytest.raises(ValueError, match="classification needs two identities at least"):
        trainer(tmp_path).fit(model(alone, classification_weight=1.0), alone)


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
    trainer(tmp_path, max_epochs=150, limit_val_batches=0).fit(module, data)
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
