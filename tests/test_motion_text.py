"""HumanML3D and KIT-ML on tiny files in the layout of their authors, and in TMR's form."""

import json

import numpy as np
import pytest
from tiny_trees import MOTION_WIDTH, motion, tmr_annotations, tmr_motion

from datamodules import DataError, HumanML3D


@pytest.fixture(params=MOTION_WIDTH)
def motions(request, tree):
    """Folder and name of a data set; motion 000002 has captions of two of its parts, 000004 of a part alone."""
    return tree(request.param), request.param


def test_motions_and_their_parts_are_items(motions):
    folder, dataset = motions
    rate = {"humanml3d": 20, "kit_ml": 12.5}[dataset]
    module = HumanML3D(folder.parent, dataset=dataset)
    data = module.data
    texts = {name: [] for name in data.names}
    for text, owner in zip(data.modalities["text"].entries, data.modalities["text"].owners(), strict=True):
        texts[data.names[owner]].append(text)
    whole = ["a man waits", "he stands still"]
    assert texts == {
        "000001": whole,
        "M000001": whole,
        "000002": ["a man waits"],
        "000002_0_1": ["walks", "goes # 1"],
        "000002_0.5_2": ["turns"],
        "000003": whole,
        "000004_1_1.6": ["jumps"],
        "000005": whole,
    }
    assert data.split.tolist() == ["train"] * 5 + ["validation"] + ["test"] * 2
    for name, found in zip(data.names, data.modalities["motion"].entries, strict=True):
        base, *times = name.split("_")
        start, end = (int(float(t) * rate) for t in times) if times else (0, None)
        np.testing.assert_array_equal(found, motion(base, MOTION_WIDTH[dataset])[start:end])
    assert module.dims["motion"] == {"kind": "sequence", "shape": [MOTION_WIDTH[dataset]], "rate": None}
    assert module.dataset == dataset
    batch = next(iter(module.train_dataloader()))
    assert batch["masks"]["motion"].sum(dim=1).tolist() == [
        len(data.modalities["motion"].entries[item]) for item in batch["id"].tolist()
    ]


def test_first_test_captions_leave_one_item_with_one_caption_of_a_motion_outside_training(motions):
    folder, dataset = motions
    path = folder / "texts" / "000005.txt"
    path.write_text(f"runs#run/VERB#0.5#1.0\n{path.read_text()}")
    every = HumanML3D(folder.parent, dataset=dataset).data
    first = HumanML3D(folder.parent, dataset=dataset, test_captions="first").data
    assert list(first.names[5:]) == ["000003", "000004_1_1.6", "000005_0.5_1"]
    assert list(every.names[5:]) == ["000003", "000004_1_1.6", "000005_0.5_1", "000005"]
    assert first.names[:5] == every.names[:5]
    outside = list(first.modalities["text"].entries)[-3:]
    assert outside == ["a man waits", "jumps", "runs"]
    assert len(first.modalities["text"].entries) == len(every.modalities["text"].entries) - 3


# TMR's form -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", MOTION_WIDTH)
def test_motions_are_cut_where_their_annotations_say(tree, dataset):
    module = HumanML3D(tree(f"{dataset}, tmr").parent, dataset=dataset, annotations="tmr")
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


def test_both_forms_stand_side_by_side(tree):
    with pytest.raises(DataError, match="new_joint_vecs is missing"):
        _ = HumanML3D(tree("humanml3d, tmr").parent).data
    assert HumanML3D().features == "new_joint_vecs"


def test_a_motion_without_annotation_or_file_is_missing(tree):
    folder = tree("humanml3d, tmr")
    (folder / "annotations.json").write_text(json.dumps({k: v for k, v in tmr_annotations().items() if k != "000003"}))
    (folder / "guoh3dfeats" / "KIT" / "3" / "walk_000001_poses.npy").unlink()
    with pytest.raises(DataError, match="text is missing from 1: 000003; motion is missing from 2: 000001, 000003"):
        _ = HumanML3D(folder.parent, annotations="tmr").data


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_annotation_of_a_part_that_the_motion_does_not_have_is_refused(tree):
    folder, entries = tree("humanml3d, tmr"), tmr_annotations()
    entries["000004"]["annotations"][0].update(start=7.0, end=9.0)
    (folder / "annotations.json").write_text(json.dumps(entries))
    with pytest.raises(DataError, match="7 s to 9 s of a motion of 3 s, walk_000004_poses"):
        _ = HumanML3D(folder.parent, annotations="tmr").data
