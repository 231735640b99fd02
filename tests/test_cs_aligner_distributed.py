"""CS-Aligner on two and four processes: a step is that of one, and unpaired samples differ between processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cs_aligner_cases import ENCODERS, TEXT_AND_MOTION, Drawn, model, synthetic
from processes import Gradients, assert_same_steps, assert_same_weights, on_processes
from tiny_items import N, Tiny, with_modality
from tiny_models import text_model
from training import trainer

from datamodules import SyntheticItems
from datamodules.items import Modality

pytestmark = pytest.mark.slow


def one_caption(**settings) -> Tiny:
    """Tiny items with one caption each: which of several is drawn depends on the items of a process's batch."""
    captions = Modality([f"the only caption of item {i}" for i in range(N)])
    return Tiny(with_modality("text", captions), **TEXT_AND_MOTION, **settings)


# data for a batch size, global batch, settings of the model
STEPS = {
    "two modalities": (synthetic, 32, {}),
    "divergence alone": (synthetic, 32, {"alignment": None}),
    "a target": (synthetic, 32, {"target": "image"}),
    "three modalities": (SyntheticItems, 48, {}),
    "tokens": (one_caption, 12, {"token_weight": 0.5}),
    "low-rank adapters": (one_caption, 12, {}),
}


def settings_of(case: str, folder: Path) -> dict:
    """What the model of a case is built with; the text model that low-rank adapters change lies in the folder."""
    if case != "low-rank adapters":
        return STEPS[case][2]
    adapted = {"name": "tokens", "model": str(folder / "text_model"), "frozen": False, "lora_rank": 2}
    return {"encoders": {"text": adapted, "motion": ENCODERS["motion"]}}


def one_step(folder: Path, case: str, processes: int, **settings) -> dict:
    """Weights after one step in float64, and its gradients."""
    kind, batch, _ = STEPS[case]
    data, seen = kind(batch_size=batch // processes), Gradients()
    module = model(data, **settings_of(case, folder))
    once = {"limit_train_batches": 1, "limit_val_batches": 0, "precision": "64-true", "callbacks": [seen]}
    trainer(folder, **once, **settings).fit(module, data)
    return {"weights": dict(module.state_dict()), "gradients": seen.steps}


def with_unpaired(folder, **settings) -> tuple[list[np.ndarray], dict[str, torch.Tensor]]:
    data, seen = synthetic(batch_size=8, paired_fraction=0.5), Drawn()
    module = model(data, unpaired=6)
    trainer(folder, limit_val_batches=0, callbacks=[seen], **settings).fit(module, data)
    return [rows.numpy() for _, rows in seen.unpaired], dict(module.state_dict())


def work(folder: Path, processes: int, **settings) -> dict:
    found = {"steps": {case: one_step(folder, case, processes, **settings) for case in STEPS}}
    if processes == 2:
        found["unpaired"] = with_unpaired(folder, **settings)
    return found


@pytest.fixture(scope="module")
def worlds(tmp_path_factory) -> dict[int, list[dict]]:
    """Number of processes -> what each of them found, from one start."""
    found = {}
    for processes in (2, 4):
        folder = tmp_path_factory.mktemp(f"ddp{processes}")
        text_model(folder / "text_model", "bert")
        found[processes] = on_processes(work, folder, processes)
    return found


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("case", STEPS)
def test_a_step_of_several_processes_is_that_of_one_with_the_whole_batch(worlds, tmp_path, case, processes):
    text_model(tmp_path / "text_model", "bert")
    expected = one_step(tmp_path, case, 1)
    for found in worlds[processes]:
        assert_same_weights(found["steps"][case]["weights"], expected["weights"])
        assert_same_steps(found["steps"][case]["gradients"], expected["gradients"])
    kind, batch, _ = STEPS[case]
    untrained = model(kind(batch_size=batch), **settings_of(case, tmp_path)).state_dict()
    weights = expected["weights"]
    moved = {name for name, x in untrained.items() if (weights[name] - x).abs().max() > 1e-5}
    assert any(name.startswith("adapters") for name in moved)
    assert any("lora_B" in name for name in moved) == (case == "low-rank adapters")


def test_processes_draw_unpaired_samples_of_their_own_and_end_with_the_same_weights(worlds):
    (first, weights), (second, others) = (process["unpaired"] for process in worlds[2])
    assert len(first) == len(second) > 0
    assert not any(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []
