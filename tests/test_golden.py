"""Small trainings of every model whose numbers stand in tests/golden: what a change of the code must not move.

`python tests/test_golden.py` writes the numbers anew. On the machine that wrote them they come back to the last digit:
`GOLDEN_TOLERANCE=0 python -m pytest tests/test_golden.py`.
"""

import csv
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from real_data import require
from runner_cases import command

from losses import build_loss

FOLDER = Path(__file__).parent / "golden"
TABLES = ("wikipedia", "utd_mhad", "flickr8k_tri", "synthetic")
IDENTITY = ("method", "dataset", "features", "split", "gallery", "protocol", "direction", "metric", "k")
# What a processor of another make changes in a share of a few hundred queries.
TOLERANCE = float(os.environ.get("GOLDEN_TOLERANCE", 0.005))
LOSSES = {
    "cmpm_kl": {},
    "kl": {"temperature": 0.2},
    "cs": {"temperature": 0.2},
    "gcs": {"temperature": 0.3, "scheme": "mixed"},
    "mmd": {},
    "coral": {},
    "log_coral": {"ridge": 1e-3},
    "infonce": {"temperature": 0.1},
    "kernel_cs": {"sigma": 0.5},
    "pairwise": {"divergence": "cs", "temperature": 0.2},
    "mil_nce": {"temperature": 0.1},
    "gram": {},
    "symile": {"negatives": "all"},
    "gcs_clamped": {"temperature": 0.3},
    "gcs_product": {"temperature": 0.1, "scheme": "mixed"},
    "kernel_gcs": {"sigma": 0.5},
}
SEVERAL = (
    "gcs",
    "pairwise",
    "gram",
    "symile",
    "gcs_clamped",
    "gcs_product",
    "kernel_gcs",
)  # losses that are given three modalities


def numbers(name: str, out: Path) -> dict[str, str]:
    """Identity of every row of a golden table -> its value, as the command writes it."""
    with pytest.MonkeyPatch.context() as patch:
        if name == "synthetic":
            patch.delenv("CSD_DATA", raising=False)
        outcome = command(FOLDER, name, "--out", out, "--offline")
    assert outcome.status == 0, outcome.err
    found = next(path for path in (out / f"{name}.csv", out / "synthetic" / f"{name}.csv") if path.exists())
    with found.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert {row["status"] for row in rows} == {"ok"}
    kept = [row for row in rows if "seconds" not in row["metric"]]
    return {" | ".join(row[column] for column in IDENTITY): row["value"] for row in kept}


def loss_numbers() -> dict[str, list[float]]:
    """Loss -> its value, and the norm of its gradient for every modality, in float64."""
    found = {}
    for name, settings in LOSSES.items():
        generator = torch.Generator().manual_seed(0)
        names = ("image", "text", "audio") if name in SEVERAL else ("image", "text")
        batch = {key: torch.randn(12, 5, generator=generator, dtype=torch.float64) for key in names}
        batch = {key: value.requires_grad_() for key, value in batch.items()}
        total = build_loss(name, **settings)(batch, torch.arange(12) % 4).total
        total.backward()
        found[name] = [total.item(), *[value.grad.norm().item() for value in batch.values()]]
    return found


def _stored(name: str) -> dict[str, str]:
    with (FOLDER / f"{name}.csv").open(encoding="utf-8") as lines:
        return {row["row"]: row["value"] for row in csv.DictReader(lines)}


@pytest.mark.parametrize("name", TABLES)
def test_small_trainings_give_the_stored_numbers(name: str, tmp_path: Path):
    if name != "synthetic":
        require(name)
    found, stored = numbers(name, tmp_path), _stored(name)
    assert found.keys() == stored.keys()
    far = {row: (found[row], value) for row, value in stored.items() if _distance(found[row], value) > TOLERANCE}
    assert not far, "a change moved results: if it is meant to, raise its package in reproduce.runs.machine.VERSIONS"


def _distance(value: str, stored: str) -> float:
    """Absolute for shares, relative for what is larger than one."""
    return abs(float(value) - float(stored)) / max(1.0, abs(float(stored)))


def test_losses_have_the_stored_values_and_gradients():
    stored = json.loads((FOLDER / "losses.json").read_text(encoding="utf-8"))
    found = loss_numbers()
    assert found.keys() == stored.keys()
    for name, values in stored.items():
        assert found[name] == pytest.approx(values, rel=1e-6), name


if __name__ == "__main__":
    for table in sys.argv[1:] or TABLES:
        with TemporaryDirectory() as folder:
            rows = numbers(table, Path(folder))
        with (FOLDER / f"{table}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([("row", "value"), *rows.items()])
    text = json.dumps(loss_numbers(), indent=1)
    (FOLDER / "losses.json").write_text(text + "\n", encoding="utf-8")
