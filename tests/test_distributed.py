"""The models on two and four processes: steps and evaluations are those of one."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from processes import assert_same_steps, on_processes
from small_models import ENCODERS, TEXT_AND_MOTION, Drawn, cmpm, cs_aligner, easy, few, jfse, lavimo, pairs, text_model
from tiny_items import N, Tiny, with_modality
from torch.testing import assert_close
from training import Recorder, scores, trainer

from datamodules import SyntheticItems
from datamodules.items import Modality

pytestmark = pytest.mark.slow


def one_caption(**settings) -> Tiny:
    """Tiny items with one caption each: which of several is drawn depends on the items of a process's batch."""
    captions = Modality([f"the only caption of item {i}" for i in range(N)])
    return Tiny(with_modality("text", captions), **settings)


def text_and_motion(**settings) -> Tiny:
    return one_caption(**TEXT_AND_MOTION, **settings)


RECONSTRUCT = {"reconstruct": "motion"}
# JFSE has no dropout then, and its alignment the same weight under both protocols.
EXACT = {"dropout": 0.0, "alignment_weight": 1.0}
PUBLISHED = {**EXACT, "protocol": "as_published"}
# low-rank adapters: of the text model in the folder of the run
ADAPTED = {"name": "tokens", "frozen": False, "lora_rank": 2}
# model, data for a batch size, global batch, settings of the model
STEPS = {
    "lavimo, gcs": (lavimo, SyntheticItems, 48, {"alignment": "gcs"}),
    "lavimo, reconstruction": (lavimo, SyntheticItems, 48, {"alignment": "gcs", **RECONSTRUCT}),
    "lavimo, as published": (lavimo, SyntheticItems, 48, {"alignment": "gcs", "protocol": "as_published"}),
    "lavimo, symile": (lavimo, SyntheticItems, 48, {"alignment": "symile"}),
    "lavimo, gram": (lavimo, SyntheticItems, 48, {"alignment": "gram"}),
    "lavimo, pairwise kl": (lavimo, SyntheticItems, 48, {"alignment": "pairwise"}),
    "lavimo, pairwise kl, tiny": (lavimo, one_caption, 12, {"alignment": "pairwise", **RECONSTRUCT}),
    "cs-aligner, two modalities": (cs_aligner, easy, 32, {}),
    "cs-aligner, divergence alone": (cs_aligner, easy, 32, {"alignment": None}),
    "cs-aligner, a target": (cs_aligner, easy, 32, {"target": "image"}),
    "cs-aligner, three modalities": (cs_aligner, SyntheticItems, 48, {}),
    "cs-aligner, tokens": (cs_aligner, text_and_motion, 12, {"token_weight": 0.5}),
    "cs-aligner, low-rank adapters": (cs_aligner, text_and_motion, 12, {"encoders": {"text": ADAPTED}}),
    **{f"jfse, {loss}": (jfse, few, 16, {**EXACT, "alignment": loss}) for loss in (None, "cs", "mmd", "symile")},
    "jfse, as published": (jfse, partial(few, protocol="as_published"), 16, PUBLISHED),
    "cmpm, classification": (cmpm, pairs, 48, {"classification_weight": 0.7}),
}
PROTOCOLS = ("honest", "as_published")
EPOCHS = [(protocol, reconstruct) for protocol in PROTOCOLS for reconstruct in (None, "motion")]
EVALUATIONS = [(protocol, kind) for protocol in PROTOCOLS for kind in (SyntheticItems, Tiny)]


