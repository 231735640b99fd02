"""CMPM on two and four processes: a step with classification equals that of one process with the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
from cmpm_cases import model, pairs
from processes import Gradients, assert_same_steps, assert_same_weights, on_processes
from training import trainer

pytestmark = pytest.mark.slow

GLOBAL = 48


def one_step(folder: Path, processes: int, **settings) -> dict:
    """Weights after one step, in float64, and its gradients."""
    data, seen = pairs(batch_size=GLOBAL // processes), Gradients()
    module = model(data, classification_weight=0.7)
    once = {"limit_train_batches": 1, "limit_val_batches": 0, "precision": "64-true", "callbacks": [seen]}
    trainer(folder, **once, **settings).fit(module, data)
    return {"weights": dict(module.state_dict()), "gradients": seen.steps}


@pytest.mark.parametrize("processes", [2, 4])
def test_a_step_of_several_processes_is_that_of_one_with_the_whole_batch(tmp_path, processes):
    expected = one_step(tmp_path, 1)
    untrained = model(pairs(batch_size=GLOBAL), classification_weight=0.7).state_dict()
    for found in on_processes(one_step, tmp_path, processes):
        assert_same_weights(found["weights"], expected["weights"])
        assert_same_steps(found["gradients"], expected["gradients"])
    weights = expected["weights"]
    assert "classification.weight" in weights
    moved = [(weights[name] - x).abs().max() for name, x in untrained.items() if name.startswith("projections")]
    assert max(moved) > 1e-5
