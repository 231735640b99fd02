"""The experiments, and tables on generated items: what is trained, from the shipped files to rows and pictures."""

import json
import math
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import reference
import torch
from matplotlib.image import imread
from runner_cases import command, rows_of

from losses import build_loss
from losses.gcs import edge_sets
from reproduce.names import EXPERIMENTS
from reproduce.report.figures import draw_sweeps
from reproduce.results.metrics import POSITIVE_METRICS
from reproduce.results.schema import read_table
from reproduce.runs.config import GRADIENT_METRICS, prepare, resolve, without_unused_labels
from reproduce.runs.positives import Positives, shares_of_positives
from reproduce.runs.spec import read_file
from reproduce.runs.training import Gradients, run

NAMES = sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))


def _config(name: str, method: str, setting: dict, seed: int | None = 2, dataset: int = 0) -> dict:
    table = read_file(name)
    found = next(m for m in table.methods if m.method == method and m.protocol == "honest")
    dataset, scale = table.datasets[dataset], table.scales["quick"]
    config = resolve(table, scale, dataset, found, setting, seed, scale.max_epochs, dataset.count)
    return without_unused_labels(config)


# What the files ask for ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_model_of_an_experiment_can_be_built_on_generated_items(name):
    table = read_file(name)
    dataset, scale = table.synthetic, table.scales["quick"]
    seen = set()
    for method in table.methods_on(dataset):
        kind = (method.model, str((method.init_args.get("alignment") or {}).get("class_path")))
        if kind not in seen:
            trial = method.trials[0] if method.trials else {}
            config = resolve(table, scale, dataset, method, trial, 0, 1, dataset.count)
            data, model, _ = prepare(config, None, [])
            assert tuple(model.modalities) == tuple(data.modalities)
        seen.add(kind)


@pytest.mark.parametrize(
    ("experiment", "swept", "table", "row", "setting"),
    [
        ("temperature", "pairwise KL, temperature 0.1", "table7", "pairwise KL, tau 0.1", {}),
        ("temperature", "pairwise CS, temperature 0.2", "table7", "pairwise CS, tau 0.2", {}),
        ("temperature", "GCS mixed, temperature 0.4", "table7", "GCS mixed, tau 0.4", {}),
        ("temperature", "pairwise KL, temperature 0.05", "table7", "pairwise KL", {"matched_temperature": 0.05}),
        ("temperature", "GCS mixed, temperature 0.8", "table7", "GCS mixed", {"matched_temperature": 0.2}),
        ("temperature-jfse", "JFSE", "table2", "JFSE", {}),
        ("sigma-sweep", "JFSE + MMD, 19 kernels", "table2", "JFSE + MMD", {"alignment_weight": 0.1}),
    ],
)
def test_trainings_of_a_table_are_used_again(experiment, swept, table, row, setting):
    assert _config(experiment, swept, {}) == _config(table, row, setting)


@pytest.mark.parametrize("method", ["pairwise InfoNCE", "GRAM", "Symile"])
def test_a_training_without_labels_serves_all_kinds_of_label(method):
    setting = {"alignment": {"temperature" if method != "Symile" else "logit_scale": 0.3}}
    by_class, flipped = (_config("label-noise", method, setting, dataset=number) for number in (0, 2))
    assert by_class == flipped
    assert _config("label-noise", method, setting, None, dataset=2)["data"]["init_args"]["labels"] == "flips-40"


def test_labels_stay_where_they_are_trained_on_or_measured():
    for table, method, dataset in (("label-noise", "GCS mixed", 2), ("noise-reasons", "pairwise InfoNCE", 0)):
        kept = _config(table, method, {"matched_temperature": 0.1}, dataset=dataset)["data"]["init_args"]
        assert (kept["labels"], kept["label_seed"]) == ("flips-40", 2)


def test_every_pair_is_a_diagonal_of_one_ring():
    diagonals = []
    for dataset in read_file("dependency").datasets:
        ring = dataset.init_args["modalities"]
        assert dataset.condition.endswith("-".join(ring))
        edges = {frozenset(edge) for edge in edge_sets(ring, "clockwise")["clockwise"]}
        diagonals += [pair for pair in combinations(sorted(ring), 2) if frozenset(pair) not in edges]
    assert sorted(diagonals) == sorted(combinations(sorted(ring), 2))


