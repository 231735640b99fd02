"""Table 1 and the scaling experiment: what their numbers mean, their files, and that a second call gives the same."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import reference
import runner_cases
import torch
import yaml
from torch import Tensor

from losses import AlignmentLoss, build_loss
from losses.common.base import GatheredBatch
from losses.common.matching import product
from reproduce.measurements import numerics, scaling
from reproduce.measurements.numerics import DIVERGENCES, GRID, PRECISIONS, assess, draw_inputs, run_grid, summarise
from reproduce.measurements.scaling import LOSSES, SETTINGS, exponent, matrices, saved_bytes
from reproduce.results.schema import read_table


@pytest.fixture(scope="module")
def of():
    """The outcomes of a method in a precision at a magnitude."""
    outcomes = run_grid(range(1), {**GRID, "batches": [8]})
    return lambda *key: outcomes[(outcomes[["method", "precision", "magnitude"]] == key).all(axis=1)]


# Inputs and truth


def test_inputs_are_unit_vectors_whose_pairs_lie_at_every_angle():
    embeddings, targets = draw_inputs(0, 256)
    assert list(targets) == GRID["targets"]
    for x in embeddings.values():
        torch.testing.assert_close(x.norm(dim=1), torch.ones(256, dtype=torch.float64))
    for other in ("b", "c"):
        cosine = (embeddings["a"] * embeddings[other]).sum(1)
        counts = torch.histc(cosine, bins=4, min=-1, max=1)
        assert (counts > 32).all()
    off_diagonal = targets["saturated"][~torch.eye(256, dtype=torch.bool)]
    assert 0 < off_diagonal.min() < off_diagonal.max() < 1e-8


@pytest.mark.parametrize("method", DIVERGENCES)
def test_every_loss_and_its_truth_see_the_same_logits(method):
    """At a magnitude where epsilon hardly matters, the loss in float64 is the truth to a fraction of a percent."""
    embeddings, targets = draw_inputs(0, 8)
    divergence = DIVERGENCES[method]
    scaled = {name: 2 * embeddings[name] for name in list(embeddings)[: divergence.modalities]}
    value = divergence.build(2)(scaled, targets["uniform"]).total
    exact = divergence.build(2, exact=True)(scaled, targets["uniform"]).total
    torch.testing.assert_close(value, exact, rtol=1e-3, atol=0)


def test_the_truth_of_cmpm_is_kl_without_epsilon():
    embeddings, targets = draw_inputs(0, 8)
    pair = {name: 10 * embeddings[name] for name in ("a", "b")}
    q = targets["saturated"].double()
    value = DIVERGENCES["CMPM-KL"].build(10, exact=True)(pair, q).total
    arrays = {name: x.numpy() for name, x in pair.items()}
    exact = reference.of_directions(
        arrays, q.numpy(), lambda x, z, q: reference.kl(reference.softmax(x @ reference.unit_rows(z).T), q)
    )
    expected = sum(exact.values())
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    assert build_loss("cmpm_kl")(pair, q).total < 0.7 * expected
    assert DIVERGENCES["CMPM-KL"].build(10, exact=True)(pair, targets["one-hot"]).total == math.inf


# What is counted


@pytest.mark.parametrize(
    ("value", "gradient", "exact_value", "exact_gradient", "finite", "counts", "errors"),
    [
        # by hand
        (
            1.5,
            [[3.0, 0], [0, 0], [1, 0]],
            2.0,
            [[3.0, 0], [4, 0], [0, 0]],
            (1, 1, 1),
            (1, 2),
            (0.25, math.sqrt(17) / 5),
        ),
        # neither value nor gradient is finite
        (math.nan, [[1.0, math.nan], [1, 1]], 2.0, [[1.0, 1], [1, 1]], (0, 0, 1), (1, 2), (math.nan, math.nan)),
        # an infinite truth counts for no error
        (18.0, [[1.0, 1]], math.inf, [[math.nan, 1.0]], (1, 1, 0), (0, 0), (math.nan, math.nan)),
    ],
)
def test_an_outcome(value, gradient, exact_value, exact_gradient, finite, counts, errors):
    exact = torch.tensor(exact_gradient, dtype=torch.float64)
    found = assess(value, torch.tensor(gradient), exact_value, exact)
    assert tuple(found[f"finite {what}"] for what in ("value", "gradient", "truth")) == finite
    assert (found["live"], found["alive"]) == counts
    assert (found["error"], found["gradient error"]) == pytest.approx(errors, nan_ok=True)


def test_a_gradient_too_small_for_the_precision_is_not_expected_of_it():
    exact = torch.full((1, 2), 1e-9, dtype=torch.float64)
    assert assess(1.0, torch.zeros(1, 2).half(), 1.0, exact)["alive"] == 0
    assert assess(1.0, torch.zeros(1, 2).bfloat16(), 1.0, exact)["alive"] == 1


def test_a_summary_by_hand():
    first = assess(1.5, torch.ones(1, 2), 2.0, torch.ones(1, 2, dtype=torch.float64))
    others = [{"finite value": False, "error": math.nan, "live": 0}, {"error": 0.75}]
    assert summarise(pd.DataFrame([first, *({**first, **other} for other in others)])) == {
        "finite values": pytest.approx(2 / 3),
        "finite gradients": 1.0,
        "live gradients": pytest.approx(2 / 3),
        "relative error": 0.5,
        "largest relative error": 0.75,
        "gradient error": 0.0,
    }


# What the table says


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", numerics.LOG_SPACE)
def test_losses_in_log_space_are_finite_and_exact_at_every_magnitude(of, method, precision):
    for magnitude in GRID["magnitudes"]:
        found = summarise(of(method, precision, magnitude))
        assert found["finite values"] == found["finite gradients"] == found["live gradients"] == 1
        assert found["largest relative error"] < 1e-5
        # A logit is known to eps times its magnitude in float32, whatever the embeddings are rounded to.
        known = magnitude * torch.finfo(torch.float32).eps
        assert found["gradient error"] < 10 * known + torch.finfo(PRECISIONS[precision]).eps


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", ["CS, clamped", "GCS, clamped"])
def test_clamped_losses_saturate_and_then_overflow(of, method, precision):
    assert summarise(of(method, precision, 1))["largest relative error"] < 1e-5
    saturated = summarise(of(method, precision, 30))
    assert saturated["finite gradients"] == 1
    assert saturated["relative error"] > 0.01
    assert summarise(of(method, precision, 1_000))["finite gradients"] == 0


def test_products_in_ordinary_space_underflow_though_the_denominator_is_bounded(of):
    assert summarise(of("CS, ordinary space", "float32", 10))["largest relative error"] < 1e-4
    found = list(of("CS, ordinary space", "float32", 10_000)["finite value"])
    # One-hot, multi-positive, uniform and saturated: only a target that is positive everywhere is met by every softmax.
    assert found == [False, False, True, True]


# Scaling -------------------------------------------------------------------------------------------------------------


# Counts


@pytest.mark.parametrize("modalities", [2, 3, 4, 5])
@pytest.mark.parametrize("method", LOSSES)
def test_counted_matrices_are_those_the_loss_computes(method, modalities, monkeypatch):
    loss = build_loss(**LOSSES[method])
    embeddings, labels = scaling.draw_inputs(modalities)
    similarities, matchings = [], []
    logits = GatheredBatch.logits

    def counted(batch, a, b, temperature):
        matchings.append((a, b))
        return logits(batch, a, b, temperature)

    monkeypatch.setattr("losses.common.base.product", lambda *given: similarities.append(1) or product(*given))
    monkeypatch.setattr(GatheredBatch, "logits", counted)
    loss(embeddings, labels)
    similarity, matching = matrices(loss, tuple(embeddings))
    # A ring of two is a pair there and back: both of its matrices are one product.
    assert len(similarities) == (1 if modalities == 2 else similarity)
    assert len(matchings) == matching


# Bytes


class KeepsNothing(AlignmentLoss):
    """A sum of squares: its gradient needs the embeddings alone."""

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        return {"squares": sum(x.square().sum() for x in batch.columns.values())}


class KeepsTwo(AlignmentLoss):
    """The gradient of exp needs its result, and so does that of the sine of it."""

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        first = next(iter(batch.columns.values())).exp()
        return {"one": first.sin().sum(), "two": first.T.exp().sum()}


def test_saved_bytes_by_hand():
    embeddings, labels = scaling.draw_inputs(2)
    one = embeddings["m1"].numel() * 4
    assert saved_bytes(KeepsNothing(), embeddings, labels) == 0
    # exp(x), which sin keeps as well, and exp(exp(x)): views and repeats of a storage count once.
    assert saved_bytes(KeepsTwo(), embeddings, labels) == 2 * one


@pytest.mark.parametrize("method", LOSSES)
def test_saved_bytes_are_the_same_again_and_grow_with_the_modalities(method):
    loss = build_loss(**LOSSES[method])
    few, again, more = (saved_bytes(loss, *scaling.draw_inputs(modalities)) for modalities in (3, 3, 5))
    assert few == again
    assert few >= len(matrices(loss, ("a", "b", "c"))) * SETTINGS["batch"] ** 2 * 4
    assert more > few


# Exponents and training


@pytest.mark.parametrize("power", [-0.5, 1.0, 2.5])
def test_the_exponent_of_a_power_law(power):
    slope, error = exponent({m: 3e-4 * m**power for m in range(2, 9)})
    assert slope == pytest.approx(power, abs=1e-9)
    assert error == pytest.approx(0, abs=1e-7)


# The commands --------------------------------------------------------------------------------------------------------


undo_quiet = runner_cases.undo_quiet
MODULES = {"table1": numerics, "scaling": scaling}


@pytest.fixture
def tiny(monkeypatch):
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
@pytest.mark.parametrize("name", [pytest.param("table1", marks=pytest.mark.slow), "scaling"])
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
def test_a_file_in_place_of_the_folder_is_refused_before_the_work(module, tmp_path, capsys):
    (tmp_path / "results").write_text("a file")
    assert module.main(["--out", str(tmp_path / "results")]) == 2
    assert "is not a folder" in capsys.readouterr().err
