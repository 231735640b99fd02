"""HumanML3D, KIT-ML (also in TMR's form) and UTD-MHAD: tiny files in the layouts of their authors, and real ones.

What is missing or broken is in test_data_set_files.py and test_data_set_lists.py.
"""

import json

import numpy as np
import pytest
from check_cases import MODULES, faulty, refused
from real_data import DATA, needs
from tiny_trees import (
    CLIPS,
    MOTION_WIDTH,
    PHRASES,
    clip,
    motion,
    reduced_clips,
    save_recording,
    tmr_annotations,
    tmr_motion,
)

from datamodules import UTDMHAD, DataError, HumanML3D, ItemSet
from datamodules.datasets.utd_mhad import PARTS, RAW, REDUCED, centre_skeleton, read_clip, reduce_depth

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def texts(data: ItemSet) -> dict[str, list[str]]:
    """Item -> its texts."""
    text, found = data.modalities["text"], {name: [] for name in data.names}
    for entry, owner in zip(text.entries, text.owners(), strict=True):
        found[data.names[owner]].append(entry)
    return found


# HumanML3D and KIT-ML: motion 000002 has captions of two of its parts, 000004 of a part alone ------------------------


@pytest.mark.parametrize("dataset", MOTION_WIDTH)
def test_motions_and_their_parts_are_items(tree, dataset):
    rate = {"humanml3d": 20, "kit_ml": 12.5}[dataset]
    module = HumanML3D(tree(dataset).parent, dataset=dataset)
    data, whole = module.data, ["a man waits", "he stands still"]
    assert texts(data) == {
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
    assert module.features == "new_joint_vecs"
    batch = next(iter(module.train_dataloader()))
    lengths = [len(data.modalities["motion"].entries[item]) for item in batch["id"].tolist()]
    assert batch["masks"]["motion"].sum(dim=1).tolist() == lengths


def test_first_test_captions_leave_one_item_with_one_caption_of_a_motion_outside_training(tree):
    folder = tree("kit_ml")
    path = folder / "texts" / "000005.txt"
    path.write_text(f"runs#run/VERB#0.5#1.0\n{path.read_text()}")
    every, first = (
        texts(HumanML3D(folder.parent, dataset="kit_ml", test_captions=which).data) for which in ("all", "first")
    )
    outside = {"000003": ["a man waits"], "000004_1_1.6": ["jumps"], "000005_0.5_1": ["runs"]}
    assert list(every)[5:] == [*outside, "000005"]
    assert first == {name: every[name] for name in list(every)[:5]} | outside


@pytest.mark.parametrize("dataset", MOTION_WIDTH)
def test_motions_of_tmr_are_cut_where_their_annotations_say(tree, dataset):
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
    assert texts(data) == {name: said for name, (*_, said) in expected.items()}
    assert data.split.tolist() == ["train"] * 4 + ["validation", "test"]
    for found, (name, first, last, _) in zip(data.modalities["motion"].entries, expected.values(), strict=True):
        np.testing.assert_array_equal(found, tmr_motion(name)[first:last])
    assert (module.features, module.dims["motion"]["shape"]) == ("guoh3dfeats", [263])
    with pytest.raises(DataError, match="new_joint_vecs is missing"):
        _ = HumanML3D(module.data_root, dataset=dataset).data


def test_annotations_of_tmr_that_lack_a_motion_or_name_another_part_are_refused(tree):
    folder, entries = tree("humanml3d, tmr"), tmr_annotations()
    (folder / "annotations.json").write_text(json.dumps({k: v for k, v in entries.items() if k != "000003"}))
    (folder / "guoh3dfeats" / "KIT" / "3" / "walk_000001_poses.npy").unlink()
    with pytest.raises(DataError, match="text is missing from 1: 000003; motion is missing from 2: 000001, 000003"):
        _ = HumanML3D(folder.parent, annotations="tmr").data
    entries["000004"]["annotations"][0].update(start=7.0, end=9.0)
    (folder / "annotations.json").write_text(json.dumps(entries))
    with pytest.raises(DataError, match="7 s to 9 s of a motion of 3 s, walk_000004_poses"):
        _ = HumanML3D(folder.parent, annotations="tmr").data


# UTD-MHAD -----------------------------------------------------------------------------------------------------------


def test_reduced_clips_and_their_parts(tree):
    module = UTDMHAD(tree("utd_mhad").parent)
    data, expected = module.data, reduced_clips()
    assert module.modalities == ("text", "video", "motion", "inertial")
    assert list(data.names) == CLIPS
    assert data.modalities["text"].entries == [PHRASES[label - 1] for label in expected["label"]]
    assert list(data.class_names) == list(PHRASES)
    np.testing.assert_array_equal(data.label, expected["label"] - 1)
    np.testing.assert_array_equal(data.group, expected["subject"])
    np.testing.assert_array_equal(data.split == "train", expected["subject"] % 2 == 1)
    assert [what["shape"] for what in module.dims.values()] == [[], [30, 40], [20, 3], [6]]
    found = {name: modality.entries for name, modality in data.modalities.items()}
    found |= {name: x.entries for name, x in UTDMHAD(module.data_root, modalities=PARTS).data.modalities.items()}
    skeleton, inertial = expected["skeleton"], expected["inertial"]
    for name, array in {
        "video": expected["depth30x40"],
        "motion": skeleton,
        "inertial": inertial,
        "upper_body": np.concatenate([skeleton[:, :, :3], skeleton[:, :, 4:12]], axis=2),
        "lower_body": np.concatenate([skeleton[:, :, 3:4], skeleton[:, :, 12:]], axis=2),
        "accelerometer": inertial[..., :3],
        "gyroscope": inertial[..., 3:],
    }.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], array.astype(np.float32))


