"""CMPM on two processes: a step with classification equals that of one process with the whole batch."""

from __future__ import annotations

import os
import socket
import warnings
from pathlib import Path

import cmpm_cases
import pytest
import torch
import torch.multiprocessing as mp
from cmpm_cases import IGNORED, model, pairs
from lavimo_cases import trainer

pytestmark = [*IGNORED, pytest.mark.slow]
cache = cmpm_cases.cache_of_its_own

WORLD, GLOBAL = 2, 48


def one_step(folder: Path | str, processes: int, **settings) -> dict[str, torch.Tensor]:
    """Weights after one step, in float64."""
    data = pairs(batch_size=GLOBAL // processes)
    module = model(data, classification_weight=0.7)
    trainer(folder, limit_train_batches=1, limit_val_batches=0, precision="64-true", **settings).fit(module, data)
    return dict(module.state_dict())


def work(rank: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    os.environ["XDG_CACHE_HOME"] = folder
    torch.save(one_step(folder, WORLD, strategy="ddp", devices=WORLD), f"{folder}/{rank}.pt")


def test_a_step_of_two_processes_is_that_of_one_with_the_whole_batch(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, args=(str(tmp_path), port), nprocs=WORLD)
    expected = one_step(tmp_path, 1)
    untrained = model(pairs(batch_size=GLOBAL), classification_weight=0.7).state_dict()
    for rank in range(WORLD):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert list(found) == list(expected)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-9, msg=name)
    assert "classification.weight" in expected
    moved = [(expected[name] - x).abs().max() for name, x in untrained.items() if name.startswith("projections")]
    assert max(moved) > 1e-5
