"""GRAM and Symile: volumes and products over all modalities at once, what they cannot see, and the learned scale."""

import lightning as L
import pytest
import torch
from loss_cases import make_embeddings
from small_models import cmpm, few, jfse, lavimo, pairs
from torch import Tensor, nn
from torch.nn import functional as F
from training import trainer

from datamodules import SyntheticItems
from losses import build_loss
from losses.gram import gram_volume


def unit_vectors(modalities: int, dtype: torch.dtype = torch.float64, rows: int = 40, width: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(modalities)
    drawn = torch.randn(modalities, rows, width, generator=generator, dtype=torch.float64)
    return list(F.normalize(drawn, dim=-1).to(dtype))


# GRAM


@pytest.mark.parametrize("modalities", [2, 3, 4, 5])
def test_a_volume_is_the_root_of_the_determinant_of_stacked_gram_matrices(modalities):
    anchor, *others = unit_vectors(modalities)
    vectors = [anchor[:, None].expand(-1, len(anchor), -1), *(x.expand(len(anchor), -1, -1) for x in others)]
    stacked = torch.stack(vectors, dim=2)  # (R, N, M, D)
    expected = torch.linalg.det(stacked @ stacked.mT).abs().sqrt()
    torch.testing.assert_close(gram_volume(anchor, others), expected, rtol=1e-10, atol=1e-10)
    volumes = gram_volume(anchor.float(), [x.float() for x in others])
    large = expected > 0.05
    torch.testing.assert_close(volumes[large].double(), expected[large], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_a_volume_of_two_parallel_or_opposite_vectors_is_zero_whatever_the_others_with_gradient_zero(
    modalities, sign, dtype
):
    """The known weakness: between items too, where nothing else matches."""
    anchor, *others = unit_vectors(modalities, dtype)
    others[0][3] = sign * anchor[5]
    if modalities > 2:
        others[1][7] = sign * others[0][7]
    leaves = [x.requires_grad_() for x in (anchor, *others)]
    volumes = gram_volume(leaves[0], leaves[1:])
    flat = torch.zeros_like(volumes, dtype=torch.bool)
    flat[5, 3] = True
    if modalities > 2:
        flat[:, 7] = True
    assert (volumes[flat] < (1e-3 if dtype == torch.float32 else 1e-7)).all()
    assert (volumes[~flat] > 1e-3).all()
    gradients = torch.autograd.grad(volumes[flat].sum(), leaves)
    assert all(gradient.isfinite().all() and gradient.abs().max() < 1e-3 for gradient in gradients)


def test_of_two_modalities_it_cannot_tell_a_vector_from_its_opposite():
    embeddings = make_embeddings(2)
    opposite = {**embeddings, "text": -embeddings["text"]}
    assert build_loss("gram")(embeddings).total == build_loss("gram")(opposite).total


def test_the_anchor_is_the_text_or_the_first_or_the_one_named():
    embeddings = make_embeddings(3)
    by_default = build_loss("gram")(embeddings).parts
    assert list(by_default) == ["text->image+audio", "image+audio->text"]
    assert next(iter(build_loss("gram", anchor="audio")(embeddings).parts)) == "audio->image+text"
    del embeddings["text"]
    assert next(iter(build_loss("gram")(embeddings).parts)) == "image->audio"
    with pytest.raises(ValueError, match=r"'sound'.*image, audio|'sound'.*audio, image"):
        build_loss("gram", anchor="sound")(embeddings)


# Symile


def exclusive_or(items: int = 64) -> dict[str, Tensor]:
    """Three modalities of one bit, the last the exclusive or of the others: any two of them are independent."""
    bits = torch.arange(items)
    a, b = bits % 2, bits // 2 % 2
    return {name: F.one_hot(bit, 2).float() for name, bit in (("a", a), ("b", b), ("c", a ^ b))}


def learned_from(bits: dict[str, Tensor], name: str, **keywords) -> dict[str, Tensor]:
    """Unit embeddings of the bits by linear encoders, trained by a loss for which every item is its own class."""
    L.seed_everything(0, verbose=False)
    loss, layers = build_loss(name, **keywords), nn.ModuleDict({modality: nn.Linear(2, 8) for modality in bits})
    optimiser = torch.optim.Adam([*layers.parameters(), *loss.parameters()], lr=0.05)
    for _ in range(100):
        optimiser.zero_grad()
        embeddings = {modality: layers[modality](x) for modality, x in bits.items()}
        loss(embeddings, torch.arange(len(embeddings["a"]))).total.backward()
        optimiser.step()
    with torch.no_grad():
        return {modality: F.normalize(layers[modality](x), dim=1) for modality, x in bits.items()}


@pytest.mark.parametrize(
    ("name", "keywords", "least", "most"),
    [
        ("symile", {}, 1.0, 1.0),
        ("symile", {"negatives": "shuffled"}, 1.0, 1.0),
        ("pairwise", {"divergence": "infonce"}, 0.0, 0.75),
        ("gcs", {"scheme": "mixed"}, 0.0, 0.75),
    ],
)
def test_symile_learns_an_exclusive_or_which_losses_of_pairs_do_not(name, keywords, least, most):
    """Share of items whose third bit is found by the two others together: by products, or by sums of cosines."""
    learned = learned_from(exclusive_or(), name, **keywords)
    query = learned["a"] * learned["b"] if name == "symile" else learned["a"] + learned["b"]
    scores = query @ learned["c"].T
    right = exclusive_or()["c"].argmax(dim=1)
    found = torch.stack([scores[:, right == bit].mean(dim=1) for bit in (0, 1)]).argmax(dim=0)
    assert least <= float((found == right).float().mean()) <= most


def test_symile_compares_no_pairs():
    """Two modalities that match perfectly, and a third of which nothing else depends: all products are 0."""
    one, other = torch.eye(6)[:3], torch.eye(6)[3:]
    embeddings = {"image": one, "text": one, "audio": other}
    apart = {"image": one, "text": one.roll(1, 0), "audio": other}
    losses = [build_loss("symile")(each).total for each in (embeddings, apart)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(losses[0], torch.tensor(9.0).log())


def test_all_negatives_are_for_three_modalities_and_the_refusal_names_the_others():
    with pytest.raises(ValueError, match=r"'all'.*4.*'shuffled'"):
        build_loss("symile")(make_embeddings(4))


@pytest.mark.parametrize(
    ("data", "model"),
    [(SyntheticItems(batch_size=48), lavimo), (few(), jfse), (pairs(batch_size=48), cmpm)],
    ids=["LAVIMO", "JFSE", "CMPM"],
)
def test_a_learned_scale_trains_with_the_model_and_a_fixed_one_is_no_parameter(tmp_path, data, model):
    module = model(data, alignment="symile")
    start = module.alignment.log_scale.detach().clone()
    torch.testing.assert_close(start.exp(), torch.tensor(1 / 0.07))
    trainer(tmp_path, limit_train_batches=2, limit_val_batches=0).fit(module, data)
    assert module.alignment.log_scale != start
    assert list(build_loss("symile", logit_scale=5.0).parameters()) == []
