"""Losses on two and on four processes equal the loss of one process on the whole batch."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from loss_cases import NEED_LABELS
from torch import nn

from losses import available_losses, build_loss

WORLDS, GLOBAL, WIDTH = (2, 4), 8, 5
NAMES = ["image", "text", "audio"]

NEEDS = {"log_coral": {"ridge": 0.1}}
# Every registered loss, and some of their forms.
CASES = {
    **{name: (name, NEEDS.get(name, {}), 2 if build_loss(name).takes_two else 3) for name in available_losses()},
    "gcs mixed": ("gcs", {"scheme": "mixed"}, 3),
    "gcs counterclockwise": ("gcs", {"scheme": "counterclockwise"}, 3),
    "gcs without target": ("gcs", {"use_target": False}, 3),
    "gcs of two": ("gcs", {}, 2),
    "gram of two": ("gram", {}, 2),
    "symile shuffled": ("symile", {"negatives": "shuffled"}, 3),
    "mmd of two bandwidths": ("mmd", {"sigma": [0.5, 5.0]}, 2),
}


def global_batch(modalities: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(GLOBAL, 6, generator=generator, dtype=torch.float64) for name in NAMES[:modalities]}


def global_labels() -> dict[str, torch.Tensor]:
    """Every kind of label; classes are shared between the processes, the soft target is asymmetric."""
    generator = torch.Generator().manual_seed(6)
    soft = torch.rand(GLOBAL, GLOBAL, generator=generator, dtype=torch.float64)
    soft = soft * (soft > 0.4) + torch.eye(GLOBAL, dtype=torch.float64)
    multi_hot = torch.rand(GLOBAL, 3, generator=generator) > 0.6
    return {"integer": torch.tensor([0, 1, 2, 1, 0, 2, 3, 1]), "multi-hot": multi_hot, "soft": soft}


def run_case(case: str, kind: str, rows: slice, dtype: torch.dtype = torch.float64) -> dict[str, object]:
    """Loss and parameter gradients of a shared linear layer on some rows of the global batch."""
    name, keywords, modalities = CASES[case]
    layer = nn.Linear(6, WIDTH, bias=False, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(WIDTH, 6, generator=torch.Generator().manual_seed(8), dtype=torch.float64))
    embeddings = {key: layer(x[rows].to(dtype)) for key, x in global_batch(modalities).items()}
    output = build_loss(name, **keywords)(embeddings, global_labels()[kind][rows])
    output.total.backward()
    return {"total": output.total.detach(), "parts": dict(output.parts), "grad": layer.weight.grad}


def reads_labels(case: str) -> bool:
    name, keywords, _ = CASES[case]
    return name in NEED_LABELS and keywords.get("use_target", True)


def start(rank: int, folder: str, processes: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/init", rank=rank, world_size=processes, timeout=timedelta(seconds=60)
    )


def equality_worker(rank: int, folder: str, processes: int) -> None:
    start(rank, folder, processes)
    local = GLOBAL // processes
    rows = slice(rank * local, (rank + 1) * local)
    found = {run: run_case(*run, rows) for run in RUNS}
    single = {case: run_case(case, "integer", rows, torch.float32) for case in CASES}
    torch.save({**found, **single}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def refusal_worker(rank: int, folder: str, processes: int) -> None:
    """What every loss says where rank 0 holds one item fewer, and where rank 1 holds a NaN or bad labels."""
    start(rank, folder, processes)
    messages = {}
    for case, (name, keywords, modalities) in CASES.items():
        unequal = {key: x[: GLOBAL // 2 - 1 + rank] for key, x in global_batch(modalities).items()}
        broken = global_batch(modalities)
        if rank == 1:
            broken["text"][2, 3] = float("nan")
        for what, embeddings in (("unequal", unequal), ("broken", broken)):
            try:
                labels = global_labels()["integer"][: len(embeddings["text"])]
                build_loss(name, **keywords)(embeddings, labels)
            except ValueError as error:
                messages[case, what] = str(error)
        for kind in ("multi-hot", "soft"):
            labels = global_labels()[kind][: GLOBAL // 2] * 1
            if rank == 1:
                labels[0] = 2 if kind == "multi-hot" else 0
            try:
                whole = {key: x[: GLOBAL // 2] for key, x in global_batch(modalities).items()}
                build_loss(name, **keywords)(whole, labels)
            except ValueError as error:
                messages[case, kind] = str(error)
    torch.save(messages, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def launch(worker, folder: Path, processes: int) -> list:
    mp.spawn(worker, args=(str(folder), processes), nprocs=processes, join=True)
    return [torch.load(folder / f"{rank}.pt") for rank in range(processes)]


RUNS = [(case, kind) for case in CASES for kind in ("integer", "multi-hot", "soft")]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[int, list[dict]]:
    """Number of processes -> what each of them found in every run, from one start of the process group."""
    return {n: launch(equality_worker, tmp_path_factory.mktemp(f"equality{n}"), n) for n in WORLDS}


def assert_mean_is(ranks: list[dict], expected: dict, **close: float) -> None:
    torch.testing.assert_close(sum(r["total"] for r in ranks) / len(ranks), expected["total"], **close)
    torch.testing.assert_close(sum(r["grad"] for r in ranks) / len(ranks), expected["grad"], **close)
    for part, value in expected["parts"].items():
        torch.testing.assert_close(sum(r["parts"][part] for r in ranks) / len(ranks), value, **close)


@pytest.mark.parametrize("processes", WORLDS)
@pytest.mark.parametrize(("case", "kind"), RUNS)
def test_mean_over_processes_is_the_global_batch(results, case, kind, processes):
    ranks = [rank[case, kind] for rank in results[processes]]
    assert_mean_is(ranks, run_case(case, kind, slice(None)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("processes", WORLDS)
@pytest.mark.parametrize("case", CASES)
def test_gradient_in_float32_is_that_of_one_process(results, case, processes):
    """Relative error of the whole gradient below 1e-5."""
    found = sum(rank[case]["grad"] for rank in results[processes]) / processes
    expected = run_case(case, "integer", slice(None), torch.float32)["grad"]
    assert (found - expected).norm() < 1e-5 * expected.norm()


@pytest.fixture(scope="module")
def refusals(tmp_path_factory) -> list[dict]:
    return launch(refusal_worker, tmp_path_factory.mktemp("refusals"), 2)


@pytest.mark.parametrize("case", CASES)
def test_unequal_batches_are_refused_on_every_process(refusals, case):
    for rank, messages in enumerate(refusals):
        assert (case, "unequal") in messages, f"rank {rank} raised no ValueError"
        assert "batch" in messages[case, "unequal"]
        assert str(GLOBAL // 2) in messages[case, "unequal"]
        assert str(GLOBAL // 2 - 1) in messages[case, "unequal"]


@pytest.mark.parametrize("case", CASES)
def test_nan_on_one_process_is_refused_on_all(refusals, case):
    first, second = refusals
    assert "process 1" in first[case, "broken"]
    assert "'text'" in second[case, "broken"]


@pytest.mark.parametrize(
    ("kind", "said"), [("multi-hot", "hold only 0 and 1"), ("soft", "target row 0 has no positive")]
)
@pytest.mark.parametrize("case", CASES)
def test_bad_labels_on_one_process_are_refused_on_all_or_read_by_none(refusals, case, kind, said):
    found = [messages.get((case, kind)) for messages in refusals]
    of_columns = (case, kind) == ("gcs counterclockwise", "soft")  # whose targets are columns, and none is empty
    if of_columns or not reads_labels(case):
        assert found == [None, None]
    else:
        assert "process 1 refused its labels" in found[0]
        assert said in found[1]
