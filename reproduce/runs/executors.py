"""Where runs are trained: in worker processes of this call, or in jobs of a Slurm cluster."""

import gc
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import yaml

from datamodules import data_root
from reproduce.runs.config import Config, build_data
from reproduce.runs.machine import quiet
from reproduce.runs.store import RunResult, RunStore, run_key
from reproduce.runs.training import run

with suppress(ImportError):  # of an extra, which Jobs asks for
    from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError

POLL_SECONDS = 0.5
DEFAULTS = {"slurm_name": "csd-retrieval", "slurm_timeout_min": 24 * 60}  # by default submitit gives five minutes


@dataclass(eq=False)
class Run:
    """One training of a table.

    Args:
        name: what it is for, for people.
        config: its configuration, see ``reproduce.runs.training.run``.
        key: under which it is kept.
        steps: how many training steps it takes.
        result: what it gave, once it is finished.
        error: what went wrong, where it failed.
    """

    name: str
    config: Config
    key: str
    steps: int
    result: RunResult | None = None
    error: str = ""


# Each run as it ends, with what went wrong: "" where the store holds it. Closed early, it stops what it started.
Ended = Generator[tuple[Run, str], None, None]
Executor = Callable[[Sequence[Run], str | None, RunStore], Ended]  # runs, the data root or None, the store


class ExecutorError(ValueError):
    """Runs cannot be handed to the executor that was asked for."""


def train(key: str, config: Config, root: str | None, folder: Path, later: bool = False) -> str:
    """What a worker process or a job does: train a run, and keep it in the store.

    Args:
        key: of the run in the store.
        config: see ``run``.
        root: the data root, or None.
        folder: of the store.
        later: whether days may have passed since the run was planned, as for a job.

    Returns:
        What went wrong, "" where nothing did.

    Raises:
        DataError: the finished run cannot be kept.
    """
    store = RunStore(folder)
    if later:
        quiet(threads=1)
    try:
        if later and store.load(key) is not None:
            return ""
        if later and run_key(config, build_data(config, root).digest) != key:
            return "code or data changed after its job was submitted; the same command trains it as they are now"
        result = run(config, root)
    except Exception as error:  # one broken run is reported in its row and does not stop the others
        if later:
            traceback.print_exc()  # into the job's log
        return f"{type(error).__name__}: {error}"
    finally:
        gc.collect()  # a Trainer, its model and its data refer to each other, and would stay for dozens of runs
    store.save(key, config, result)
    return ""


class Workers:
    """The executor of worker processes, which start where first needed, serve every later call too, and end with it.

    Every worker process is a pool of its own: one that is killed, say for want of memory, takes only its run along.

    Args:
        at_once: how many.

    Raises:
        DataError: when called: a finished run cannot be kept.
    """

    def __init__(self, at_once: int):
        self.pools = [_pool() for _ in range(at_once)]
        self.idle: SimpleQueue[int] = SimpleQueue()
        for slot in range(at_once):
            self.idle.put(slot)

    def __call__(self, runs: Sequence[Run], root: str | None, store: RunStore) -> Ended:
        """Train the runs, see ``Executor``."""
        threads = ThreadPoolExecutor(len(self.pools))  # each waits for one process
        jobs = {threads.submit(self._train, one, root, store): one for one in runs}
        try:
            for job in as_completed(jobs):
                yield jobs[job], job.result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            while not all(job.done() for job in jobs):  # again and again, as a process may only now be starting
                for process in [process for pool in self.pools for process in list(pool._processes.values())]:
                    process.kill()
                time.sleep(0.05)

    def _train(self, one: Run, root: str | None, store: RunStore) -> str:
        slot = self.idle.get()
        call = (train, one.key, one.config, root, store.folder)
        try:
            try:
                future = self.pools[slot].submit(*call)
            except BrokenProcessPool:  # killed while it was idle
                self.pools[slot] = _pool()
                future = self.pools[slot].submit(*call)
            return future.result()
        except BrokenProcessPool as error:
            self.pools[slot] = _pool()
            return f"BrokenProcessPool: {error}"
        finally:
            self.idle.put(slot)


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    """One thread each, and none outlives the process that started it, however that one ended."""
    quiet(threads=1)
    gc.freeze()  # what is imported stays: the collection after every run need not look at it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers

    def follow_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()


