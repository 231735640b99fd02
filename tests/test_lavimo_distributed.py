"""LAVIMO on two processes: a step and an evaluation equal those of one process, and every parameter takes part."""

from __future__ import annotations

import os
import socket
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from lavimo_cases import ENCODERS, Recorder, model, scores, trainer
from tiny_items import N, Tiny, with_modality

from datamodules import SyntheticItems
from datamodules.items import Modality

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches.*"),
]

WORLD, GLOBAL = 2, 48
SOFT = {"model": "all-MiniLM-L6-v2", "threshold": 0.7}


class OneCaption(Tiny):
    """Tiny items with one caption each: which of several is drawn depends on the items of a process's batch."""

    def __init__(self, **settings) -> None:
        captions = Modality([f"the only caption of item {i}" for i in range(N)])
        super().__init__(with_modality("text", captions), **settings)


# data, settings of the model
STEPS = {
    "gcs": (SyntheticItems, {"alignment": "gcs"}),
    "gcs, reconstruction": (SyntheticItems, {"alignment": "gcs", "reconstruct": "motion"}),
    "gcs, as published": (SyntheticItems, {"alignment": "gcs", "preset": "as_published"}),
    "pairwise kl": (SyntheticItems, {"alignment": "pairwise"}),
    "pairwise kl, tiny": (OneCaption, {"alignment": "pairwise", "reconstruct": "motion"}),
    "gcs, soft targets": (OneCaption, {"alignment": "gcs", "soft_targets": SOFT}),
}
EPOCHS = [(preset, reconstruct) for preset in ("honest", "as_published") for reconstruct in (None, "motion")]


def data_of(kind, processes: int):
    """Data whose batches of all processes together hold the same number of items."""
    return kind(batch_size=(GLOBAL if kind is SyntheticItems else 12) // processes)


def one_step(folder: str, case: str, processes: int, **settings) -> dict[str, torch.Tensor]:
    """Weights after one step of a model with dropout 0, in float64."""
    kind, arguments = STEPS[case]
    data = data_of(kind, processes)
    module = model(data, **arguments)
    trainer(folder, limit_train_batches=1, limit_val_batches=0, precision="64-true", **settings).fit(module, data)
    return dict(module.state_dict())


def evaluation(folder: str, preset: str, kind, processes: int, **settings) -> tuple[dict, dict, dict]:
    """Scores and sizes of a model that did not train, and what validation logs after an epoch without learning."""
    module, data = model(kind(), preset=preset, learning_rate=1e-12), data_of(kind, processes)
    fitted = trainer(folder, limit_train_batches=1, **settings)
    fitted.fit(module, data)
    validated = {name: float(x) for name, x in fitted.callback_metrics.items() if name.startswith("val/")}
    return scores(folder, module, kind(), **settings), module.sizes["standard"], validated


def epoch(folder: str, preset: str, reconstruct: str | None, **settings) -> dict[str, torch.Tensor]:
    """An epoch of several steps: DistributedDataParallel stops at the second where a parameter has no gradient."""
    encoders = {**ENCODERS, "motion": {**ENCODERS["motion"], "dropout": 0.2}}
    module, recorder = model(Tiny(), encoders=encoders, preset=preset, reconstruct=reconstruct), Recorder()
    trainer(folder, max_epochs=2, callbacks=[recorder], **settings).fit(module, Tiny(batch_size=3))
    assert len(recorder.losses) >= 4
    assert np.isfinite(recorder.losses).all()
    return dict(module.state_dict())


def work(rank: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    os.environ["XDG_CACHE_HOME"] = folder
    settings = {"strategy": "ddp", "devices": WORLD}
    found = {
        "steps": {case: one_step(folder, case, WORLD, **settings) for case in STEPS},
        "evaluations": {
            (preset, kind.__name__): evaluation(folder, preset, kind, WORLD, **settings)
            for preset in ("honest", "as_published")
            for kind in (SyntheticItems, Tiny)
        },
        "epochs": {case: epoch(folder, *case, **settings) for case in EPOCHS},
    }
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """What both processes found, from one start."""
    folder: Path = tmp_path_factory.mktemp("ddp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, args=(str(folder), port), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """A cache folder of the test's own."""
    for module in ("derived", "class_embeddings"):
        monkeypatch.setattr(f"datamodules.{module}.cache_folder", lambda: tmp_path)


@pytest.mark.parametrize("case", STEPS)
def test_a_step_of_two_processes_is_that_of_one_with_the_whole_batch(ranks, tmp_path, case):
    expected = one_step(tmp_path, case, 1)
    kind, arguments = STEPS[case]
    untrained = model(data_of(kind, 1), **arguments).state_dict()
    moved = 0.0
    for name, value in expected.items():
        for rank in ranks:
            torch.testing.assert_close(rank["steps"][case][name], value, rtol=1e-7, atol=1e-9, msg=name)
        if name.startswith("projections"):
            moved = max(moved, float((value - untrained[name]).abs().max()))
    assert moved > 1e-5


@pytest.mark.parametrize("preset", ["honest", "as_published"])
@pytest.mark.parametrize("kind", [SyntheticItems, Tiny])
def test_two_processes_evaluate_like_one(ranks, tmp_path, preset, kind):
    """Test items are spread over the processes, and those that fill up a process count once."""
    found, sizes, validated = evaluation(tmp_path, preset, kind, 1)
    for rank in ranks:
        its_scores, its_sizes, its_validation = rank["evaluations"][preset, kind.__name__]
        assert its_scores == pytest.approx(found, abs=1e-6)
        assert its_validation == pytest.approx(validated, abs=1e-6)
        assert its_sizes == sizes


@pytest.mark.parametrize("case", EPOCHS)
def test_every_parameter_takes_part_in_distributed_training(ranks, case):
    """The processes end with the same weights."""
    first, second = (rank["epochs"][case] for rank in ranks)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
