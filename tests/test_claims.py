"""Verdicts on the paper's claims, by rules fixed beforehand."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from test_schema import NUMBER
from test_significance import ENTRY, comparisons

import reproduce.__main__ as command_line
from reproduce.results.claims import CLAIMS, COLUMNS, FAILS, HOLDS, OPEN, SHARES, judge, judge_claims, read_claims
from reproduce.results.schema import Row, TableError, write_csv, write_table
from reproduce.results.significance import write_comparisons

FIVE = ENTRY | {"seeds": "0 1 2 3 4"}


def _item(difference: float, p: float, half: float = 0.005, **other: object) -> dict:
    ends = {"difference": difference, "low": difference - half, "high": difference + half}
    return {**FIVE, **ends, "p": p, "p_holm": p, **other}


def _row(table: str, method: str, metric: str, value: float, **columns: object) -> Row:
    columns = {"direction": "average", "k": "", "std": None, "seeds": "0"} | columns
    return replace(NUMBER, table=table, method=method, metric=metric, value=value, **columns)


def _verdicts(folder: Path) -> dict[str, tuple[str, str]]:
    return {claim.claim: (claim.verdict, claim.evidence) for claim in judge_claims(folder).itertuples()}


def _numerics(folder: Path, shares: dict[str, float]) -> None:
    names = ("CS", "GCS", "KL, forward", "CMPM-KL", "CS, clamped", "GCS, clamped", "CS, ordinary space")
    rows = [_row("table1", name, metric, shares.get(name, 1.0)) for name in names for metric in SHARES]
    rows += [_row("table1", "CS", "hyperparameters", 1, note="temperature")]
    write_table(rows, folder / "table1.csv")


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ([_item(0.01, 0.01), _item(0.002, 0.4)], HOLDS),
        ([_item(0.01, 0.01), _item(-0.002, 0.4)], OPEN),  # a gain in one place, a loss within chance in another
        ([_item(0.01, 0.01), _item(-0.01, 0.01)], FAILS),
        ([_item(-0.01, 0.01)], FAILS),
        ([_item(0.002, 0.4)], FAILS),  # whatever gain there is, it is below .02
        ([_item(0.01, 0.4, half=0.03)], OPEN),  # the interval reaches a gain of .04
        ([_item(0.01, 0.01, seeds="0 1 2")], OPEN),  # three seeds carry no claim
        ([_item(0.01, 0.01), _item(-0.05, 0.01, seeds="0 1 2")], OPEN),  # but speak against one
        ([_item(0.01, 0.01), _item(-0.05, 0.9, seeds="0 1 2")], HOLDS),
    ],
)
def test_a_verdict_follows_from_differences_and_intervals(found: list[dict], verdict: str) -> None:
    assert judge(comparisons(*found))[0] == verdict


def test_conditions_that_say_something_else_figures_and_files_are_named() -> None:
    three = {"seeds": "0 1 2"}
    found = judge(
        comparisons(
            _item(0.0023, 0.4, table="table7", method="GCS mixed"),
            _item(0.1, 0.01, condition="labels clusters", **three),
            _item(0.001, 0.4, condition="labels class", **three),  # says the same
            _item(0.01, 0.4, half=0.03, condition="M = 6", **three),  # says nothing
        )
    )
    assert (found.verdict, found.conditions) == (FAILS, 'holds with "labels clusters" (3 seeds)')
    assert found.evidence[1].endswith("GCS mixed against JFSE, alone +0.002 (-0.003 to +0.007), 5 seeds")
    assert "+0.100 (+0.095 to +0.105)*, 3 seeds" in found.evidence[2]
    assert found.sources == ["comparisons/table7.csv", "comparisons/table2.csv"]


def test_a_condition_of_several_data_sets_is_named_with_its_own() -> None:
    flipped = {"condition": "40 % of labels flipped"}
    found = judge(comparisons(_item(0.1, 0.01, **flipped), _item(-0.1, 0.01, dataset="handwritten", **flipped)))
    assert (found.verdict, found.conditions) == (FAILS, 'holds with "40 % of labels flipped" on wikipedia (5 seeds)')


def test_a_damaged_file_of_claims_is_refused(tmp_path: Path) -> None:
    claims = pd.DataFrame([("a, b", HOLDS, "", 'says "c"\nand d', "table1.csv table2.csv")], columns=COLUMNS)
    path = write_csv(claims, tmp_path / "claims.csv")
    assert read_claims(path).to_dict("records") == claims.to_dict("records")
    path.write_text(path.read_text().replace(HOLDS, "perhaps"))
    with pytest.raises(TableError, match=r"claims\.csv: .*'a, b' is 'perhaps'; expected 'holds'"):
        read_claims(path)


def test_without_results_the_command_says_what_to_make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["claims", "--out", str(tmp_path)]) == 0
    claims = read_claims(tmp_path / "claims.csv")
    assert list(claims["claim"]) == list(CLAIMS)
    assert all(claim.verdict == OPEN and "make " in claim.evidence for claim in claims.itertuples())
    assert next(iter(CLAIMS)) in capsys.readouterr().out
    assert command_line.main(["claims", "--out", str(tmp_path / "absent")]) == 2


@pytest.mark.parametrize(
    ("clean", "flipped", "kind", "verdict"),
    [
        (-0.05, 0.05, "real", HOLDS),
        (0.05, -0.05, "real", FAILS),
        (0.05, None, "real", OPEN),
        (0.05, 0.05, "synthetic", OPEN),
    ],
)
def test_wrong_labels_are_judged_without_the_right_ones_and_synthetic_data_support_no_claim(
    tmp_path: Path, clean: float, flipped: float | None, kind: str, verdict: str
) -> None:
    names = {"table": "label-noise", "method": "pairwise CS", "baseline": "pairwise KL", "data_kind": kind}
    items = [_item(clean, 0.001, condition="labels class", **names)]
    items += [] if flipped is None else [_item(flipped, 0.001, condition="40 % of labels flipped", **names)]
    write_comparisons(comparisons(*items), tmp_path / "comparisons" / "label-noise.csv")
    found, evidence = _verdicts(tmp_path)["Under wrong labels CS retrieves better than KL"]
    assert found == verdict
    assert "labels class" not in evidence
    assert ("make label-noise" in evidence) == (flipped is None or kind == "synthetic")


# Claims from tables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "stable", "bound"),
    [({}, FAILS, HOLDS), ({"KL, forward": 0.9}, HOLDS, HOLDS), ({"CS, ordinary space": 0.6, "CS": 0.99}, FAILS, FAILS)],
)
def test_stability_is_judged_by_shares_of_finite_steps(tmp_path: Path, shares: dict, stable: str, bound: str) -> None:
    _numerics(tmp_path, shares)
    found = _verdicts(tmp_path)
    assert found["CS is numerically more stable than KL"][0] == stable
    assert found["The lower bound of the denominator alone keeps CS finite"][0] == bound


@pytest.mark.parametrize(("spread", "verdict"), [(0.1, FAILS), (0.001, OPEN)])
def test_a_loss_whose_temperature_matters_has_a_hyperparameter(tmp_path: Path, spread: float, verdict: str) -> None:
    _numerics(tmp_path, {})
    for name, method in (("temperature", "pairwise CS"), ("temperature-jfse", "JFSE + CS")):
        rows = [
            _row(name, f"{method}, temperature {t}", "MAP", 0.5 + spread * place, k="all")
            for place, t in enumerate((0.05, 0.1))
        ]
        write_table(rows, tmp_path / f"{name}.csv")
    found, evidence = _verdicts(tmp_path)["CS needs no hyperparameter"]
    assert found == verdict
    assert f"wikipedia pairwise CS 0.500 to {0.5 + spread:.3f}" in evidence


@pytest.mark.parametrize(("share", "verdict"), [(1.0, HOLDS), (0.99, FAILS)])
def test_training_without_epsilon_holds_where_every_step_is_finite(tmp_path: Path, share: float, verdict: str) -> None:
    methods = {"GCS mixed, temperature 0.1": 1.0, "GCS mixed, temperature 0.2": share}
    methods |= {"GCS mixed, clamped, temperature 0.1": 0.3}
    rows = [_row("stability", name, "finite gradients", value) for name, value in methods.items()]
    write_table(rows, tmp_path / "stability.csv")
    found, evidence = _verdicts(tmp_path)["GCS trains without an epsilon"]
    assert found == verdict
    assert "GCS mixed, clamped 0.300 to 0.300" in evidence


@pytest.mark.parametrize(
    ("circular", "pairs", "verdict"),
    [(1.02, 2.1, HOLDS), (1.3, 2.1, OPEN), (2.0, 2.1, FAILS), (0.9, 1.73, OPEN), (0.9, 1.2, FAILS)],
)
def test_cost_is_judged_by_the_exponents_of_circular_and_pairwise_losses(
    tmp_path: Path, circular: float, pairs: float, verdict: str
) -> None:
    rows = [
        _row("scaling", name, metric, value, condition=condition)
        for name in ("GCS clockwise", "GCS bidirectional", "GCS mixed", "pairwise KL", "pairwise CS")
        for condition in ("seconds/step", "saved MiB")
        for metric, value in (("exponent", circular if name.startswith("GCS") else pairs), ("standard error", 0.02))
    ]
    write_table(rows, tmp_path / "scaling.csv")
    claim = "The cost of circular GCS grows as M, that of pairwise losses as M squared"
    assert _verdicts(tmp_path)[claim][0] == verdict
