"""LAVIMO on two and four processes: a step and an evaluation are those of one, and every parameter takes part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lavimo_cases import ENCODERS, model
from processes import Gradients, assert_same_steps, assert_same_weights, on_processes
from tiny_items import N, Tiny, with_modality
from training import Recorder, scores, trainer

from datamodules import SyntheticItems
from datamodules.items import Modality

pytestmark = pytest.mark.slow

GLOBAL = 48


class OneCaption(Tiny):
    """Tiny items with one caption each: which of several is drawn depends on the items of a process's batch."""

    def __init__(self, **settings) -> None:
        captions = Modality([f"the only caption of item {i}" for i in range(N)])
        super().__init__(with_modality("text", captions), **settings)


# data, settings of the model
STEPS = {
    "gcs": (SyntheticItems, {"alignment": "gcs"}),
    "gcs, reconstruction": (SyntheticItems, {"alignment": "gcs", "reconstruct": "motion"}),
    "gcs, as published": (SyntheticItems, {"alignment": "gcs", "protocol": "as_published"}),
    "pairwise kl": (SyntheticItems, {"alignment": "pairwise"}),
    "pairwise kl, tiny": (OneCaption, {"alignment": "pairwise", "reconstruct": "motion"}),
}
EPOCHS = [(protocol, reconstruct) for protocol in ("honest", "as_published") for reconstruct in (None, "motion")]


def data_of(kind, processes: int):
    """Data whose batches of all processes together hold the same number of items."""
    return kind(batch_size=(GLOBAL if kind is SyntheticItems else 12) // processes)


def one_step(folder: Path, case: str, processes: int, **settings) -> dict:
    """Weights after one step of a model with dropout 0, in float64, and its gradients."""
    kind, arguments = STEPS[case]
    data, seen = data_of(kind, processes), Gradients()
    module = model(data, **arguments)
    once = {"limit_train_batches": 1, "limit_val_batches": 0, "precision": "64-true", "callbacks": [seen]}
    trainer(folder, **once, **settings).fit(module, data)
    return {"weights": dict(module.state_dict()), "gradients": seen.steps}


def evaluation(folder: Path, protocol: str, kind, processes: int, **settings) -> tuple[dict, dict, dict]:
    """Scores and sizes of a model that did not train, and what validation logs after an epoch without learning."""
    module, data = model(kind(), protocol=protocol, learning_rate=1e-12), data_of(kind, processes)
    fitted = trainer(folder, limit_train_batches=1, **settings)
    fitted.fit(module, data)
    validated = {name: float(x) for name, x in fitted.callback_metrics.items() if name.startswith("val/")}
    return scores(folder, module, kind(), **settings), module.sizes["standard"], validated


def epoch(folder: Path, protocol: str, reconstruct: str | None, **settings) -> dict[str, torch.Tensor]:
    """An epoch of several steps: DistributedDataParallel stops at the second where a parameter has no gradient."""
    encoders = {**ENCODERS, "motion": {**ENCODERS["motion"], "dropout": 0.2}}
    module, recorder = model(Tiny(), encoders=encoders, protocol=protocol, reconstruct=reconstruct), Recorder()
    trainer(folder, max_epochs=2, callbacks=[recorder], **settings).fit(module, Tiny(batch_size=3))
    assert len(recorder.losses) >= 4
    assert np.isfinite(recorder.losses).all()
    return dict(module.state_dict())


def work(folder: Path, processes: int, **settings) -> dict:
    found = {"steps": {case: one_step(folder, case, processes, **settings) for case in STEPS}}
    if processes == 2:
        found["epochs"] = {case: epoch(folder, *case, **settings) for case in EPOCHS}
    found["evaluations"] = {
        (protocol, kind.__name__): evaluation(folder, protocol, kind, processes, **settings)
        for protocol in ("honest", "as_published")
        for kind in (SyntheticItems, Tiny)
    }
    return found


@pytest.fixture(scope="module")
def worlds(tmp_path_factory) -> dict[int, list[dict]]:
    """Number of processes -> what each of them found, from one start."""
    return {n: on_processes(work, tmp_path_factory.mktemp(f"ddp{n}"), n) for n in (2, 4)}


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("case", STEPS)
def test_a_step_of_several_processes_is_that_of_one_with_the_whole_batch(worlds, tmp_path, case, processes):
    expected = one_step(tmp_path, case, 1)
    for found in worlds[processes]:
        assert_same_weights(found["steps"][case]["weights"], expected["weights"])
        assert_same_steps(found["steps"][case]["gradients"], expected["gradients"])
    kind, arguments = STEPS[case]
    untrained = model(data_of(kind, 1), **arguments).state_dict()
    weights = expected["weights"]
    moved = [(weights[name] - x).abs().max() for name, x in untrained.items() if name.startswith("projections")]
    assert max(moved) > 1e-5


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("protocol", ["honest", "as_published"])
@pytest.mark.parametrize("kind", [SyntheticItems, Tiny])
def test_several_processes_evaluate_like_one(worlds, tmp_path, protocol, kind, processes):
    """Test items are spread over the processes, and those that fill up a process count once."""
    found, sizes, validated = evaluation(tmp_path, protocol, kind, 1)
    for process in worlds[processes]:
        its_scores, its_sizes, its_validation = process["evaluations"][protocol, kind.__name__]
        assert its_scores == pytest.approx(found, abs=1e-6)
        assert its_validation == pytest.approx(validated, abs=1e-6)
        assert its_sizes == sizes


@pytest.mark.parametrize("case", EPOCHS)
def test_every_parameter_takes_part_in_distributed_training(worlds, case):
    """The processes end with the same weights."""
    first, second = (process["epochs"][case] for process in worlds[2])
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
