"""CS-Aligner: its objective against plain NumPy, what settings change, targets, refusals, and training."""

import itertools

import numpy as np
import pytest
import reference
import torch
from lightning.pytorch.callbacks import Callback
from small_models import ENCODERS, PAIR, TEXT_AND_MOTION, TRANSFORMER, Drawn, first_step
from small_models import cs_aligner as model
from small_models import easy as synthetic
from test_adapters import reference as adapted_by
from tiny_items import N, Tiny, with_modality
from training import Recorder, predicted, scores, trainer

from datamodules import SyntheticItems
from datamodules.items import Modality
from lightning_modules import CSAligner
from losses.common.matching import unit
from losses.kernel import kernel_cs_divergence

# The objective, from the formulas ------------------------------------------------------------------------------------


def embedded(module: CSAligner, name: str, rows: torch.Tensor) -> np.ndarray:
    """Adapted embeddings of features, standardised by the encoder."""
    standardise = module.encoders[name].standardise
    rows = (rows.double().numpy() - standardise.mean.numpy()) / standardise.scale.numpy()
    return adapted_by(module.adapters[name], rows)


@pytest.mark.parametrize(
    ("alignment", "weight", "unpaired", "sigma"),
    [("infonce", 0.7, 7, 0.5), ("infonce", 0.0, 0, 1.0), ("cs", 3.0, 0, 0.5), (None, 3.0, 7, 1.0)],
)
def test_the_loss_of_two_modalities_is_that_of_the_formula(tmp_path, alignment, weight, unpaired, sigma):
    settings = {"alignment": alignment, "divergence_weight": weight, "sigma": sigma, "unpaired": unpaired}
    module, seen = first_step(tmp_path, model, synthetic(batch_size=16, paired_fraction=0.5), **settings)
    (batch,) = seen.batches
    paired = {name: embedded(module, name, batch[name]) for name in PAIR}
    drawn = {name: embedded(module, name, rows) for name, rows in seen.unpaired}
    assert {name: rows.shape for name, rows in drawn.items()} == (dict.fromkeys(PAIR, (7, 8)) if unpaired else {})
    whole = {name: np.concatenate([rows, drawn[name]]) if unpaired else rows for name, rows in paired.items()}
    labels = batch["label"].numpy()
    pairs = sum(reference.LOSSES[alignment](paired, labels).values()) if alignment else 0.0
    distributions = reference.kernel_cs(*map(reference.unit_rows, whole.values()), sigma)
    assert seen.losses == [pytest.approx(pairs + weight * distributions, rel=1e-9)]
    assert seen.logged.get("train/alignment", 0.0) == pytest.approx(pairs, rel=1e-6)
    assert weight == 0 or seen.logged["train/divergence"] == pytest.approx(distributions, rel=1e-6)


@pytest.mark.parametrize("count", [3, 4])
def test_of_more_modalities_it_is_pairwise_infonce_and_the_generalised_divergence(tmp_path, count):
    names = ("text", "video", "motion", "audio")[:count]
    module, seen = first_step(tmp_path, model, SyntheticItems(names, batch_size=16))
    (batch,) = seen.batches
    rows = {name: embedded(module, name, batch[name]) for name in names}
    pairs = sum(reference.pairwise_parts(rows, None, "infonce").values())
    distributions = reference.kernel_gcs([reference.unit_rows(x) for x in rows.values()], 1.0)
    assert seen.losses == [pytest.approx(pairs + distributions, rel=1e-9)]


@pytest.mark.parametrize("adapter", [{"name": "mlp"}, TRANSFORMER])
@pytest.mark.parametrize("count", [2, 3])
def test_the_token_term_is_that_of_a_plain_loop_over_items(tmp_path, adapter, count):
    """Over the pairs of modalities; of three, the code is a second text."""
    codes = with_modality("code", Modality([f"code {i}" for i in range(N)]))
    data = Tiny(codes, batch_size=8, modalities=("text", "motion", "code")[:count])
    settings = {"alignment": None, "divergence_weight": 0.0, "token_weight": 0.3, "sigma": 0.8}
    encoders = {name: {**ENCODERS, "code": ENCODERS["text"]}[name] for name in data.modalities}
    module, seen = first_step(tmp_path, model, data, adapter=adapter, encoders=encoders, **settings)
    (batch,) = seen.batches
    values = []
    with torch.no_grad():
        for item in range(len(batch["id"])):
            samples = []
            for name in module.modalities:
                keep = batch["masks"][name][item]
                _, tokens, mask = module.encoders[name].with_tokens(batch[name][item][keep][None], keep[keep][None])
                _, tokens = module.adapters[name](tokens, mask)
                samples.append(reference.unit_rows(tokens[mask].numpy()))
            values.append(sum(reference.kernel_cs(x, y, 0.8) for x, y in itertools.combinations(samples, 2)))
    # Positions in a sequence are of the default precision, which in a step of a trainer is that of the trainer.
    assert seen.losses == [pytest.approx(0.3 * np.mean(values), rel=1e-6)]
    assert seen.logged["train/tokens"] == pytest.approx(np.mean(values), rel=1e-6)
    assert np.std(values) > 1e-3


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
@pytest.mark.parametrize("token_weight", [None, 0.0, 1.0])
def test_a_transformer_reads_tokens_and_the_others_do_for_a_token_term(kind, token_weight):
    built = model(Tiny(**TEXT_AND_MOTION), adapter={"name": kind}, token_weight=token_weight)
    for name, encoder in built.encoders.items():
        first = next(p for p in built.adapters[name].parameters() if p.ndim == 2)
        reads_tokens = kind == "transformer" or token_weight is not None
        assert first.shape[1] == (encoder.token_dim if reads_tokens else encoder.dim)
    assert built.encoders["text"].token_dim != built.encoders["text"].dim


