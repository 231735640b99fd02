"""Where cells are trained: in worker processes of this call, or in jobs of a scheduler, here or on a cluster."""

from __future__ import annotations

import math
import multiprocessing
import os
import shlex
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from datamodules import data_root
from reproduce.cells import CellStore, Config, build_data, cell_hash, quiet, run_cell

if TYPE_CHECKING:
    from submitit import AutoExecutor, Job

    from reproduce.runner import Cell

# Each cell as it ends, with what went wrong: "" where nothing did, and then the store holds it. Closed early, it stops
# what it started.
Ended = Generator[tuple["Cell", str], None, None]
Executor = Callable[[Sequence["Cell"], str | None, CellStore], Ended]  # cells, the data root or None, the store

COMMANDS = ("sbatch", "srun", "sacct", "scancel")  # what submitit calls of Slurm
POLL_SECONDS = 0.5
LOCAL_MINUTES = 365 * 24 * 60  # submitit ends a job after two minutes where nothing is said
SLURM_MINUTES = 24 * 60  # and after five on a cluster
_TEXT = ("partition", "account", "qos", "constraint", "gres", "nodelist", "exclude", "mem_per_cpu", "mem_per_gpu")
# Parameters of Slurm by submitit's names. Not those of several tasks or nodes: a cell is one process.
PARAMETERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("timeout_min", "cpus_per_task", "gpus_per_node"), int),
    "mem_gb": float,
    **dict.fromkeys((*_TEXT, "comment", "mail_type", "mail_user"), str),
    "exclusive": lambda text: text == "true" or text,
    "setup": lambda command: [command],  # a line for the shell before the job, such as `module load cuda`
}


class ExecutorError(Exception):
    """Cells cannot be handed to the executor that was asked for."""


def workers() -> int:
    """How many cells are trained at once: one on a GPU, else one per core."""
    return 1 if torch.cuda.is_available() else len(os.sched_getaffinity(0))


def pool(at_once: int, cells: Sequence[Cell], root: str | None, store: CellStore) -> Ended:
    """Train cells in worker processes, ``at_once`` of them: with that argument given, an ``Executor``.

    Every worker process is a pool of its own: one that is killed, say for want of memory, takes only its cell along.

    Raises:
        DataError: a finished cell cannot be kept.
    """
    pools = [_pool() for _ in range(min(at_once, len(cells)))]
    queue, running = list(reversed(cells)), {}
    try:
        while queue or running:
            idle = set(range(len(pools))) - {slot for _, slot in running.values()}
            for slot in sorted(idle)[: len(queue)]:
                cell = queue.pop()
                try:
                    future = pools[slot].submit(run_cell, cell.config, root)
                except BrokenProcessPool:  # killed while it was idle
                    pools[slot] = _pool()
                    future = pools[slot].submit(run_cell, cell.config, root)
                running[future] = (cell, slot)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell, slot = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    pools[slot] = _pool()
                yield cell, _keep(cell, future, store)
    except BaseException:
        for process in [process for pool in pools for process in list(pool._processes.values())]:
            process.kill()
        raise
    finally:
        for each in pools:
            each.shutdown(cancel_futures=True)


