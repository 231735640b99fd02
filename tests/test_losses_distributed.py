"""Losses on two and on four processes equal the loss of one process on the whole batch."""

import os
import weakref
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from loss_cases import NAMES, OF_PAIRS
from processes import in_group, on_processes
from torch import Tensor, nn

from losses import available_losses, build_loss, fused

WORLDS, GLOBAL, WIDTH = (2, 4), 8, 5
# Every registered loss, and some of their forms: name, keywords, number of modalities.
CASES = {
    **{name: (name, {}, 2 if name in OF_PAIRS else 3) for name in available_losses()},
    "log_coral": ("log_coral", {"ridge": 0.1}, 2),
    "gcs mixed": ("gcs", {"scheme": "mixed"}, 3),
    "gcs counterclockwise": ("gcs", {"scheme": "counterclockwise"}, 3),
    "gcs without target": ("gcs", {"use_target": False}, 3),
    "gcs of two": ("gcs", {}, 2),
    "gram of two": ("gram", {}, 2),
    "gram of four": ("gram", {}, 4),
    "symile shuffled": ("symile", {"negatives": "shuffled"}, 3),
    "mmd of two bandwidths": ("mmd", {"sigma": [0.5, 5.0]}, 2),
}
RUNS = [(case, kind) for case in CASES for kind in ("integer", "multi-hot", "soft", "soft in blocks")]


def global_batch(modalities: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(GLOBAL, 6, generator=generator, dtype=torch.float64) for name in NAMES[:modalities]}


def global_labels() -> dict[str, Tensor]:
    """Every kind of label; classes are shared between the processes, the soft target is asymmetric."""
    generator = torch.Generator().manual_seed(6)
    soft = torch.rand(GLOBAL, GLOBAL, generator=generator, dtype=torch.float64)
    soft = soft * (soft > 0.4) + torch.eye(GLOBAL, dtype=torch.float64)
    multi_hot = torch.rand(GLOBAL, 3, generator=generator) > 0.6
    integer = torch.tensor([0, 1, 2, 1, 0, 2, 3, 1])
    return {"integer": integer, "multi-hot": multi_hot, "soft": soft, "soft in blocks": soft}


def run_case(case: str, kind: str, rows: slice) -> dict[str, object]:
    """Loss and parameter gradients of a shared linear layer on some rows of the global batch."""
    name, keywords, modalities = CASES[case]
    layer = nn.Linear(6, WIDTH, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(WIDTH, 6, generator=torch.Generator().manual_seed(8), dtype=torch.float64))
    embeddings = {key: layer(x[rows]) for key, x in global_batch(modalities).items()}
    output = build_loss(name, **keywords)(embeddings, global_labels()[kind][rows])
    output.total.backward()
    return {"total": output.total.detach(), **output.parts, "grad": layer.weight.grad}


def equality(rank: int, processes: int) -> dict:
    local = GLOBAL // processes
    rows = slice(rank * local, (rank + 1) * local)
    found = {}
    for run in sorted(RUNS, key=lambda run: "in blocks" in run[1]):
        if "in blocks" in run[1]:  # every batch is large from now on, and a block is a row
            fused.LIMIT_BYTES, fused.BLOCK_ENTRIES["cpu"] = 0, GLOBAL
        found[run] = run_case(*run, rows)
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[int, list[dict]]:
    """Number of processes -> what each of them found in every run, from one start of the process group."""
    return {n: in_group(equality, tmp_path_factory.mktemp(f"equality{n}"), n) for n in WORLDS}


@pytest.mark.parametrize("processes", WORLDS)
@pytest.mark.parametrize(("case", "kind"), RUNS)
def test_mean_over_processes_is_the_global_batch(results, case, kind, processes):
    for name, expected in run_case(case, kind, slice(None)).items():
        found = sum(rank[case, kind][name] for rank in results[processes]) / processes
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def ends_its_group(folder: Path, processes: int, **settings: object) -> bool:
    """Whether the process group is gone once it is destroyed, although a loss with its graph is kept."""
    dist.init_process_group("gloo", rank=int(os.environ["LOCAL_RANK"]), world_size=processes)
    layer = nn.Linear(6, WIDTH, dtype=torch.float64)
    embeddings = {key: layer(x) for key, x in global_batch(2).items()}
    kept = build_loss("cs")(embeddings, global_labels()["integer"])
    group = weakref.ref(dist.group.WORLD)
    dist.destroy_process_group()
    return group() is None and kept.total.requires_grad


def test_a_loss_that_is_kept_does_not_keep_the_process_group(tmp_path):
    assert on_processes(ends_its_group, tmp_path, 2) == [True, True]


# Refusals

BAD = ("unequal", "broken", "none", "multi-hot", "soft")


def refused(rank: int, processes: int) -> dict[tuple[str, str], str | None]:
    """What every loss says where rank 0 holds one item fewer, and where rank 1 holds a NaN, nothing or bad labels."""
    return {(case, what): refusal(case, what, rank) for case in CASES for what in BAD}


def refusal(case: str, what: str, rank: int) -> str | None:
    name, keywords, modalities = CASES[case]
    rows = GLOBAL // 2 - (what == "unequal" and rank == 0)
    embeddings = {key: x[:rows] for key, x in global_batch(modalities).items()}
    labels = global_labels()[what if what in ("multi-hot", "soft") else "integer"][:rows] * 1
    if rank == 1 and what == "broken":
        embeddings["text"][2, 3] = float("nan")
    if rank == 1 and what == "none":
        embeddings = {}
    if rank == 1 and what in ("multi-hot", "soft"):
        labels[0] = 2 if what == "multi-hot" else 0
    try:
        build_loss(name, **keywords)(embeddings, labels)
    except ValueError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def refusals(tmp_path_factory) -> list[dict]:
    return in_group(refused, tmp_path_factory.mktemp("refusals"), 2)


@pytest.mark.parametrize("case", CASES)
def test_bad_embeddings_on_one_process_are_refused_on_all(refusals, case):
    for messages in refusals:
        assert f"different sizes [{GLOBAL // 2 - 1}, {GLOBAL // 2}]" in messages[case, "unequal"]
    for what, named in (("broken", "'text'"), ("none", "modalit")):
        assert "process 1 refused its embeddings" in refusals[0][case, what]
        assert named in refusals[1][case, what]


@pytest.mark.parametrize(
    ("kind", "said"), [("multi-hot", "hold only 0 and 1"), ("soft", "target row 0 has no positive")]
)
@pytest.mark.parametrize("case", CASES)
def test_bad_labels_on_one_process_are_refused_on_all_or_read_by_none(refusals, case, kind, said):
    found = [messages[case, kind] for messages in refusals]
    name, keywords, _ = CASES[case]
    of_columns = (case, kind) == ("gcs counterclockwise", "soft")  # whose targets are columns, and none is empty
    if of_columns or not build_loss(name, **keywords).uses_labels:
        assert found == [None, None]
    else:
        assert "process 1 refused its labels" in found[0]
        assert said in found[1]