# A target ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["mlp", "transformer"])
def test_the_target_stays_as_it_is_and_the_others_move_into_its_space(tmp_path, adapter):
    data = synthetic(batch_size=16)
    module = model(data, target="image", adapter={"name": adapter})
    features = data.arrays("standard")[0]["image"]
    before = scores(tmp_path, module, data)["average/MAP"]
    np.testing.assert_array_equal(predicted(tmp_path, module, data)["image"], features)
    trainer(tmp_path, max_epochs=8, limit_val_batches=0).fit(module, data)
    found = predicted(tmp_path, module, data)
    np.testing.assert_array_equal(found["image"], features)
    assert found["text"].shape == features.shape
    length = np.linalg.norm(data.arrays("train")[0]["image"], axis=1).mean()
    np.testing.assert_allclose(np.linalg.norm(found["text"], axis=1), length, rtol=1e-5)
    assert list(module.adapters) == ["text"]
    assert scores(tmp_path, module, data)["average/MAP"] > before + 0.05


def test_a_target_that_is_standardised_where_that_is_asked_for(tmp_path):
    data = synthetic(batch_size=16)
    module = model(data, target="image", encoders={"image": {"name": "features"}})
    trainer(tmp_path, limit_val_batches=0).fit(module, data)
    train, test = (data.arrays(split)[0]["image"].astype(np.float64) for split in ("train", "standard"))
    expected = (test - train.mean(0)) / train.std(0, ddof=1)
    np.testing.assert_allclose(predicted(tmp_path, module, data)["image"], expected, rtol=1e-3, atol=1e-4)


