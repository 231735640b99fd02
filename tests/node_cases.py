"""Several processes on one machine, a callback that dies and very few items: what the tests of several nodes share."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, suppress
from io import StringIO
from pathlib import Path

import numpy as np
import yaml
from cli_cases import CONFIG
from lightning.pytorch.callbacks import Callback
from processes import free_port
from tiny_items import Tiny

from datamodules.items import ItemSet, Modality
from lightning_modules.cli import main

TESTS = Path(__file__).parent
# Far beyond what a run needs, far below the half hour after which a process stops waiting for another by itself.
LIMIT = 300
CSD = ("-m", "lightning_modules")
FEW = 2  # items of every split of FewItems


class Dies(Callback):
    """Ends its process without warning in the middle of the second epoch.

    Args:
        rank: of the process.
    """

    def __init__(self, rank: int):
        self.rank = rank

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if (trainer.global_rank, trainer.current_epoch, batch_idx) == (self.rank, 1, 1):
            os.kill(os.getpid(), signal.SIGKILL)


class FewItems(Tiny):
    """Two training, two validation and two test items."""

    def __init__(self, batch_size: int = 16):
        draw, number = np.random.default_rng(0), np.arange(3 * FEW)
        vectors = {name: Modality(draw.normal(size=(3 * FEW, 4)).astype(np.float32)) for name in ("image", "text")}
        split, names = np.repeat(["train", "validation", "test"], FEW), [f"item {i}" for i in number]
        super().__init__(ItemSet(vectors, number % FEW, split, names, "few items"), batch_size=batch_size)


def write_config(folder: Path, data: str = "SyntheticItems", batch_size: int = 16) -> Path:
    """A small LAVIMO, in float64 so that the order of a sum does not show; without dropout nothing else is drawn."""
    names = ("image", "text") if data != "SyntheticItems" else ("text", "video", "motion")
    model = {"alignment": "gcs", "dim": 16, "learning_rate": 0.003}
    model["encoders"] = {name: {"name": "features"} for name in names}
    config = {
        "seed_everything": 7,
        "model": {"class_path": "LAVIMO", "init_args": model},
        "data": {"class_path": data, "init_args": {"batch_size": batch_size}},
        "trainer": CONFIG["trainer"] | {"max_epochs": 1, "precision": "64-true", "num_sanity_val_steps": 0},
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def words(command: str, folder: Path, *more: object, **config) -> list[str]:
    """Words of the command line for the small configuration, with its results in a folder."""
    root = ("--trainer.default_root_dir", folder / "run")
    return [str(word) for word in (command, "--config", write_config(folder, **config), *root, *more)]


def torchrun(folder: Path, *program: str, nodes: int = 2, per_node: int = 1) -> list[tuple[int, str]]:
    """Exit status and output of torchrun on every node."""
    place = ("--master-addr", "127.0.0.1", "--master-port", free_port())
    starts = []
    for node in range(nodes):
        shape = ("--nnodes", nodes, "--node-rank", node, "--nproc-per-node", per_node)
        starts.append((["-m", "torch.distributed.run", *shape, *place, *program], {}))
    return run(folder, starts)


def slurm(folder: Path, *program: str, nodes: int = 2) -> list[tuple[int, str]]:
    """Exit status and output of what srun would start: one process per node, told so by variables alone."""
    job = {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "csd",
        "SLURM_NTASKS": nodes,
        "SLURM_NTASKS_PER_NODE": 1,
        "SLURM_NNODES": nodes,
        "SLURM_NODELIST": f"127.0.0.[1-{nodes}]",
        "SLURM_LOCALID": 0,
        "MASTER_PORT": free_port(),
    }
    return run(folder, [(program, job | {"SLURM_PROCID": node, "SLURM_NODEID": node}) for node in range(nodes)])


def run(folder: Path, starts: list[tuple]) -> list[tuple[int, str]]:
    """Exit status and output of Python processes started together; they and those they start must end by themselves."""
    given = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_", "PL_"))}
    given |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    processes = []
    for program, variables in starts:
        env = given | {name: str(value) for name, value in variables.items()}
        processes.append(subprocess.Popen([sys.executable, *map(str, program)], cwd=folder, env=env, **piped))
    try:
        # A pipe is at its end when no process holds it any more.
        with ThreadPoolExecutor() as pool:
            said = list(pool.map(lambda process: process.communicate(timeout=LIMIT)[0], processes))
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
    print(*said, sep="\n")  # shown where a test fails
    return [(process.returncode, output) for process, output in zip(processes, said, strict=True)]


def outcomes(folder: Path, commands: dict[str, list[str]], processes: int) -> list[dict[str, tuple[int, str]]]:
    """Exit status and message of several commands in each of some processes, from one start of them.

    In the words of the commands ``{rank}`` stands for the rank of the process.
    """
    (folder / "commands.json").write_text(json.dumps(commands))
    ((status, output),) = torchrun(folder, __file__, str(folder), nodes=1, per_node=processes)
    assert status == 0, output
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(processes)]


def outcome(given: list[str]) -> tuple[int, str]:
    """Exit status of a command and what it says on standard error."""
    said = StringIO()
    with redirect_stderr(said):
        try:
            main(given)
        except SystemExit as stop:
            return int(stop.code or 0), said.getvalue()
    return 0, said.getvalue()


if __name__ == "__main__":
    place, own_rank = Path(sys.argv[1]), os.environ["RANK"]
    asked = json.loads((place / "commands.json").read_text())
    found = {name: outcome([word.replace("{rank}", own_rank) for word in given]) for name, given in asked.items()}
    (place / f"rank-{own_rank}.json").write_text(json.dumps(found))
