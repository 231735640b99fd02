"""Which rows of a table are run on the data that are there, and how long they take."""

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import runner_cases
from tiny_trees import write_wikipedia

from datamodules import DataMissing
from datamodules.datasets import DATASETS
from reproduce.runs.estimate import run_seconds
from reproduce.runs.plan import Plan
from reproduce.runs.presence import require_present
from reproduce.runs.spec import read_file
from reproduce.runs.store import RunStore

tables, root = runner_cases.tables, runner_cases.root


@pytest.mark.parametrize("published", [False, True])
def test_every_run_has_a_time_measured_on_its_model(tables, root, tmp_path, published):
    table = read_file("table2", tables)
    if published:
        method = next(method for method in table.methods if method.method == "JFSE")
        table = replace(table, methods=[replace(method, protocol="as_published")])
    plan = Plan(table, "paper", str(root), [0, 1], RunStore(tmp_path))
    runs = plan.execute(plan.available(), dry=True)
    seconds = run_seconds(runs, str(root))
    assert set(seconds) == {run.key for run in runs}
    assert all(0 < value < math.inf for value in seconds.values())
    times = {(run.steps, seconds[run.key]) for run in runs if run.config["model"]["class_path"] == "JFSE"}
    assert len(times) == len({steps for steps, _ in times})  # the same steps take the same time
    assert [time for _, time in sorted(times)] == sorted(time for _, time in times)  # and more of them no less
    assert not list(tmp_path.iterdir())


# What is there --------------------------------------------------------------------------------------------------------


def _run(root: Path, **only: str) -> Plan:
    return Plan(read_file("table2"), "quick", str(root), [0], RunStore(root / "kept"), offline=True, only=only)


@pytest.fixture
def wikipedia(tmp_path):
    """Texts and images, and beside them a file of features of one's own."""
    folder = write_wikipedia(tmp_path)
    draw = np.random.default_rng(0)
    image, text = draw.normal(size=(40, 5)), draw.normal(size=(40, 4))
    split = np.where(np.arange(40) < 30, "train", "test")
    embedding = draw.normal(size=(4, 3))
    label = np.arange(40) % 4
    np.savez(folder / "own.npz", image=image, text=text, label=label, split=split, class_embedding=embedding)
    return folder


@pytest.mark.parametrize("only", [{}, {"features": "own"}, {"method": "CCA"}])
def test_texts_and_images_do_not_stand_in_the_way_of_features_beside_them(wikipedia, only):
    plan = _run(wikipedia.parent, **only)
    present = plan.available()
    assert [(dataset.dataset, dataset.features) for dataset in present] == [("wikipedia", "own")]
    reasons = {dataset.features: reason for dataset, reason in plan.absent.items() if dataset.dataset == "wikipedia"}
    named = {"roph": "wikipedia lacks wiki_roph.mat. ", "sift-lda": "wikipedia lacks raw_features.mat. "}
    assert set(reasons) == (set() if "features" in only else set(named))
    assert all(reasons[features].startswith(named[features]) for features in reasons)


@pytest.mark.parametrize(
    ("table", "there", "rows"),
    [
        ("table2", ("wikipedia", "roph"), {"roph": True, "sift-lda": False}),
        ("table2", ("wikipedia", "sift-lda"), {"roph": False, "sift-lda": True}),
        ("table2", ("wikipedia", "raw"), {"roph": False, "sift-lda": False}),
        ("table2", ("nus_wide", "pairs"), {"low-level": False}),
        ("table2", ("nus_wide", "low-level"), {"low-level": True}),
        ("table7", ("utd_mhad", "raw"), {"16f": False}),
        ("table7", ("utd_mhad", "16f"), {"16f": True}),
        ("table5", ("flickr30k", "karpathy"), {"raw": False}),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_form_is_there_where_a_file_of_its_own_is(tmp_path, table, there, rows, whole):
    facts = DATASETS[there[0]]
    others = {path for name, form in facts.forms.items() if name != there[1] for path in sum(form.variants, ())}
    for path in facts.forms[there[1]].variants[0]:
        if whole or path not in others:  # in part: without the files that it shares with other forms
            file = tmp_path / facts.folder / path.replace("*", "a")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    asked = [one for one in read_file(table).datasets if one.dataset == there[0] and one.features in rows]
    assert len(asked) == len(rows)
    for dataset in asked:
        with nullcontext() if rows[dataset.features] else pytest.raises(DataMissing, match=f"{facts.folder} lacks "):
            require_present(dataset, str(tmp_path))


def test_nothing_is_missing_that_can_be_fetched(tmp_path, monkeypatch, wikipedia):
    monkeypatch.delenv("CSD_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    wikipedia.rename(tmp_path / "data" / "wikipedia")
    run = Plan(read_file("table2"), "quick", None, [0], RunStore(tmp_path), offline=True)
    assert [dataset.features for dataset in run.available()] == ["own"]
    reason = next(reason for dataset, reason in run.absent.items() if dataset.features == "roph")
    assert "offline=True forbids fetching it" in reason
