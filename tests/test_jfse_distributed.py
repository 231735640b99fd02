"""JFSE on two and four processes: the weights of one process on the global batch, dropout, resumption, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from jfse_cases import data, model, prepared
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from processes import Gradients, assert_same_steps, assert_same_weights, on_processes
from training import trainer

from datamodules import DataError, ItemSet, Synthetic

pytestmark = pytest.mark.slow

GLOBAL, EPOCHS = 16, 2
PROTOCOLS = ("honest", "as_published")
# processes -> protocol, alignment
CASES = {
    2: [(protocol, alignment) for protocol in PROTOCOLS for alignment in (None, "cs", "kl", "mmd", "symile")],
    4: [("honest", "cs"), ("as_published", "mmd")],
}


class Seen(Callback):
    """Keeps the rows of the data set that the training batches were made of."""

    def __init__(self) -> None:
        self.rows: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.rows.append(batch["id"])


def data_of(protocol: str, processes: int) -> Synthetic:
    """Training items, odd in number, that fill two global batches (honest) or three, and some that are left over."""
    dm = data(items=69, batch_size=GLOBAL // processes, protocol=protocol)
    assert len(dm.indices("train")) == {"honest": 45, "as_published": 53}[protocol]
    return dm


def without_dropout(folder: Path, protocol: str, alignment: str | None, processes: int, **settings) -> dict:
    """Weights, gradients, logged values and rows of two epochs in float64; in the second, gradients are reversed.

    The alignment weighs 1 in both protocols, so that no protocol hides what happens to it.
    """
    dm, seen, gradients = data_of(protocol, processes), Seen(), Gradients()
    module = model(dm, alignment, protocol=protocol, alignment_weight=1.0, dropout=0.0)
    run = trainer(folder, max_epochs=EPOCHS, precision="64-true", callbacks=[seen, gradients], **settings)
    run.fit(module, dm)
    logged = {name: float(value) for name, value in run.callback_metrics.items()}
    return {"weights": dict(module.state_dict()), "gradients": gradients.steps, "logged": logged, "rows": seen.rows}


def with_dropout(folder: Path, protocol: str, processes: int, **settings) -> dict:
    """Weights of three epochs, at a stretch and resumed after the first, and the units dropped in the first batch."""
    dm, dropped, weights = data_of(protocol, processes), [], {}
    keep = ModelCheckpoint(folder / protocol, "{epoch}", save_top_k=-1)
    for name, seed, path in (("whole", 0, None), ("resumed", 99, folder / protocol / "epoch=0.ckpt")):
        module = model(dm, "cs", seed, protocol=protocol, dropout=0.5)
        module.regressors["image"][0].register_forward_hook(
            lambda layer, x, output: dropped.append((output == 0) & (x[0] != 0)) if layer.training else None
        )
        callbacks = {"callbacks": [keep], "enable_checkpointing": True} if path is None else {}
        trainer(folder, max_epochs=3, **callbacks, **settings).fit(module, dm, ckpt_path=path)
        weights[name] = dict(module.state_dict())
    return {"dropped": dropped[0], **weights}


def refusal(folder: Path, **settings) -> str:
    """The message where three training items are all there is."""

    def leave_three(drawn: ItemSet) -> None:
        drawn.split[3:] = "test"

    dm = prepared(change=leave_three, batch_size=1, validation_fraction=0.0)
    with pytest.raises(DataError) as caught:
        trainer(folder, **settings).fit(model(dm), dm)
    return str(caught.value)


def work(folder: Path, processes: int, **settings) -> dict:
    found = {"exact": {case: without_dropout(folder, *case, processes, **settings) for case in CASES[processes]}}
    if processes == 2:
        found["dropout"] = {protocol: with_dropout(folder, protocol, processes, **settings) for protocol in PROTOCOLS}
    else:
        found["refusal"] = refusal(folder, **settings)
    return found


@pytest.fixture(scope="module")
def worlds(tmp_path_factory) -> dict[int, list[dict]]:
    """Number of processes -> what each of them found, from one start."""
    return {n: on_processes(work, tmp_path_factory.mktemp(f"ddp{n}"), n) for n in CASES}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[tuple[str, str | None], dict]:
    """What one process finds with the global batch."""
    folder = tmp_path_factory.mktemp("alone")
    return {case: without_dropout(folder, *case, 1) for case in CASES[2]}


EXACT = [(processes, *case) for processes, cases in CASES.items() for case in cases]


@pytest.mark.parametrize(("processes", "protocol", "alignment"), EXACT)
def test_processes_train_the_weights_of_one_with_the_global_batch(worlds, alone, processes, protocol, alignment):
    expected = alone[protocol, alignment]
    for found in (process["exact"][protocol, alignment] for process in worlds[processes]):
        assert len(expected["gradients"]) >= 2 * EPOCHS * 8  # five critic steps and one of each other optimiser
        assert_same_steps(found["gradients"], expected["gradients"])
        assert_same_weights(found["weights"], expected["weights"])
        assert found["logged"] == pytest.approx(expected["logged"], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("case", CASES[2])
def test_every_part_of_the_reference_trains_and_the_alignment_counts(alone, case):
    """Else equal weights would say nothing."""
    protocol, alignment = case
    weights, without = (alone[protocol, name]["weights"] for name in (alignment, None))
    untrained = model(data_of(protocol, 1), alignment, protocol=protocol, dropout=0.0)
    for name, start in untrained.named_parameters():
        # A critic's last bias adds the same to real and fake.
        assert ((weights[name] - start).abs().max() > 1e-4) != name.endswith("score.bias"), name
    changed = max(float((x - without[name]).abs().max()) for name, x in weights.items())
    assert (changed > 1e-4) == (alignment is not None)


@pytest.mark.parametrize(("processes", "protocol", "alignment"), EXACT)
def test_a_global_batch_is_dealt_out_in_turn_and_the_last_incomplete_one_to_no_process(
    worlds, alone, processes, protocol, alignment
):
    expected = alone[protocol, alignment]["rows"]
    assert [len(rows) for rows in expected] == [GLOBAL] * EPOCHS * {"honest": 2, "as_published": 3}[protocol]
    for rank, process in enumerate(worlds[processes]):
        found = process["exact"][protocol, alignment]["rows"]
        assert [rows.tolist() for rows in found] == [rows[rank::processes].tolist() for rows in expected]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_processes_that_drop_units_keep_the_same_weights_and_resume_with_them(worlds, protocol):
    """Bit for bit, over three epochs."""
    first, second = (process["dropout"][protocol] for process in worlds[2])
    assert all(value.isfinite().all() for value in first["whole"].values())
    for other in (first["resumed"], second["whole"], second["resumed"]):
        assert list(other) == list(first["whole"])
        assert [name for name, value in first["whole"].items() if not torch.equal(value, other[name])] == []


def test_processes_drop_different_units(worlds):
    first, second = (process["dropout"]["honest"]["dropped"] for process in worlds[2])
    assert first.shape == second.shape
    assert 0.1 < first.double().mean() < 0.3  # two fifths of the hidden layer's 0.5
    assert not torch.equal(first, second)


def test_more_processes_than_training_items_are_refused_on_all_of_them(worlds):
    messages = {process["refusal"] for process in worlds[4]}
    assert len(messages) == 1
    assert "3 training items for 4 processes" in messages.pop()
