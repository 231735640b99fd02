"""LAVIMO: its training step against plain NumPy, what evaluation may know, what is refused, and training."""

from itertools import permutations

import lightning as L
import numpy as np
import pytest
import reference
import torch
from real_data import DATA, needs
from scipy.io import loadmat
from small_models import cmpm, first_step
from small_models import lavimo as model
from tiny_items import CAPTION_OWNER, Tiny, item_set
from torch.autograd import grad
from torch.nn import functional as F
from torch.utils.data import DataLoader
from training import Rates, predicted, scores, trainer

from datamodules import OwnData, RetrievalData, Synthetic, SyntheticItems
from lightning_modules import LAVIMO, prepare
from lightning_modules.metrics import retrieval_scores
from losses import build_loss

NAMES = ("text", "video", "motion")


# The training step, from the formulas -------------------------------------------------------------------------------


def normalised(x: np.ndarray, w, name: str) -> np.ndarray:
    """Layer normalisation."""
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def attended(query: np.ndarray, keys: np.ndarray, w, name: str, heads: int = 8) -> np.ndarray:
    """Attention of one item's tokens (n, D) to others (m, D): softmax(Q K^T / sqrt(D/heads)) V per head."""
    weight, bias = np.split(w[f"{name}.in_proj_weight"], 3), np.split(w[f"{name}.in_proj_bias"], 3)
    q, k, v = (x @ a.T + b for x, a, b in zip((query, keys, keys), weight, bias, strict=True))
    out = []
    for rows in np.split(np.arange(q.shape[1]), heads):
        out.append(reference.softmax(q[:, rows] @ k[:, rows].T / np.sqrt(len(rows))) @ v[:, rows])
    return np.concatenate(out, 1) @ w[f"{name}.out_proj.weight"].T + w[f"{name}.out_proj.bias"]


def fused(embeddings: dict[str, np.ndarray], w) -> dict[str, np.ndarray]:
    """e_m + attention of e_m to the item's other modalities, item by item."""
    result = {}
    for name, rows in embeddings.items():
        others = [z for other, z in embeddings.items() if other != name]
        result[name] = np.stack(
            [
                x + attended(x[None], np.stack([z[i] for z in others]), w, f"fusion.attention.{name}")[0]
                for i, x in enumerate(rows)
            ]
        )
    return result


def gelu(x: np.ndarray) -> np.ndarray:
    return F.gelu(torch.from_numpy(x)).numpy()


def reconstructed(tokens: dict[str, np.ndarray], w) -> np.ndarray:
    items = [np.stack(rows) for rows in zip(*tokens.values(), strict=True)]
    mean = np.stack([attended(x, x, w, "decoder.attention").mean(0) for x in items])
    hidden = gelu(normalised(mean, w, "decoder.norm") @ w["decoder.decoder.0.weight"].T + w["decoder.decoder.0.bias"])
    return hidden @ w["decoder.decoder.2.weight"].T + w["decoder.decoder.2.bias"]


@pytest.mark.parametrize("protocol", ["honest", "as_published"])
@pytest.mark.parametrize("reconstruct", [None, "motion"])
@pytest.mark.parametrize("alignment", ["gcs", "pairwise"])
def test_the_loss_of_a_step_is_that_of_the_formulas(tmp_path, protocol, reconstruct, alignment):
    settings = {"protocol": protocol, "reconstruct": reconstruct, "alignment": alignment}
    settings |= {"alignment_weight": 0.7, "reconstruction_weight": 0.3}
    module, seen = first_step(tmp_path, model, SyntheticItems(batch_size=24), **settings)
    w = {name: x.numpy() for name, x in module.state_dict().items()}
    (batch,) = seen.batches
    encoded = {}
    for m in NAMES:
        x = (batch[m].numpy() - w[f"encoders.{m}.standardise.mean"]) / w[f"encoders.{m}.standardise.scale"]
        encoded[m] = np.maximum(x @ w[f"encoders.{m}.hidden.0.weight"].T + w[f"encoders.{m}.hidden.0.bias"], 0)
    embeddings = {
        m: normalised(x @ w[f"projections.{m}.1.weight"].T + w[f"projections.{m}.1.bias"], w, f"projections.{m}.2")
        for m, x in encoded.items()
    }
    joined = fused(embeddings, w) if protocol == "as_published" or reconstruct else None
    aligned = joined if protocol == "as_published" else embeddings
    label = batch["label"].numpy()
    parts = (
        reference.gcs_parts(aligned, label) if alignment == "gcs" else reference.pairwise_parts(aligned, label, "kl")
    )
    expected = 0.7 * sum(parts.values())
    if reconstruct:
        expected += 0.3 * ((reconstructed(joined, w) - encoded["motion"]) ** 2).mean()
    assert seen.losses == [pytest.approx(expected, rel=1e-9)]


