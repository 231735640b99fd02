"""Encoders of raw modalities: what they return, padding, gradients, and the fixed parts of sound and text."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_modules.networks.encoders import Encoder, base, build_encoder
from lightning_modules.networks.encoders.base import Standardise

VECTOR = {"kind": "vector", "shape": [6], "rate": None}
SEQUENCE = {"kind": "sequence", "shape": [6], "rate": None}
POSES = {"kind": "sequence", "shape": [5, 3], "rate": None}
DEPTH = {"kind": "sequence", "shape": [16, 12], "rate": None}
SOUND = {"kind": "sound", "shape": [], "rate": 16000}
IMAGE = {"kind": "image", "shape": [], "rate": None}
TEXT = {"kind": "text", "shape": [], "rate": None}

SMALL = {"mels": 8, "width": 16}
TRANSFORMER = {"dim": 16, "depth": 2, "heads": 4}
# name, settings, source, shape of a step as it reaches the encoder (None: whole numbers below 38), declared width
CASES = {
    "features": ("features", {}, SEQUENCE, (6,), 12),
    "log_mel convolution": ("log_mel", SMALL, SOUND, (8,), 32),
    "characters": ("characters", {"width": 16}, TEXT, None, 32),
    "pose_transformer": ("pose_transformer", TRANSFORMER, POSES, (5, 3), 16),
    "words": ("words", {"min_count": 1, "width": 8, "hidden": 8}, TEXT, None, 16),
    "pose_conv": ("pose_conv", {"width": 16}, POSES, (5, 3), 32),
    "signal_conv": ("signal_conv", {"width": 16}, SEQUENCE, (6,), 32),
    "depth_conv": ("depth_conv", {"window": 8, "width": 8}, DEPTH, (16, 12), 32),
    "tokens, frozen": ("tokens", {}, TEXT, (384,), 384),
    "tokens, trained": ("tokens", {"frozen": False}, TEXT, None, 384),
}
PADDED = [case for case in CASES if case != "depth_conv"]
TRAINED = [case for case in CASES if case not in ("features", "tokens, frozen")]
RANDOM_IN_TRAINING = [case for case in TRAINED if not case.startswith("tokens")]


def encoder(case: str) -> Encoder:
    name, settings, source, _, _ = CASES[case]
    torch.manual_seed(0)
    return build_encoder(name, source, **settings)


def entries(case: str, lengths: list[int]) -> tuple[Tensor, Tensor | None]:
    """Entries of the given lengths with their mask; what stands in the padding is anything but zero.

    Motion maps have no steps, and no mask.
    """
    shape = CASES[case][3]
    generator = torch.Generator().manual_seed(1)
    size = (len(lengths), max(lengths))
    if shape is None:
        x = torch.randint(1, 38, size, generator=generator)
    else:
        x = 3 * torch.randn(*size, *shape, generator=generator) + 1
    if case == "depth_conv":
        clips = [clip[:length].numpy() for clip, length in zip(x, lengths, strict=True)]
        return torch.from_numpy(np.stack(encoder(case).front_end(clips, None))), None
    return x, torch.arange(size[1]) < torch.tensor(lengths)[:, None]


def fitted(case: str, lengths: list[int]) -> tuple[Encoder, Tensor, Tensor]:
    module, (x, mask) = encoder(case), entries(case, lengths)
    module.fit(x, mask)
    return module, x, mask


# What every encoder does ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("lengths", [[7, 3, 5], [1], [2, 2]])
def test_one_vector_of_the_declared_width_per_entry(case, lengths):
    module, _, _ = fitted(case, [9, 4])
    vectors = module.eval()(*entries(case, lengths))
    assert vectors.shape == (len(lengths), CASES[case][4])
    assert module.dim == CASES[case][4]
    assert vectors.isfinite().all()


@pytest.mark.parametrize("case", PADDED)
def test_an_entry_and_its_tokens_do_not_depend_on_the_batch_they_are_padded_in(case):
    lengths = [9, 4, 1, 6, 7]
    module, x, mask = fitted(case, lengths)
    together = module.eval()(x, mask)
    rows = [(x[row : row + 1, :length], mask[row : row + 1, :length]) for row, length in enumerate(lengths)]
    for alone, vector in zip(rows, together, strict=True):
        torch.testing.assert_close(module(*alone)[0], vector, rtol=1e-4, atol=1e-5)
    if module.token_dim is not None:
        vectors, tokens, token_mask = module.with_tokens(x, mask)
        torch.testing.assert_close(vectors, together)
        assert tokens.shape == (*token_mask.shape, module.token_dim)
        for alone, whole, held in zip(rows, tokens, token_mask, strict=True):
            _, (token,), (kept,) = module.with_tokens(*alone)
            torch.testing.assert_close(token[kept], whole[held], rtol=1e-4, atol=1e-5)
            assert kept.any()
    longer = torch.cat([x, x], dim=1), torch.cat([mask, torch.zeros_like(mask)], dim=1)
    torch.testing.assert_close(module(*longer), together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", [case for case in PADDED if not case.startswith("tokens")])
def test_without_a_mask_every_step_counts(case):
    module, x, mask = fitted(case, [5, 5])
    torch.testing.assert_close(module.eval()(x), module(x, mask))


@pytest.mark.parametrize("case", TRAINED)
def test_gradients_reach_every_trained_parameter(case):
    module, x, mask = fitted(case, [9, 4, 6])
    vectors = module.train()(x, mask)
    (vectors * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    parameters = dict(module.named_parameters())
    assert parameters
    assert [name for name, p in parameters.items() if p.grad is None] == []
    # Of characters beyond the alphabet there are none here.
    own = {name: p for name, p in parameters.items() if not name.startswith("others.")}
    assert [name for name, p in own.items() if not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("case", ["features", "tokens, frozen"])
def test_fixed_encoders_have_nothing_to_train(case):
    assert list(encoder(case).parameters()) == []


@pytest.mark.parametrize("case", TRAINED)
def test_training_repeats_under_one_seed(case):
    module, x, mask = fitted(case, [9, 4, 6])
    module.train()

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return module(x, mask)

    assert torch.equal(run(3), run(3))
    if case in RANDOM_IN_TRAINING:
        assert not torch.equal(run(3), run(4))


# Standardisation and pooling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [32, 1, 2], ids=["at once", "by columns", "in part"])
@pytest.mark.parametrize("shape", [(4, 7, 5), (3, 6, 2, 5)])
def test_standardise_leaves_padding_out(shape, columns, monkeypatch):
    monkeypatch.setattr(base, "COLUMNS", columns)
    rng = np.random.default_rng(0)
    x, mask = rng.normal(3, 5, shape), np.arange(shape[1]) < rng.integers(1, shape[1] + 1, (shape[0], 1))
    x[..., 2] = 4.0
    standardise = Standardise(5)
    standardise.fit(torch.from_numpy(x).float(), torch.from_numpy(mask))
    valid = x[mask].reshape(-1, 5)
    scale = valid.std(axis=0, ddof=1)
    scale[2] = 1
    np.testing.assert_allclose(standardise.mean, valid.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(standardise.scale, scale, rtol=1e-5)
    expected = (x - valid.mean(axis=0)) / scale
    np.testing.assert_allclose(standardise(torch.from_numpy(x).float()), expected, rtol=1e-4, atol=1e-5)


def test_standardise_of_vectors_takes_those_of_the_mask_alone():
    x, mask = torch.randn(30, 5) * 3 + 1, torch.arange(30) % 3 > 0
    masked, laid_out = Standardise(5), Standardise(5)
    masked.fit(x, mask)
    laid_out.fit(x[mask])
    torch.testing.assert_close(masked.state_dict(), laid_out.state_dict(), rtol=0, atol=0)
    np.testing.assert_allclose(masked.mean, x[mask].numpy().mean(axis=0), rtol=1e-4)


def test_features_of_a_sequence_are_mean_and_maximum():
    module, x, mask = fitted("features", [7, 3, 5])
    rows = x.double().numpy()
    valid = rows[mask.numpy()]
    rows = (rows - valid.mean(axis=0)) / valid.std(axis=0, ddof=1)
    expected = [np.concatenate([r[:n].mean(axis=0), r[:n].max(axis=0)]) for r, n in zip(rows, (7, 3, 5), strict=True)]
    np.testing.assert_allclose(module(x, mask), expected, rtol=1e-4, atol=1e-5)


# Sound and characters --------------------------------------------------------------------------------------------


def log_mel(wave: np.ndarray, mels: int) -> np.ndarray:
    """log(mel power spectrum + 1e-6): windows of 400 samples every 320, Hann, mel = 2595 log10(1 + f/700)."""
    padded = np.pad(wave, 200, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.stack([padded[start : start + 400] * window for start in range(0, len(padded) - 399, 320)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    top = 2595 * np.log10(1 + 8000 / 700)
    corner = 700 * (10 ** (np.linspace(0, top, mels + 2) / 2595) - 1)
    frequency = np.linspace(0, 8000, 201)[:, None]
    rising = (frequency - corner[:-2]) / (corner[1:-1] - corner[:-2])
    falling = (corner[2:] - frequency) / (corner[2:] - corner[1:-1])
    return np.log(power @ np.clip(np.minimum(rising, falling), 0, None) + 1e-6)


def test_log_mel_spectrogram_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    waves = [rng.normal(0, 0.1, n).astype(np.float32) for n in (4000, 16000, 1601)]
    found = build_encoder("log_mel", SOUND, mels=20).front_end(waves, 16000)
    for wave, spectrogram in zip(waves, found, strict=True):
        assert spectrogram.shape == (1 + len(wave) // 320, 20)
        np.testing.assert_allclose(spectrogram, log_mel(wave.astype(np.float64), 20), atol=0.01)


def test_sound_of_another_rate_is_resampled():
    front_end = build_encoder("log_mel", SOUND, mels=40).front_end
    tones = {rate: np.sin(2 * np.pi * 1000 * np.arange(rate) / rate).astype(np.float32) for rate in (8000, 16000)}
    low, high = (front_end([tones[rate]], rate)[0] for rate in (8000, 16000))
    assert low.shape == high.shape
    assert (low[5:-5].argmax(axis=1) == high[5:-5].argmax(axis=1)).all()
    np.testing.assert_allclose(low[5:-5].max(axis=1), high[5:-5].max(axis=1), atol=0.1)


def test_masked_stretches_fit_the_entry_and_not_its_batch():
    """Of every entry at most a tenth of its own steps and 15% of its bands are set to the mean."""
    module = build_encoder("log_mel", SOUND, mels=40, width=16)
    seen = []
    module.convolutions.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    lengths = torch.tensor([20, 200] * 50)
    mask = torch.arange(200) < lengths[:, None]
    torch.manual_seed(0)
    module.train()(torch.ones(100, 200, 40), mask)
    steps = ((seen[0].amax(dim=2) == 0) & mask).sum(dim=1) / lengths
    bands = (seen[0][:, :20].amax(dim=1) == 0).sum(dim=1) / 40
    assert steps.max() <= 0.1 + 1 / 20
    assert bands.max() <= 0.15 + 1 / 40
    assert all(share.unique().numel() > 2 for share in (steps[::2], steps[1::2], bands))
    module.eval()(torch.ones(100, 200, 40), mask)
    assert (seen[1] == 1).all()


def test_characters_are_numbered():
    front_end = build_encoder("characters", TEXT).front_end
    (ids,) = front_end(["Az 90?é"], None)
    assert ids.tolist() == [1, 26, 37, 36, 27, 0, 38 + ord("é")]
    assert ids.dtype == np.int64


# Depth clips ---------------------------------------------------------------------------------------------------------


def test_motion_maps_against_plain_loops():
    clip = np.random.default_rng(0).uniform(-1, 2, (6, 16, 12)).clip(0).astype(np.float32)
    maps = np.zeros((8, 16, 12))
    for t in range(5):
        change = 5 * (clip[t + 1].astype(float) - clip[t])
        for s in range(4):
            weight = max(0, 1 - 3 * abs((t + 0.5) / 5 - s / 3))
            maps[s] += weight * abs(change)
            maps[4 + s] += weight * change
    foreground = [(clip[:, :, column] > 0).sum() for column in range(12)]
    (found,) = build_encoder("depth_conv", DEPTH).front_end([clip], None)
    np.testing.assert_allclose(found, np.concatenate([foreground, maps.ravel()]), rtol=1e-5, atol=1e-5)


def test_a_depth_clip_is_cut_about_its_foreground():
    module, clip = encoder("depth_conv").eval(), np.zeros((4, 16, 12), dtype=np.float32)
    clip[:, 4:12, 1:6] = np.random.default_rng(0).uniform(1, 2, (4, 8, 5))
    moved = np.roll(clip, 5, axis=2)
    vectors = module(torch.from_numpy(np.stack(module.front_end([clip, moved], None))))
    torch.testing.assert_close(*vectors)


# What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source", "settings", "message"),
    [
        ("sentense", TEXT, {}, "unknown encoder 'sentense'; nearest: sentence"),
        ("xyz", TEXT, {}, "unknown encoder 'xyz'; there are: characters, .*words"),
        ("features", TEXT, {}, "Features reads vector or sequence, and the modality holds text"),
        ("features", POSES, {}, r"Features reads vectors, and the steps have shape \(5, 3\)"),
        *((name, VECTOR, {}, "reads text, .* holds vector") for name in ("sentence", "tokens", "characters", "words")),
        *(
            (name, TEXT, {}, "reads (image|sound|sequence|vector), .* holds text")
            for name in ("timm", "log_mel", "mlp")
        ),
        ("log_mel", IMAGE, {}, "LogMel reads sound, and the modality holds image"),
        *((f"pose_{kind}", VECTOR, {}, "reads sequence, .* holds vector") for kind in ("transformer", "conv")),
        ("pose_conv", SEQUENCE, {}, r"poses of shape \(joints, 3\)"),
        ("depth_conv", SEQUENCE, {}, r"frames of shape \(H, W\)"),
        *(("words", TEXT, {name: 0}, f"{name} is 0; expected at least 1") for name in ("vocabulary", "min_count")),
        ("pose_transformer", POSES, {"dim": 20, "heads": 8}, "width 20 cannot have 8 heads"),
    ],
)
def test_a_modality_or_value_that_does_not_fit_is_refused(name, source, settings, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(name, source, **settings)
