"""The commands of table 1 and of the scaling experiment: their files, and that a second call gives the same numbers."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import runner_cases
import yaml

from reproduce.measurements import numerics, scaling
from reproduce.results.schema import read_table

undo_quiet = runner_cases.undo_quiet
MODULES = {"table1": numerics, "scaling": scaling}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few inputs, so that a command takes a second."""
    monkeypatch.setitem(numerics.GRID, "batches", [8])
    monkeypatch.setitem(numerics.GRID, "magnitudes", [1, 1_000])
    monkeypatch.setitem(numerics.TIMED, "batch", 8)
    monkeypatch.setitem(numerics.SCALES, "quick", {"seeds": 2, "repeats": 1})
    monkeypatch.setitem(scaling.SETTINGS, "modalities", [2, 3, 4])
    monkeypatch.setitem(scaling.SETTINGS, "batch", 16)
    monkeypatch.setitem(scaling.SCALES, "quick", {"repeats": 1, "fits": 1, "epochs": 1})


def _timeless(path: Path) -> pd.DataFrame:
    table = read_table(path)
    table.loc[(table["metric"] + table["condition"]).str.contains("seconds"), "value"] = 1.0
    return table


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", MODULES)
def test_a_second_call_writes_the_same_numbers_and_says_how_they_were_made(name, tmp_path):
    for folder in ("one", "two"):
        assert MODULES[name].main(["--out", str(tmp_path / folder)]) == 0
    one, two = (tmp_path / folder / f"{name}.csv" for folder in ("one", "two"))
    rows = _timeless(one)
    pd.testing.assert_frame_equal(rows, _timeless(two))
    assert set(rows["data_kind"]) == {"synthetic"}
    companion = yaml.safe_load(one.with_suffix(".yaml").read_text())
    assert companion["command"] == f"python -m reproduce {name} --out {tmp_path / 'one'}"
    assert set(MODULES[name].SCALES) >= set(companion["scale"]) == {"quick"}
    text = one.with_suffix(".md").read_text()
    assert all(f"\n## {metric}\n" in text for metric in rows["metric"].unique())
    assert one.with_suffix(".png").stat().st_size > 10_000
    {"table1": _check_table1, "scaling": _check_scaling}[name](rows)


def _check_table1(rows: pd.DataFrame) -> None:
    assert len(rows) == len(numerics.DIVERGENCES) * (len(numerics.PRECISIONS) * (6 * 3 + 1) + 1)
    assert set(rows["condition"]) == {"all", "logits 1", "logits 1000", "batch 8"}
    errors = rows.query("method == 'CS' and metric == 'relative error' and condition == 'all'")["value"]
    assert errors.between(0, 1e-5, inclusive="neither").all()
    failed = rows[rows["status"] == "failed"]
    assert set(failed["method"]) >= {"CS, clamped", "GCS, clamped"}
    assert (failed["note"] != "").all()


def _check_scaling(rows: pd.DataFrame) -> None:
    assert set(rows["status"]) == {"ok"}
    assert set(rows["metric"]) == {*scaling.STEP_METRICS, "seconds/epoch", "exponent", "standard error"}
    pairs = rows.query("method == 'pairwise KL' and metric == 'similarity matrices'")
    assert dict(zip(pairs["condition"], pairs["value"], strict=True)) == {"M = 2": 1, "M = 3": 3, "M = 4": 6}


@pytest.mark.parametrize("module", [numerics, scaling])
def test_a_file_in_place_of_the_folder_is_refused_before_the_work(module: ModuleType, tmp_path, capsys):
    (tmp_path / "results").write_text("a file")
    assert module.main(["--out", str(tmp_path / "results")]) == 2
    assert "is not a folder" in capsys.readouterr().err
