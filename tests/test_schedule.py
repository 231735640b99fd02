"""How long the methods of a table are trained: chosen on validation data, per data set and model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import runner_cases
import yaml
from runner_cases import Outcome, command, rows_of

from reproduce.results.schema import read_table
from reproduce.runs.schedule import choose, epochs, remark
from reproduce.runs.spec import Scale

root, undo_quiet = runner_cases.root, runner_cases.undo_quiet

TABLE = """
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
def test_epochs_are_those_of_the_scale_or_what_the_floor_needs(steps_per_epoch: int, min_steps: int, expected: int):
    assert epochs(Scale(seeds=[0], max_epochs=15), steps_per_epoch, min_steps) == expected


@pytest.mark.parametrize(
    ("ends", "floor"), [((0.3, 0.5, 0.55), 40), ((0.3, 0.5, 0.5), 20), ((0.3, 0.5, 0.509), 20), ((0.6, 0.5, 0.4), 10)]
)
def test_the_shortest_floor_is_chosen_that_ends_within_a_hundredth_of_the_best(
    ends: tuple[float, ...], floor: int
) -> None:
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
def test_a_training_that_is_best_in_its_last_tenth_says_so(curve: list[tuple[int, float]], said: bool) -> None:
    assert bool(remark(curve)) == said
    assert not said or "100 training steps" in remark(curve)


def _regenerate(folder: Path, root: Path, rate: float, *words: str) -> Outcome:
    (folder / "table2.yaml").write_text(TABLE.replace("RATE", str(rate)), encoding="utf-8")
    return command(folder, "table2", "--data-root", root, "--out", folder / "results", *words)


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("scheduled")
    return folder, _regenerate(folder, root, 0.01)


def test_one_schedule_holds_for_all_methods_of_the_model(finished: tuple[Path, Outcome], root: Path) -> None:
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


def test_notes_are_those_of_the_chosen_trainings(finished: tuple[Path, Outcome]) -> None:
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


def test_where_the_schedule_cannot_be_chosen_the_rows_of_the_model_fail_with_its_reason(root: Path, tmp_path: Path):
    assert _regenerate(tmp_path, root, -1.0).status == 1
    rows = read_table(tmp_path / "results" / "table2.csv")
    assert {row.status for row in rows_of(rows, method="semantic matching")} == {"ok"}
    for method in ("JFSE", "JFSE + CS"):
        [row] = rows_of(rows, method=method)
        assert (row.status, "learning rate" in row.note) == ("failed", True)
