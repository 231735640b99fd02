"""Shipped tables by the real command on tiny folders in the layouts of the authors."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_trees
from extract_cases import IMAGE_MODEL, run, write_weights
from matplotlib.image import imread
from runner_cases import Outcome, command, rows_of, shorten
from tiny_trees import write_text, write_tmr

from datamodules import NUSWIDE, OwnData, PKUXMediaNet
from datamodules.files import text_matrix
from reproduce.results.schema import read_table
from reproduce.results.significance import read_comparisons
from reproduce.runs.plan import Plan
from reproduce.runs.spec import read_file
from reproduce.runs.store import RunStore

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
TWO = ("CCA", "JFSE + CMPM-KL")
OF_AUTHORS = {("nus_wide", "low-level"), ("pku_xmedianet", "cnn4096-doc300")}
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
def patch(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CSD_DATA", raising=False)
        patch.setenv("CSD_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(tiny_trees, "TMR_SPLITS", SPLITS)
        yield patch


def remake(table: str, root: Path, out: Path, *more: str) -> Outcome:
    """A shipped table at one epoch, one seed and one trial per method, narrow; tables 2 and 3 of two methods alone."""
    out.mkdir(exist_ok=True)
    if table in ("table2", "table3"):
        shorten(table, out, TWO, width=8, learning_rate=0.001)
    else:
        shorten(table, out, dim=8, learning_rate=0.001)
    return command(out, table, "--data-root", root, "--out", out, *more)


def remade(table: str, root: Path, out: Path, *more: str) -> pd.DataFrame:
    outcome = remake(table, root, out, *more)
    assert outcome.status == 0, outcome.err
    return read_table(out / f"{table}.csv")


def refused(root: Path, out: Path, *more: str, table: str = "table2") -> str:
    outcome = remake(table, root, out, *more)
    assert outcome.status == 2
    assert not list(out.glob("*.csv"))
    return outcome.err


@pytest.fixture(scope="module")
def motions(patch, tmp_path_factory):
    """Results of table 9 where both forms of both data sets are there, and no UTD-MHAD."""
    root = tmp_path_factory.mktemp("motions")
    break_motion(write_official(write_tmr(root / "HumanML3D"), 263, captions=2))
    write_official(write_tmr(root / "KIT-ML"), 251, captions=1)
    with pytest.warns(UserWarning, match="is NaN or infinite somewhere"):
        remade("table9", root, root / "results")
    return root / "results"


@pytest.fixture(scope="module")
def narratives(patch, tmp_path_factory):
    """Results of table 5 where Flickr30K is there, and no Flickr8k."""
    root = tmp_path_factory.mktemp("narratives")
    tiny_trees.write_spoken(root, RATE)
    remade("table5", root, root / "results")
    return root / "results"


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
def test_a_gallery_that_the_test_set_is_too_small_for_says_so_and_others_are_scored(motions):
    rows = read_table(motions / "table9.csv")
    (few, *_) = rows_of(rows, dataset="kit_ml", features=TMR, gallery="batches-32")
    assert (few.status, few.note) == ("not_run", f"the test set has {TEST} items, fewer than 32")
    for dataset, features in FORMS:
        assert rows_of(rows, dataset=dataset, features=features, gallery="threshold-0.95", status="ok")


@pytest.mark.slow
def test_methods_are_compared_on_every_form_and_drawn(motions):
    pairs = {(item.dataset, item.features, item.method, item.baseline)
             for item in read_comparisons(motions / "comparisons" / "table9.csv").itertuples()}  # fmt: skip
    named = {tuple(pair) for pair in read_file("table9").comparisons}
    assert pairs == {(*form, *pair) for form in FORMS for pair in named}
    pictures = list(motions.glob("table9_projection_*.png"))
    assert len(pictures) == len(FORMS)
    assert all(imread(picture)[..., :3].std() > 0.01 for picture in pictures)


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
    outcome = remake("table9", tmp_path, tmp_path / "results", "--dry-run")
    [line] = [line for line in outcome.out.splitlines() if line.startswith("kit_ml is not run")]
    assert TMR in line
    assert "KIT-ML lacks annotations.json, guoh3dfeats, splits/train.txt" in line
    assert "humanml3d` says what is missing" in outcome.out
    assert f"kit_ml/{OFFICIAL}/first test caption pairwise KL, seed 0" in outcome.out


def test_captions_of_flickr30k_alone_are_no_incomplete_narratives(patch, tmp_path):
    write_text(tmp_path / "flickr30k" / "flickr30k_test_captions.jsonl", '{"image_id": "1", "caption": "a dog"}\n')
    said = "holds none of the data sets of table5: flickr8k_tri/, flickr30k/"
    assert said in refused(tmp_path, tmp_path / "results", table="table5")
    write_text(tmp_path / "flickr30k" / "flickr30k_test_localized_narratives.jsonl", "{}\n")
    said = "flickr30k_train_localized_narratives.jsonl"
    assert said in refused(tmp_path, tmp_path / "results", table="table5")


# Tables 2 and 3 -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """Both data sets as their authors give them, with enough items for a split by classes."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_trees, "NUS_COUNTS", {"Train": 300, "Test": 60})
        patch.setattr(tiny_trees, "XMEDIANET", {"train": 60, "test": 30})
        patch.setattr(tiny_trees, "XMEDIANET_CLASSES", 6)
        tiny_trees.write_nus_wide(folder)
        tiny_trees.write_xmedianet(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("table", "splits"), [("table2", {"standard"}), ("table3", {"seen", "unseen", "generalised"})])
