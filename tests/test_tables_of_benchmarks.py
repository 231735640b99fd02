"""Tables 5 and 9 by the real command on tiny folders in the layouts of HumanML3D, KIT-ML and Flickr30K."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_trees
from runner_cases import Outcome, command, rows_of, shorten, undo_quiet
from tiny_trees import write_text, write_tmr

from reproduce.results.schema import read_table
from reproduce.results.significance import read_comparisons
from reproduce.runs.checks import load_table

undo_quiet = undo_quiet
TUNED = ("pairwise KL", "pairwise CS", "GCS mixed")
MATCHED_MOTION = ("pairwise KL, tau 0.1", "pairwise CS, tau 0.2", "GCS mixed, tau 0.3")
MATCHED_SOUND = ("pairwise KL, tau 0.1", "pairwise CS, tau 0.2", "GCS mixed, tau 0.4")
METRICS = {("MAP", "all"), ("R@k", "1"), ("R@k", "3"), ("R@k", "5"), ("R@k", "10"), ("MedR", "")}
OFFICIAL, TMR = "new_joint_vecs", "guoh3dfeats of TMR"
SPLITS = {
    "train": ["000001", "M000001", "000002", *(f"1000{i:02d}" for i in range(9))],
    "val": ["000003", "200000", "200001"],
    "test": ["000004", *(f"3000{i:02d}" for i in range(5))],
}
TEST = len(SPLITS["test"])
BROKEN = SPLITS["test"][1]
# Texts and motions of the test part, by data set and features.
FORMS = {
    ("humanml3d", OFFICIAL): (TEST - 1, TEST - 1),  # without the motion that is NaN somewhere
    ("humanml3d", TMR): (TEST, TEST),
    ("kit_ml", OFFICIAL): (TEST, TEST),
    ("kit_ml", TMR): (TEST, TEST),
}
RATE = 48000  # of the published recordings


def write_official(folder: Path, width: int, captions: int) -> Path:
    """Motions in the authors' form with so many captions each."""
    (folder / "new_joint_vecs").mkdir(parents=True)
    for word, names in SPLITS.items():
        write_text(folder / f"{word}.txt", "\n".join(names) + "\n")
        for name in names:
            frames = np.random.default_rng(tiny_trees.hash_of(name)).normal(size=(40, width)).astype(np.float32)
            np.save(folder / "new_joint_vecs" / f"{name}.npy", frames)
            lines = [f"number {name} walks, take {k}#a/DET#0.0#0.0\n" for k in range(captions)]
            write_text(folder / "texts" / f"{name}.txt", "".join(lines))
    return folder


def break_motion(folder: Path) -> None:
    path = folder / "new_joint_vecs" / f"{BROKEN}.npy"
    frames = np.load(path)
    frames[-1, 0] = np.nan
    np.save(path, frames)