def test_tokens_are_compared_in_the_space_of_a_frozen_target(tmp_path):
    """Words of a frozen text model, and steps of a motion adapted to them."""
    data = Tiny(batch_size=8, **TEXT_AND_MOTION)
    encoders = {"text": {"name": "tokens"}, "motion": ENCODERS["motion"]}
    module, seen = first_step(tmp_path, model, data, target="text", token_weight=0.5, encoders=encoders)
    (batch,) = seen.batches
    with torch.no_grad():
        _, words, _ = module._adapted("text", batch["text"], batch["masks"]["text"])
        assert torch.equal(words, batch["text"])
        assert module._adapted("motion", batch["motion"], batch["masks"]["motion"])[1].shape[-1] == words.shape[-1]
    assert seen.logged["train/tokens"] > 0
    assert any("adapters.motion" in name for name in seen.gradients[0])


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"divergence_weight": -1.0}, "divergence_weight is -1.0; expected 0 or more"),
        ({"token_weight": -0.1}, "token_weight is -0.1; expected 0 or more"),
        ({"unpaired": -1}, "unpaired is -1; expected 0 or more"),
        ({"sigma": 0.0}, "sigma must be positive and finite"),
        ({"alignment": None, "divergence_weight": 0.0}, "nothing to train by"),
        ({"unpaired": 3, "divergence_weight": 0.0}, "unpaired samples enter the divergence alone"),
        ({"alignment": "infonec"}, "unknown loss 'infonec'; nearest: "),
        ({"adapter": {"name": "lora"}}, "unknown adapter 'lora'; there are: mlp, transformer"),
        ({"adapter": {"dropout": 0.1}}, "unknown adapter ''"),
        ({"target": "audio", "dim": None}, "no modality 'audio'; they have text, motion"),
        ({"target": "text", "dim": 8}, "dim is 8, and the joint space is that of the target 'text'"),
        ({"target": "text"}, "target 'text' stays as it is, and its encoder, Characters, trains"),
        (
            {"encoders": {"text": {"name": "sentence"}, "motion": ENCODERS["motion"]}, "token_weight": 1.0},
            "the encoder of 'text', Sentence, has none as it is set; those that can have them are features, tokens, ",
        ),
        (
            {"encoders": {**ENCODERS, "motion": {"name": "features"}}, "target": "motion", "token_weight": 1.0},
            r"target 'motion' .* Features, are 3 wide, its vectors 6; take frozen tokens",
        ),
        ({"adapter": {"name": "mlp", "depth": 2}}, "adapter 'mlp' has no setting 'depth'; nearest: dropout"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    data = Tiny(**TEXT_AND_MOTION)
    if "encoders" in settings:
        settings = {**settings, "encoders": {name: settings["encoders"][name] for name in data.modalities}}
    with pytest.raises((ValueError, TypeError), match=message):
        model(data, **settings)


# Unpaired samples ----------------------------------------------------------------------------------------------------


def test_unpaired_samples_receive_gradient(tmp_path):
    outputs = []

    class Watch(Callback):
        def on_train_start(self, trainer, module) -> None:
            def keep(adapter, arguments, output):
                output[0].retain_grad()
                outputs.append(output[0])

            for adapter in module.adapters.values():
                adapter.register_forward_hook(keep)

    data = synthetic(batch_size=16, paired_fraction=0.5)
    fitted = trainer(tmp_path, callbacks=[Watch()], limit_train_batches=1, limit_val_batches=0)
    fitted.fit(model(data, unpaired=9), data)
    assert [len(rows) for rows in outputs] == [16, 16, 9, 9]
    assert all((rows.grad != 0).any(dim=1).all() for rows in outputs)


def test_unpaired_samples_are_those_of_the_data_drawn_anew_and_per_modality(tmp_path):
    data, seen = synthetic(batch_size=8, paired_fraction=0.5), Drawn()
    module = model(data, unpaired=20)
    trainer(tmp_path, callbacks=[seen], limit_val_batches=0).fit(module, data)
    assert not [name for name in module.state_dict() if "unpaired" in name]
    pools = {name: data.unpaired_entries(name)[0] for name in PAIR}
    drawn = {name: [] for name in PAIR}
    for name, rows in seen.unpaired:
        drawn[name].append([int((pools[name] == row).all(dim=1).nonzero()[0, 0]) for row in rows])
    assert all(len(steps) == len(seen.losses) for steps in drawn.values())
    assert len({tuple(step) for steps in drawn.values() for step in steps}) == 2 * len(seen.losses)
    for name, steps in drawn.items():
        seen_at_all = np.unique(steps)
        assert len(seen_at_all) > 0.6 * len(pools[name])


def test_every_caption_enters_the_divergence(tmp_path):
    """Drawn from all captions of the training items, though every item is paired."""
    data, seen = Tiny(**TEXT_AND_MOTION), Drawn()
    module = model(data, unpaired=12)
    trainer(tmp_path, callbacks=[seen], max_epochs=8, limit_val_batches=0).fit(module, data)
    assert {(name, len(rows)) for name, rows in seen.unpaired} == {("text", 12)}
    pool = data.unpaired_entries("text")[0]
    assert len(pool) > len(data.indices("train"))
    drawn = torch.cat([rows for _, rows in seen.unpaired])
    assert all((drawn == row).all(dim=1).any() for row in pool)


@pytest.mark.parametrize("build", [synthetic, lambda: Tiny(modalities=("motion", "code"))], ids=["features", "items"])
def test_data_without_unpaired_samples_are_refused_with_what_to_do(tmp_path, build):
    data = build()
    with pytest.raises(ValueError, match="unpaired is 4, and the data have no unpaired samples: set paired_fraction"):
        trainer(tmp_path).fit(model(data, unpaired=4), data)


# Training ------------------------------------------------------------------------------------------------------------

TRAINED = {
    "paired features": (lambda: synthetic(batch_size=16), {}),
    "unpaired features": (lambda: synthetic(batch_size=16, paired_fraction=0.7), {"unpaired": 16}),
    "three modalities": (lambda: SyntheticItems(batch_size=24), {"adapter": TRANSFORMER, "learning_rate": 1e-2}),
    "divergence alone": (lambda: synthetic(batch_size=16), {"alignment": None}),
}


@pytest.mark.parametrize("case", TRAINED)
def test_it_trains(tmp_path, case):
    build, settings = TRAINED[case]
    data, seen = build(), Recorder()
    module = model(data, **settings)
    untrained = scores(tmp_path, module, data)["average/MAP"]
    trainer(tmp_path, max_epochs=8, limit_val_batches=0, callbacks=[seen]).fit(module, data)
    assert np.isfinite(seen.losses).all()
    assert np.mean(seen.losses[-4:]) < 0.95 * np.mean(seen.losses[:4])
    if settings.get("alignment", "") is not None:  # the divergence knows no pairs
        assert scores(tmp_path, module, data)["average/MAP"] > untrained + 0.05


def test_the_divergence_brings_the_distributions_together(tmp_path):
    """On test items, far more than InfoNCE alone does."""
    left = {}
    for weight in (0.0, 3.0):
        data = synthetic(batch_size=16)
        module = model(data, divergence_weight=weight)
        trainer(tmp_path, max_epochs=8, limit_val_batches=0).fit(module, data)
        rows = predicted(tmp_path, module, data)
        left[weight] = float(kernel_cs_divergence(*(unit(torch.from_numpy(rows[name])) for name in PAIR), 1.0))
    assert left[3.0] < 0.3 * left[0.0]
