"""Two and four gloo processes give, to the last bit, what one process gives."""

import pytest
import torch
from processes import in_group

from lightning_modules.metrics import CrossModalRetrieval

pytestmark = pytest.mark.slow

DIRECTIONS = [("image", "text"), ("text", "audio"), (("image", "text"), "audio")]
MODALITIES = ("image", "text", "audio")
# processes, how the items are spread over them, multi-hot labels, protocol, score of the joint query
CASES = [
    (processes, spread, *case)
    for processes in (2, 4)
    for spread in ("uneven", "one idle")
    for case in ((False, "honest", "volume"), (False, "as_published", "cosine"), (True, "honest", "multilinear"))
]


def items(multi_hot: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 4, (50,), generator=generator)
    common = torch.randn(4, 9, generator=generator)[classes]
    embeddings = {name: common + torch.randn(50, 9, generator=generator) for name in MODALITIES}
    return embeddings, torch.nn.functional.one_hot(classes).bool() if multi_hot else classes


def add(metric: CrossModalRetrieval, modality: str, rows: torch.Tensor, multi_hot: bool) -> None:
    embeddings, labels = items(multi_hot)
    metric.update({modality: embeddings[modality][rows]}, labels[rows], rows)


def shard(rank: int, processes: int, spread: str, modality: str) -> torch.Tensor:
    """Rows of a process.

    Uneven: image shards of different sizes, each padded with the first items of all; texts dealt out in turn, in
    reverse; all audio on the first process. One idle: the last process holds nothing, the others all in turn.
    """
    everything = torch.arange(50)
    if spread == "one idle":
        return everything[rank :: processes - 1] if rank < processes - 1 else everything[:0]
    if modality == "image":
        start, end = (50 * r**2 // processes**2 for r in (rank, rank + 1))
        return torch.cat([everything[start:end], everything[: 3 * rank]])
    if modality == "text":
        return everything[rank::processes].flip(0)
    return everything if rank == 0 else everything[:0]


def sharded(
    rank: int, processes: int, spread: str, multi_hot: bool, protocol: str, score: str
) -> tuple[dict[str, float], dict[str, tuple[int, int]]]:
    metric = CrossModalRetrieval(DIRECTIONS, protocol=protocol, score=score)
    for modality in MODALITIES:
        rows = shard(rank, processes, spread, modality)
        for batch in rows.split(8) if len(rows) else ():  # a process without items is never asked to add any
            add(metric, modality, batch, multi_hot)
    return {key: value.item() for key, value in metric.compute().items()}, metric.sizes()


def mismatched(rank: int) -> str:
    metric = CrossModalRetrieval([("image", "text")])
    rows = torch.ones(3, 4 + rank)
    metric.update({"image": rows, "text": rows}, torch.arange(3), torch.arange(3))
    with pytest.raises(ValueError, match="different widths") as caught:
        metric.compute()
    return str(caught.value)


def work(rank: int, processes: int) -> dict:
    torch.set_num_threads(1 + rank % 2)
    scored = {case: sharded(rank, *case) for case in CASES if case[0] == processes}
    return {"scored": scored, "error": mismatched(rank)}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict]]:
    """Number of processes -> what each of them found, from one start."""
    return {processes: in_group(work, tmp_path_factory.mktemp("gloo"), processes) for processes in (2, 4)}


@pytest.mark.parametrize("case", CASES)
def test_several_processes_are_one_process(worlds: dict[int, list[dict]], case: tuple[int, str, bool, str, str]):
    processes, _, multi_hot, protocol, score = case
    metric = CrossModalRetrieval(DIRECTIONS, protocol=protocol, score=score)
    for modality in MODALITIES:
        add(metric, modality, torch.arange(50), multi_hot)
    expected = {key: value.item() for key, value in metric.compute().items()}
    assert metric.sizes() == dict.fromkeys(("image->text", "text->audio", "image+text->audio"), (50, 50))
    for process in worlds[processes]:
        assert process["scored"][case] == (expected, metric.sizes())


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_that_disagree_fail_instead_of_hanging(worlds: dict[int, list[dict]], processes: int):
    assert all("different widths" in process["error"] for process in worlds[processes])