class Jobs:
    """The executor of jobs on Slurm, one per run, by submitit.

    A job that is lost is reported; the same command trains what it left. Where this process is killed its jobs go on;
    where it is interrupted they are cancelled.

    Args:
        folder: for scripts, pickles and logs, on a file system that the machines share, as the store and the data are;
            each call makes a folder of its own in it.
        at_once: how many jobs are submitted at once; None for all.
        parameters: of Slurm, as texts ``key=value`` by submitit's names; values are read as YAML.
        cluster: of submitit.

    Raises:
        ExecutorError: submitit or Slurm is missing, or a parameter is unknown; when called: Slurm refuses a job.
    """

    def __init__(self, folder: Path, at_once: int | None, parameters: Iterable[str] = (), cluster: str = "slurm"):
        # Local jobs are named by process numbers, which come again: an older job's files are not to be read.
        self.folder = folder.absolute() / time.strftime("%Y-%m-%d_%H-%M-%S")
        self.at_once = at_once or math.inf
        try:
            from submitit import AutoExecutor

            self.executor = AutoExecutor(self.folder, cluster)
        except ImportError as error:
            raise ExecutorError(
                "--executor slurm needs submitit, which is not installed: pip install 'csd-retrieval[cluster]'"
            ) from error
        except RuntimeError as error:
            raise ExecutorError(
                f"--executor slurm: {error} Run this on a machine that submits jobs (a login node), or load its module"
            ) from error
        given = {"timeout_min": 10**6} if cluster == "local" else dict(DEFAULTS)
        for pair in parameters:
            key, _, value = pair.partition("=")
            if not key or not value:
                raise ExecutorError(f"--slurm {pair}: expected key=value, such as partition=gpu or timeout_min=90")
            given[f"slurm_{key}"] = yaml.safe_load(value)
        try:
            self.executor.update_parameters(**given)
        except (NameError, TypeError, AssertionError) as error:
            raise ExecutorError(f"--slurm: {error}") from error

    def __call__(self, runs: Sequence[Run], root: str | None, store: RunStore) -> Ended:
        """Train the runs, see ``Executor``."""
        # A job may start in another folder: without a name the data root is relative to this one.
        data = data_root(root).absolute()
        given = (str(data) if data.is_dir() else None, store.folder.absolute(), True)
        waiting, running = list(reversed(runs)), {}
        try:
            while waiting or running:
                while waiting and len(running) < self.at_once:
                    one = waiting.pop()
                    with _uninterrupted():
                        running[self._submit(one.key, one.config, *given)] = one
                ended = [job for job in running if job.done()]
                for job in ended:
                    one = running.pop(job)
                    yield one, self._error(job, one, store)
                if not ended:
                    time.sleep(POLL_SECONDS)
        finally:
            with _uninterrupted():
                for job in running:
                    job.cancel(check=False)
            if running:
                print(f"jobs cancelled: {len(running)}", file=sys.stderr, flush=True)

    def _submit(self, *arguments: Any) -> Any:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            return self.executor.submit(train, *arguments)
        except (FailedJobError, FailedSubmissionError) as error:
            raise ExecutorError(
                f"Slurm refuses a job: {error}. Correct --slurm, or let --jobs limit how many are submitted at once; "
                "finished runs are kept"
            ) from error

    def _error(self, job: Any, one: Run, store: RunStore) -> str:
        with suppress(OSError):  # a file system shared with other machines then shows what they have written
            os.utime(store.folder)
        if store.load(one.key) is not None:
            return ""
        try:
            error = job.result() or "its job says that it is done, but left no finished run"
        except (FailedJobError, UncompletedJobError) as failed:
            error = f"its job ended as {job.state} without a result ({str(failed).splitlines()[0]})"
        return f"{error} (log: {job.paths.stderr.relative_to(self.folder.parents[2])})"


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits for the end of this: between a job's submission and our knowing of it none could cancel it."""
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)
