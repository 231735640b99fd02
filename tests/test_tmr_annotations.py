"""HumanML3D and KIT-ML in TMR's form: annotations.json, splits/ and motions by their path."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_trees import TMR_SPLITS, tmr_annotations, tmr_motion, write_tmr

from datamodules import DataError, HumanML3D
from datamodules.datasets import DATASETS

SPLITS = {"train": "train", "val": "validation", "test": "test"}


@pytest.fixture(params=["humanml3d", "kit_ml"])
def motions(request, tmp_path):
    return write_tmr(tmp_path / "root" / DATASETS[request.param].folder), request.param


def read(motions, **kwargs):
    folder, dataset = motions
    return HumanML3D(folder.parent, dataset=dataset, annotations="tmr", **kwargs)


def refused(motions) -> str:
    with pytest.raises(DataError) as error:
        _ = read(motions).data
    return str(error.value)


def change(motions, edit) -> None:
    entries = tmr_annotations()
    edit(entries)
    (motions[0] / "annotations.json").write_text(json.dumps(entries))


def test_motions_are_cut_where_their_annotations_say(motions):
    module = read(motions)
    data = module.data
    expected = {  # item -> motion, first and last frame at 20 frames per second, texts
        "000001": ("000001", 0, 58, ["000001 walks, 0."]),
        "M000001": ("M000001", 0, 58, ["M000001 walks, 0."]),
        "000002": ("000002", 0, 58, ["000002 walks, 0.", "000002 walks, 2."]),
        "000002_0.5_2": ("000002", 10, 40, ["000002 walks, 1."]),
        "000003": ("000003", 0, 58, ["000003 walks, 0."]),
        "000004_1_2.25": ("000004", 20, 45, ["000004 walks, 0."]),
    }
    assert list(data.names) == list(expected)
    assert data.split.tolist() == ["train"] * 4 + ["validation", "test"]
    text, motion = data.modalities["text"], data.modalities["motion"]
    for item, (name, first, last, texts) in enumerate(expected.values()):
        np.testing.assert_array_equal(motion.entries[item], tmr_motion(name)[first:last])
        assert [text.entries[i] for i in np.flatnonzero(text.owners() == item)] == texts
    assert module.features == "guoh3dfeats"
    assert module.dims["motion"]["shape"] == [263]


def test_both_forms_stand_side_by_side(motions):
    folder, dataset = motions
    with pytest.raises(DataError, match="new_joint_vecs is missing"):
        _ = HumanML3D(folder.parent, dataset=dataset).data
    assert HumanML3D(dataset=dataset).features == "new_joint_vecs"
    with pytest.raises(ValueError, match="annotations is 'babel'; expected 'official' or 'tmr'"):
        HumanML3D(annotations="babel")


def test_a_motion_without_annotation_or_file_is_missing(motions):
    folder, _ = motions
    change(motions, lambda entries: entries.pop("000003"))
    (folder / "guoh3dfeats" / "KIT" / "3" / "walk_000001_poses.npy").unlink()
    said = refused(motions)
    assert "text is missing from 1: 000003" in said
    assert "motion is missing from 2: 000001, 000003" in said


@pytest.mark.parametrize(
    "entry",
    [
        {"path": None},
        {"duration": "long"},
        {"annotations": [{"text": "walks", "start": 0.0}]},
        {"annotations": [{"text": " ", "start": 0.0, "end": 1.0}]},
        {"annotations": [{"text": None, "start": 0.0, "end": 1.0}]},
        {"annotations": [{"text": "walks", "start": 1.0, "end": 1.0}]},
        {"annotations": [{"text": "walks", "start": -1.0, "end": 1.0}]},
        {"annotations": [{"text": "walks", "start": 0.0, "end": float("nan")}]},
        {"annotations": 3},
    ],
)
def test_broken_entries_are_named_by_id(motions, entry):
    change(motions, lambda entries: entries["000002"].update(entry))
    said = refused(motions)
    assert f"{motions[0] / 'annotations.json'}: entry 000002 is " in said
    assert "expected path, duration and annotations with text, start and end in seconds" in said


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_annotation_of_a_part_that_the_motion_does_not_have_is_refused(motions):
    change(motions, lambda entries: entries["000004"]["annotations"][0].update(start=7.0, end=9.0))
    assert "describes 7 s to 9 s of a motion of 3 s, walk_000004_poses" in refused(motions)


@pytest.mark.parametrize("content", ["", "[]", "{}", "{"])
def test_a_file_of_another_form_is_refused(motions, content):
    (motions[0] / "annotations.json").write_text(content)
    assert f"{motions[0] / 'annotations.json'}: " in refused(motions)


@pytest.mark.parametrize("part", ["annotations.json", "guoh3dfeats", *(f"splits/{word}.txt" for word in TMR_SPLITS)])
def test_parts_of_the_layout_that_are_missing_are_named(motions, part):
    (motions[0] / part).rename(motions[0] / "elsewhere")
    assert f"{motions[0] / part} is missing" in refused(motions)
