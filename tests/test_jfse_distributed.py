"""JFSE with dropout on two processes: units of their own, equal weights, resumption."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from processes import on_processes
from small_models import few, jfse
from training import trainer

pytestmark = pytest.mark.slow

PROTOCOLS = ("honest", "as_published")


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
    return {protocol: with_dropout(folder, protocol, **settings) for protocol in PROTOCOLS}


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> list[dict]:
    """What each of two processes found."""
    return on_processes(work, tmp_path_factory.mktemp("ddp"), 2)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_processes_that_drop_units_keep_the_same_weights_and_resume_with_them(processes, protocol):
    """Bit for bit, over three epochs; a last incomplete batch goes to no process."""
    first, second = (process[protocol] for process in processes)
    assert first["steps"] == {"honest": 2, "as_published": 3}[protocol] * 3 * 8  # five critic steps, three others
    assert all(value.isfinite().all() for value in first["whole"].values())
    for other in (first["resumed"], second["whole"], second["resumed"]):
        assert list(other) == list(first["whole"])
        assert [name for name, value in first["whole"].items() if not torch.equal(value, other[name])] == []


def test_processes_drop_different_units(processes):
    first, second = (process["honest"]["dropped"] for process in processes)
    assert first.shape == second.shape
    assert 0.1 < first.double().mean() < 0.3  # two fifths of the hidden layer's 0.5
    assert not torch.equal(first, second)
