"""Adapters of CS-Aligner against plain NumPy, the tokens that they read, and low-rank adaptation of text models."""

import numpy as np
import pytest
import torch
from small_models import text_model
from test_encoders import IMAGE, TEXT, entries
from test_lavimo import gelu, normalised
from torch import nn

from lightning_modules.networks.adapters import ADAPTERS, build_adapter
from lightning_modules.networks.encoders import build_encoder

SETTINGS = {"mlp": {"hidden": 5}, "transformer": {"width": 8, "depth": 1, "heads": 2}}
WIDTH, DIM = 6, 4


def adapter(name: str, **settings) -> nn.Module:
    torch.manual_seed(0)
    module = build_adapter(name, WIDTH, DIM, **SETTINGS[name], **settings).double()
    for parameter in module.parameters():  # layer normalisation starts as the identity, which would hide it
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def tokens_of(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Entries of several tokens, with anything but zero in the padding, and their mask."""
    x = 1 + 3 * torch.randn(len(lengths), max(lengths), WIDTH, generator=torch.Generator().manual_seed(1)).double()
    return x, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


# Adapters ------------------------------------------------------------------------------------------------------------


def reference(module: nn.Module, x: np.ndarray) -> np.ndarray:
    """Adapted tokens: LayerNorm(W (x + W_2 GELU(W_1 x + b_1) + b_2) + b)."""
    w = {key: value.numpy() for key, value in module.state_dict().items()}
    hidden = gelu(x @ w["bottleneck.0.weight"].T + w["bottleneck.0.bias"])
    x = x + hidden @ w["bottleneck.2.weight"].T + w["bottleneck.2.bias"]
    return normalised(x @ w["project.1.weight"].T + w["project.1.bias"], w, "project.2")


def test_the_mlp_is_that_of_the_formula_and_its_vector_the_mean():
    module, (x, mask) = adapter("mlp"), tokens_of(5, 2, 3)
    vectors, adapted = module(x, mask)
    expected = reference(module, x.numpy())
    np.testing.assert_allclose(adapted.detach(), expected, rtol=1e-9, atol=1e-12)
    for vector, row, keep in zip(vectors.detach().numpy(), expected, mask.numpy(), strict=True):
        np.testing.assert_allclose(vector, row[keep].mean(0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ADAPTERS)
def test_padding_changes_nothing(name):
    module, (x, mask) = adapter(name).eval(), tokens_of(5, 2, 1)
    vectors, adapted = module(x, mask)
    assert vectors.shape == (3, DIM)
    assert adapted.shape == (3, 5, DIM)
    for row, length in enumerate((5, 2, 1)):
        vector, alone = module(x[row : row + 1, :length], None)
        torch.testing.assert_close(vector[0], vectors[row], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(alone[0], adapted[row, :length], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_token_that_counts_counts(name):
    module, (x, mask) = adapter(name).eval(), tokens_of(5, 2, 3)
    x.requires_grad_()
    vectors, _ = module(x, mask)
    (vectors * torch.randn(3, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(2))).sum().backward()
    assert ((x.grad != 0).any(dim=2) == mask).all()
    assert [key for key, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_what_there_is_not_is_refused():
    with pytest.raises(ValueError, match="unknown adapter 'mpl'; nearest: mlp"):
        build_adapter("mpl", 4, 4)
    with pytest.raises(TypeError, match="adapter 'mlp' has no setting 'width'; there are: dropout, hidden"):
        build_adapter("mlp", 4, 4, width=3)
    with pytest.raises(ValueError, match="width 10 cannot have 4 heads"):
        build_adapter("transformer", 4, 4, width=10)


# Tokens of encoders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "size", "cells"),
    [("test_resnet", 64, 4), ("test_vit", 160, 100), ("test_mambaout", 64, 4), ("mobilenetv3_small_050", 64, 4)],
)
def test_tokens_of_an_image_are_the_cells_of_its_feature_map(model, size, cells):
    torch.manual_seed(0)
    module = build_encoder("timm", IMAGE, model=model, size=size).eval()
    x = torch.randint(0, 256, (2, 3, *[module.front_end.size] * 2), dtype=torch.uint8)
    with torch.no_grad():
        vectors, tokens, mask = module.with_tokens(x)
        torch.testing.assert_close(vectors, module(x))
        assert mask is None
        assert tokens.shape == (2, cells, module.token_dim)
        if model == "test_resnet":  # its vector is the mean over the cells
            torch.testing.assert_close(tokens.mean(dim=1), vectors)
        if model == "test_vit":  # its vector is made from the class token, which is no cell
            patches = module.network.forward_features(module._pixels(x))[:, 1:]
            assert torch.equal(tokens, patches)


def test_encoders_of_one_vector_have_no_tokens():
    for module in (build_encoder("sentence", TEXT), build_encoder("features", {"kind": "vector", "shape": [4]})):
        assert module.token_dim is None
    with pytest.raises(NotImplementedError, match="Sentence has no tokens"):
        build_encoder("sentence", TEXT).with_tokens(torch.zeros(1, 384))


def test_features_in_their_own_units_are_left_as_they_are():
    module = build_encoder("features", {"kind": "vector", "shape": [4]}, standardise=False)
    x = torch.randn(5, 4) * 3 + 2
    module.fit(x, None)
    assert torch.equal(module(x), x)
    assert module.state_dict() == {}


# Low-rank adaptation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "adapted"), [("bert", "query"), ("distilbert", "q_lin"), ("mpnet", "q")])
def test_lora_starts_as_the_model_and_trains_its_own_weights_alone(tmp_path, kind, adapted):
    folder = text_model(tmp_path, kind)
    plain = build_encoder("tokens", TEXT, model=folder, frozen=False).eval()
    module = build_encoder("tokens", TEXT, model=folder, frozen=False, lora_rank=3).train()
    x, mask = entries("tokens, trained", [7, 4])
    torch.testing.assert_close(module(x, mask), plain(x, mask))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):  # the first step moves B alone, for it is zero at the start
        optimiser.zero_grad()
        module(x, mask).square().sum().backward()
        optimiser.step()
    moved = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    low_rank = {name for name in before if "lora_" in name}
    assert moved == low_rank
    assert {name for name, p in module.named_parameters() if p.requires_grad} == low_rank
    assert len(low_rank) == 2 * 2 * 2  # two factors for query and value, in two layers
    assert {before[name].shape for name in low_rank if f".{adapted}.lora_A" in name} == {(3, 16)}
    assert not torch.allclose(module(x, mask), plain(x, mask))


def test_lora_of_the_installed_model_leaves_dropout_off_in_training():
    module = build_encoder("tokens", TEXT, frozen=False, lora_rank=8)
    x, mask = entries("tokens, trained", [7, 4])
    with torch.no_grad():
        assert torch.equal(module.train()(x, mask), module.eval()(x, mask))
        assert module.training is False
        assert module.train().training is True
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert trained == 6 * 2 * 2 * 8 * 384  # six layers, query and value, two factors of rank 8


def test_lora_reads_equal_texts_of_a_batch_once_and_trains_as_if_it_read_each():
    torch.manual_seed(0)
    module = build_encoder("tokens", TEXT, frozen=False, lora_rank=2).train()
    for name, weight in module.named_parameters():
        if "lora_B" in name:  # zero at the start, which would hide the gradient of A
            nn.init.normal_(weight, std=0.1)
    texts, mask = entries("tokens, trained", [7, 4, 5])
    which = torch.tensor([2, 0, 0, 1, 2, 0])
    x, mask = texts[which], mask[which]
    x[~mask] = 99  # padding is no text
    into = torch.randn(len(x), module.dim)
    read = []
    module.model.register_forward_pre_hook(lambda _, __, given: read.append(len(given["input_ids"])), with_kwargs=True)
    found = []
    for rows in (torch.arange(6).split(6), torch.arange(6).split(1)):
        module.zero_grad()
        vectors, tokens = map(torch.cat, zip(*(module.with_tokens(x[row], mask[row])[:2] for row in rows), strict=True))
        (vectors * into).sum().backward()
        found.append([vectors, tokens * mask[..., None], *(p.grad for p in module.parameters() if p.requires_grad)])
    assert read == [3, *[1] * 6]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("settings", [{"lora_rank": 8}, {"lora_rank": -1, "frozen": False}])
def test_lora_of_a_frozen_model_or_of_no_rank_is_refused(settings):
    with pytest.raises(ValueError, match="takes a rank of 1 or more and frozen false"):
        build_encoder("tokens", TEXT, **settings)


def test_lora_of_a_model_with_other_names_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_modules.networks.encoders.pretrained.PROJECTIONS", ("queries",))
    with pytest.raises(ValueError, match=r"no linear layers named queries for LoRA to adapt; they are dense, key"):
        build_encoder("tokens", TEXT, model=text_model(tmp_path, "bert"), frozen=False, lora_rank=2)