def test_the_files_of_the_authors_are_rows_of_their_own(table, splits, official, tmp_path):
    rows = rows_of(remade(table, official, tmp_path))
    honest = [row for row in rows if row.status == "ok" and row.protocol == "honest"]
    assert {(row.dataset, row.features) for row in honest} == OF_AUTHORS
    assert {(row.split, row.method) for row in honest} == {(split, method) for split in splits for method in TWO}
    assert {row.data_kind for row in rows} == {"real"}
    reasons = {(row.dataset, row.features): row.note for row in rows if row.status == "not_run"}
    assert set(reasons) == {
        *(("wikipedia", name) for name in ("roph", "sift-lda", "own")),
        *((name, "own") for name in ("pascal_sentences", "nus_wide", "pku_xmedianet")),
    }
    assert reasons["nus_wide", "own"] == "nus_wide: holds no features in a known layout"
    assert not any(str(official) in note for note in reasons.values())
    compared = {(row.dataset, row.method, row.protocol) for row in rows if not math.isnan(row.published)}
    assert compared == ({("pku_xmedianet", "JFSE + CMPM-KL", "as_published")} if table == "table2" else compared)
    assert {dataset for dataset, _, _ in compared} <= {"pku_xmedianet"}


@pytest.mark.slow
def test_extracted_features_are_called_as_their_networks_are(tmp_path):
    folder = tiny_trees.write_pascal(tmp_path / "data")
    out = folder / "features.safetensors"
    weights = write_weights(tmp_path)["image"]
    networks = ("--image", IMAGE_MODEL, "--image-weights", weights, "--text", "all-MiniLM-L6-v2")
    assert run("pascal_sentences", *networks, "--data-root", folder.parent, "--out", out) == 0
    table = remade("table2", folder.parent, tmp_path / "out")
    found = {row.features for row in rows_of(table, dataset="pascal_sentences")}
    assert found == {f"{IMAGE_MODEL} (image.safetensors), all-MiniLM-L6-v2"}
    assert table["published"].isna().all()


def pairs(folder: Path, widths: tuple[int, ...], *left_out: str) -> Path:
    """A folder with one .npz of these widths of image, text and class embedding."""
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"label": np.arange(40) % 4, "split": np.where(np.arange(40) < 30, "train", "test")}
    for name, rows, width in zip(("image", "text", "class_embedding"), (40, 40, 4), widths, strict=True):
        arrays[name] = draw.normal(size=(rows, width))
    np.savez(folder / "pairs.npz", **{name: array for name, array in arrays.items() if name not in left_out})
    return folder


def test_own_features_are_called_as_published_ones_where_widths_classes_and_split_are_theirs(tmp_path):
    def name(*left_out: str, widths: tuple[int, ...] = (4096, 300, 300), **settings: str) -> str:
        return OwnData(pairs(tmp_path, widths, *left_out), **settings).features

    assert name() == "cnn4096-doc300"
    assert name("split") == "own"
    assert name("class_embedding") == "own"
    assert name(class_encoder="one-hot") == "own"
    assert {name(widths=widths) for widths in ((2048, 300, 300), (4096, 768, 300), (4096, 300, 64))} == {"own"}