def test_the_target_of_the_reconstruction_does_not_train_along(tmp_path):
    """The encoder learns from what it gives to the fusion; that it is the target too adds nothing to its gradient."""
    module, seen = first_step(tmp_path, model, Tiny(), alignment_weight=0.0, reconstruct="motion")
    (batch,) = seen.batches
    weights = dict(module.encoders["motion"].named_parameters())
    found = [seen.gradients[0][f"encoders.motion.{name}"] for name in weights]
    encoded = {m: module.encoders[m](batch[m], batch["masks"].get(m)) for m in module.modalities}
    output = module.decoder(module.fusion({m: module.projections[m](x) for m, x in encoded.items()}))
    constant = torch.tensor(encoded["motion"].tolist(), dtype=torch.float64)
    expected = grad(((output - constant) ** 2).mean(), list(weights.values()), retain_graph=True)
    trained_along = grad(((output - encoded["motion"]) ** 2).mean(), list(weights.values()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)
    assert max((a - b).abs().max() for a, b in zip(found, trained_along, strict=True)) > 1e-3


# What evaluation may know --------------------------------------------------------------------------------------------


class Repaired(SyntheticItems):
    """The same test entries, each with its own label and id, beside another item's entries of the other modalities."""

    def test_dataloader(self):
        (loader,) = super().test_dataloader()
        (batch,) = loader
        for seed, name in enumerate(NAMES[1:]):
            order = torch.from_numpy(np.random.default_rng(seed).permutation(len(batch[name])))
            batch[name] = batch[name][order]
            for key in ("label", "id", "item"):
                batch[key][name] = batch[key][name][order]
        return [DataLoader([batch], batch_size=None)]


@pytest.fixture(scope="module", params=["honest", "as_published"])
def trained(request, tmp_path_factory):
    module, folder = (
        model(SyntheticItems(), protocol=request.param, reconstruct="motion"),
        tmp_path_factory.mktemp("run"),
    )
    trainer(folder, max_epochs=5, limit_val_batches=0).fit(module, SyntheticItems())
    return module, folder


def test_only_the_published_evaluation_knows_an_items_other_modalities(trained):
    module, folder = trained
    paired, repaired = scores(folder, module, SyntheticItems()), scores(folder, module, Repaired())
    if module.protocol == "honest":
        assert paired == repaired
    else:
        assert paired["average/MAP"] > repaired["average/MAP"] + 0.05


@pytest.mark.parametrize("protocol", ["honest", "as_published"])
def test_evaluation_does_not_depend_on_the_batch(monkeypatch, tmp_path, protocol):
    module = model(Tiny(), protocol=protocol)
    trainer(tmp_path, limit_val_batches=0).fit(module, Tiny())
    found = []
    for size in (256, 3, 1):
        monkeypatch.setattr(RetrievalData, "evaluation_batch_size", size)
        found.append((predicted(tmp_path, module, Tiny()), scores(tmp_path, module, Tiny())))
    for rows, tested in found[1:]:
        assert list(rows) == list(found[0][0])
        for name, x in found[0][0].items():
            np.testing.assert_allclose(rows[name], x, rtol=1e-4, atol=1e-5, err_msg=name)
        assert tested == pytest.approx(found[0][1], abs=1e-6)


@pytest.mark.parametrize("protocol", ["honest", "as_published"])
def test_items_with_several_captions(tmp_path, protocol):
    data = Tiny()
    module = model(data, protocol=protocol, joint_queries=["text+motion->code", "motion+code->text"])
    rows = predicted(tmp_path, module, data)
    test = np.flatnonzero(np.arange(24) % 3 == 2)
    captions = np.flatnonzero(np.isin(CAPTION_OWNER, test))
    if protocol == "as_published":
        captions = np.array([CAPTION_OWNER.tolist().index(item) for item in test])
    np.testing.assert_array_equal(rows["id/text"], captions)
    np.testing.assert_array_equal(rows["item/text"], CAPTION_OWNER[captions])
    np.testing.assert_array_equal(rows["label/text"], CAPTION_OWNER[captions] // 4)
    assert rows["text"].shape == (len(captions), 16)
    assert rows["motion"].shape == rows["code"].shape == (len(test), 16)
    scores(tmp_path, module, data)
    sizes = module.sizes["standard"]
    assert sizes["text->motion"] == (len(captions), len(test))
    assert sizes["motion->text"] == (len(test), len(captions))
    assert sizes["text+motion->code"] == (len(test), len(test))
    assert sizes["motion+code->text"] == (len(test), len(captions))
    assert len(sizes) == 8


@pytest.mark.parametrize("score", ["cosine", "multilinear", "volume"])
def test_joint_queries_ask_by_the_embeddings_of_an_item(tmp_path, score):
    data = SyntheticItems()
    module = model(data, joint_queries=["text+video->motion"], joint_score=score)
    found = scores(tmp_path, module, data)
    rows = {name: torch.from_numpy(x) for name, x in predicted(tmp_path, module, data).items()}
    query, label = {name: rows[name] for name in ("text", "video")}, rows["label/motion"]
    expected = retrieval_scores(query, rows["motion"], label, label, module.ks, score=score)
    assert found["text+video->motion/MAP"] == pytest.approx(float(expected["AP"].mean()), abs=1e-6)
    assert found["text+video->motion/R@3"] == pytest.approx(float(expected["R@3"].mean()), abs=1e-6)
    assert found["average/MAP"] == pytest.approx(
        np.mean([found[f"{a}->{b}/MAP"] for a, b in permutations(NAMES, 2)]), abs=1e-6
    )


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoders": {"audio": {"name": "features"}}}, "no modality 'audio'; they have text, motion, code"),
        ({"reconstruct": "audio"}, "no modality 'audio'; they have text, motion, code"),
        ({"protocol": "published"}, "unknown protocol 'published'; choose honest or as_published"),
        ({"alignment": "gsc"}, "unknown loss 'gsc'; nearest: "),
        ({"joint_queries": ["text+audio->code"]}, "joint query 'text.audio->code'.* of text, motion, code"),
        ({"joint_score": "dot"}, "unknown score 'dot'"),
        ({"dim": 20}, "dim is 20; expected a multiple of 8"),
        ({"encoders": {"text": {"width": 16}}}, "encoder of 'text': unknown encoder ''; there are: characters"),
        ({"encoders": {"text": {"name": "charcters"}}}, "encoder of 'text': unknown encoder .*; nearest: characters"),
        ({"reconstruct": "class_embedding"}, "no modality 'class_embedding'; they have text, motion, code"),
        ({"encoders": {"text": {"name": "characters", "widht": 3}}}, "encoder of 'text': .*'characters' .* 'widht'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        model(Tiny(), **settings)


def test_a_loss_of_fewer_modalities_is_refused_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr(Tiny, "precompute", lambda *_: pytest.fail("a frozen network ran"))
    data = Tiny()
    with pytest.raises(ValueError, match=r"KLLoss.*text, motion, code"):
        prepare(model(data, alignment="kl"), data)


def test_the_ring_is_the_order_of_the_data():
    order = ("code", "text", "motion")
    assert model(Tiny(item_set(), modalities=order)).modalities == order
    assert isinstance(LAVIMO(SyntheticItems().dims, alignment="pairwise").alignment, type(build_loss("pairwise")))


# Training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 13, 50])
def test_the_learning_rate_warms_up_for_a_tenth_of_the_steps_and_falls_as_a_cosine(tmp_path, steps):
    seen, data = Rates(), SyntheticItems(batch_size=8)
    trainer(tmp_path, max_epochs=-1, max_steps=steps, limit_val_batches=0, callbacks=[seen]).fit(model(data), data)
    warmup = max(steps // 10, 1)
    cosine = 0.5 * (1 + np.cos(np.pi * np.arange(steps - warmup) / max(steps - warmup, 1)))
    expected = np.concatenate([np.arange(1, warmup + 1) / warmup, cosine])
    np.testing.assert_allclose(seen.rates, 3e-3 * expected, atol=1e-7)


@pytest.mark.parametrize(
    ("build", "settings"),
    [(model, {"reconstruct": "motion", "weight_decay": 0.1}), (cmpm, {"classification_weight": 1.0})],
)
def test_all_that_trains_is_in_the_optimiser_and_has_a_gradient(tmp_path, build, settings):
    """AdamW is Adam where the decay is 0, as it is by default for CMPM."""
    data = Tiny(modalities=("code", "text") if build is cmpm else None)
    module = build(data, **settings)
    fitted = trainer(tmp_path, limit_val_batches=0)
    fitted.fit(module, data)
    (optimiser,) = fitted.optimizers
    assert isinstance(optimiser, torch.optim.AdamW)
    assert optimiser.defaults["weight_decay"] == settings.get("weight_decay", 0)
    held = [id(p) for group in optimiser.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in module.parameters() if p.requires_grad)
    assert [name for name, p in module.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("settings", [{}, {"protocol": "as_published", "reconstruct": "text"}], ids=str)
def test_it_trains_on_paired_features_as_well_as_on_items(tmp_path, settings):
    data = Synthetic(batch_size=32)
    module = LAVIMO(data.dims, alignment="cs", dim=16, **settings)
    untrained = scores(tmp_path, module, data)["average/MAP"]
    trainer(tmp_path, max_epochs=5).fit(module, data)
    assert module.modalities == ("image", "text")
    assert {type(encoder).__name__ for encoder in module.encoders.values()} == {"MLP"}
    mean = data.train_entries("image")[0].double().mean(dim=0)
    torch.testing.assert_close(module.encoders["image"].standardise.mean.double(), mean, rtol=1e-5, atol=1e-6)
    assert scores(tmp_path, module, data)["average/MAP"] > untrained + 0.1


DIGITS = "handwritten/handwritten_6views.mat"


@pytest.mark.slow
@needs(DIGITS)
def test_on_digits_its_defaults_are_above_a_linear_model(tmp_path):
    """The cosines of logistic regressions' posteriors of the three views reach .86."""
    read, parts = loadmat(DATA / DIGITS), ("train", "test")
    label, *views = (np.concatenate([read[f"{name}_{part}"] for part in parts]) for name in ("gt", "x1", "x2", "x3"))
    split = np.repeat(parts, [len(read[f"gt_{part}"]) for part in parts])
    np.savez(
        tmp_path / "digits.npz", label=label.ravel(), split=split, pixels=views[0], fourier=views[1], corr=views[2]
    )
    data = OwnData(tmp_path / "digits.npz", validation_fraction=0, batch_size=128)
    L.seed_everything(0, verbose=False)
    model = LAVIMO(data.dims, alignment=build_loss("pairwise", divergence="kl"))
    trainer(tmp_path, max_epochs=30).fit(model, data)
    assert scores(tmp_path, model, data)["average/MAP"] > 0.885
