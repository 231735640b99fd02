"""Rows on a named file without a split, divided anew by every seed, and the features scored as they are."""

from pathlib import Path

import numpy as np
import pytest
import runner_cases
import yaml
from runner_cases import command, rows_of

from datamodules import OwnData
from reproduce.results.schema import read_table
from reproduce.results.significance import read_comparisons
from reproduce.runs.baselines import Untrained

undo_quiet = runner_cases.undo_quiet
ITEMS, WIDTH = 60, 5
TABLE = """
title: A table
metrics: [MAP, R@1, centroid distance]
datasets:
  - dataset: pairs
    features: made by one network
    class_path: OwnData
    init_args: {path: first.npy, validation_fraction: 0.25}
    seeds: [0, 1, 2]
    split_by_seed: true
synthetic: {dataset: synthetic, features: synthetic, class_path: Synthetic}
methods:
  - {method: untrained, model: Untrained}
  - {method: CCA, model: CCA, trials: [{ridge: 1.0}, {ridge: 10.0}]}
comparisons: [[CCA, untrained]]
scales: {quick: {seeds: [0], max_epochs: 1}, paper: {seeds: [0], max_epochs: 1}}
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The data root and the results of the table."""
    folder = tmp_path_factory.mktemp("split")
    (folder / "root" / "pairs").mkdir(parents=True)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ITEMS, WIDTH))
    np.save(folder / "root" / "pairs" / "first.npy", np.stack([x, x + rng.standard_normal(x.shape)]))
    np.save(folder / "root" / "pairs" / "second.npy", np.zeros((2, 4, 3)))
    (folder / "table2.yaml").write_text(TABLE, encoding="utf-8")
    ran = command(folder, "table2", "--data-root", folder / "root", "--out", folder / "out")
    assert ran.status == 0, ran.err
    return folder / "root", folder / "out"


def _untrained(root: Path, seed: int) -> float:
    data = OwnData(root / "pairs" / "first.npy", seed=seed)
    x, z = (rows[data.indices("standard")] for rows in np.load(root / "pairs" / "first.npy"))
    cosine = (x / np.linalg.norm(x, axis=1)[:, None]) @ (z / np.linalg.norm(z, axis=1)[:, None]).T
    return float((cosine.argmax(axis=1) == np.arange(len(cosine))).mean())


def test_every_seed_divides_the_items_anew_and_untrained_features_are_scored(folders):
    root, out = folders
    table = read_table(out / "table2.csv")
    assert set(table["features"]) == {"made by one network"}
    assert set(table["seeds"]) == {"0 1 2"}
    [row] = rows_of(table, method="untrained", metric="R@k", k="1", direction="x1->x2")
    by_seed = [_untrained(root, seed) for seed in range(3)]
    assert len(set(by_seed)) > 1
    assert row.value == pytest.approx(np.mean(by_seed), abs=1e-6)
    assert row.n_gallery == ITEMS // 5
    assert "nothing is trained" in row.note
    assert len(rows_of(table, metric="centroid distance")) == 2
    assert list(read_comparisons(out / "comparisons" / "table2.csv")["seeds"]) == ["0 1 2"]


def test_the_configuration_beside_the_table_names_the_file_and_the_split(folders):
    configs = [path.read_text() for path in folders[1].glob("configs/*.yaml")]
    [said] = [yaml.safe_load(text) for text in configs if "Untrained" in text]
    assert said["data"]["init_args"]["path"] == "data/pairs/first.npy"
    assert said["data"]["init_args"]["seed"] == 0


def test_features_of_different_widths_cannot_be_scored_as_they_are():
    with pytest.raises(ValueError, match="image 3, text 2"):
        Untrained({"image": 3, "text": 2})