def test_gradients_and_gap_are_measured_only_where_a_table_asks_for_it():
    assert _config("stability", "GCS mixed, temperature 0.1", {})["evaluate"]["gradients"]
    assert _config("foundation", "CS", {})["evaluate"]["modality_gap"]
    assert "modality_gap" not in _config("foundation", "CS", {}, seed=None)["evaluate"]
    assert set(_config("temperature", "pairwise KL, temperature 0.1", {})["evaluate"]) == {"on", "galleries"}


# A sweep from training to picture ------------------------------------------------------------------------------------

SWEEP = """
title: "Experiment: a small sweep"
metrics: [MAP, gradient norm, finite gradients]
datasets:
  - dataset: synthetic
    features: synthetic
    class_path: SyntheticItems
    init_args: {names: [text, video, motion], batch_size: 60}
synthetic: {dataset: synthetic, features: synthetic, class_path: SyntheticItems}
methods:
  - method: GCS
    model: LAVIMO
    init_args: {alignment: {class_path: GCSLoss, init_args: {scheme: mixed}}}
    sweep: {alignment.temperature: [0.4, 0.2]}
  - method: KL
    model: LAVIMO
    init_args: {alignment: &kl {class_path: PairwiseLoss, init_args: {divergence: kl}}, matched_temperature: 0.1}
  - {method: KL in other widths, model: LAVIMO, init_args: {alignment: *kl}, sweep: {dim: [8]}}
scales:
  quick: {seeds: [0, 1], max_epochs: 2, model: {dim: 16, learning_rate: 0.01}}
"""
SWEPT = {"GCS, temperature 0.4": (0.4, 16), "GCS, temperature 0.2": (0.2, 16), "KL": (0.1, 16)}
SWEPT |= {"KL in other widths, dim 8": (None, 8)}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiments")
    (folder / "temperature.yaml").write_text(SWEEP, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CSD_DATA", raising=False)
        assert command(folder, "temperature", "--out", folder / "results").status == 0
    return folder / "results"


@pytest.mark.slow
def test_a_sweep_has_a_row_per_value_whose_numbers_are_those_of_its_runs(results):
    table = read_table(results / "temperature.csv")
    assert list(table["method"].unique()) == list(SWEPT)
    for method, expected in SWEPT.items():
        assert len(rows_of(table, method=method, metric="MAP")) == 7
        for metric in ("gradient norm", "finite gradients"):
            [row] = rows_of(table, method=method, metric=metric)
            assert (row.direction, row.k, row.status, row.seeds) == ("average", "", "ok", "0 1")
        model = json.loads((results / "runs" / "kept" / f"{row.config_hash}.json").read_text())["config"]["model"]
        arguments = model["init_args"]
        assert (arguments["alignment"]["init_args"].get("temperature"), arguments["dim"]) == expected
    assert (table.loc[table["metric"] == "gradient norm", "value"] > 0).all()
    assert set(table.loc[table["metric"] == "finite gradients", "value"]) == {1.0}


@pytest.mark.slow
def test_the_picture_of_a_sweep_shows_map_against_the_swept_value(results):
    assert imread(results / "temperature.png")[..., :3].std() > 0.01
    table = read_table(results / "temperature.csv")
    figure = draw_sweeps(table[table["metric"] == "MAP"], read_file("temperature", results.parent))
    [axes] = figure.axes
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "temperature or dim"
    points = {tuple(line.get_xdata()): list(line.get_ydata()) for line in axes.lines if line.get_linestyle() == "-"}
    value = {row.method: row.value for row in rows_of(table, metric="MAP", direction="average")}
    assert points[0.2, 0.4] == [value["GCS, temperature 0.2"], value["GCS, temperature 0.4"]]
    assert points[(8,)] == [value["KL in other widths, dim 8"]]
    [horizontal] = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert set(horizontal.get_ydata()) == {value["KL"]}
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(labels) == ["GCS (temperature)", "KL", "KL in other widths (dim)"]


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


def test_the_norm_over_all_parameters_is_recorded_at_every_step():
    _, recorder = fit([[3.0, 4.0], [0.0, 1.0], [2.0, 0.0]])
    assert recorder.summary() == {"gradient norm": 2.0, "finite gradients": 1.0}


def test_steps_without_a_finite_gradient_are_counted_and_left_out():
    model, recorder = fit([[3.0, 4.0], [float("inf"), 1.0], [0.0, 1.0], [float("nan"), 0.0]])
    assert recorder.summary() == {"gradient norm": 3.0, "finite gradients": 0.5}
    assert [weight.item() for weight in model.parameters()] == [-3.0, -5.0]
    with pytest.raises(FloatingPointError, match="no training step had a finite gradient"):
        fit([[float("inf"), 0.0]])[1].summary()


# Which pairs gradients go to ------------------------------------------------------------------------------------------


ITEMS, TAU = 7, 0.5
LABELS = np.array([0, 0, 1, 1, 2, 2, 2])  # that are trained on
CLASSES = np.array([0, 0, 1, 0, 2, 1, 2])


TARGET, _ = reference.true_matching(LABELS)
PAIRWISE = {
    "kl": lambda p: reference.kl(TARGET, p),
    "cs": lambda p: reference.cs(p, TARGET),
    "mil_nce": lambda p: -np.log((p * (TARGET > 0)).sum(axis=1)),
    "infonce": lambda p: -np.log(np.diagonal(p)),
}
Plain = Callable[[list[np.ndarray]], float]  # the cosines of the pairs 01, 12 and 02 of modalities -> the loss


def _ways(cosines: list[np.ndarray]) -> list[list[np.ndarray]]:
    """The matching distributions there, and back."""
    return [[reference.softmax(s / TAU) for s in way] for way in (cosines, [s.T for s in cosines])]


def _pairwise(term: Callable[[np.ndarray], np.ndarray]) -> Plain:
    return lambda cosines: sum(term(p).mean() for way in _ways(cosines) for p in way)


def _ring(divergence: Callable[[list[np.ndarray]], np.ndarray]) -> Plain:
    """The mixed scheme."""
    return lambda cosines: sum(divergence([*way, TARGET]).mean() for way in _ways(cosines))


CASES = {
    **{
        name: (build_loss("pairwise", divergence=name, temperature=TAU), _pairwise(term))
        for name, term in PAIRWISE.items()
    },
    "gcs": (build_loss("gcs", scheme="mixed", temperature=TAU), _ring(reference.gcs)),
    "gcs_product": (
        build_loss("gcs_product", scheme="mixed", temperature=TAU),
        _ring(lambda ps: -np.log(np.prod(ps, axis=0).sum(axis=1))),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_shares_are_those_of_finite_differences(name):
    loss, plain = CASES[name]
    generator = torch.Generator().manual_seed(1)
    rows = {key: torch.randn(ITEMS, 4, generator=generator, dtype=torch.float64) for key in ("a", "b", "c")}
    unit = [(x / x.norm(dim=1, keepdim=True)).numpy() for x in rows.values()]
    cosines = [unit[0] @ unit[1].T, unit[1] @ unit[2].T, unit[0] @ unit[2].T]
    assert float(loss(rows, torch.from_numpy(LABELS)).total) == pytest.approx(plain(cosines), abs=1e-9)
    gradient = np.zeros((ITEMS, ITEMS))
    for s in cosines:
        for place in np.ndindex(s.shape):
            kept, values = s[place], []
            for step in (1e-5, -1e-5):
                s[place] = kept + step
                values.append(plain(cosines))
            s[place] = kept
            gradient[place] += max(values[1] - values[0], 0)
    alike = CLASSES[:, None] == CLASSES
    positive = (LABELS[:, None] == LABELS) & ~np.eye(ITEMS, dtype=bool)
    found = shares_of_positives(loss, rows, torch.from_numpy(LABELS), torch.from_numpy(CLASSES))
    assert found["true-positive gradient"] == pytest.approx(gradient[positive & alike].sum() / gradient.sum(), abs=1e-7)
    assert found["false-positive gradient"] == pytest.approx(
        gradient[positive & ~alike].sum() / gradient.sum(), abs=1e-7
    )
    assert found["false positives"] == pytest.approx(6 / 10)  # items 2 and 3, 4 and 5, 5 and 6 of the five pairs


@pytest.mark.parametrize(("epochs", "first", "last"), [(1, 0.0, 0.0), (2, 0.0, 1.0), (7, 0.5, 5.5)])
def test_the_course_of_a_training_is_told_by_its_first_and_last_third(epochs, first, last):
    recorder = Positives()
    recorder.shares = [
        {"true-positive gradient": epoch, "false-positive gradient": 10 * epoch, "false positives": 0.5}
        for epoch in range(epochs)
    ]
    assert recorder.summary() == {
        "true-positive gradient": (epochs - 1) / 2,
        "false-positive gradient": 10 * (epochs - 1) / 2,
        "true-positive gradient, first third": first,
        "false-positive gradient, first third": 10 * first,
        "true-positive gradient, last third": last,
        "false-positive gradient, last third": 10 * last,
        "false positives": 0.5,
    }


def test_a_loss_that_is_not_made_of_cosines_is_refused():
    rows = {key: torch.randn(4, 3) for key in ("a", "b", "c")}
    with pytest.raises(ValueError, match="GRAMLoss"):
        shares_of_positives(build_loss("gram"), rows, torch.arange(4), torch.arange(4))


@pytest.mark.parametrize(("labels", "some"), [("class", False), ("flips-40", True)])
def test_recording_gradients_changes_no_score(labels, some):
    loss = {"class_path": "losses.GCSLoss", "init_args": {"temperature": 0.4}}
    config = {
        "seed_everything": 0,
        "model": {"class_path": "LAVIMO", "init_args": {"dim": 8, "alignment": loss}},
        "data": {"class_path": "SyntheticItems", "init_args": {"names": ["a", "b", "c"], "labels": labels}},
        "trainer": {"max_epochs": 2},
        "evaluate": {"on": "test", "galleries": []},
    }
    plain = run(config)
    recorded = run({**config, "evaluate": {**config["evaluate"], "gradients": True, "shares_of_positives": True}})
    of_training = (*GRADIENT_METRICS, *POSITIVE_METRICS, "seconds/epoch")
    kept = [[score for score in each.scores if score.metric not in of_training] for each in (plain, recorded)]
    assert kept[0] == kept[1]
    found = {score.metric: score.value for score in recorded.scores if score.metric in of_training}
    assert set(found) == set(of_training)
    assert found["gradient norm"] > 0
    assert found["finite gradients"] == 1
    assert (found["false positives"] > 0.1) == some == (found["false-positive gradient"] > 0)
    assert 0 < found["true-positive gradient"] < 1


# A table of three modalities ------------------------------------------------------------------------------------------


THREE = """
title: Three modalities
metrics: [MAP, MAP 11-point, R@3, MedR, seconds/epoch]
galleries: [batches-32]
datasets:
  - dataset: synthetic
    features: synthetic
    class_path: SyntheticItems
    init_args: {names: [text, video, motion], batch_size: 60, validation_fraction: 0.25}
    model: {reconstruct: motion, joint_queries: [text+video->motion]}
    galleries: [batches-32]
synthetic: {dataset: synthetic, features: synthetic, class_path: SyntheticItems, galleries: [batches-32]}
methods:
  - method: GCS
    model: LAVIMO
    init_args: {alignment: {class_path: GCSLoss, init_args: {scheme: mixed}}}
    trials: [{matched_temperature: 0.05}, {matched_temperature: 0.1}]
  - method: KL
    model: LAVIMO
    init_args: &kl {alignment: {class_path: PairwiseLoss, init_args: {divergence: kl, temperature: 0.1}}}
  - {method: KL, model: LAVIMO, protocol: as_published, init_args: *kl}
scales:
  quick: {seeds: [0, 1], max_epochs: 2, model: {dim: 16, learning_rate: 0.01}}
"""
DIRECTIONS = [f"{a}->{b}" for a in ("text", "video", "motion") for b in ("text", "video", "motion") if a != b]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    (folder / "table6.yaml").write_text(THREE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CSD_DATA", raising=False)
        assert command(folder, "table6", "--out", folder / "results").status == 0
    return folder / "results"


def rows(three: Path, **columns: object) -> list[Any]:
    return rows_of(read_table(three / "table6.csv"), **columns)


@pytest.mark.slow
def test_every_direction_metric_and_gallery_has_its_rows(three):
    for method, protocol in (("GCS", "honest"), ("KL", "honest"), ("KL", "as_published")):
        whole = rows(three, method=method, protocol=protocol, gallery="full")
        expected = {(d, m) for d in (*DIRECTIONS, "average") for m in ("MAP", "R@k", "MedR")}
        joint = {("text+video->motion", metric) for metric in ("MAP", "R@k", "MedR")}
        eleven_point = {(direction, "MAP 11-point") for direction, _ in expected | joint}
        beside = joint | eleven_point | {("average", "seconds/epoch")}
        assert {(row.direction, row.metric) for row in whole} == expected | beside
        assert {(row.n_queries, row.n_gallery) for row in whole if row.direction in DIRECTIONS} == {(120, 120)}
        batches = rows(three, method=method, protocol=protocol, gallery="batches-32")
        assert {(row.direction, row.metric) for row in batches} == expected
        assert {(row.n_queries, row.n_gallery) for row in batches if row.direction in DIRECTIONS} == {(32, 32)}
    assert all(row.data_kind == "synthetic" and math.isnan(row.published) for row in rows(three))
