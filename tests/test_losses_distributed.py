"""Losses on two processes equal the loss of one process on the whole batch."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from losses import build_loss

WORLD, LOCAL, WIDTH = 2, 4, 5
NAMES = ["image", "text", "audio"]
GLOBAL = WORLD * LOCAL

CASES = {
    "cs": ("cs", {}, 2),
    "kl": ("kl", {}, 2),
    "cmpm_kl": ("cmpm_kl", {}, 2),
    "infonce": ("infonce", {}, 2),
    "gcs bidirectional": ("gcs", {}, 3),
    "gcs mixed": ("gcs", {"scheme": "mixed"}, 3),
    "mmd": ("mmd", {"sigma": [0.5, 5.0]}, 2),
    "coral": ("coral", {}, 2),
    "log_coral": ("log_coral", {"ridge": 0.1}, 2),
    "kernel_cs": ("kernel_cs", {"sigma": 0.7}, 2),
    "kernel_gcs": ("kernel_gcs", {}, 3),
    "pairwise": ("pairwise", {"divergence": "cs"}, 3),
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


def run_case(case: str, kind: str, rows: slice) -> dict[str, object]:
    """Loss and parameter gradients of a shared linear layer on some rows of the global batch."""
    name, keywords, modalities = CASES[case]
    layer = nn.Linear(6, WIDTH, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(WIDTH, 6, generator=torch.Generator().manual_seed(8), dtype=torch.float64))
    embeddings = {key: layer(x[rows]) for key, x in global_batch(modalities).items()}
    output = build_loss(name, **keywords)(embeddings, global_labels()[kind][rows])
    output.total.backward()
    return {"total": output.total.detach(), "parts": dict(output.parts), "grad": layer.weight.grad}


def start(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/init", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )


def equality_worker(rank: int, folder: str, runs: list[tuple[str, str]]) -> None:
    start(rank, folder)
    rows = slice(rank * LOCAL, (rank + 1) * LOCAL)
    torch.save({run: run_case(*run, rows) for run in runs}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def unequal_worker(rank: int, folder: str) -> None:
    """Rank 0 holds one item fewer; every loss must say so on both ranks."""
    start(rank, folder)
    messages = {}
    for case, (name, keywords, modalities) in CASES.items():
        rows = slice(0, LOCAL - 1 + rank)
        embeddings = {key: x[rows] for key, x in global_batch(modalities).items()}
        try:
            build_loss(name, **keywords)(embeddings, global_labels()["integer"][rows])
        except ValueError as error:
            messages[case] = str(error)
    torch.save(messages, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def launch(worker, folder: Path, *arguments) -> list:
    mp.spawn(worker, args=(str(folder), *arguments), nprocs=WORLD, join=True)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


RUNS = [(case, kind) for case in CASES for kind in ("integer", "multi-hot", "soft")]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """Results of both processes for every run, from one start of the process group."""
    return launch(equality_worker, tmp_path_factory.mktemp("equality"), RUNS)


@pytest.mark.parametrize(("case", "kind"), RUNS)
def test_mean_over_processes_is_the_global_batch(ranks, case, kind):
    expected = run_case(case, kind, slice(None))
    results = [rank[case, kind] for rank in ranks]
    close = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(sum(r["total"] for r in results) / WORLD, expected["total"], **close)
    torch.testing.assert_close(sum(r["grad"] for r in results) / WORLD, expected["grad"], **close)
    for part, value in expected["parts"].items():
        torch.testing.assert_close(sum(r["parts"][part] for r in results) / WORLD, value, **close)


@pytest.fixture(scope="module")
def refusals(tmp_path_factory) -> list[dict[str, str]]:
    return launch(unequal_worker, tmp_path_factory.mktemp("unequal"))


@pytest.mark.parametrize("case", CASES)
def test_unequal_batches_are_refused_on_every_process(refusals, case):
    for rank, messages in enumerate(refusals):
        assert case in messages, f"rank {rank} raised no ValueError"
        assert "batch" in messages[case]
        assert str(LOCAL) in messages[case]
        assert str(LOCAL - 1) in messages[case]
