"""The command on tables of three modalities, from training to CSV and pictures, on generated items."""

import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from runner_cases import command, rows_of

from reproduce.results.schema import read_table

TABLE = """
title: Three modalities
metrics: [MAP, MAP 11-point, R@3, MedR, seconds/epoch]
galleries: [batches-32, batches-500, threshold-0.95]
projection: [GCS]
datasets:
  - dataset: synthetic
    features: synthetic
    class_path: SyntheticItems
    init_args: {names: [text, video, motion], batch_size: 60, validation_fraction: 0.25}
    model: {reconstruct: motion, joint_queries: [text+video->motion]}
    galleries: &galleries [batches-32, batches-500, threshold-0.95]
synthetic: {dataset: synthetic, features: synthetic, class_path: SyntheticItems, galleries: *galleries}
methods:
  - method: GCS
    model: LAVIMO
    init_args: {alignment: {class_path: GCSLoss, init_args: {scheme: mixed}}}
    trials: [{matched_temperature: 0.05}, {matched_temperature: 0.1}]
  - method: KL
    model: LAVIMO
    init_args: &kl {alignment: {class_path: PairwiseLoss, init_args: {divergence: kl, temperature: 0.1}}}
  - {method: KL, model: LAVIMO, protocol: as_published, init_args: *kl}
scales:
  quick: {seeds: [0, 1], max_epochs: 2, model: {dim: 16, learning_rate: 0.01}}
"""
DIRECTIONS = [f"{a}->{b}" for a in ("text", "video", "motion") for b in ("text", "video", "motion") if a != b]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    (folder / "table6.yaml").write_text(TABLE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CSD_DATA", raising=False)
        assert command(folder, "table6", "--out", folder / "results").status == 0
    return folder / "results"


def rows(results: Path, **columns: object) -> list[Any]:
    return rows_of(read_table(results / "table6.csv"), **columns)


@pytest.mark.slow
def test_every_direction_metric_and_gallery_has_its_rows(results):
    for method, protocol in (("GCS", "honest"), ("KL", "honest"), ("KL", "as_published")):
        whole = rows(results, method=method, protocol=protocol, gallery="full")
        expected = {(d, m) for d in (*DIRECTIONS, "average") for m in ("MAP", "R@k", "MedR")}
        joint = {("text+video->motion", metric) for metric in ("MAP", "R@k", "MedR")}
        eleven_point = {(direction, "MAP 11-point") for direction, _ in expected | joint}
        beside = joint | eleven_point | {("average", "seconds/epoch")}
        assert {(row.direction, row.metric) for row in whole} == expected | beside
        assert {(row.n_queries, row.n_gallery) for row in whole if row.direction in DIRECTIONS} == {(120, 120)}
        batches = rows(results, method=method, protocol=protocol, gallery="batches-32")
        assert {(row.direction, row.metric) for row in batches} == expected
        assert {(row.n_queries, row.n_gallery) for row in batches if row.direction in DIRECTIONS} == {(32, 32)}
    assert all(row.data_kind == "synthetic" and math.isnan(row.published) for row in rows(results))


@pytest.mark.slow
def test_a_gallery_that_the_data_do_not_have_says_why(results):
    (large,) = rows(results, method="GCS", gallery="batches-500")
    assert (large.status, large.note) == ("not_run", "the test set has 120 items, fewer than 500")
    (texts,) = rows(results, method="GCS", gallery="threshold-0.95")
    assert texts.status == "not_run"
    assert "none or several per item" in texts.note


@pytest.mark.slow
def test_embeddings_that_saw_their_pair_score_higher(results):
    (honest,) = rows(results, method="KL", protocol="honest", gallery="full", direction="average", metric="MAP")
    (leaking,) = rows(results, method="KL", protocol="as_published", gallery="full", direction="average", metric="MAP")
    assert leaking.value > honest.value


@pytest.mark.slow
def test_the_picture_of_the_joint_space_is_drawn_once_for_all_modalities(results):
    (picture,) = results.glob("table6_projection_*.png")
    image = imread(picture)
    assert image.shape[0] > 400
    assert image[..., :3].std() > 0.01
