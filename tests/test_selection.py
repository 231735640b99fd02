"""What validation data choose: schedules, settings, those taken over from other data, and by joint queries."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import runner_cases
import yaml
from runner_cases import Outcome, as_before, command, rows_of

from datamodules import OwnData
from lightning_modules.metrics.scoring import SCORES
from reproduce.results.schema import read_table
from reproduce.results.significance import read_comparisons
from reproduce.runs import training
from reproduce.runs.arguments import SpecError
from reproduce.runs.baselines import Untrained
from reproduce.runs.checks import load_table
from reproduce.runs.machine import quiet
from reproduce.runs.schedule import choose, epochs, remark
from reproduce.runs.spec import Scale

root = runner_cases.root

SCHEDULED = """
title: A tiny table
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


@pytest.mark.parametrize(
    ("steps_per_epoch", "min_steps", "expected"),
    [(33, 500, 16), (33, 0, 15), (6, 500, 84), (500, 500, 15), (1, 16, 16)],
)
def test_epochs_are_those_of_the_scale_or_what_the_floor_needs(steps_per_epoch, min_steps, expected):
    assert epochs(Scale(seeds=[0], max_epochs=15), steps_per_epoch, min_steps) == expected


@pytest.mark.parametrize(
    ("ends", "floor"), [((0.3, 0.5, 0.55), 40), ((0.3, 0.5, 0.5), 20), ((0.3, 0.5, 0.509), 20), ((0.6, 0.5, 0.4), 10)]
)
def test_the_shortest_floor_is_chosen_that_ends_within_a_hundredth_of_the_best(ends, floor):
    curves = {steps: [(steps // 2, 0.9), (steps, end)] for steps, end in zip((10, 20, 40), ends, strict=True)}
    found = choose("JFSE", curves)
    assert (found.method, found.min_steps, found.curve) == ("JFSE", floor, curves[floor])
    assert found.tried[0] == {
        "min_steps": 10, "steps": 10, "validation MAP": ends[0], "best validation MAP": 0.9, "at step": 5
    }  # fmt: skip


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
    assert bool(remark(curve)) == said
    assert not said or "100 training steps" in remark(curve)


def _regenerate(folder: Path, root: Path, rate: float, *words: str) -> Outcome:
    (folder / "table2.yaml").write_text(SCHEDULED.replace("RATE", str(rate)), encoding="utf-8")
    return command(folder, "table2", "--data-root", root, "--out", folder / "results", *words)


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scheduled")
    return folder, _regenerate(folder, root, 0.01)


def test_one_schedule_holds_for_all_methods_of_the_model(finished, root):
    folder, outcome = finished
    assert outcome.status == 0, outcome.err
    # Floors of 1 and 2 steps both mean the two epochs of the scale.
    assert "2 runs to train for schedules" in outcome.out
    content = yaml.safe_load((folder / "results" / "table2.yaml").read_text(encoding="utf-8"))
    schedule = content["schedule_chosen_on_validation"]["tiny/own"]["JFSE"]
    assert schedule["chosen with"] == "JFSE"
    best = max(entry["validation MAP"] for entry in schedule["tried"])
    near = [entry["min_steps"] for entry in schedule["tried"] if entry["validation MAP"] >= best - 0.01]
    assert schedule["min_steps"] == near[0]
    runs = [json.loads(f.read_text(encoding="utf-8")) for f in (folder / "results/runs/kept").glob("*.json")]
    trained = [run for run in runs if run["config"]["model"]["class_path"] == "JFSE"]
    finals = {c["config"]["trainer"]["max_epochs"] for c in trained if c["config"]["evaluate"]["on"] == "test"}
    assert len(finals) == 1
    assert (finals.pop() > 2) == (schedule["min_steps"] == 60)
    for run in trained:
        if run["config"]["evaluate"]["on"] == "validation":
            curve = run["result"]["curve"]
            average = ["validation", "full", "average", "MAP"]
            assert [score[5] for score in run["result"]["scores"] if score[:4] == average] == [curve[-1][1]]
            assert curve[-1][0] in {entry["steps"] for entry in schedule["tried"]}
            assert 2 <= len(curve) <= 10
    plan = _regenerate(folder, root, 0.01, "--dry-run")
    assert "0 runs to train" in plan.out


def test_notes_are_those_of_the_chosen_trainings(finished):
    folder, _ = finished
    runs = [json.loads(f.read_text(encoding="utf-8")) for f in (folder / "results/runs/kept").glob("*.json")]
    content = yaml.safe_load((folder / "results" / "table2.yaml").read_text(encoding="utf-8"))
    weight = content["chosen_on_validation"]["tiny/own"]["JFSE + CS"]["chosen"]["alignment_weight"]
    floor = content["schedule_chosen_on_validation"]["tiny/own"]["JFSE"]["min_steps"]
    chosen = {}
    for run in runs:
        config, model = run["config"], run["config"]["model"]
        long = config["trainer"]["max_epochs"] > 2
        if config["evaluate"]["on"] == "validation" and long == (floor == 60):
            method = "JFSE + CS" if model["init_args"].get("alignment") else "JFSE"
            if method == "JFSE" or model["init_args"]["alignment_weight"] == weight:
                chosen[method] = [tuple(point) for point in run["result"]["curve"]]
    rows = read_table(folder / "results" / "table2.csv")
    for method, curve in chosen.items():
        assert {row.note for row in rows_of(rows, method=method)} == {remark(curve)}
    assert {row.note for row in rows_of(rows, method="semantic matching")} == {""}


def test_where_the_schedule_cannot_be_chosen_the_rows_of_the_model_fail_with_its_reason(root, tmp_path):
    assert _regenerate(tmp_path, root, -1.0).status == 1
    rows = read_table(tmp_path / "results" / "table2.csv")
    assert {row.status for row in rows_of(rows, method="semantic matching")} == {"ok"}
    for method in ("JFSE", "JFSE + CS"):
        [row] = rows_of(rows, method=method)
        assert (row.status, "learning rate" in row.note) == ("failed", True)


# Settings of another data set -----------------------------------------------------------------------------------------


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
    seeds: [3, 4]
    settings_of: drawn/drawn/three
synthetic: {dataset: synthetic, features: synthetic, class_path: SyntheticItems}
methods:
  - method: GCS
    model: LAVIMO
    init_args: {alignment: {class_path: GCSLoss, init_args: {scheme: mixed}}}
    trials: [{matched_temperature: 0.1}, {matched_temperature: 0.4}]
scales:
  quick: &scale {seeds: [0], max_epochs: 1, min_steps: [1, 20], model: {dim: 8}}
  paper: *scale
"""


def _what_for(out: Path) -> list[tuple[str, list[str], float]]:
    """What each run was for, on which modalities, and at which temperature."""
    configs = [json.loads(path.read_text())["config"] for path in (out / "runs" / "kept").glob("*.json")]
    return sorted(
        (
            config["evaluate"]["on"],
            config["data"]["init_args"]["names"],
            config["model"]["init_args"]["alignment"]["init_args"]["temperature"],
        )
        for config in configs
    )


@pytest.mark.parametrize("only", [[], ["--only", "condition=four"]])
def test_settings_are_chosen_on_the_other_data_set_alone(tmp_path, only):
    (tmp_path / "table2.yaml").write_text(TAKEN_OVER, encoding="utf-8")
    assert command(tmp_path, "table2", "--out", tmp_path / "out", *only).status == 0
    runs = _what_for(tmp_path / "out")
    assert {tuple(names) for on, names, _ in runs if on == "validation"} == {("a", "b", "c")}
    [chosen] = {temperature for on, names, temperature in runs if on == "test" and len(names) == 4}
    assert chosen in (0.5, 2.0)  # five times the matched temperature, of four modalities
    rows = read_table(tmp_path / "out" / "table2.csv")
    four = rows_of(rows, condition="four", direction="average")
    assert [(row.seeds, row.note) for row in four] == [("3 4", "settings of drawn/drawn/three")]
    assert len(rows_of(rows, condition="three", direction="average")) == (not only)
    said = yaml.safe_load((tmp_path / "out" / "table2.yaml").read_text())["chosen_on_validation"]
    if not only:
        assert list(said) == ["drawn/drawn/three"]
        assert said["drawn/drawn/three"]["GCS"]["chosen"]["alignment"]["temperature"] / 4 == chosen / 5


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (
            "settings_of: drawn/drawn/three",
            "settings_of: drawn/drawn/tree",
            ["'drawn/drawn/tree'", "drawn/drawn/three"],
        ),
        ("condition: three\n", "condition: three\n    exclude: [GCS]\n", ["settings_of", "GCS", "exclude"]),
    ],
)
def test_a_data_set_that_chooses_nothing_is_refused(tmp_path, old, new, named):
    text = TAKEN_OVER.replace(old, new).replace("    seeds: [3, 4]\n", "    exclude: []\n    seeds: [3, 4]\n")
    (tmp_path / "table2.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as refusal:
        load_table("table2", tmp_path)
    assert [word for word in named if word not in str(refusal.value)] == []


# Joint queries --------------------------------------------------------------------------------------------------------


QUERIES = ["a+b->c", "b+c->a"]
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
scales: {quick: {seeds: [0], max_epochs: 1}, paper: {seeds: [0], max_epochs: 1}}
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joint")
    (folder / "table2.yaml").write_text(JOINT, encoding="utf-8")
    outcome = command(folder, "table2", "--out", folder / "out")
    assert outcome.status == 0, outcome.err
    return folder / "out"


def _kept(out: Path, on: str) -> list[dict]:
    found = [json.loads(path.read_text()) for path in (out / "runs" / "kept").glob("*.json")]
    return [one for one in found if one["config"]["evaluate"]["on"] == on]


def _joint_map(kept: dict, score: str) -> float:
    found = {name: value for _, _, name, metric, _, value, *_ in kept["result"]["scores"] if metric == "MAP"}
    return sum(found[f"{query}, {score}"] for query in QUERIES) / len(QUERIES)


def test_one_training_is_scored_by_every_score_and_the_best_is_chosen(ran):
    trials = _kept(ran, "validation")
    assert len(trials) == 4  # two temperatures of two methods
    said = yaml.safe_load((ran / "table2.yaml").read_text())["chosen_on_validation"]["drawn/drawn"]["CS"]
    values = {
        (one["alignment"]["temperature"], one["joint_score"]): one["validation MAP of joint queries"]
        for one in said["trials"]
    }
    for one in trials:
        loss = one["config"]["model"]["init_args"]["alignment"]["init_args"]
        if loss["divergence"] != "cs":
            continue
        temperature = loss["temperature"]
        for score in SCORES if temperature == 0.1 else ["volume"]:
            assert values[temperature, score] == pytest.approx(_joint_map(one, score), abs=1e-6)
    chosen = said["chosen"]
    assert values[chosen["alignment"]["temperature"], chosen["joint_score"]] == max(values.values())
    finals = {one["config"]["model"]["init_args"]["joint_score"] for one in _kept(ran, "test")}
    assert chosen["joint_score"] in finals


def test_a_score_beside_others_is_that_of_a_model_that_has_it_alone(ran):
    trial = _kept(ran, "validation")[0]
    config = copy.deepcopy(trial["config"])
    del config["evaluate"]["joint_scores"]
    config["model"]["init_args"]["joint_score"] = "volume"
    with as_before():
        quiet(threads=1)
        alone = training.run(config).mean_average_precision(directions=QUERIES)
    assert alone == pytest.approx(_joint_map(trial, "volume"), abs=1e-12)


def test_rows_and_comparisons_are_of_joint_queries(ran):
    rows = read_table(ran / "table2.csv")
    assert set(rows["direction"]) >= {*QUERIES, "average"}
    assert all("joint queries" in note for note in rows["note"])
    mean = {}
    for method in ("CS", "KL"):
        mean[method] = sum(rows_of(rows, method=method, direction=query)[0].value for query in QUERIES) / 2
    [found] = read_comparisons(ran / "comparisons" / "table2.csv").itertuples()
    assert found.metric == "MAP, joint queries"
    assert found.difference == pytest.approx(mean["CS"] - mean["KL"], abs=2e-6)
    assert "Average over joint queries" in (ran / "table2.md").read_text()


# Items divided anew by every seed -------------------------------------------------------------------------------------


ITEMS, WIDTH = 60, 5
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
    (folder / "table2.yaml").write_text(DIVIDED, encoding="utf-8")
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
    [said] = [
        yaml.safe_load(path.read_text())
        for path in folders[1].glob("configs/*.yaml")
        if "Untrained" in path.read_text()
    ]
    assert said["data"]["init_args"]["path"] == "data/pairs/first.npy"
    assert said["data"]["init_args"]["seed"] == 0


def test_features_of_different_widths_cannot_be_scored_as_they_are():
    with pytest.raises(ValueError, match="image 3, text 2"):
        Untrained({"image": 3, "text": 2})
