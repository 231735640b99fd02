"""The memory of a process that computes a kernel divergence and its gradient is linear in the rows of the samples."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks import fresh

WIDTH = 16
# Prints by how many KiB the two passes raise the process's resident size at its largest.
WORK = """
import sys

import torch

from benchmarks.fresh import FORGET, STATUS
from losses import build_loss


def kilobytes(field):
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field))


name, modalities, rows, width = sys.argv[1], *map(int, sys.argv[2:])
embeddings = {f"m{number}": torch.randn(rows, width).requires_grad_() for number in range(modalities)}
FORGET.write_text("5")
before = kilobytes("VmRSS:")
build_loss(name)(embeddings).total.backward()
print(kilobytes("VmHWM:") - before)
"""


def peak(name: str, modalities: int, rows: int) -> float:
    """MiB by which a loss's forward and backward pass raise the peak of a process of their own."""
    command = [sys.executable, "-c", WORK, name, str(modalities), str(rows), str(WIDTH)]
    done = subprocess.run(command, cwd=fresh.ROOT, capture_output=True, text=True, check=True, timeout=300)
    return int(done.stdout) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not fresh.FORGET.exists(), reason="the peak of a process is read from Linux's /proc")
@pytest.mark.parametrize(("name", "modalities"), [("kernel_cs", 2), ("kernel_gcs", 3)])
def test_the_peak_of_a_process_grows_by_a_fifth_of_one_kernel_matrix_at_most(name, modalities):
    """From 4,000 rows to 12,000 one matrix in float32 grows from 61 to 549 MiB, and a loss has three or nine of them.

    A difference, because what the libraries take on their first call is the same for both; a fifth, because what the
    allocator holds besides differs by some 40 MiB between runs.
    """
    few, many = 4000, 12_000
    matrix = 4 * (many**2 - few**2) / 2**20
    assert peak(name, modalities, many) - peak(name, modalities, few) < matrix / 5