def two_steps(folder: Path, case: str, processes: int, **settings) -> dict:
    """Weights before and after two steps without dropout, each an epoch in float64, their gradients and items."""
    model, kind, batch, arguments = STEPS[case]
    if "encoders" in arguments:
        text = {**ADAPTED, "model": str(folder / "text_model")}
        arguments = {"encoders": {"text": text, "motion": ENCODERS["motion"]}}
    data, seen = kind(batch_size=batch // processes), Recorder()
    module = model(data, **arguments)
    once = {"max_epochs": 2, "limit_train_batches": 1, "limit_val_batches": 0, "precision": "64-true"}
    trainer(folder, **once, callbacks=[seen], **settings).fit(module, data)
    found = {"start": seen.initial, "weights": dict(module.state_dict()), "gradients": seen.gradients}
    return found | {"items": [batch["id"].tolist() for batch in seen.batches]}


def evaluation(folder: Path, protocol: str, kind, processes: int, **settings) -> tuple[dict, dict, dict]:
    """Scores and sizes of a LAVIMO that did not train, and what validation logs after an epoch without learning.

    In float64: in float32 a batch of another size rounds otherwise, and two items of nearly one score change places.
    """
    settings |= {"precision": "64-true"}
    data = kind(batch_size=(48 if kind is SyntheticItems else 12) // processes)
    module = lavimo(kind(), protocol=protocol, learning_rate=1e-12)
    fitted = trainer(folder, limit_train_batches=1, **settings)
    fitted.fit(module, data)
    validated = {name: float(x) for name, x in fitted.callback_metrics.items() if name.startswith("val/")}
    return scores(folder, module, kind(), **settings), module.sizes["standard"], validated


def epoch(folder: Path, protocol: str, reconstruct: str | None, **settings) -> dict[str, torch.Tensor]:
    """An epoch of several steps: DistributedDataParallel stops at the second where a parameter has no gradient."""
    encoders = {**ENCODERS, "motion": {**ENCODERS["motion"], "dropout": 0.2}}
    recorder, module = Recorder(), lavimo(Tiny(), encoders=encoders, protocol=protocol, reconstruct=reconstruct)
    trainer(folder, max_epochs=2, callbacks=[recorder], **settings).fit(module, Tiny(batch_size=3))
    assert len(recorder.losses) >= 4
    assert np.isfinite(recorder.losses).all()
    return dict(module.state_dict())


def with_unpaired(folder: Path, **settings) -> tuple[list[np.ndarray], dict[str, torch.Tensor]]:
    """The unpaired samples that a CS-Aligner drew, and its weights."""
    data, seen = easy(batch_size=8, paired_fraction=0.5), Drawn()
    module = cs_aligner(data, unpaired=6)
    trainer(folder, limit_val_batches=0, callbacks=[seen], **settings).fit(module, data)
    return [rows.numpy() for _, rows in seen.unpaired], dict(module.state_dict())


def with_dropout(folder: Path, protocol: str, **settings) -> dict:
    """Weights of three epochs, at a stretch and resumed after the first, and the units dropped in the first batch."""
    # Training items that fill two global batches (honest) or three, and some that are left over.
    dm, dropped, weights = few(items=69, batch_size=8, protocol=protocol), [], {}
    keep = ModelCheckpoint(folder / protocol, "{epoch}", save_top_k=-1)
    for name, seed, path in (("whole", 0, None), ("resumed", 99, folder / protocol / "epoch=0.ckpt")):
        module = jfse(dm, "cs", seed, protocol=protocol, dropout=0.5)
        module.regressors["image"][0].register_forward_hook(
            lambda layer, x, output: dropped.append((output == 0) & (x[0] != 0)) if layer.training else None
        )
        callbacks = {"callbacks": [keep], "enable_checkpointing": True} if path is None else {}
        trainer(folder, max_epochs=3, **callbacks, **settings).fit(module, dm, ckpt_path=path)
        weights[name] = dict(module.state_dict())
    return {"dropped": dropped[0], "steps": module.global_step, **weights}


def work(folder: Path, processes: int, **settings) -> dict:
    found = {"steps": {case: two_steps(folder, case, processes, **settings) for case in STEPS}}
    if processes == 2:
        found["epochs"] = {case: epoch(folder, *case, **settings) for case in EPOCHS}
        found["unpaired"] = with_unpaired(folder, **settings)
        found["dropout"] = {protocol: with_dropout(folder, protocol, **settings) for protocol in PROTOCOLS}
    evaluations = {(protocol, kind.__name__): (protocol, kind) for protocol, kind in EVALUATIONS}
    return found | {name: evaluation(folder, *case, processes, **settings) for name, case in evaluations.items()}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory) -> dict[int, list[dict]]:
    """Number of processes -> what each of them found, from one start."""
    found = {}
    for processes in (1, 2, 4):
        folder = tmp_path_factory.mktemp(f"processes{processes}")
        text_model(folder / "text_model", "bert")
        found[processes] = [work(folder, 1)] if processes == 1 else on_processes(work, folder, processes)
    return found


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("case", STEPS)
def test_steps_of_several_processes_are_those_of_one_with_the_whole_batch(worlds, case, processes):
    expected = worlds[1][0]["steps"][case]
    for rank, found in enumerate(process["steps"][case] for process in worlds[processes]):
        assert found["items"] == [items[rank::processes] for items in expected["items"]]
        assert_close(found["weights"], expected["weights"], rtol=1e-7, atol=1e-9)
        assert_same_steps(found["gradients"], expected["gradients"])
    moved = {name for name, x in expected["start"].items() if (expected["weights"][name] - x).abs().max() > 1e-5}
    assert any(name.startswith(("projections", "adapters", "regressors")) for name in moved)
    if "jfse" in case:  # a critic's last bias adds the same to real and fake
        assert {name for name in expected["start"] if name not in moved} >= {"critics.image.score.bias"}
        without = worlds[1][0]["steps"]["jfse, None"]["weights"]["regressors.image.1.weight"]
        changed = (expected["weights"]["regressors.image.1.weight"] - without).abs().max() > 1e-6
        assert bool(changed) == (case != "jfse, None")
    assert any("lora_B" in name for name in moved) == ("low-rank" in case)
    assert ("classification.weight" in expected["weights"]) == ("classification" in case)


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize(("protocol", "kind"), EVALUATIONS)
def test_several_processes_evaluate_like_one(worlds, protocol, kind, processes):
    """Test items are spread over the processes, and those that fill up a process count once."""
    found, sizes, validated = worlds[1][0][protocol, kind.__name__]
    for process in worlds[processes]:
        its_scores, its_sizes, its_validation = process[protocol, kind.__name__]
        assert its_scores == pytest.approx(found, abs=1e-6)
        assert its_validation == pytest.approx(validated, abs=1e-6)
        assert its_sizes == sizes


same = partial(assert_close, rtol=0, atol=0)  # bit for bit


@pytest.mark.parametrize("case", EPOCHS)
def test_every_parameter_takes_part_in_distributed_training(worlds, case):
    """The processes end with the same weights."""
    same(*(process["epochs"][case] for process in worlds[2]))


def test_processes_draw_unpaired_samples_of_their_own_and_end_with_the_same_weights(worlds):
    (first, weights), (second, others) = (process["unpaired"] for process in worlds[2])
    assert len(first) == len(second) > 0
    assert not any(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    same(weights, others)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_processes_that_drop_units_keep_the_same_weights_and_resume_with_them(worlds, protocol):
    """Over three epochs; a last incomplete batch goes to no process."""
    first, second = (process["dropout"][protocol] for process in worlds[2])
    assert first["steps"] == {"honest": 2, "as_published": 3}[protocol] * 3 * 8  # five critic steps, three others
    assert all(value.isfinite().all() for value in first["whole"].values())
    for other in (first["resumed"], second["whole"], second["resumed"]):
        same(first["whole"], other)


def test_processes_drop_different_units(worlds):
    first, second = (process["dropout"]["honest"]["dropped"] for process in worlds[2])
    assert first.shape == second.shape
    assert 0.1 < first.double().mean() < 0.3  # two fifths of the hidden layer's 0.5
    assert not torch.equal(first, second)
