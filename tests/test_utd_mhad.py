"""The UTD-MHAD reader on written files in the published layout, and on the real ones."""

import os
from pathlib import Path

import numpy as np
import pytest
from check_cases import MODULES, faulty, refused
from tiny_trees import CLIPS, PHRASES, clip, reduced_clips, save_recording

from datamodules import UTDMHAD, DataError
from datamodules.datasets.utd_mhad import PARTS, RAW, REDUCED, centre_skeleton, read_clip, read_reduced, reduce_depth

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# What is read -------------------------------------------------------------------------------------------------------


def test_reduced_clips(tree):
    module, expected = UTDMHAD(tree("utd_mhad").parent), reduced_clips()
    data = module.data
    assert module.modalities == ("text", "video", "motion", "inertial")
    assert list(data.names) == CLIPS
    assert data.modalities["text"].entries == [PHRASES[label - 1] for label in expected["label"]]
    assert list(data.class_names) == list(PHRASES)
    np.testing.assert_array_equal(data.label, expected["label"] - 1)
    np.testing.assert_array_equal(data.group, expected["subject"])
    np.testing.assert_array_equal(data.split == "train", expected["subject"] % 2 == 1)
    for name, array in (("video", "depth30x40"), ("motion", "skeleton"), ("inertial", "inertial")):
        entries = data.modalities[name].entries
        assert entries.dtype == np.float32
        np.testing.assert_array_equal(entries, expected[array].astype(np.float32))
    assert [what["shape"] for what in module.dims.values()] == [[], [30, 40], [20, 3], [6]]


def test_parts_are_some_joints_or_channels_of_the_reduced_recordings(tree):
    module, expected = UTDMHAD(tree("utd_mhad").parent, modalities=["text", *PARTS]), reduced_clips()
    assert module.modalities == ("text", *PARTS)
    assert [what["shape"] for what in module.dims.values()] == [[], [11, 3], [9, 3], [3], [3]]
    entries = {name: modality.entries for name, modality in module.data.modalities.items()}
    skeleton, inertial = expected["skeleton"], expected["inertial"]
    np.testing.assert_array_equal(entries["upper_body"], np.concatenate([skeleton[:, :, :3], skeleton[:, :, 4:12]], 2))
    np.testing.assert_array_equal(entries["lower_body"], np.concatenate([skeleton[:, :, 3:4], skeleton[:, :, 12:]], 2))
    np.testing.assert_array_equal(entries["accelerometer"], inertial[..., :3])
    np.testing.assert_array_equal(entries["gyroscope"], inertial[..., 3:])


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
    path = save_recording(tmp_path, "a1_s1_t1", "motion", np.ones((20, 3)))
    assert read_clip(path, "motion").shape == (1, 20, 3)


def test_reducing_depth_and_centring_against_plain_loops():
    rng = np.random.default_rng(3)
    depth, skeleton = rng.integers(0, 4000, size=(240, 320, 3), dtype=np.uint16), rng.normal(size=(20, 3, 4))
    small, centred = reduce_depth(depth), centre_skeleton(skeleton)
    for t, i, j in ((0, 0, 0), (1, 29, 39), (2, 7, 30)):
        block = [float(depth[8 * i + r, 8 * j + c, t]) for r in range(8) for c in range(8)]
        assert small[t, i, j] == pytest.approx(sum(block) / 64 / 4000, rel=1e-6)
    assert (centred[:, 2] == 0).all()
    np.testing.assert_allclose(centred[3, 19], skeleton[19, :, 3] - skeleton[2, :, 3], rtol=1e-5, atol=1e-6)


# What is refused; more in test_data_set_files.py --------------------------------------------------------------------


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
    ],
)
def test_a_reduced_file_that_does_not_fit_is_refused(tree, changed, fact):
    folder = tree("utd_mhad")
    arrays = {name: array for name, array in (reduced_clips() | changed).items() if array is not None}
    np.savez(folder / REDUCED, **arrays)
    assert fact in refused("utd_mhad", folder)


@pytest.mark.parametrize("keep", [0, 100, 0.5, -1])
def test_a_truncated_reduced_file_is_refused_by_name(tree, keep):
    path = tree("utd_mhad") / REDUCED
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    assert f"{path}: cannot be read as an .npz file" in refused("utd_mhad", path.parent)


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

REAL = Path(os.environ.get("CSD_DATA") or "nowhere") / "utd_mhad"
real = pytest.mark.skipif(not (REAL / REDUCED).is_file(), reason="CSD_DATA is unset or has no utd_mhad/")


@real
def test_real_reduced_file():
    module = UTDMHAD(REAL.parent)
    assert len(module.data) == 861
    sizes = {part: len(module.indices(part)) for part in ("train", "validation", "cross-subject")}
    assert sizes["cross-subject"] == 430
    assert sizes["train"] + sizes["validation"] == 431
    assert len(set(module.data.modalities["text"].entries)) == len(np.unique(module.data.label)) == 27
    assert (module.data.modalities["motion"].entries[:, :, 2] == 0).all()


@real
def test_real_skeletons_have_their_arms_above_their_legs():
    """Joints are named by the published order alone; the second coordinate points upwards."""
    parts = UTDMHAD(REAL.parent, modalities=["upper_body", "lower_body"]).data.modalities
    upper, lower = (parts[name].entries[..., 1].mean(axis=(0, 1)) for name in ("upper_body", "lower_body"))
    assert upper[0] == upper.max()  # the head
    assert lower[-1] < lower[0] < upper[[0, 1, 3, 7]].min()  # a foot, the hip centre, head, neck and shoulders


@real
def test_real_reduced_file_is_the_published_files_at_evenly_spaced_frames():
    """Of the frames nearest to 16 (inertial: 32) even steps: skeleton to rounding of float32, depth of float16."""
    names, modalities = read_reduced(REAL / REDUCED)
    for name in ("a1_s1_t1", "a27_s1_t1"):
        for modality, steps, tolerance in (("motion", 16, 1e-6), ("inertial", 32, 1e-4), ("video", 16, 2.5e-4)):
            where, ending, *_ = RAW[modality]
            whole = read_clip(REAL / where / f"{name}{ending}", modality)
            frames = np.linspace(0, len(whole) - 1, steps).round().astype(int)
            expected = modalities[modality].entries[names.index(name)]
            np.testing.assert_allclose(whole[frames], expected, rtol=0, atol=tolerance)


@real
@pytest.mark.slow
def test_real_published_files():
    data = UTDMHAD(REAL.parent, features="raw", modalities=["text", "motion", "inertial"]).data
    assert len(data) == 861
    assert list(data.names) == read_reduced(REAL / REDUCED)[0]
    with pytest.warns(UserWarning, match="834 of 861 items are left out"):
        assert len(UTDMHAD(REAL.parent, features="raw", on_missing="drop").data) == 27
