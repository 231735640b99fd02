"""LAVIMO in training: every alignment, resumption, precision, what is computed once, and the command line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from lavimo_cases import ENCODERS, Recorder, assert_same_weights, model, scores, trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from tiny_items import CAPTION_OWNER, Tiny
from training import Trainer

from datamodules import Synthetic, SyntheticItems
from datamodules.features.texts import SentenceEmbedding
from lightning_modules import LAVIMO
from lightning_modules.networks.encoders.text import CharacterIds
from losses import build_loss
from losses.gcs import SCHEMES

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter"),
]

NAMES = ("text", "video", "motion", "audio")


# Alignments ---------------------------------------------------------------------------------------------------------

ALIGNMENTS = {f"pairwise {name}": ("pairwise", {"divergence": name}) for name in ("kl", "cs", "infonce", "cmpm_kl")}
ALIGNMENTS |= {f"gcs {scheme}": ("gcs", {"scheme": scheme}) for scheme in SCHEMES}


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("case", ALIGNMENTS)
def test_every_alignment_trains_three_modalities_and_four(tmp_path, case, count):
    name, settings = ALIGNMENTS[case]
    data, recorder = SyntheticItems(NAMES[:count], batch_size=48), Recorder()
    module = model(data, alignment=build_loss(name, **settings))
    untrained = scores(tmp_path, module, data)["average/MAP"]
    trainer(tmp_path, max_epochs=5, limit_val_batches=0, callbacks=[recorder]).fit(module, data)
    assert np.isfinite(recorder.losses).all()
    assert np.mean(recorder.losses[-4:]) < 0.95 * np.mean(recorder.losses[:4])
    assert scores(tmp_path, module, data)["average/MAP"] > untrained + 0.03


def test_two_modalities_train_with_a_loss_of_two(tmp_path):
    data, recorder = SyntheticItems(NAMES[:2]), Recorder()
    trainer(tmp_path, max_epochs=4, limit_val_batches=0, callbacks=[recorder]).fit(model(data, alignment="cs"), data)
    assert np.mean(recorder.losses[-3:]) < np.mean(recorder.losses[:3])


@pytest.mark.parametrize("steps", range(1, 14))
def test_any_number_of_steps_can_be_trained(tmp_path, steps):
    rates = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    data = SyntheticItems(batch_size=8)
    trainer(tmp_path, max_steps=steps, limit_val_batches=0, callbacks=[Watch()]).fit(model(data), data)
    assert len(rates) == steps
    assert all(0 < rate <= 3e-3 for rate in rates)
    assert steps < 10 or rates[-1] < 0.1 * max(rates)


def test_the_learning_rate_warms_up_for_a_tenth_of_the_steps_and_ends_near_0(tmp_path):
    rates = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    data = SyntheticItems(batch_size=8)
    trainer(tmp_path, max_epochs=2, limit_val_batches=0, callbacks=[Watch()]).fit(model(data), data)
    assert len(rates) == 50
    assert int(np.argmax(rates)) == 4
    assert max(rates) == pytest.approx(3e-3)
    cosine = 0.5 * (1 + np.cos(np.pi * np.arange(45) / 45))
    np.testing.assert_allclose(rates[5:], 3e-3 * cosine, atol=1e-7)


def test_only_what_trains_is_in_the_optimiser(tmp_path):
    data = Tiny()
    module = model(data, reconstruct="motion")
    fitted = trainer(tmp_path, limit_val_batches=0)
    fitted.fit(module, data)
    (optimiser,) = fitted.optimizers
    assert isinstance(optimiser, torch.optim.AdamW)
    held = [id(p) for group in optimiser.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in module.parameters() if p.requires_grad)
    assert [name for name, p in module.named_parameters() if p.grad is None] == []


# Repetition and resumption ------------------------------------------------------------------------------------------


class PowerCut(Callback):
    """Ends a run without warning at the start of its third epoch."""

    def on_train_epoch_start(self, trainer, module) -> None:
        if trainer.current_epoch == 2:
            raise RuntimeError("power cut")


DROPPED = {
    "text": {"name": "characters", "width": 16, "dropout": 0.3},
    "motion": {**ENCODERS["motion"], "dropout": 0.2},
}
SETTINGS = {
    "tiny": (Tiny, {"encoders": DROPPED, "dropout": 0.2, "reconstruct": "motion"}),
    "tiny, as published": (Tiny, {"encoders": DROPPED, "dropout": 0.2, "protocol": "as_published"}),
    "synthetic": (SyntheticItems, {"dropout": 0.2}),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_resumed_run_ends_with_the_numbers_of_an_uninterrupted_one(tmp_path, case):
    """Captions are drawn, lengths vary, dropout is random."""
    kind, settings = SETTINGS[case]
    whole = model(kind(), **settings)
    trainer(tmp_path, max_epochs=4).fit(whole, kind())

    saving = ModelCheckpoint(tmp_path / "kept", save_last=True)
    with pytest.raises(RuntimeError, match="power cut"):
        trainer(tmp_path, max_epochs=4, enable_checkpointing=True, callbacks=[saving, PowerCut()]).fit(
            model(kind(), **settings), kind()
        )
    resumed, recorder = model(kind(), seed=5, **settings), Recorder()
    trainer(tmp_path, max_epochs=4, callbacks=[recorder]).fit(
        resumed, kind(), ckpt_path=tmp_path / "kept" / "last.ckpt", weights_only=True
    )
    assert recorder.losses
    assert_same_weights(whole, resumed)
    assert scores(tmp_path, whole, kind()) == scores(tmp_path, resumed, kind())


def test_one_seed_gives_one_run_and_another_seed_another(tmp_path):
    def run(seed: int) -> LAVIMO:
        module = model(Tiny(), seed, encoders=DROPPED)
        trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(module, Tiny())
        return module

    first = run(0)
    assert_same_weights(first, run(0))
    weight = "projections.text.1.weight"
    assert not torch.equal(first.state_dict()[weight], run(1).state_dict()[weight])


def test_a_checkpoint_is_loaded_with_its_settings_and_scores(tmp_path):
    data = Tiny()
    module = model(data, protocol="as_published", ks=(1, 2))
    fitted = trainer(tmp_path, limit_val_batches=0)
    fitted.fit(module, data)
    fitted.save_checkpoint(tmp_path / "model.ckpt")
    loaded = LAVIMO.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert loaded.protocol == "as_published"
    assert_same_weights(module, loaded)
    found = scores(tmp_path, loaded, Tiny())
    assert found == scores(tmp_path, module, data)
    assert "average/R@2" in found
    assert "average/R@5" not in found


@pytest.mark.parametrize("kind", [Tiny, SyntheticItems])
@pytest.mark.parametrize("protocol", ["honest", "as_published"])
def test_bfloat16_trains(tmp_path, kind, protocol):
    data, recorder = kind(), Recorder()
    module = model(data, protocol=protocol, reconstruct="motion")
    trainer(tmp_path, max_epochs=6, precision="bf16-mixed", callbacks=[recorder]).fit(module, data)
    assert np.isfinite(recorder.losses).all()
    assert np.mean(recorder.losses[-3:]) < np.mean(recorder.losses[:3])
    assert all(p.dtype == torch.float32 for p in module.parameters())
    found = scores(tmp_path, module, data, precision="bf16-mixed")
    assert all(np.isfinite(value) for value in found.values())


# What is computed once ----------------------------------------------------------------------------------------------


def test_front_ends_run_once_and_are_read_from_the_disk_afterwards(tmp_path, monkeypatch):
    calls = []
    for kind in (CharacterIds, SentenceEmbedding):

        def counted(self, entries, rate, run=kind.__call__, name=kind.__name__):
            calls.append(name)
            return run(self, entries, rate)

        monkeypatch.setattr(kind, "__call__", counted)
    monkeypatch.setenv("CSD_CACHE", str(tmp_path / "cache"))
    settings = {"encoders": {**ENCODERS, "text": {"name": "sentence"}}, "alignment": "pairwise"}
    first = model(Tiny(), **settings)
    trainer(tmp_path, max_epochs=2).fit(first, Tiny())
    assert sorted(calls) == ["CharacterIds", "SentenceEmbedding"]
    second, data = model(Tiny(), **settings), Tiny()
    fitted = trainer(tmp_path, max_epochs=2)
    fitted.fit(second, data)
    fitted.test(second, data, verbose=False)
    fitted.predict(second, data)
    assert len(calls) == 2
    assert_same_weights(first, second)


# The command line ---------------------------------------------------------------------------------------------------


def csd(command: str, folder, *words: str, **model_settings) -> None:
    from lightning_modules.cli import main

    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    config = {
        "seed_everything": 3,
        "model": {"class_path": "LAVIMO", "init_args": {"dim": 16, **model_settings}},
        "data": {"class_path": "SyntheticItems", "init_args": {"names": list(NAMES[:3])}},
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "devices": 1, "default_root_dir": str(folder), **quiet},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    main([command, "--config", str(folder / "config.yaml"), *words])


@pytest.mark.parametrize("protocol", ["honest", "as_published"])
def test_predict_writes_the_embeddings_of_the_test_items(tmp_path, capsys, protocol):
    csd("fit", tmp_path, "--trainer.max_epochs", "1", protocol=protocol)
    csd("predict", tmp_path, "--ckpt_path", "last", protocol=protocol)
    with np.load(tmp_path / "embeddings.npz") as kept:
        rows = dict(kept)
    data = SyntheticItems(NAMES[:3])
    test = data.indices("standard")
    assert set(rows) == {*NAMES[:3], "label", "id"}
    np.testing.assert_array_equal(rows["id"], test)
    np.testing.assert_array_equal(rows["label"], data.data.label[test])
    for name in NAMES[:3]:
        assert rows[name].shape == (len(test), 16)
        assert rows[name].dtype == np.float32
    assert f"wrote embeddings to {tmp_path / 'embeddings.npz'}: " + ", ".join(
        f"{len(test)} {name}" for name in NAMES[:3]
    ) in (capsys.readouterr().out)


def test_fit_and_test_from_the_command_line(tmp_path):
    csd("fit", tmp_path, alignment="pairwise", encoders={"video": {"name": "features"}}, reconstruct="motion")
    assert list(tmp_path.rglob("last*.ckpt"))


def test_predictions_of_items_with_several_captions(tmp_path):
    data = Tiny()
    (batch,) = trainer(tmp_path).predict(model(data), data)
    captions = np.flatnonzero(np.isin(CAPTION_OWNER, data.indices("standard")))
    assert batch["text"].shape == (len(captions), 16)
    assert batch["id"]["text"].tolist() == captions.tolist()


@pytest.mark.parametrize("settings", [{}, {"protocol": "as_published", "reconstruct": "text"}], ids=str)
def test_it_trains_on_paired_features_as_well_as_on_items(tmp_path, settings) -> None:
    data = Synthetic(batch_size=32)
    model = LAVIMO(data.dims, alignment="cs", dim=16, **settings)
    trainer = Trainer(max_epochs=5, default_root_dir=tmp_path, logger=False, enable_checkpointing=False)
    untrained = _average_map(trainer.test(model, data, verbose=False))
    trainer.fit(model, data)
    assert model.modalities == ("image", "text")
    mean = data.train_entries("image")[0].double().mean(dim=0)
    torch.testing.assert_close(model.encoders["image"].standardise.mean.double(), mean, rtol=1e-5, atol=1e-6)
    assert _average_map(trainer.test(model, data, verbose=False)) > untrained + 0.1


def _average_map(results: list[dict[str, float]]) -> float:
    return next(value for result in results for name, value in result.items() if name.endswith("average/MAP"))
