"""`python -m reproduce own`: linear methods, generalised CCA among them, and losses on one's own data as a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from runner_cases import command, undo_quiet  # noqa: F401

from reproduce.runs.baselines import CCA, GeneralisedCCA

N = 80
LABEL = np.arange(N) % 4


def write(folder: Path, modalities: int, **more: np.ndarray) -> Path:
    rng = np.random.default_rng(0)
    views = {
        f"v{m}": rng.standard_normal((4, 4 + m))[LABEL] + rng.standard_normal((N, 4 + m)) for m in range(modalities)
    }
    np.savez(folder / "views.npz", **views, **more)
    return folder / "views.npz"


def test_linear_methods_and_losses_become_rows_with_comparisons(tmp_path):
    file = write(tmp_path, 3, label=LABEL * 10)
    methods = ["generalised CCA", "semantic matching", "LAVIMO, pairwise*"]
    outcome = command(tmp_path, "own", "--data", file, "--methods", *methods, "--seeds", 0, 1, "--out", tmp_path)
    assert outcome.status == 0, outcome.err
    rows = pd.read_csv(tmp_path / "own.csv", keep_default_na=False)
    assert set(rows["method"]) == {"generalised CCA", "semantic matching", "LAVIMO, pairwise KL", "LAVIMO, pairwise CS"}
    assert set(rows["status"]) == {"ok"}
    assert set(rows["dataset"]) == {"views.npz"}
    average = rows[(rows["direction"] == "average") & (rows["metric"] == "MAP")].set_index("method")["value"]
    assert average.astype(float).min() > 0.3  # chance is .25
    compared = pd.read_csv(next((tmp_path / "comparisons").glob("own.csv")))
    assert set(compared["method"]) == {"LAVIMO, pairwise CS"}
    for ending in ("md", "png", "yaml"):
        assert (tmp_path / f"own.{ending}").is_file()


@pytest.mark.parametrize(
    ("modalities", "labelled", "left_out"),
    [
        (2, True, {"generalised CCA"}),
        (2, False, {"generalised CCA", "semantic matching", "JFSE", "JFSE + CS"}),
        (3, True, {"CCA", "JFSE", "JFSE + CS"}),
    ],
)
def test_methods_that_the_data_do_not_allow_are_left_out_and_said(tmp_path, modalities, labelled, left_out):
    file = write(tmp_path, modalities, **({"label": LABEL} if labelled else {}))
    outcome = command(tmp_path, "own", "--data", file, "--out", tmp_path, "--dry-run")
    assert outcome.status == 0, outcome.err
    said = {line.partition(" is not run")[0] for line in outcome.out.splitlines() if " is not run: " in line}
    assert said == left_out
    assert "LAVIMO, GCS mixed, trial 4" in outcome.out


def test_an_unknown_method_and_data_that_cannot_be_read_are_refused(tmp_path):
    outcome = command(tmp_path, "own", "--data", write(tmp_path, 2), "--methods", "LAVIMO, pairwise LK")
    assert outcome.status == 2
    assert "LAVIMO, pairwise KL" in outcome.err
    outcome = command(tmp_path, "own", "--data", tmp_path / "absent.npz")
    assert outcome.status == 2
    assert "absent.npz: does not exist" in outcome.err


# Generalised CCA ----------------------------------------------------------------------------------------------------


def views(count: int, width: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Views of two common directions among noise."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((60, 2))
    noise = {f"v{m}": rng.standard_normal((60, width + m)) for m in range(count)}
    return {name: common @ rng.standard_normal((2, x.shape[1])) * 2 + x for name, x in noise.items()}


def cosines(embedded: dict[str, np.ndarray]) -> np.ndarray:
    x, z = (e / np.linalg.norm(e, axis=1, keepdims=True) for e in list(embedded.values())[:2])
    return x @ z.T


def test_of_two_views_with_a_small_ridge_it_is_cca():
    features = views(2, 5)
    one, other = (
        kind({name: x.shape[1] for name, x in features.items()}, ridge=1e-8).fit(features, LABEL)
        for kind in (GeneralisedCCA, CCA)
    )
    np.testing.assert_allclose(
        cosines(one.embed_features(features)), cosines(other.embed_features(features)), atol=1e-5
    )


@pytest.mark.parametrize("width", [6, 40], ids=["more items", "more dimensions"])
def test_common_directions_are_those_of_the_sum_of_projections(width):
    features = views(3, width)
    method = GeneralisedCCA({name: x.shape[1] for name, x in features.items()}, ridge=0.5).fit(features, LABEL)
    projectors = []
    for x in features.values():
        z = (x - x.mean(axis=0)) / x.std(axis=0)
        projectors.append(z @ np.linalg.solve(z.T @ z + 60 * 0.5 * np.eye(z.shape[1]), z.T))
    value, vector = np.linalg.eigh(sum(projectors))
    embedded = method.embed_features(features)
    for (name, projector), m in zip(zip(features, projectors, strict=True), range(3), strict=True):
        expected = projector @ vector[:, -1]
        found = embedded[name][:, 0]
        assert abs(np.corrcoef(expected, found)[0, 1]) > 1 - 1e-8, m
    assert embedded["v0"].shape[1] == (value > 1).sum()


def test_a_ridge_of_zero_is_refused():
    with pytest.raises(ValueError, match="ridge is 0"):
        GeneralisedCCA({"a": 2, "b": 2}, ridge=0)
