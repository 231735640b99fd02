"""Tables 2 and 3 on the files of NUS-WIDE's and PKU-XMediaNet's authors, and on features that a person brings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_trees
from extract_cases import IMAGE_MODEL, prepare, run, write_weights
from runner_cases import Outcome, command, rows_of, shorten, undo_quiet  # noqa: F401

from datamodules import NUSWIDE, OwnData, PKUXMediaNet
from datamodules.files import text_matrix
from reproduce.results.schema import read_table
from reproduce.runs.checks import load_table
from reproduce.runs.plan import Plan
from reproduce.runs.store import RunStore

METHODS = ("CCA", "JFSE + CMPM-KL")
OFFICIAL = {("nus_wide", "low-level"), ("pku_xmedianet", "cnn4096-doc300")}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Both data sets as their authors give them, with enough items for a split by classes."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_trees, "NUS_COUNTS", {"Train": 300, "Test": 60})
        patch.setattr(tiny_trees, "XMEDIANET", {"train": 60, "test": 30})
        patch.setattr(tiny_trees, "XMEDIANET_CLASSES", 6)
        tiny_trees.write_nus_wide(folder)
        tiny_trees.write_xmedianet(folder)
    return folder


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """No way to the hub."""
    prepare(monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def remake(table: str, root: Path, out: Path, *more: str) -> Outcome:
    """A table of two methods, one epoch and one seed."""
    out.mkdir(exist_ok=True)
    shorten(table, out, METHODS, width=8, learning_rate=0.001)
    return command(out, table, "--data-root", root, "--out", out, *more)


def remade(table: str, root: Path, out: Path, *more: str) -> list[Any]:
    outcome = remake(table, root, out, *more)
    assert outcome.status == 0, outcome.err
    return rows_of(read_table(out / f"{table}.csv"))


@pytest.mark.parametrize(
    ("table", "splits"),
    [
        pytest.param("table2", {"standard"}, marks=pytest.mark.slow),
        ("table3", {"seen", "unseen", "generalised"}),
    ],
)
def test_the_files_of_the_authors_are_rows_of_their_own(table, splits, root, tmp_path):
    rows = remade(table, root, tmp_path)
    honest = [row for row in rows if row.status == "ok" and row.protocol == "honest"]
    assert {(row.dataset, row.features) for row in honest} == OFFICIAL
    assert {(row.split, row.method) for row in honest} == {(split, method) for split in splits for method in METHODS}
    assert {row.data_kind for row in rows} == {"real"}
    reasons = {(row.dataset, row.features): row.note for row in rows if row.status == "not_run"}
    assert set(reasons) == {
        *(("wikipedia", name) for name in ("roph", "sift-lda", "own")),
        *((name, "own") for name in ("pascal_sentences", "nus_wide", "pku_xmedianet")),
    }
    assert reasons["nus_wide", "own"].startswith("nus_wide: holds no features in a known layout")
    assert not any(str(root) in note for note in reasons.values())
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
    rows = remade("table2", folder.parent, tmp_path / "out")
    found = {row.features for row in rows if row.dataset == "pascal_sentences"}
    assert found == {f"{IMAGE_MODEL} (image.safetensors), all-MiniLM-L6-v2"}
    assert all(math.isnan(row.published) for row in rows)


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


def test_the_class_embedding_that_the_data_bring_is_the_default(tmp_path):
    assert OwnData(pairs(tmp_path, (5, 4, 7))).class_embedding.shape == (4, 7)
    assert OwnData(tmp_path, class_encoder="one-hot").class_embedding.shape == (4, 4)
    assert OwnData(pairs(tmp_path, (5, 4, 7), "class_embedding")).class_embedding.shape == (4, 4)


def refused(root: Path, out: Path, *more: str) -> str:
    outcome = remake("table2", root, out, *more)
    assert outcome.status == 2
    assert not list(out.glob("*.csv"))
    return outcome.err


def test_an_incomplete_folder_is_an_error_but_for_the_rows_of_others(root, tmp_path):
    missing = root / "pku_xmedianet" / "img_test_fea.txt"
    aside = missing.rename(tmp_path / missing.name)
    try:
        assert f"{missing} is missing." in refused(root, tmp_path / "out")
        for other in ("dataset=nus_wide", "features=low-level"):
            outcome = remake("table2", root, tmp_path / "out", "--only", other, "--dry-run")
            assert outcome.status == 0
            assert "nus_wide/low-level CCA, seed 0" in outcome.out
            assert "pku_xmedianet/cnn4096-doc300" not in outcome.out
    finally:
        aside.rename(missing)


def test_rows_that_were_asked_for_and_are_not_there_are_an_error_that_says_why(root, tmp_path):
    said = refused(root, tmp_path, "--only", "dataset=pascal_sentences")
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
def test_a_data_set_is_read_once_for_all_trainings(table, root, tmp_path, monkeypatch):
    reads: list[str] = []
    for kind in (NUSWIDE, PKUXMediaNet):
        read = kind.read
        monkeypatch.setattr(kind, "read", lambda self, read=read: reads.append(self.dataset) or read(self))
    run = Plan(load_table(table), "quick", str(root), [0, 1, 2], RunStore(tmp_path))
    assert len(run.execute(run.available(), dry=True)) > 80
    assert sorted(reads) == ["nus_wide", "pku_xmedianet"]


@pytest.mark.slow
def test_features_that_came_replace_the_row_that_said_they_are_not_there(root, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    (data / "pascal_sentences").mkdir(parents=True)
    (data / "pku_xmedianet").symlink_to(root / "pku_xmedianet")
    assert {row.features for row in remade("table2", data, out) if row.dataset == "pascal_sentences"} == {"own"}
    pairs(data / "pascal_sentences", (4096, 300, 300))
    rows = remade("table2", data, out, "--only", "dataset=pascal_sentences")
    found = {(row.features, row.status) for row in rows if row.dataset == "pascal_sentences"}
    assert found == {("cnn4096-doc300", "ok")}
    assert {row.features for row in rows if row.dataset == "nus_wide"} == {"low-level", "own"}


def test_large_files_of_text_are_parsed_once(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(text_matrix, "LARGE", 0)
    folder = tiny_trees.write_xmedianet(tmp_path)
    first = PKUXMediaNet(tmp_path).data
    kept = sorted(cache.iterdir())
    assert len(kept) == 3
    with monkeypatch.context() as patch:
        patch.setattr(text_matrix, "_numbers", None)  # nothing is parsed
        assert PKUXMediaNet(tmp_path).data.digest() == first.digest()
    kept[0].write_bytes(kept[0].read_bytes()[:100])
    assert PKUXMediaNet(tmp_path).data.digest() == first.digest()
    path = folder / "txt_test_fea.txt"
    path.write_text(path.read_text().replace("0.", "1.", 1))
    assert PKUXMediaNet(tmp_path).data.digest() != first.digest()