def test_an_incomplete_folder_is_an_error_but_for_the_rows_of_others(official, tmp_path):
    missing = official / "pku_xmedianet" / "img_test_fea.txt"
    aside = missing.rename(tmp_path / missing.name)
    try:
        assert f"{missing} is missing." in refused(official, tmp_path / "out")
        for other in ("dataset=nus_wide", "features=low-level"):
            outcome = remake("table2", official, tmp_path / "out", "--only", other, "--dry-run")
            assert outcome.status == 0
            assert "nus_wide/low-level CCA, seed 0" in outcome.out
            assert "pku_xmedianet/cnn4096-doc300" not in outcome.out
    finally:
        aside.rename(missing)


def test_rows_that_were_asked_for_and_are_not_there_are_an_error_that_says_why(official, tmp_path):
    said = refused(official, tmp_path, "--only", "dataset=pascal_sentences")
    assert "holds none of the data sets of table2: pascal_sentences/.\nno folder pascal_sentences/" in said


def test_official_files_of_other_widths_and_features_in_two_layouts_are_refused(tmp_path, monkeypatch):
    folder = tiny_trees.write_xmedianet(tmp_path / "data")
    pairs(folder, (4096, 300, 300))
    said = "pku_xmedianet/ holds features called 'cnn4096-doc300' twice"
    assert said in refused(folder.parent, tmp_path / "out")
    monkeypatch.setattr(tiny_trees, "XMEDIANET_WIDTHS", {"img": 2048, "txt": 300})
    folder = tiny_trees.write_xmedianet(tmp_path / "narrow")
    said = "have (2048, 300, 300) numbers; cnn4096-doc300 have (4096, 300, 300)"
    assert said in refused(folder.parent, tmp_path / "out")


@pytest.mark.parametrize("table", ["table2", "table3"])
def test_a_data_set_is_read_once_for_all_trainings(table, official, tmp_path, monkeypatch):
    reads: list[str] = []
    for kind in (NUSWIDE, PKUXMediaNet):
        read = kind.read
        monkeypatch.setattr(kind, "read", lambda self, read=read: reads.append(self.dataset) or read(self))
    run = Plan(read_file(table), "quick", str(official), [0, 1, 2], RunStore(tmp_path))
    assert len(run.execute(run.available(), dry=True)) > 80
    assert sorted(reads) == ["nus_wide", "pku_xmedianet"]


@pytest.mark.slow
def test_features_that_came_replace_the_row_that_said_they_are_not_there(official, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    (data / "pascal_sentences").mkdir(parents=True)
    (data / "pku_xmedianet").symlink_to(official / "pku_xmedianet")
    assert {row.features for row in rows_of(remade("table2", data, out), dataset="pascal_sentences")} == {"own"}
    pairs(data / "pascal_sentences", (4096, 300, 300))
    rows = remade("table2", data, out, "--only", "dataset=pascal_sentences")
    found = {(row.features, row.status) for row in rows_of(rows, dataset="pascal_sentences")}
    assert found == {("cnn4096-doc300", "ok")}
    assert {row.features for row in rows_of(rows, dataset="nus_wide")} == {"low-level", "own"}


def test_large_files_of_text_are_parsed_once(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(text_matrix, "LARGE", 0)
    folder = tiny_trees.write_xmedianet(tmp_path)
    first = PKUXMediaNet(tmp_path).data
    kept = sorted(cache.iterdir())
    assert len(kept) == 3
    with monkeypatch.context() as patch:
        patch.setattr(text_matrix, "_parsed", None)  # nothing is parsed
        assert PKUXMediaNet(tmp_path).data.digest() == first.digest()
    kept[0].write_bytes(kept[0].read_bytes()[:100])
    assert PKUXMediaNet(tmp_path).data.digest() == first.digest()
    path = folder / "txt_test_fea.txt"
    path.write_text(path.read_text().replace("0.", "1.", 1))
    assert PKUXMediaNet(tmp_path).data.digest() != first.digest()