@pytest.mark.parametrize("name", ["utd_mhad", "utd_mhad, raw"])
def test_a_whole_subject_is_held_out_and_even_subjects_test(tree, name):
    root = tree(name).parent
    for seed in range(4):
        module = MODULES[name](root, split_seed=seed, modalities=["text", "motion", "inertial"])
        subject = {part: set(module.data.group[module.indices(part)]) for part in ("train", "validation")}
        assert sorted(map(len, subject.values())) == [1, 1]  # of two training subjects here
        assert subject["train"] | subject["validation"] == {1, 3}
        assert set(module.data.group[module.indices("cross-subject")]) == {2, 4}


def test_published_files_are_read_at_their_own_length(tree):
    wanted = ["inertial", "text", "video", "motion", "upper_body", "gyroscope"]
    data = UTDMHAD(tree("utd_mhad, raw").parent, features="raw", modalities=wanted).data
    assert list(data.modalities) == wanted
    assert sorted(data.names) == sorted(CLIPS)
    for row, name in enumerate(data.names):
        expected, found = clip(name), {m: modality.entries[row] for m, modality in data.modalities.items()}
        skeleton = np.moveaxis(expected["motion"], 2, 0)
        np.testing.assert_allclose(found["motion"], skeleton - skeleton[:, 2:3], atol=1e-6)
        np.testing.assert_array_equal(found["upper_body"], found["motion"][:, [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]])
        np.testing.assert_allclose(found["inertial"], expected["inertial"], rtol=1e-6)
        np.testing.assert_array_equal(found["gyroscope"], found["inertial"][:, 3:])
        np.testing.assert_allclose(found["video"][1], expected["video"][::8, ::8, 1] / 4000, rtol=1e-6)
        assert found["text"] == PHRASES[int(name.split("_")[0][1:]) - 1]


def test_a_single_frame_written_without_its_axis_is_one_step(tmp_path):
    assert read_clip(save_recording(tmp_path, "a1_s1_t1", "motion", np.ones((20, 3))), "motion").shape == (1, 20, 3)


