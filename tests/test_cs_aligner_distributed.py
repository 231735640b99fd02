"""CS-Aligner on two processes: a step equals that of one process, and unpaired samples differ between processes."""

from __future__ import annotations

import os
import socket
import warnings

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from cs_aligner_cases import TEXT_AND_MOTION, Drawn, model, synthetic
from lavimo_cases import trainer
from tiny_items import N, Tiny, with_modality

from datamodules import SyntheticItems
from datamodules.items import Modality

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches.*"),
]

WORLD = 2


def one_caption(**settings) -> Tiny:
    """Tiny items with one caption each: which of several is drawn depends on the items of a process's batch."""
    captions = Modality([f"the only caption of item {i}" for i in range(N)])
    return Tiny(with_modality("text", captions), **TEXT_AND_MOTION, **settings)


# data for a batch size, global batch, settings of the model
STEPS = {
    "two modalities": (synthetic, 32, {}),
    "divergence alone": (synthetic, 32, {"alignment": None}),
    "a target": (synthetic, 32, {"target": "image"}),
    "three modalities": (SyntheticItems, 48, {"adapter": {"name": "linear"}}),
    "tokens": (one_caption, 12, {"token_weight": 0.5}),
}


def one_step(folder, case: str, processes: int, **settings) -> dict[str, torch.Tensor]:
    """Weights after one step in float64."""
    kind, batch, arguments = STEPS[case]
    data = kind(batch_size=batch // processes)
    module = model(data, **arguments)
    trainer(folder, limit_train_batches=1, limit_val_batches=0, precision="64-true", **settings).fit(module, data)
    return dict(module.state_dict())


def with_unpaired(folder, **settings) -> tuple[list[np.ndarray], dict[str, torch.Tensor]]:
    data, seen = synthetic(batch_size=8, paired_fraction=0.5), Drawn()
    module = model(data, unpaired=6)
    trainer(folder, limit_val_batches=0, callbacks=[seen], **settings).fit(module, data)
    return [rows.numpy() for _, rows in seen.unpaired], dict(module.state_dict())


def work(rank: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    os.environ["XDG_CACHE_HOME"] = folder
    settings = {"strategy": "ddp", "devices": WORLD}
    steps = {case: one_step(folder, case, WORLD, **settings) for case in STEPS}
    torch.save({"steps": steps, "unpaired": with_unpaired(folder, **settings)}, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """What both processes found, from one start."""
    folder = tmp_path_factory.mktemp("ddp")
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
    kind, batch, arguments = STEPS[case]
    untrained = model(kind(batch_size=batch), **arguments).state_dict()
    moved = 0.0
    for name, value in expected.items():
        for rank in ranks:
            torch.testing.assert_close(rank["steps"][case][name], value, rtol=1e-7, atol=1e-9, msg=name)
        if name.startswith("adapters"):
            moved = max(moved, float((value - untrained[name]).abs().max()))
    assert moved > 1e-5


def test_processes_draw_unpaired_samples_of_their_own_and_end_with_the_same_weights(ranks):
    (first, weights), (second, others) = (rank["unpaired"] for rank in ranks)
    assert len(first) == len(second) > 0
    assert not any(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []
