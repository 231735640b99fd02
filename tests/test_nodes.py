"""``csd`` on several nodes and processes: like one process, written once, and ended when one of them dies."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from node_cases import CSD, FEW, outcome, outcomes, run, slurm, torchrun, words

from lightning_modules import LAVIMO
from lightning_modules.cli import main

pytestmark = pytest.mark.slow

NODES = ("--trainer.num_nodes", 2, "--trainer.strategy", "ddp")
DEVICES = ("--trainer.devices", 2, "--trainer.strategy", "ddp")
PROCESSES = 3


def checkpoint(folder: Path) -> Path:
    return folder / "run" / "csv" / "version_0" / "checkpoints" / "last.ckpt"


def written(folder: Path) -> list[str]:
    """Files of a run, in its folder; the names of event files hold the time and the machine."""
    files = (path.relative_to(folder).as_posix() for path in (folder / "run").rglob("*") if path.is_file())
    return sorted(re.sub(r"tfevents.*", "tfevents", name) for name in files)


def assert_same_weights(one: Path, other: Path) -> None:
    """Two runs took the same steps, to the rounding of their sums."""
    first, second = (torch.load(checkpoint(folder), weights_only=True) for folder in (one, other))
    assert first["global_step"] == second["global_step"] > 0
    for name, value in first["state_dict"].items():
        torch.testing.assert_close(second["state_dict"][name], value, rtol=1e-5, atol=1e-9, msg=name)


# Two nodes are one process ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """A run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    main(words("fit", folder, batch_size=32))
    return folder


@pytest.fixture(scope="module")
def nodes(tmp_path_factory) -> Path:
    """The same run by torchrun on two nodes, each with half of every batch."""
    folder = tmp_path_factory.mktemp("nodes")
    done = torchrun(folder, *CSD, *words("fit", folder, *NODES, batch_size=16))
    assert [status for status, _ in done] == [0, 0]
    return folder


def test_two_nodes_train_the_weights_of_one_process(alone, nodes):
    assert torch.load(checkpoint(alone), weights_only=True)["global_step"] > 4
    assert_same_weights(alone, nodes)


def test_two_nodes_write_what_one_process_writes(alone, nodes):
    assert written(nodes) == written(alone)
    one, two = (pd.read_csv(checkpoint(folder).parent.parent / "metrics.csv") for folder in (alone, nodes))
    assert len(one) == len(two)
    validation = [name for name in one if name.startswith("val/")]
    assert "val/average/MAP" in validation
    pd.testing.assert_frame_equal(one[validation], two[validation], check_exact=True)


def test_two_nodes_under_slurm_score_a_checkpoint_like_one_process(nodes, tmp_path):
    given = {place: words("test", tmp_path / place, "--ckpt_path", checkpoint(nodes)) for place in ("one", "two")}
    main(given["one"])
    done = slurm(tmp_path, *CSD, *given["two"], *map(str, NODES))
    assert [status for status, _ in done] == [0, 0]
    assert written(tmp_path / "two") == written(tmp_path / "one")
    one, two = ((tmp_path / place / "run" / "csv" / "test_0" / "metrics.csv").read_text() for place in given)
    assert "test/standard/average/MAP" in one
    assert two == one


WRONG_SHAPES = {
    "nodes": ({"SLURM_NNODES": 3, "SLURM_NTASKS_PER_NODE": 1}, "Set `num_nodes=3`"),
    "tasks": ({"SLURM_NNODES": 2}, "--ntasks-per-node"),
}


@pytest.mark.parametrize("case", WRONG_SHAPES)
def test_a_job_of_another_shape_is_refused(case, tmp_path, monkeypatch):
    variables, remedy = WRONG_SHAPES[case]
    job = {"SLURM_NTASKS": 2, "SLURM_JOB_NAME": "csd", "SLURM_PROCID": 0, "SLURM_LOCALID": 0, "SLURM_NODEID": 0}
    for name, value in (job | variables).items():
        monkeypatch.setenv(name, str(value))
    status, said = outcome(words("fit", tmp_path, *NODES))
    assert status == 2
    assert remedy in said.split("csd: ")[1]


# A process dies --------------------------------------------------------------------------------------------------


def by_torchrun(folder: Path, *given: str) -> list[tuple[int, str]]:
    return torchrun(folder, *CSD, *given, *map(str, NODES))


def by_lightning(folder: Path, *given: str) -> list[tuple[int, str]]:
    return run(folder, [((*CSD, *given, *map(str, DEVICES)), {})])


@pytest.mark.parametrize(("start", "rank"), [(by_torchrun, 1), (by_lightning, 1), (by_lightning, 0)])
def test_the_run_ends_when_a_process_dies_and_resumes_from_its_last_checkpoint(start, rank, tmp_path):
    """Each start waits far shorter than processes wait for each other, so one left waiting fails the test."""
    dying = ("--trainer.callbacks+=node_cases.Dies", f"--trainer.callbacks.rank={rank}")
    epochs = ("--trainer.max_epochs", 2)
    done = start(tmp_path, *words("fit", tmp_path, *epochs, *dying))
    assert all(status for status, _ in done)
    said = "\n".join(output for _, output in done)
    # Where Lightning started the processes itself, it may have ended the others before they noticed.
    assert re.search("no connection to the other processes of this run|Child process .* terminated with code -9", said)
    assert not re.search(r"\[rank\d\]", said), "a stack of calls"
    last = checkpoint(tmp_path)
    assert torch.load(last, weights_only=True)["epoch"] == 0
    LAVIMO.load_from_checkpoint(last)
    assert len(list(last.parent.iterdir())) == 2
    resumed = words("fit", tmp_path, *epochs, "--ckpt_path", last)
    if start is by_torchrun:
        done = slurm(tmp_path, *CSD, *resumed, *map(str, NODES))
        assert [status for status, _ in done] == [0, 0]
    else:
        main(resumed)
    assert torch.load(last, weights_only=True)["epoch"] == 1


# More processes than items, and batches that do not fit --------------------------------------------------------


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> tuple[Path, list[dict]]:
    """A folder with results of three processes that share two items, and what each of them said."""
    folder, few = tmp_path_factory.mktemp("few"), {"data": "node_cases.FewItems"}
    main(words("fit", folder / "model", **few))
    model = ("--ckpt_path", checkpoint(folder / "model"))
    several = ("--trainer.devices", PROCESSES, "--trainer.strategy", "ddp")
    for command in ("validate", "test"):
        main(words(command, folder / f"{command} alone", *model, **few))
    commands = {name: words(name, folder / name, *several, *model, **few) for name in ("validate", "test", "predict")}
    commands["fit"] = words("fit", folder / "fit", *several, **few)
    main(words("fit", folder / "batch alone", batch_size=1000))
    commands["batch"] = words("fit", folder / "batch", *several, batch_size=1000)
    unequal = ("--data.init_args.batch_size", "1{rank}")
    commands["unequal"] = words("fit", folder / "unequal", *several, *unequal)
    return folder, outcomes(folder, commands, PROCESSES)


def test_more_processes_than_training_items_are_refused_in_each(few):
    for rank, said in enumerate(few[1]):
        status, message = said["fit"]
        assert status == 2
        assert f"csd{f' (process {rank})' * bool(rank)}: few items: {FEW} training items for {PROCESSES}" in message
        assert f"start at most {FEW} (--trainer.devices times --trainer.num_nodes)" in message
        assert "Traceback" not in message


def test_a_batch_that_holds_all_items_is_shared_among_the_processes(few):
    folder, ranks = few
    assert [said["batch"][0] for said in ranks] == [0] * PROCESSES
    assert_same_weights(folder / "batch alone", folder / "batch")


@pytest.mark.parametrize("command", ["validate", "test"])
def test_processes_without_an_item_of_their_own_do_not_change_a_score(command, few):
    folder, ranks = few
    assert [said[command][0] for said in ranks] == [0] * PROCESSES
    places = (folder / command, folder / f"{command} alone")
    several, one = ((place / "run" / "csv" / f"{command}_0" / "metrics.csv").read_text() for place in places)
    assert "image->text/P@5" in one  # which an item counted twice would raise
    assert several == one


def test_predict_in_several_processes_is_refused_and_writes_nothing(few):
    folder, ranks = few
    for said in ranks:
        status, message = said["predict"]
        assert status == 2
        assert f"one process, and {PROCESSES} were started; use --trainer.devices 1" in message
    assert not list(folder.glob("predict/**/*.npz*"))


def test_batches_of_different_sizes_are_refused_in_every_process(few):
    for said in few[1]:
        status, message = said["unequal"]
        assert status == 2
        assert "different sizes [10, 11, 12]" in message
        assert "Traceback" not in message
