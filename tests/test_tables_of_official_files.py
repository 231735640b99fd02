"""Tables 2 and 3 on the files of NUS-WIDE's and PKU-XMediaNet's authors, and on features that a person brings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_trees
from extract_cases import IMAGE_MODEL, prepare, run
from runner_cases import undo_quiet  # noqa: F401

import reproduce.__main__ as command_line
from datamodules import FeaturePairs
from reproduce.schema import Row, read_table
from reproduce.spec import Table, load_table

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
    """Two methods, one epoch and one seed; a cache folder of the test's own, and no way to the hub."""
    prepare(monkeypatch, tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(command_line, "load_table", small)


def small(name: str) -> Table:
    table = load_table(name)
    scale = replace(table.scales["quick"], seeds=[0], max_epochs=1, model={"width": 8, "learning_rate": 0.001})
    methods = [replace(method, trials=method.trials[:1]) for method in table.methods if method.method in METHODS]
    return replace(table, methods=methods, comparisons=[], scales={"quick": scale})


def regenerate(table: str, root: Path, out: Path) -> list[Row]:
    assert command_line.main([table, "--data-root", str(root), "--out", str(out), "--jobs", "1"]) == 0
    return read_table(out / f"{table}.csv")


@pytest.mark.parametrize(("table", "splits"), [("table2", {"standard"}), ("table3", {"seen", "unseen", "generalised"})])
def test_the_files_of_the_authors_are_rows_of_their_own(table, splits, root, tmp_path):
    rows = regenerate(table, root, tmp_path)
    honest = [row for row in rows if row.status == "ok" and row.protocol == "honest"]
    assert {(row.dataset, row.features) for row in honest} == OFFICIAL
    assert {(row.split, row.method) for row in honest} == {(split, method) for split in splits for method in METHODS}
    assert {row.data_kind for row in rows} == {"real"}
    compared = {row.identity[:4] for row in rows if row.published is not None}
    assert all("pku_xmedianet" in identity and "cnn4096-doc300" in identity for identity in compared)
    reasons = {(row.dataset, row.features): row.note for row in rows if row.status == "not_run"}
    assert set(reasons) == {
        *(("wikipedia", name) for name in ("roph", "sift-lda", "own")),
        *((name, "own") for name in ("pascal_sentences", "nus_wide", "pku_xmedianet")),
    }
    assert "holds no features in a known layout" in reasons["nus_wide", "own"]


def test_a_published_number_stands_beside_features_of_its_kind_alone(root, tmp_path):
    rows = [row for row in regenerate("table2", root, tmp_path) if row.published is not None]
    assert {(row.dataset, row.method, row.protocol) for row in rows} == {
        ("pku_xmedianet", "JFSE + CMPM-KL", "as_published")
    }


def test_extracted_features_are_called_as_their_networks_are(tmp_path):
    folder = tiny_trees.write_pascal(tmp_path / "data")
    out = folder / "features.safetensors"
    networks = ("--image", IMAGE_MODEL, "--text", "all-MiniLM-L6-v2", "--random-weights", 3)
    assert run("pascal_sentences", *networks, "--data-root", folder.parent, "--out", out) == 0
    with pytest.warns(UserWarning, match="made with random weights"):
        rows = regenerate("table2", folder.parent, tmp_path / "out")
    found = {row.features for row in rows if row.dataset == "pascal_sentences"}
    assert found == {f"{IMAGE_MODEL}, all-MiniLM-L6-v2, untrained image"}
    assert all(row.published is None for row in rows)


def pairs(folder: Path, widths: tuple[int, int, int] | tuple[int, int]) -> Path:
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    label = np.arange(40) % 4
    arrays = {"image": draw.normal(size=(40, widths[0])), "text": draw.normal(size=(40, widths[1])), "label": label}
    if len(widths) == 3:
        arrays["class_embedding"] = draw.normal(size=(4, widths[2]))
    np.savez(folder / "pairs.npz", **arrays)
    return folder


@pytest.mark.parametrize(
    ("widths", "name"),
    [((4096, 300, 300), "cnn4096-doc300"), ((4096, 300), "own"), ((4096, 300, 64), "own"), ((512, 384), "own")],
)
def test_own_features_are_called_as_published_ones_by_all_widths_alone(widths, name, tmp_path):
    module = FeaturePairs(pairs(tmp_path / "own", widths))
    assert module.features == name
    assert module.class_embedding.shape[1] == (widths[2] if len(widths) == 3 else 384)


def test_an_incomplete_folder_is_a_row_that_says_so(root, tmp_path):
    missing = root / "pku_xmedianet" / "img_test_fea.txt"
    aside = missing.rename(tmp_path / missing.name)
    try:
        rows = regenerate("table2", root, tmp_path / "out")
    finally:
        aside.rename(missing)
    assert {(row.dataset, row.features) for row in rows if row.status == "ok"} == {("nus_wide", "low-level")}
    (note,) = {row.note for row in rows if (row.dataset, row.features) == ("pku_xmedianet", "cnn4096-doc300")}
    assert note.startswith(f"{missing} is missing.")


def test_incomplete_folders_alone_are_an_error_and_no_synthetic_table(tmp_path, capsys):
    folder = tiny_trees.write_xmedianet(tmp_path / "data")
    (folder / "cate_fea.txt").unlink()
    assert command_line.main(["table2", "--data-root", str(folder.parent), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "holds none of the data sets of table2" in said
    assert f"{folder / 'cate_fea.txt'} is missing." in said
    assert not (tmp_path / "out").exists()


def test_one_kind_of_features_in_two_layouts_is_refused(tmp_path, capsys):
    folder = tiny_trees.write_xmedianet(tmp_path / "data")
    pairs(tmp_path / "more", (4096, 300, 300)).joinpath("pairs.npz").rename(folder / "pairs.npz")
    assert command_line.main(["table2", "--data-root", str(folder.parent), "--out", str(tmp_path / "out")]) == 2
    assert "pku_xmedianet/ holds features called 'cnn4096-doc300' twice" in capsys.readouterr().err
