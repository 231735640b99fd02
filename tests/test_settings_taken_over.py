"""Data sets of a table that take over the settings chosen on another, with seeds of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import runner_cases
import yaml
from runner_cases import command, rows_of

from reproduce.results.schema import read_table
from reproduce.runs.arguments import SpecError
from reproduce.runs.checks import load_table

undo_quiet = runner_cases.undo_quiet
TABLE = """
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


def _kept(out: Path) -> list[tuple[str, list[str], float]]:
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
def test_settings_are_chosen_on_the_other_data_set_alone(tmp_path: Path, only: list[str]) -> None:
    (tmp_path / "table2.yaml").write_text(TABLE, encoding="utf-8")
    assert command(tmp_path, "table2", "--out", tmp_path / "out", *only).status == 0
    runs = _kept(tmp_path / "out")
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
def test_a_data_set_that_chooses_nothing_is_refused(tmp_path: Path, old: str, new: str, named: list[str]) -> None:
    text = TABLE.replace(old, new).replace("    seeds: [3, 4]\n", "    exclude: []\n    seeds: [3, 4]\n")
    (tmp_path / "table2.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as refusal:
        load_table("table2", tmp_path)
    assert [word for word in named if word not in str(refusal.value)] == []
