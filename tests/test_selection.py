"""What validation data choose: schedules, settings, those taken over from other data, and by joint queries."""

import copy
from pathlib import Path

import numpy as np
import pytest
import runner_cases
import yaml
from runner_cases import Outcome, as_before, command, kept, rows_of

from datamodules import OwnData
from lightning_modules.metrics.scoring import SCORES
from reproduce.results.schema import read_table
from reproduce.results.significance import read_comparisons
from reproduce.runs.machine import quiet
from reproduce.runs.schedule import choose, remark
from reproduce.runs.training import run

root = runner_cases.root
# One schedule for the methods of a model.
SCHEDULED = """
title: A table
class_split: standard
metrics: [MAP]
datasets:
  - {dataset: tiny, features: own, class_path: OwnData, init_args: {class_encoder: one-hot, batch_size: 16}}
synthetic: {dataset: synthetic, features: synthetic, class_path: Synthetic}
methods:
  - {method: semantic matching, model: SemanticMatching, init_args: {C: 1.0}}
  - {method: JFSE, model: JFSE, init_args: {learning_rate: RATE}}
  - method: JFSE + CS
    model: JFSE
    init_args: {alignment: cs}
    trials: [{alignment_weight: 0.1}, {alignment_weight: 3.0}]
scales:
  quick: {seeds: [0, 1], max_epochs: 2, min_steps: [1, 2, 60], model: {width: 8, learning_rate: 0.01}}
"""
# Settings of another data set, with seeds of one's own.
TAKEN_OVER = """
title: A table
metrics: [MAP]
datasets:
  - &first
    dataset: drawn
    features: drawn
    condition: three
    class_path: SyntheticItems
    init_args: {names: [a, b, c], batch_size: 64}
  - <<: *first
    condition: four
    init_args: {names: [a, b, c, d], batch_size: 64}
    exclude: []
    seeds: [3, 4]
    settings_of: drawn/drawn/three
synthetic: {dataset: synthetic, features: synthetic, class_path: SyntheticItems}
methods:
  - method: GCS
    model: LAVIMO
    init_args: {alignment: {class_path: GCSLoss, init_args: {scheme: mixed}}}
    trials: [{matched_temperature: 0.1}, {matched_temperature: 0.4}]
scales: {quick: {seeds: [0], max_epochs: 1, min_steps: [1, 20], model: {dim: 8}}}
"""
QUERIES = ["a+b->c", "b+c->a"]
# Trials that differ in the score of joint queries alone are one training.
JOINT = """
title: A table
metrics: [MAP]
select: joint
datasets:
  - dataset: drawn
    features: drawn
    class_path: SyntheticItems
    init_args: {names: [a, b, c], batch_size: 64}
    model: {dim: 8, joint_queries: [a+b->c, b+c->a]}
synthetic:
  {dataset: drawn, features: synthetic, class_path: SyntheticItems, model: {joint_queries: [text+video->motion]}}
methods:
  - method: CS
    model: LAVIMO
    init_args: {alignment: {class_path: PairwiseLoss, init_args: {divergence: cs}}}
    trials: &trials
      - {alignment: {temperature: 0.1}, joint_score: cosine}
      - {alignment: {temperature: 0.1}, joint_score: multilinear}
      - {alignment: {temperature: 0.1}, joint_score: volume}
      - {alignment: {temperature: 0.4}, joint_score: volume}
  - method: KL
    model: LAVIMO
    init_args: {alignment: {class_path: PairwiseLoss, init_args: {divergence: kl}}}
    trials: *trials
comparisons: [[CS, KL]]
scales: {quick: {seeds: [0], max_epochs: 1}}
"""
# A file without a split, divided anew by every seed, and its features scored as they are.
DIVIDED = """
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
scales: {quick: {seeds: [0], max_epochs: 1}}
"""


def _regenerate(folder: Path, table: str, *words: str | Path) -> Outcome:
    """A table's results in a folder; its file in another below."""
    (folder / "tables").mkdir(exist_ok=True)
    (folder / "tables" / "table2.yaml").write_text(table, encoding="utf-8")
    return command(folder / "tables", "table2", "--out", folder, *words)


def _chosen(folder: Path, data: str, by: str = "chosen_on_validation") -> dict:
    return yaml.safe_load((folder / "table2.yaml").read_text(encoding="utf-8"))[by][data]


