"""The experiments: what the shipped files ask for, a small sweep from training to picture, and recorded gradients."""

from __future__ import annotations

import json
import re
from functools import partial
from itertools import combinations
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from runner_cases import rows_of
from test_utd_mhad import PHRASES, REDUCED, reduced

import lightning_modules
import reproduce.__main__ as command_line
from losses import build_loss
from losses.gcs import edge_sets
from reproduce import sweep_figure
from reproduce.callbacks import Gradients
from reproduce.cells import CellStore, build_data, run_cell
from reproduce.runner import Cell, Run
from reproduce.schema import METRICS, Row, read_table
from reproduce.spec import EXPERIMENTS, DataSet, Sweep, Table, available_tables, load_table

NAMES = sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))
ON_ITEMS = [name for name in NAMES if load_table(name).datasets[0].class_path == "UTDMHAD"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reduced clips of the tests of UTD-MHAD."""
    folder = tmp_path_factory.mktemp("data") / "utd_mhad"
    folder.mkdir()
    (folder / "class_names.txt").write_text("\n".join(PHRASES) + "\n")
    arrays = {name: np.repeat(array, 8, axis=0) for name, array in reduced().items()}  # 27 clusters need 27 items
    for name in ("skeleton", "inertial", "depth30x40"):
        noise = np.random.default_rng(0).normal(size=arrays[name].shape)
        arrays[name] = (arrays[name] + 0.1 * noise).astype(arrays[name].dtype)
    arrays["name"] = np.array([f"{name[:-1]}{i % 8 + 1}" for i, name in enumerate(arrays["name"])])
    np.savez(folder / REDUCED, **arrays)
    return folder.parent


def planned(name: str, root: Path | None, out: Path) -> tuple[Run, list[Cell]]:
    table = load_table(name)
    scale = table.scales["quick"]
    run = Run(table, "quick", None if root is None else str(root), scale.seeds, CellStore(out), offline=True)
    return run, run.plan(run.available()[0])


def trainings(table: Table, datasets: list[DataSet]) -> int:
    """Trials and seeds of every method on every data set it is run on."""
    seeds = len(table.scales["quick"].seeds)
    return sum(len(method.trials) + seeds for dataset in datasets for method in table.methods_on(dataset))


# What the files ask for ----------------------------------------------------------------------------------------------


def test_the_experiments_stand_behind_the_tables() -> None:
    assert {"temperature", "sigma-sweep", "stability", "dependency", "many-modalities", "unsupervised"} <= set(NAMES)
    assert available_tables()[-len(NAMES) :] == NAMES
    assert all(name.startswith("table") for name in available_tables()[: -len(NAMES)])


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_says_what_it_asks(name: str) -> None:
    text, table = (EXPERIMENTS / f"{name}.yaml").read_text(encoding="utf-8"), load_table(name)
    assert text.startswith("# ")
    assert "?" in text[: text.index("\ntitle:")]
    assert table.title.startswith("Experiment: ")
    assert set(table.scales) == {"quick", "paper"}
    assert all(len(set(scale.seeds)) == len(scale.seeds) >= 3 for scale in table.scales.values())
    assert table.metrics[0] == "MAP"
    assert {re.sub(r"@\d+", "@k", metric) for metric in table.metrics} <= set(METRICS)


@pytest.mark.parametrize("name", ON_ITEMS)
def test_the_cells_of_experiments_on_items_can_be_built(name: str, root: Path, tmp_path: Path) -> None:
    run, cells = planned(name, root, tmp_path)
    present, absent = run.available()
    assert all("neither a folder nor a model on this machine" in reason for reason in absent.values())  # CLIP alone
    assert len(cells) == trainings(run.table, present)
    for cell in {(cell.dataset, cell.method): cell for cell in cells}.values():
        data, model = build_data(cell.config, str(root)), cell.config["model"]
        kind = getattr(lightning_modules, model["class_path"])
        alignment = build_loss(**model["alignment"]) if model["alignment"] else None
        built = kind(dims=data.dims, alignment=alignment, **model["init_args"])
        assert built.modalities == data.modalities
        assert len(next(iter(data.train_dataloader()))["label"]) > 0


@pytest.mark.parametrize("name", NAMES)
def test_without_data_an_experiment_runs_on_generated_items(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CSD_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    run, cells = planned(name, None, tmp_path)
    assert len(cells) == trainings(run.table, [run.table.synthetic])
    for cell in cells[:: len(run.table.scales["quick"].seeds)]:
        data, model = build_data(cell.config, None), cell.config["model"]
        alignment = build_loss(**model["alignment"]) if model["alignment"] else None
        getattr(lightning_modules, model["class_path"])(dims=data.dims, alignment=alignment, **model["init_args"])


@pytest.mark.parametrize(
    ("experiment", "swept", "table", "row", "setting"),
    [
        ("temperature", "pairwise KL, temperature 0.1", "table7", "pairwise KL, tau 0.1", {}),
        ("temperature", "pairwise CS, temperature 0.2", "table7", "pairwise CS, tau 0.2", {}),
        ("temperature", "GCS mixed, temperature 0.4", "table7", "GCS mixed, tau 0.4", {}),
        ("temperature", "pairwise KL, temperature 0.05", "table7", "pairwise KL", {"alignment": {"temperature": 0.05}}),
        ("temperature", "GCS mixed, temperature 0.8", "table7", "GCS mixed", {"alignment": {"temperature": 0.8}}),
        ("temperature-jfse", "JFSE", "table2", "JFSE", {}),
        ("sigma-sweep", "JFSE + MMD, 19 kernels", "table2", "JFSE + MMD", {"alignment_weight": 0.1}),
    ],
)
def test_trainings_of_a_table_are_used_again(
    experiment: str, swept: str, table: str, row: str, setting: dict, tmp_path: Path
) -> None:
    configurations = []
    for name, method, chosen in ((experiment, swept, {}), (table, row, setting)):
        run = Run(load_table(name), "quick", None, [0], CellStore(tmp_path))
        found = next(m for m in run.table.methods if m.method == method and m.preset == "honest")
        configurations.append(json.dumps(run._config(run.table.datasets[0], found, chosen, 2), sort_keys=True))
    assert configurations[0] == configurations[1]


@pytest.mark.parametrize("name", ["dependency", "many-modalities", "unsupervised"])
def test_losses_are_compared_at_one_effective_temperature(name: str, root: Path, tmp_path: Path) -> None:
    for cell in planned(name, root, tmp_path)[1]:
        model = cell.config["model"]
        kind = model["alignment"].get("divergence", model["alignment"]["name"])
        factor = {"kl": 1, "cs": 2, "gcs": len(cell.dataset.init_args["modalities"]) + 1}[kind]
        assert model["alignment"]["temperature"] == round(factor * 0.1, 1)
        assert model["init_args"]["alignment_weight"] == factor


def test_every_pair_is_a_diagonal_of_one_ring() -> None:
    diagonals = []
    for dataset in load_table("dependency").datasets:
        ring = dataset.init_args["modalities"]
        assert dataset.features.endswith("-".join(ring))
        edges = {frozenset(edge) for edge in edge_sets(ring, "clockwise")["clockwise"]}
        diagonals += [pair for pair in combinations(sorted(ring), 2) if frozenset(pair) not in edges]
    assert sorted(diagonals) == sorted(combinations(sorted(ring), 2))


def test_gradients_are_recorded_only_where_a_table_asks_for_it(root: Path, tmp_path: Path) -> None:
    assert all(cell.config["record_gradients"] for cell in planned("stability", root, tmp_path)[1])
    assert not any("record_gradients" in cell.config for cell in planned("temperature", root, tmp_path)[1])


# A sweep from training to picture ------------------------------------------------------------------------------------

SWEEP = """
title: "Experiment: a small sweep"
metrics: [MAP, gradient norm, finite gradients]
record_gradients: true
datasets:
  - dataset: synthetic
    features: synthetic
    class_path: SyntheticItems
    init_args: {names: [text, video, motion], batch_size: 60}
synthetic: {dataset: synthetic, features: synthetic, class_path: SyntheticItems}
methods:
  - {method: GCS, model: LAVIMO, alignment: {name: gcs, scheme: mixed}, sweep: {temperature: [0.4, 0.2]}}
  - {method: KL, model: LAVIMO, alignment: {name: pairwise, divergence: kl}, matched_temperature: 0.1}
  - {method: KL in other widths, model: LAVIMO, alignment: {name: pairwise, divergence: kl}, sweep: {dim: [8]}}
scales:
  quick: {seeds: [0, 1], max_epochs: 2, model: {dim: 16, learning_rate: 0.01}}
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiments")
    (folder / "small-sweep.yaml").write_text(SWEEP, encoding="utf-8")
    (folder / "results").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CSD_DATA", raising=False)
        patch.setattr(command_line, "load_table", partial(load_table, folder=folder))
        patch.setattr(command_line, "available_tables", lambda: ["small-sweep"])
        patch.setattr(command_line, "quiet", lambda threads: None)
        assert command_line.main(["small-sweep", "--out", str(folder / "results")]) == 0
    return folder / "results"


def rows(results: Path, **columns: object) -> list[Row]:
    return rows_of(read_table(results / "small-sweep.csv"), **columns)


@pytest.mark.slow
def test_a_sweep_has_a_row_per_value(results: Path) -> None:
    methods = ["GCS, temperature 0.4", "GCS, temperature 0.2", "KL", "KL in other widths, dim 8"]
    assert list(dict.fromkeys(row.method for row in rows(results))) == methods
    for method in methods:
        assert len(rows(results, method=method, metric="MAP")) == 7
        for metric in ("gradient norm", "finite gradients"):
            [row] = rows(results, method=method, metric=metric)
            assert (row.direction, row.k, row.status, row.seeds) == ("average", None, "ok", (0, 1))
    assert all(row.value > 0 for row in rows(results, metric="gradient norm"))
    assert {row.value for row in rows(results, metric="finite gradients")} == {1.0}


@pytest.mark.slow
def test_the_values_of_a_sweep_are_those_of_their_cells(results: Path) -> None:
    for row in rows(results, direction="average"):
        config = json.loads((results / "runs" / "cells" / f"{row.config_hash}.json").read_text())["config"]
        loss, dim = config["model"]["alignment"], config["model"]["init_args"]["dim"]
        assert {**loss, "dim": dim} == {
            "GCS, temperature 0.4": {"name": "gcs", "scheme": "mixed", "temperature": 0.4, "dim": 16},
            "GCS, temperature 0.2": {"name": "gcs", "scheme": "mixed", "temperature": 0.2, "dim": 16},
            "KL": {"name": "pairwise", "divergence": "kl", "temperature": 0.1, "dim": 16},
            "KL in other widths, dim 8": {"name": "pairwise", "divergence": "kl", "dim": 8},
        }[row.method]


@pytest.mark.slow
def test_the_picture_of_a_sweep_shows_map_against_the_swept_value(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert imread(results / "small-sweep.png")[..., :3].std() > 0.01
    drawn: list[Figure] = []
    monkeypatch.setattr(sweep_figure.plt, "close", drawn.append)
    (tmp_path / "small-sweep.csv").write_bytes((results / "small-sweep.csv").read_bytes())
    assert sweep_figure.draw_sweep(tmp_path / "small-sweep.csv", load_table("small-sweep", results.parent)).exists()
    [axes] = drawn[0].axes
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "temperature or dim"
    points = {tuple(line.get_xdata()): list(line.get_ydata()) for line in axes.lines if line.get_linestyle() == "-"}
    value = {row.method: row.value for row in rows(results, metric="MAP", direction="average")}
    assert points[0.2, 0.4] == [value["GCS, temperature 0.2"], value["GCS, temperature 0.4"]]
    assert points[(8,)] == [value["KL in other widths, dim 8"]]
    [horizontal] = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert set(horizontal.get_ydata()) == {value["KL"]}
    bars = [segment[:, 1] for c in axes.collections if hasattr(c, "get_segments") for segment in c.get_segments()]
    std = {row.method: row.std for row in rows(results, metric="MAP", direction="average")}
    widths = sorted(high - low for low, high in bars)
    assert widths == pytest.approx(sorted(2 * std[method] for method in std if method != "KL"), abs=1e-9)
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert sorted(labels) == ["GCS (temperature)", "KL", "KL in other widths (dim)"]


def test_a_sweep_remembers_its_place(tmp_path: Path) -> None:
    (tmp_path / "small-sweep.yaml").write_text(SWEEP, encoding="utf-8")
    sweeps = [method.sweep for method in load_table("small-sweep", tmp_path).methods]
    places = [Sweep("GCS", "temperature", 0.4), Sweep("GCS", "temperature", 0.2)]
    assert sweeps == [*places, None, Sweep("KL in other widths", "dim", 8)]


# Gradients -----------------------------------------------------------------------------------------------------------


class Linear(L.LightningModule):
    """The gradient of its loss is the batch, whatever its weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return (batch[0, 0] * self.first + batch[0, 1] * self.second).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(gradients: list[list[float]]) -> tuple[Linear, Gradients]:
    model, recorder = Linear(), Gradients()
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = L.Trainer(max_epochs=1, callbacks=[recorder], enable_checkpointing=False, **options)
    trainer.fit(model, torch.utils.data.DataLoader(torch.tensor(gradients)))
    return model, recorder


def test_the_norm_over_all_parameters_is_recorded_at_every_step() -> None:
    _, recorder = fit([[3.0, 4.0], [0.0, 1.0], [2.0, 0.0]])
    assert recorder.summary() == {"largest": 5.0, "median": 2.0, "non-finite steps": 0.0}


def test_steps_without_a_finite_gradient_are_counted_and_left_out() -> None:
    model, recorder = fit([[3.0, 4.0], [float("inf"), 1.0], [0.0, 1.0], [float("nan"), 0.0]])
    assert recorder.summary() == {"largest": 5.0, "median": 3.0, "non-finite steps": 0.5}
    assert [weight.item() for weight in model.parameters()] == [-3.0, -5.0]
    with pytest.raises(FloatingPointError, match="no training step had a finite gradient"):
        fit([[float("inf"), 0.0]])[1].summary()


def test_recording_gradients_changes_no_score() -> None:
    config = {
        "data": {"class_path": "SyntheticItems", "init_args": {"batch_size": 60, "validation_fraction": 0.0}},
        "model": {"class_path": "LAVIMO", "init_args": {"dim": 8}, "alignment": {"name": "gcs", "temperature": 0.4}},
        "max_epochs": 2,
        "seed": 0,
        "evaluate": "test",
        "galleries": [],
    }
    plain, recorded = run_cell(config, None), run_cell({**config, "record_gradients": True}, None)
    assert recorded["scores"] == plain["scores"]
    assert "gradients" not in plain
    assert 0 < recorded["gradients"]["median"] <= recorded["gradients"]["largest"]
    assert recorded["gradients"]["non-finite steps"] == 0
    assert json.loads(json.dumps(recorded["gradients"])) == recorded["gradients"]