def _keep(cell: Cell, future: Future, store: CellStore) -> str:
    try:
        result = future.result()
    except Exception as error:  # one broken cell is reported in its row and does not stop the others
        return f"{type(error).__name__}: {error}"
    store.save(cell.key, cell.config, result)
    return ""


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    """One thread each, and none outlives the process that started it, however that one ended."""
    quiet(threads=1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers

    def follow_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()


def slurm_parameters(pairs: Iterable[str]) -> dict[str, Any]:
    """Parameters of Slurm from texts ``key=value``.

    Raises:
        ExecutorError: an unknown key, or a value that is not of its kind.
    """
    found = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key not in PARAMETERS or not value:
            raise ExecutorError(f"--slurm {pair}: expected key=value with key one of {', '.join(sorted(PARAMETERS))}")
        try:
            found[key] = PARAMETERS[key](value)
        except ValueError as error:
            raise ExecutorError(f"--slurm {pair}: {error}; expected a number") from error
    return found


class Jobs:
    """The executor of jobs, one per cell, by submitit. A job keeps its cell in the store itself.

    A job that is lost (killed, its machine gone, its time over) is submitted once more. Where this process is killed,
    its jobs go on; where it is interrupted, they are cancelled.

    Args:
        cluster: "local", processes that outlive this one, or "slurm".
        folder: for scripts, pickles and logs; each call makes a folder of its own in it. On Slurm this, the store and
            the data must be on a file system that its machines share.
        at_once: how many jobs are submitted at once; None for all.
        parameters: of Slurm, see ``slurm_parameters``.

    Raises:
        ExecutorError: submitit or Slurm's commands are missing; when called: Slurm refuses a job.
    """

    def __init__(self, cluster: str, folder: Path, at_once: int | None, parameters: Mapping[str, Any]):
        try:
            import submitit  # noqa: F401
        except ImportError as error:
            raise ExecutorError(
                "--executor needs submitit, which is not installed: pip install 'csd-retrieval[cluster]'"
            ) from error
        missing = [name for name in COMMANDS if shutil.which(name) is None]
        if cluster == "slurm" and missing:
            raise ExecutorError(
                f"--executor slurm: {', '.join(missing)} not found. Run this on a machine that submits to Slurm (a "
                "login node), load its module, or use --executor local"
            )
        self.cluster = cluster
        # Local jobs are named by process numbers, which come again: an older job's files are not to be read.
        self.folder = folder.absolute() / time.strftime("%Y-%m-%d_%H-%M-%S")
        self.at_once = at_once or math.inf
        self.parameters = parameters

    def __call__(self, cells: Sequence[Cell], root: str | None, store: CellStore) -> Ended:
        """Train the cells, see ``Executor``."""
        executor = self._executor()
        # A job may start in another folder: without a name the data root is relative to this one.
        data = data_root(root).absolute()
        given = (str(data) if data.is_dir() else None, str(store.folder.absolute()))
        waiting, running, lost = list(reversed(cells)), {}, set()
        try:
            while waiting or running:
                while waiting and len(running) < self.at_once:
                    cell = waiting.pop()
                    with _undisturbed(), _complaints_to(self.folder / "submission.err"):
                        running[_submit(executor, cell.key, cell.config, *given)] = cell
                ended = [job for job in running if job.done()]
                for job in ended:
                    cell = running.pop(job)
                    error, again = self._outcome(job, cell, store)
                    if again and cell.key not in lost:
                        lost.add(cell.key)
                        waiting.append(cell)
                        print(f"{cell.name}: {error}; submitted once more", flush=True)
                    else:
                        yield cell, f"{'lost twice: ' * again}{error}"
                if not ended:
                    time.sleep(POLL_SECONDS)
        finally:
            _cancel(running)

    def _executor(self) -> AutoExecutor:
        from submitit import AutoExecutor

        self.folder.mkdir(parents=True, exist_ok=True)
        if self.cluster == "slurm":
            executor = AutoExecutor(self.folder, "slurm")
            given = {"name": "csd-retrieval", "timeout_min": SLURM_MINUTES, **self.parameters}
            executor.update_parameters(**{f"slurm_{name}": value for name, value in given.items()})
            return executor
        # submitit hides the GPUs from a local job that asks for none, and numbers anew those that one asks for.
        name = "CUDA_VISIBLE_DEVICES"
        variable = [f"{name}={os.environ[name]}"] if name in os.environ else ["-u", name]
        executor = AutoExecutor(self.folder, "local", local_python=shlex.join(["env", *variable, sys.executable]))
        executor.update_parameters(timeout_min=LOCAL_MINUTES)
        return executor

    def _outcome(self, job: Job, cell: Cell, store: CellStore) -> tuple[str, bool]:
        """What went wrong with a job that ended, and whether it was lost, so that another one may end better."""
        from submitit.core.utils import FailedJobError, UncompletedJobError

        with suppress(OSError):  # a file system shared with other machines then shows what they have written
            os.utime(store.folder)
        if store.load(cell.key) is not None:
            return "", False
        try:
            error, lost = job.result()
        except FailedJobError:  # another job would fail likewise
            error, lost = "its job failed before the cell could be trained", False
        except UncompletedJobError:
            error, lost = f"its job ended as {job.state} and left no result", True
        error = error or "its job says that it is done, but left no finished cell"
        return f"{error} (log: {job.paths.stderr.relative_to(self.folder.parents[2])})", lost


def train_cell(key: str, config: Config, root: str | None, folder: str) -> tuple[str, bool]:
    """What a job does: train a cell, unless another job has, and keep it in the store.

    Args:
        key: of the cell in the store.
        config: see ``run_cell``.
        root: the data root, or None.
        folder: of the store.

    Returns:
        What went wrong, "" where nothing did; and whether another job may end better.
    """
    from submitit.core.utils import UncompletedJobError

    quiet(threads=1)
    store = CellStore(Path(folder))
    try:
        if store.load(key) is not None:
            return "", False
        if cell_hash(config, build_data(config, root).digest) != key:  # a job may wait for days before it starts
            return "code or data changed after its job was submitted; the same command trains it as they are now", False
        store.save(key, config, run_cell(config, root))
    except UncompletedJobError:  # which submitit raises here shortly before the scheduler ends the job
        return "its job ran out of time, which timeout_min sets", True
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}", False
    return "", False


def _submit(executor: AutoExecutor, *arguments: Any) -> Job:
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        return executor.submit(train_cell, *arguments)
    except (FailedJobError, FailedSubmissionError) as error:
        raise ExecutorError(
            f"Slurm refuses a job: {error}. Correct --slurm, or let --jobs limit how many are submitted at once; "
            "finished cells are kept"
        ) from error


def _cancel(jobs: Iterable[Job]) -> None:
    jobs = list(jobs)
    with _undisturbed():
        for job in jobs:
            job.cancel(check=False)
    if jobs:
        print(f"jobs cancelled: {len(jobs)}", file=sys.stderr, flush=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C waits for the end of this: between its start and our knowing of it a job could not be cancelled."""
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _complaints_to(path: Path) -> Iterator[None]:
    """Errors of processes started here go to a file: those that watch local jobs are loud when they are cancelled."""
    kept = os.dup(2)
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
