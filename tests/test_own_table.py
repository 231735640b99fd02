"""`python -m reproduce own`: linear methods and losses on one's own data as a table."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from runner_cases import command

N = 80
LABEL = np.arange(N) % 4
NAMES = np.array(["ant", "bee", "cat", "dog"])


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


@pytest.mark.slow
def test_two_modalities_have_the_row_of_cca_and_raw_data_those_of_lavimo(tmp_path):
    file = write(tmp_path, 2, label=LABEL)
    options = ["--seeds", 0, "--out", tmp_path]
    outcome = command(tmp_path, "own", "--data", file, "--methods", "CCA", "LAVIMO, MIL*", *options)
    assert outcome.status == 0, outcome.err
    texts = pd.DataFrame({"a": [f"{word} {n}" for n, word in enumerate(NAMES[LABEL])], "label": LABEL})
    texts.assign(b=texts["a"].str.upper()).to_csv(tmp_path / "texts.csv", index=False)
    raw = tmp_path / "raw"
    outcome = command(
        tmp_path, "own", "--data", tmp_path / "texts.csv", "--methods", "LAVIMO, MIL*", *options[:2], "--out", raw
    )
    assert outcome.status == 0, outcome.err
    for folder, methods in ((tmp_path, {"CCA", "LAVIMO, MIL-NCE"}), (raw, {"LAVIMO, MIL-NCE"})):
        rows = pd.read_csv(folder / "own.csv", keep_default_na=False)
        assert set(rows["method"]) == methods
        assert set(rows["status"]) == {"ok"}


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
