"""Two gloo processes give, to the last bit, what one process gives."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lightning_modules.metrics import CrossModalRetrieval

DIRECTIONS = [("image", "text"), ("text", "audio")]
CASES = [(False, "honest"), (False, "as_published"), (True, "honest")]  # multi-hot labels, protocol


def items(multi_hot: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 4, (50,), generator=generator)
    common = torch.randn(4, 9, generator=generator)[classes]
    embeddings = {name: common + torch.randn(50, 9, generator=generator) for name in ("image", "text", "audio")}
    return embeddings, torch.nn.functional.one_hot(classes).bool() if multi_hot else classes


def add(metric: CrossModalRetrieval, modality: str, rows: torch.Tensor, multi_hot: bool) -> None:
    embeddings, labels = items(multi_hot)
    metric.update({modality: embeddings[modality][rows]}, labels[rows], rows)


def sharded(rank: int, multi_hot: bool, protocol: str) -> tuple[dict[str, float], dict[str, tuple[int, int]]]:
    metric = CrossModalRetrieval(DIRECTIONS, protocol=protocol)
    everything = torch.arange(50)
    # Uneven image shards, the second padded with items of the first; process 1 holds no audio.
    for batch in (everything[:31] if rank == 0 else torch.cat([everything[31:], everything[:12]])).split(8):
        add(metric, "image", batch, multi_hot)
    add(metric, "text", everything[rank::2].flip(0), multi_hot)
    if rank == 0:
        add(metric, "audio", everything, multi_hot)
    return {key: value.item() for key, value in metric.compute().items()}, metric.sizes()


def mismatched(rank: int) -> str:
    metric = CrossModalRetrieval([("image", "text")])
    rows = torch.ones(3, 4 + rank)
    metric.update({"image": rows, "text": rows}, torch.arange(3), torch.arange(3))
    with pytest.raises(ValueError, match="different widths") as caught:
        metric.compute()
    return str(caught.value)


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.set_num_threads(2 - rank)
    torch.save({"scored": [sharded(rank, *case) for case in CASES], "error": mismatched(rank)}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("gloo")
    mp.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_two_processes_are_one_process(processes: list[dict], case: int):
    multi_hot, protocol = CASES[case]
    metric = CrossModalRetrieval(DIRECTIONS, protocol=protocol)
    for modality in ("image", "text", "audio"):
        add(metric, modality, torch.arange(50), multi_hot)
    expected = {key: value.item() for key, value in metric.compute().items()}
    assert metric.sizes() == {"image->text": (50, 50), "text->audio": (50, 50)}
    for process in processes:
        assert process["scored"][case] == (expected, metric.sizes())


def test_processes_that_disagree_fail_instead_of_hanging(processes: list[dict]):
    assert all("different widths" in process["error"] for process in processes)