def test_reducing_depth_and_centring_against_plain_loops():
    rng = np.random.default_rng(3)
    depth, skeleton = rng.integers(0, 4000, size=(240, 320, 3), dtype=np.uint16), rng.normal(size=(20, 3, 4))
    small, centred = reduce_depth(depth), centre_skeleton(skeleton)
    for t, i, j in ((0, 0, 0), (1, 29, 39), (2, 7, 30)):
        block = [float(depth[8 * i + r, 8 * j + c, t]) for r in range(8) for c in range(8)]
        assert small[t, i, j] == pytest.approx(sum(block) / 64 / 4000, rel=1e-6)
    assert (centred[:, 2] == 0).all()
    np.testing.assert_allclose(centred[3, 19], skeleton[19, :, 3] - skeleton[2, :, 3], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "fact"),
    [
        ({"skeleton": np.zeros((12, 16, 20, 2), np.float32)}, "skeleton has shape (12, 16, 20, 2)"),
        ({"inertial": np.zeros((12, 32, 6), np.int64)}, "type int64; expected floating"),
        ({"label": np.ones(12, np.int64)}, "gives clip a2_s1_t1 label and subject"),
        ({"name": np.array([*CLIPS[:-1], "b1"])}, "a clip called 'b1'"),
        ({"name": np.array([*CLIPS[:-1], "a28_s1_t1"])}, "a clip called 'a28_s1_t1'"),
        ({"skeleton": None}, "skeleton is missing"),
        ({"name": None}, "expected the names of the clips"),
        *((keep, "cannot be read as an .npz file") for keep in (0, 100, 0.5, -1)),
    ],
)
def test_a_reduced_file_that_does_not_fit_or_is_truncated_is_refused(tree, changed, fact):
    path = tree("utd_mhad") / REDUCED
    if isinstance(changed, dict):
        np.savez(path, **{name: x for name, x in (reduced_clips() | changed).items() if x is not None})
    else:
        content = path.read_bytes()
        path.write_bytes(content[: int(changed * len(content)) if isinstance(changed, float) else changed])
    said = refused("utd_mhad", path.parent)
    assert said.startswith(f"{path}: ")
    assert fact in said


def test_parts_that_are_empty_and_modalities_that_are_not_there(tree, capsys):
    folder = tree("utd_mhad, raw")
    with pytest.raises(DataError, match="utd_mhad has no modality 'sound'; it has text, video, motion, inertial"):
        _ = UTDMHAD(folder.parent, modalities=["text", "sound"]).data
    for path in (folder / "Depth").iterdir():
        path.unlink()
    assert "holds no file *_depth.mat" in refused("utd_mhad, raw", folder)
    (folder / "class_names.txt").write_text("only one\n")
    assert "has 1 phrases; expected 27" in refused("utd_mhad, raw", folder)
    assert "has 1 phrases; expected 27" in faulty("utd_mhad", folder, capsys)


# The real data ------------------------------------------------------------------------------------------------------

REAL = DATA / "utd_mhad"
real = needs(f"utd_mhad/{REDUCED}")


@real
def test_real_reduced_file():
    """Joints are named by the published order alone; the second coordinate points upwards."""
    module = UTDMHAD(REAL.parent)
    assert len(module.indices("cross-subject")) == 430
    assert len(module.data) == 861
    assert len(set(module.data.modalities["text"].entries)) == len(np.unique(module.data.label)) == 27
    assert (module.data.modalities["motion"].entries[:, :, 2] == 0).all()
    parts = UTDMHAD(REAL.parent, modalities=["upper_body", "lower_body"]).data.modalities
    upper, lower = (parts[name].entries[..., 1].mean(axis=(0, 1)) for name in ("upper_body", "lower_body"))
    assert upper[0] == upper.max()  # the head
    assert lower[-1] < lower[0] < upper[[0, 1, 3, 7]].min()  # a foot, the hip centre, head, neck and shoulders


@real
def test_real_reduced_file_is_the_published_files_at_evenly_spaced_frames():
    """Of the frames nearest to 16 (inertial: 32) even steps: skeleton to rounding of float32, depth of float16."""
    data = UTDMHAD(REAL.parent).data
    for name in ("a1_s1_t1", "a27_s1_t1"):
        for modality, steps, tolerance in (("motion", 16, 1e-6), ("inertial", 32, 1e-4), ("video", 16, 2.5e-4)):
            where, ending, *_ = RAW[modality]
            whole = read_clip(REAL / where / f"{name}{ending}", modality)
            frames = np.linspace(0, len(whole) - 1, steps).round().astype(int)
            expected = data.modalities[modality].entries[list(data.names).index(name)]
            np.testing.assert_allclose(whole[frames], expected, rtol=0, atol=tolerance)