@pytest.fixture(scope="module")
def patch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CSD_DATA", raising=False)
        patch.setenv("CSD_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(tiny_trees, "TMR_SPLITS", SPLITS)
        yield patch


def remade(table: str, root: Path, *more: str) -> tuple[Path, Outcome]:
    """Results of a shipped table at one epoch, with a narrow joint space and one trial per method."""
    shorten(table, root, dim=8, learning_rate=0.001)
    return root / "results", command(root, table, "--data-root", root, "--out", root / "results", *more)


@pytest.fixture(scope="module")
def motions(patch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of table 9 where both forms of both data sets are there, and no UTD-MHAD."""
    root = tmp_path_factory.mktemp("motions")
    break_motion(write_official(write_tmr(root / "HumanML3D"), 263, captions=2))
    write_official(write_tmr(root / "KIT-ML"), 251, captions=1)
    with pytest.warns(UserWarning, match="is NaN or infinite somewhere"):
        out, outcome = remade("table9", root)
    assert outcome.status == 0, outcome.err
    return out


@pytest.fixture(scope="module")
def narratives(patch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of table 5 where Flickr30K is there, and no Flickr8k."""
    root = tmp_path_factory.mktemp("narratives")
    tiny_trees.write_spoken(root, RATE)
    out, outcome = remade("table5", root)
    assert outcome.status == 0, outcome.err
    return out


def check_scores(table: pd.DataFrame, directions: dict[str, tuple[int, int]], metrics: set) -> None:
    """That a method has every metric of the whole gallery in every direction, of the right sizes and on real data."""
    rows = rows_of(table)
    assert {(row.direction, row.metric, row.k) for row in rows} == {
        (direction, *metric) for direction in (*directions, "average") for metric in metrics
    }
    assert all((row.status, row.data_kind, row.split) == ("ok", "real", "standard") for row in rows)
    for direction, sizes in directions.items():
        of = rows_of(table, direction=direction)
        assert {(row.n_queries, row.n_gallery) for row in of} == {sizes}
        assert all(1 <= row.value <= sizes[1] if row.metric == "MedR" else 0 <= row.value <= 1 for row in of)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=" ".join)
def test_text_and_motion_find_each_other_in_every_form_of_the_data_sets(motions, form):
    dataset, features = form
    texts, frames = FORMS[form]
    table = read_table(motions / "table9.csv")
    wanted = (table["dataset"] == dataset) & (table["features"] == features) & (table["gallery"] == "full")
    found = table[wanted]
    assert list(found["method"].unique()) == [*TUNED, *MATCHED_MOTION]
    for method in (*TUNED, *MATCHED_MOTION):
        directions = {"text->motion": (texts, frames), "motion->text": (frames, texts)}
        check_scores(found[found["method"] == method], directions, METRICS)


@pytest.mark.slow
def test_what_table_9_does_not_have_says_why(motions):
    rows = read_table(motions / "table9.csv")
    absent = rows_of(rows, dataset="utd_mhad")
    assert {(row.method, row.status, row.note) for row in absent} == {
        (method, "not_run", "no folder utd_mhad/ under the data root") for method in (*TUNED, *MATCHED_MOTION)
    }
    (few, *_) = rows_of(rows, dataset="kit_ml", features=TMR, gallery="batches-32")
    assert (few.status, few.note) == ("not_run", f"the test set has {TEST} items, fewer than 32")
    for dataset, features in FORMS:
        assert rows_of(rows, dataset=dataset, features=features, gallery="threshold-0.95", status="ok")


@pytest.mark.slow
def test_methods_are_compared_on_every_form_and_drawn(motions):
    pairs = {(item.dataset, item.features, item.method, item.baseline)
             for item in read_comparisons(motions / "comparisons" / "table9.csv").itertuples()}  # fmt: skip
    named = {tuple(pair) for pair in load_table("table9").comparisons}
    assert pairs == {(*form, *pair) for form in FORMS for pair in named}
    assert len(list(motions.glob("table9_projection_*.png"))) == len(FORMS)


@pytest.mark.slow
def test_image_text_and_sound_of_flickr30k_find_each_other(narratives):
    rows = read_table(narratives / "table5.csv")
    narratives_of = tiny_trees.NARRATED["test"]
    count = {"image": len(narratives_of), "text": sum(narratives_of.values()), "audio": sum(narratives_of.values())}
    found = rows[rows["dataset"] == "flickr30k"]
    assert set(found["method"]) == {*TUNED, *MATCHED_SOUND}
    for method in (*TUNED, *MATCHED_SOUND):
        directions = {f"{a}->{b}": (count[a], count[b]) for a in count for b in count if a != b}
        metrics = {("MAP", "all"), ("R@k", "1"), ("R@k", "10"), ("P@k", "10")}
        check_scores(found[found["method"] == method], directions, metrics)
    assert {row.note for row in rows_of(rows, dataset="flickr8k_tri")} == {
        "no folder flickr8k_tri/ under the data root"
    }
    assert len(list(narratives.glob("table5_projection_*.png"))) == 1


def test_a_form_that_a_folder_does_not_have_is_not_run_beside_the_one_that_it_has(patch, tmp_path):
    write_official(tmp_path / "KIT-ML", 251, captions=1)
    _, outcome = remade("table9", tmp_path, "--dry-run")
    [line] = [line for line in outcome.out.splitlines() if line.startswith("kit_ml is not run")]
    assert TMR in line
    assert "KIT-ML lacks annotations.json, guoh3dfeats, splits/train.txt" in line
    assert "humanml3d` says what is missing" in outcome.out
    assert f"kit_ml/{OFFICIAL}/first test caption pairwise KL, seed 0" in outcome.out


def test_captions_of_flickr30k_alone_are_no_incomplete_narratives(patch, tmp_path):
    write_text(tmp_path / "flickr30k" / "flickr30k_test_captions.jsonl", '{"image_id": "1", "caption": "a dog"}\n')
    _, outcome = remade("table5", tmp_path, "--dry-run")
    said = "holds none of the data sets of table5: flickr8k_tri/, flickr30k/"
    assert (outcome.status, said in outcome.err) == (2, True)
    write_text(tmp_path / "flickr30k" / "flickr30k_test_localized_narratives.jsonl", "{}\n")
    _, outcome = remade("table5", tmp_path, "--dry-run")
    assert (outcome.status, "flickr30k_train_localized_narratives.jsonl" in outcome.err) == (2, True)
