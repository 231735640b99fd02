"""Tables whose trials are chosen by joint queries: one training for all scores, and the best of them is reported."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import runner_cases
import yaml
from runner_cases import Outcome, command, rows_of

from lightning_modules.metrics.scoring import SCORES
from reproduce.results.schema import read_table
from reproduce.results.significance import read_comparisons
from reproduce.runs.training import run

undo_quiet = runner_cases.undo_quiet
QUERIES = ["a+b->c", "b+c->a"]
TABLE = """
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
      - {alignment: {temperature: 0.4}, joint_score: cosine}
      - {alignment: {temperature: 0.4}, joint_score: multilinear}
      - {alignment: {temperature: 0.4}, joint_score: volume}
  - method: KL
    model: LAVIMO
    init_args: {alignment: {class_path: PairwiseLoss, init_args: {divergence: kl}}}
    trials: *trials
comparisons: [[CS, KL]]
scales: {quick: {seeds: [0], max_epochs: 1}, paper: {seeds: [0], max_epochs: 1}}
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    folder = tmp_path_factory.mktemp("joint")
    (folder / "table2.yaml").write_text(TABLE, encoding="utf-8")
    outcome = command(folder, "table2", "--out", folder / "out")
    assert outcome.status == 0, outcome.err
    return outcome, folder / "out"


def _kept(out: Path, on: str) -> list[dict]:
    found = [json.loads(path.read_text()) for path in (out / "runs" / "kept").glob("*.json")]
    return [one for one in found if one["config"]["evaluate"]["on"] == on]


def _joint_map(kept: dict, score: str) -> float:
    found = {name: value for _, _, name, metric, _, value, *_ in kept["result"]["scores"] if metric == "MAP"}
    return sum(found[f"{query}, {score}"] for query in QUERIES) / len(QUERIES)


def test_one_training_is_scored_by_every_score_and_the_best_is_chosen(ran: tuple[Outcome, Path]) -> None:
    out = ran[1]
    trials = _kept(out, "validation")
    assert len(trials) == 4  # two temperatures of two methods
    said = yaml.safe_load((out / "table2.yaml").read_text())["chosen_on_validation"]["drawn/drawn"]["CS"]
    values = {
        (one["alignment"]["temperature"], one["joint_score"]): one["validation MAP of joint queries"]
        for one in said["trials"]
    }
    of_cs = [
        one for one in trials if one["config"]["model"]["init_args"]["alignment"]["init_args"]["divergence"] == "cs"
    ]
    for one in of_cs:
        temperature = one["config"]["model"]["init_args"]["alignment"]["init_args"]["temperature"]
        for score in SCORES:
            assert values[temperature, score] == pytest.approx(_joint_map(one, score), abs=1e-6)
    chosen = said["chosen"]
    assert values[chosen["alignment"]["temperature"], chosen["joint_score"]] == max(values.values())
    finals = {one["config"]["model"]["init_args"]["joint_score"] for one in _kept(out, "test")}
    assert chosen["joint_score"] in finals


def test_a_score_beside_others_is_that_of_a_model_that_has_it_alone(ran: tuple[Outcome, Path]) -> None:
    trial = _kept(ran[1], "validation")[0]
    config = copy.deepcopy(trial["config"])
    del config["evaluate"]["joint_scores"]
    config["model"]["init_args"]["joint_score"] = "volume"
    alone = run(config).mean_average_precision(directions=QUERIES)
    assert alone == pytest.approx(_joint_map(trial, "volume"), abs=1e-12)


def test_rows_and_comparisons_are_of_joint_queries(ran: tuple[Outcome, Path]) -> None:
    rows = read_table(ran[1] / "table2.csv")
    assert set(rows["direction"]) >= {*QUERIES, "average"}
    assert all("joint queries" in note for note in rows["note"])
    mean = {}
    for method in ("CS", "KL"):
        mean[method] = sum(rows_of(rows, method=method, direction=query)[0].value for query in QUERIES) / 2
    [found] = read_comparisons(ran[1] / "comparisons" / "table2.csv").itertuples()
    assert found.metric == "MAP, joint queries"
    assert found.difference == pytest.approx(mean["CS"] - mean["KL"], abs=2e-6)
    assert "Average over joint queries" in (ran[1] / "table2.md").read_text()
