"""Paired bootstrap, Holm's correction, and the comparisons of a table."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import runner_cases
from hypothesis import given, settings
from hypothesis import strategies as st
from runner_cases import command, rows_of

from reproduce.results.schema import TableError, read_table
from reproduce.results.significance import (
    comparisons_of,
    holm,
    item_differences,
    merged,
    paired_bootstrap,
    read_comparisons,
    write_comparisons,
)

tables, root = runner_cases.tables, runner_cases.root

DATA = {"dataset": "wikipedia", "features": "roph", "split": "standard", "data_kind": "real", "condition": ""}
NUMBERS = {"difference": 0.0125, "low": -0.001, "high": 0.02, "p": 0.03, "p_holm": 0.06, "n_queries": 693}
ENTRY = {**DATA, "table": "table2", "protocol": "honest", "scale": "quick", "metric": "MAP", "seeds": "0 1 2"}
ENTRY |= {"method": "JFSE + CS", "baseline": "JFSE, alone", **NUMBERS}


def comparisons(*entries: dict) -> pd.DataFrame:
    """Entries as a file of comparisons gives them, without correcting them again."""
    table = pd.DataFrame(entries)
    return table.assign(significant=table["p_holm"] < 0.05)


def _queries(rng: np.random.Generator, owners: dict[str, np.ndarray]) -> dict:
    return {("s", name): (owner, rng.random(len(owner))) for name, owner in owners.items()}


def test_item_differences_average_to_the_difference_in_map_of_the_same_queries() -> None:
    rng = np.random.default_rng(0)
    # The third item has no text query, the first has two.
    owners = {"text->image": np.array([0, 0, 1, 3]), "image->text": np.array([0, 1, 2, 3])}
    first, second = _queries(rng, owners), _queries(rng, owners)
    found = item_differences(first, second, "s")
    assert found.shape == (4,)
    by_direction = [first["s", name][1].mean() - second["s", name][1].mean() for name in owners]
    assert found.mean() == pytest.approx(np.mean(by_direction), abs=1e-15)
    expected = 4 / 2 * (first["s", "image->text"][1][2] - second["s", "image->text"][1][2]) / 4
    assert found[2] == pytest.approx(expected, abs=1e-15)
    second["s", "image->text"] = (np.array([0, 1, 2, 4]), second["s", "image->text"][1])
    with pytest.raises(ValueError, match="different queries in s, image->text"):
        item_differences(first, second, "s")


def test_one_seed_gives_the_interval_of_a_plain_bootstrap_and_a_sign_turns_it() -> None:
    values = np.random.default_rng(1).normal(0.1, 1.0, 400)
    low, high, p = paired_bootstrap([values], resamples=4000)
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    assert paired_bootstrap([-values], resamples=4000) == (pytest.approx(-high), pytest.approx(-low), p)


def test_seeds_that_disagree_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    noise = [rng.normal(0, 1, 300) for _ in range(4)]
    agree = [values - values.mean() + 0.1 for values in noise]
    disagree = [values + shift for values, shift in zip(agree, (-1.0, -0.5, 0.5, 1.0), strict=True)]
    narrow, wide = paired_bootstrap(agree, 2000), paired_bootstrap(disagree, 2000)
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])
    assert wide[2] > 0.3


def test_the_least_and_the_greatest_p() -> None:
    assert paired_bootstrap([np.ones(5) + seed for seed in range(3)], 2000)[2] == pytest.approx(2 / 2001)
    assert paired_bootstrap([np.zeros(5), np.zeros(5)], 100) == (0.0, 0.0, 1.0)


def test_half_of_the_p_values_of_equal_methods_are_below_a_half() -> None:
    found = [
        paired_bootstrap([np.random.default_rng([trial, seed]).normal(size=60) for seed in range(5)], 400)[2]
        for trial in range(120)
    ]
    # Standard error .046; few seeds make the hierarchical bootstrap conservative, never liberal by much.
    assert 0.3 < np.mean(np.array(found) < 0.5) < 0.65
    assert np.mean(np.array(found) < 0.05) < 0.12


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_and_keeps_their_order(p: list[float]) -> None:
    found = holm(p)
    assert all(before <= after <= 1 for before, after in zip(p, found, strict=True))
    assert all(found[i] <= found[j] for i in range(len(p)) for j in range(len(p)) if p[i] < p[j])
    assert min(found) == pytest.approx(min(1.0, min(p) * len(p)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("p_holm", "p_corrected", "line 1: the header"),
        ("0.012500", "much", "line 2: difference is"),
        ("0.012500", "nan", "line 2: difference is"),
        ("0.012500", "", "line 2: difference is nan"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write_comparisons(comparisons(ENTRY), tmp_path / "new" / "table2.csv")
    assert read_comparisons(path).to_dict("records") == [{**ENTRY, "significant": False}]
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(TableError, match=message):
        read_comparisons(path)


def test_what_was_run_again_replaces_what_was_there_and_all_are_corrected_together() -> None:
    other, again = ENTRY | {"method": "JFSE + MMD", "p": 0.04}, ENTRY | {"p": 0.02}
    run_again = {("wikipedia", "roph", "", "JFSE + CS")}
    found = merged(comparisons(ENTRY, other), comparisons_of([again]), run_again)
    assert list(found["method"]) == ["JFSE + MMD", "JFSE + CS"]
    assert list(found["p_holm"]) == pytest.approx([0.04, 0.04])
    assert list(comparisons_of([again])["significant"]) == [True]


def test_a_comparison_of_the_same_runs_is_counted_once() -> None:
    """A tuned method and one at a fixed setting may be the same runs."""
    twice = [ENTRY | {"method": name} for name in ("pairwise CS", "pairwise CS, tau 0.2")]
    other = ENTRY | {"method": "GCS mixed", "difference": 0.01, "p": 0.01}
    assert list(comparisons_of([*twice, other])["p_holm"]) == pytest.approx([0.03, 0.03, 0.02])


def test_a_table_compares_the_methods_it_names_and_keeps_those_of_others_where_some_run_again(
    tables: Path, root: Path, tmp_path: Path
) -> None:
    call, path = ("table2", "--data-root", root, "--out", tmp_path), tmp_path / "comparisons" / "table2.csv"
    assert command(tables, *call).status == 0
    rows = rows_of(read_table(tmp_path / "table2.csv"), direction="average", metric="MAP")
    average = {row.method: row.value for row in rows}
    before, text = read_comparisons(path), (tmp_path / "table2.md").read_text(encoding="utf-8")
    assert before[["method", "baseline"]].values.tolist() == [["JFSE + CS", "JFSE"], ["JFSE", "CCA"]]
    for item in before.itertuples():
        assert item.difference == pytest.approx(average[item.method] - average[item.baseline], abs=2e-6)
        assert item.low <= item.difference <= item.high
        assert f"| {item.method} | {item.baseline} | {item.difference:+.3f}" in text
        assert (item.dataset, item.split, item.seeds, item.n_queries) == ("tiny", "standard", "0 1", 16)
    assert command(tables, *call, "--only", "method=CCA").status == 0
    assert read_comparisons(path)[["method", "baseline"]].values.tolist() == [["JFSE + CS", "JFSE"]]
    assert command(tables, *call).status == 0
    assert read_comparisons(path).equals(before)
