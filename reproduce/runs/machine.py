"""The machine and the code that a run is made with."""

import logging
import os
import platform
import subprocess
import warnings
from functools import cache
from pathlib import Path

import torch

# Raise a package's number where a change in it moves results: kept runs are then trained again. tests/test_golden.py
# tells where it was forgotten.
VERSIONS = {"losses": 1, "datamodules": 1, "lightning_modules": 1, "reproduce": 1}

# Arguments of a Trainer that trains, and writes and shows nothing.
SILENT = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def quiet(threads: int) -> None:
    """Prepare a process: a fixed number of threads, no hints of Lightning, and no bars for loading weights."""
    torch.set_num_threads(threads)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read when transformers is imported
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec.*")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


@cache
def device_name() -> str:
    """The device of a run: the GPU's name, or the processor's and the number of threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name} CPU, {torch.get_num_threads()} thread" + "s" * (torch.get_num_threads() > 1)


@cache
def git_commit() -> str:
    """Commit of the source, with "-dirty" where files differ from it; "unknown" outside a git checkout."""
    here = Path(__file__).parent
    run = {"cwd": here, "capture_output": True, "text": True, "env": {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}}
    try:
        commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], check=True, **run).stdout.strip()
        code = ["--", *(f":/{package}/*.py" for package in VERSIONS)]
        changed = subprocess.run(["git", "status", "--porcelain", *code], check=True, **run).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + "-dirty" * bool(changed)


def workers() -> int:
    """How many runs are trained at once: one on a GPU, else one per core."""
    return 1 if torch.cuda.is_available() else len(os.sched_getaffinity(0))


def duration(seconds: float) -> str:
    """Seconds in words: "8 s", "12 min", "3.5 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