# Schedules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "floor"), [((0.3, 0.5, 0.55), 40), ((0.3, 0.5, 0.5), 20), ((0.3, 0.5, 0.509), 20), ((0.6, 0.5, 0.4), 10)]
)
def test_the_shortest_floor_is_chosen_that_ends_within_a_hundredth_of_the_best(ends, floor):
    curves = {steps: [(steps // 2, 0.9), (steps, end)] for steps, end in zip((10, 20, 40), ends, strict=True)}
    found = choose("JFSE", curves)
    assert (found.method, found.min_steps, found.curve) == ("JFSE", floor, curves[floor])
    of_steps, of_map = {"min_steps": 10, "steps": 10, "at step": 5}, {"best validation MAP": 0.9}
    assert found.tried[0] == {**of_steps, **of_map, "validation MAP": ends[0]}


@pytest.mark.parametrize(
    ("curve", "said"),
    [
        ([(10, 0.1), (90, 0.3), (100, 0.2)], False),
        ([(10, 0.1), (90, 0.2), (100, 0.3)], True),
        ([(10, 0.1), (91, 0.3), (100, 0.2)], True),
        ([(10, 0.3), (100, 0.3)], False),  # of equal ones the first
        ([(100, 0.3)], False),
        ([], False),
    ],
)
def test_a_training_that_is_best_in_its_last_tenth_says_so(curve, said):
    assert ("100 training steps" in remark(curve)) == bool(remark(curve)) == said


@pytest.fixture(scope="module")
def scheduled(root, tmp_path_factory) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("scheduled")
    return folder, _regenerate(folder, SCHEDULED.replace("RATE", "0.01"), "--data-root", root)


def test_one_schedule_holds_for_all_methods_of_the_model(scheduled, root):
    folder, outcome = scheduled
    assert outcome.status == 0, outcome.err
    # Floors of 1 and 2 steps both mean the two epochs of the scale.
    assert "2 runs to train for schedules" in outcome.out
    schedule = _chosen(folder, "tiny/own", "schedule_chosen_on_validation")["JFSE"]
    assert schedule["chosen with"] == "JFSE"
    best = max(entry["validation MAP"] for entry in schedule["tried"])
    near = [entry["min_steps"] for entry in schedule["tried"] if entry["validation MAP"] >= best - 0.01]
    assert schedule["min_steps"] == near[0]
    finals = [one["config"] for one in kept(folder, "test").values() if one["config"]["model"]["class_path"] == "JFSE"]
    [epochs] = {config["trainer"]["max_epochs"] for config in finals}
    assert (epochs > 2) == (schedule["min_steps"] == 60)
    for one in kept(folder, "validation").values():
        curve = one["result"]["curve"]
        average = ["validation", "full", "average", "MAP"]
        assert [score[5] for score in one["result"]["scores"] if score[:4] == average] == [curve[-1][1]]
        assert curve[-1][0] in {entry["steps"] for entry in schedule["tried"]}
        assert 2 <= len(curve) <= 10
    again = _regenerate(folder, SCHEDULED.replace("RATE", "0.01"), "--data-root", root, "--dry-run")
    assert "0 runs to train" in again.out


def test_notes_are_those_of_the_chosen_trainings(scheduled):
    folder, _ = scheduled
    weight = _chosen(folder, "tiny/own")["JFSE + CS"]["chosen"]["alignment_weight"]
    floor = _chosen(folder, "tiny/own", "schedule_chosen_on_validation")["JFSE"]["min_steps"]
    chosen = {}
    for one in kept(folder, "validation").values():
        config, model = one["config"], one["config"]["model"]["init_args"]
        method = "JFSE + CS" if model.get("alignment") else "JFSE"
        of_length = (config["trainer"]["max_epochs"] > 2) == (floor == 60)
        if of_length and (method == "JFSE" or model["alignment_weight"] == weight):
            chosen[method] = [tuple(point) for point in one["result"]["curve"]]
    rows = read_table(folder / "table2.csv")
    for method, curve in chosen.items():
        assert {row.note for row in rows_of(rows, method=method)} == {remark(curve)}
    assert {row.note for row in rows_of(rows, method="semantic matching")} == {""}


def test_where_the_schedule_cannot_be_chosen_the_rows_of_the_model_fail_with_its_reason(root, tmp_path):
    assert _regenerate(tmp_path, SCHEDULED.replace("RATE", "-1.0"), "--data-root", root).status == 1
    rows = read_table(tmp_path / "table2.csv")
    assert {row.status for row in rows_of(rows, method="semantic matching")} == {"ok"}
    for method in ("JFSE", "JFSE + CS"):
        [row] = rows_of(rows, method=method)
        assert (row.status, "learning rate" in row.note) == ("failed", True)


# Settings of another data set -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("only", [[], ["--only", "condition=four"]])
def test_settings_are_chosen_on_the_other_data_set_alone(tmp_path, only):
    assert _regenerate(tmp_path, TAKEN_OVER, *only).status == 0
    chosen = set()
    for one in kept(tmp_path).values():
        names, on = one["config"]["data"]["init_args"]["names"], one["config"]["evaluate"]["on"]
        assert on == "test" or len(names) == 3
        if len(names) == 4:
            chosen.add(one["config"]["model"]["init_args"]["alignment"]["init_args"]["temperature"])
    [temperature] = chosen
    assert temperature in (0.5, 2.0)  # five times the matched temperature, of four modalities
    rows = read_table(tmp_path / "table2.csv")
    four = rows_of(rows, condition="four", direction="average")
    assert [(row.seeds, row.note) for row in four] == [("3 4", "settings of drawn/drawn/three")]
    assert len(rows_of(rows, condition="three", direction="average")) == (not only)
    if not only:
        said = yaml.safe_load((tmp_path / "table2.yaml").read_text())["chosen_on_validation"]
        assert list(said) == ["drawn/drawn/three"]
        assert said["drawn/drawn/three"]["GCS"]["chosen"]["alignment"]["temperature"] / 4 == temperature / 5


# Joint queries --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def joint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("joint")
    outcome = _regenerate(folder, JOINT)
    assert outcome.status == 0, outcome.err
    return folder


def _joint_map(run: dict, score: str) -> float:
    found = {name: value for _, _, name, metric, _, value, *_ in run["result"]["scores"] if metric == "MAP"}
    return sum(found[f"{query}, {score}"] for query in QUERIES) / len(QUERIES)


def test_one_training_is_scored_by_every_score_and_the_best_is_chosen(joint):
    trials = kept(joint, "validation").values()
    assert len(trials) == 4  # two temperatures of two methods
    said = _chosen(joint, "drawn/drawn")["CS"]
    values = {
        (one["alignment"]["temperature"], one["joint_score"]): one["validation MAP of joint queries"]
        for one in said["trials"]
    }
    for one in trials:
        loss = one["config"]["model"]["init_args"]["alignment"]["init_args"]
        for score in SCORES:
            if loss["divergence"] == "cs" and (loss["temperature"], score) in values:
                assert values.pop((loss["temperature"], score)) == pytest.approx(_joint_map(one, score), abs=1e-6)
    assert not values
    best = max(said["trials"], key=lambda trial: trial["validation MAP of joint queries"])
    assert said["chosen"].items() <= best.items()
    assert said["chosen"]["joint_score"] in {
        one["config"]["model"]["init_args"]["joint_score"] for one in kept(joint, "test").values()
    }


def test_a_score_beside_others_is_that_of_a_model_that_has_it_alone(joint):
    trial = next(iter(kept(joint, "validation").values()))
    config = copy.deepcopy(trial["config"])
    del config["evaluate"]["joint_scores"]
    config["model"]["init_args"]["joint_score"] = "volume"
    with as_before():
        quiet(threads=1)
        alone = run(config).mean_average_precision(directions=QUERIES)
    assert alone == pytest.approx(_joint_map(trial, "volume"), abs=1e-12)


def test_rows_and_comparisons_are_of_joint_queries(joint):
    rows = read_table(joint / "table2.csv")
    assert set(rows["direction"]) >= {*QUERIES, "average"}
    assert all("joint queries" in note for note in rows["note"])
    mean = {}
    for method in ("CS", "KL"):
        mean[method] = sum(rows_of(rows, method=method, direction=query)[0].value for query in QUERIES) / 2
    [found] = read_comparisons(joint / "comparisons" / "table2.csv").itertuples()
    assert found.metric == "MAP, joint queries"
    assert found.difference == pytest.approx(mean["CS"] - mean["KL"], abs=2e-6)
    assert "Average over joint queries" in (joint / "table2.md").read_text()


# Items divided anew by every seed -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def divided(tmp_path_factory) -> Path:
    """The results, and the data below them."""
    folder = tmp_path_factory.mktemp("split")
    (folder / "data" / "pairs").mkdir(parents=True)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 5))
    np.save(folder / "data" / "pairs" / "first.npy", np.stack([x, x + rng.standard_normal(x.shape)]))
    np.save(folder / "data" / "pairs" / "second.npy", np.zeros((2, 4, 3)))
    outcome = _regenerate(folder, DIVIDED, "--data-root", folder / "data")
    assert outcome.status == 0, outcome.err
    return folder


def _untrained(file: Path, seed: int) -> float:
    x, z = (rows[OwnData(file, seed=seed).indices("standard")] for rows in np.load(file))
    cosine = (x / np.linalg.norm(x, axis=1)[:, None]) @ (z / np.linalg.norm(z, axis=1)[:, None]).T
    return float((cosine.argmax(axis=1) == np.arange(len(cosine))).mean())


def test_every_seed_divides_the_items_anew_and_untrained_features_are_scored(divided):
    table = read_table(divided / "table2.csv")
    assert set(table["features"]) == {"made by one network"}
    assert set(table["seeds"]) == {"0 1 2"}
    [row] = rows_of(table, method="untrained", metric="R@k", k="1", direction="x1->x2")
    by_seed = [_untrained(divided / "data" / "pairs" / "first.npy", seed) for seed in range(3)]
    assert len(set(by_seed)) > 1
    assert row.value == pytest.approx(np.mean(by_seed), abs=1e-6)
    assert row.n_gallery == 12
    assert "nothing is trained" in row.note
    assert len(rows_of(table, metric="centroid distance")) == 2
    assert list(read_comparisons(divided / "comparisons" / "table2.csv")["seeds"]) == ["0 1 2"]
    [said] = [text for path in divided.glob("configs/*.yaml") if "Untrained" in (text := path.read_text())]
    arguments = yaml.safe_load(said)["data"]["init_args"]
    assert (arguments["path"], arguments["seed"]) == ("data/pairs/first.npy", 0)
