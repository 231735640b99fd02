"""The UTD-MHAD reader on written files in the published layout, and on the real ones."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from datamodules import UTDMHAD, DataError
from datamodules.__main__ import main
from datamodules.datasets.utd_mhad import PARTS, RAW, REDUCED, centre_skeleton, read_clip, read_reduced, reduce_depth

# Three actions by four subjects, one trial; depth of subject 1 alone.
CLIPS = [f"a{a}_s{s}_t1" for a in (1, 2, 27) for s in (1, 2, 3, 4)]
PHRASES = [f"phrase {i}" for i in range(1, 28)]


def clip_number(name: str) -> int:
    return CLIPS.index(name)


def recordings(name: str) -> dict[str, np.ndarray]:
    """What one clip's files hold: as many frames as its place in the list says."""
    number = clip_number(name)
    rng = np.random.default_rng(number)
    return {
        "motion": rng.normal(size=(20, 3, number + 2)),
        "inertial": rng.normal(size=(2 * number + 3, 6)),
        "video": rng.integers(0, 4000, size=(240, 320, 2), dtype=np.uint16),
    }


def recorded(root: Path, name: str, modality: str) -> Path:
    where, ending, *_ = RAW[modality]
    return root / "utd_mhad" / where / f"{name}{ending}"


def save(folder: Path, name: str, modality: str, array: np.ndarray) -> Path:
    path = recorded(folder.parent, name, modality)
    path.parent.mkdir(exist_ok=True)
    scipy.io.savemat(path, {RAW[modality][2]: array}, do_compression=True)
    return path


def reduced() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    n = len(CLIPS)
    parts = np.array([[int(part[1:]) for part in clip.split("_")] for clip in CLIPS])
    return {
        "skeleton": rng.normal(size=(n, 16, 20, 3)).astype(np.float32),
        "inertial": rng.normal(size=(n, 32, 6)).astype(np.float32),
        "depth30x40": rng.random((n, 16, 30, 40)).astype(np.float16),
        "label": parts[:, 0],
        "subject": parts[:, 1],
        "trial": parts[:, 2],
        "name": np.array(CLIPS),
    }


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "utd_mhad"
    folder.mkdir()
    (folder / "class_names.txt").write_text("\n".join(PHRASES) + "\n")
    np.savez(folder / REDUCED, **reduced())
    for name in CLIPS:
        for modality, array in recordings(name).items():
            if modality != "video" or "_s1_" in name:
                save(folder, name, modality, array)
    return tmp_path


def refused(root: Path, **kwargs) -> str:
    with pytest.raises(DataError) as error:
        _ = UTDMHAD(root, **kwargs).data
    assert "Get it from https://personal.utdallas.edu" in str(error.value)
    assert "python -m datamodules check utd_mhad" in str(error.value)
    return str(error.value)


# What is read -------------------------------------------------------------------------------------------------------


def test_reduced_clips(root):
    module, expected = UTDMHAD(root), reduced()
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
    assert {name: what["shape"] for name, what in module.dims.items()} == {
        "text": [],
        "video": [30, 40],
        "motion": [20, 3],
        "inertial": [6],
    }


def test_parts_are_some_joints_or_channels_of_the_reduced_recordings(root):
    module, expected = UTDMHAD(root, modalities=["text", *PARTS]), reduced()
    assert module.modalities == ("text", *PARTS)
    assert [what["shape"] for what in module.dims.values()] == [[], [11, 3], [9, 3], [3], [3]]
    entries = {name: modality.entries for name, modality in module.data.modalities.items()}
    skeleton, inertial = expected["skeleton"], expected["inertial"]
    np.testing.assert_array_equal(entries["upper_body"], np.concatenate([skeleton[:, :, :3], skeleton[:, :, 4:12]], 2))
    np.testing.assert_array_equal(entries["lower_body"], np.concatenate([skeleton[:, :, 3:4], skeleton[:, :, 12:]], 2))
    np.testing.assert_array_equal(entries["accelerometer"], inertial[..., :3])
    np.testing.assert_array_equal(entries["gyroscope"], inertial[..., 3:])
    assert UTDMHAD(root).modalities == ("text", "video", "motion", "inertial")


def test_parts_of_the_published_files(root):
    data = UTDMHAD(root, features="raw", modalities=["gyroscope", "upper_body", "lower_body"]).data
    assert tuple(data.modalities) == ("gyroscope", "upper_body", "lower_body")
    for row, name in enumerate(data.names):
        motion, inertial = read_clip(recorded(root, name, "motion"), "motion"), recordings(name)["inertial"]
        both = [data.modalities[part].entries[row] for part in ("upper_body", "lower_body")]
        np.testing.assert_array_equal(both[0], motion[:, [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]])
        np.testing.assert_array_equal(both[1], motion[:, [3, 12, 13, 14, 15, 16, 17, 18, 19]])
        np.testing.assert_allclose(data.modalities["gyroscope"].entries[row], inertial[:, 3:], rtol=1e-6)


@pytest.mark.parametrize("features", ["16f", "raw"])
def test_a_whole_subject_is_held_out_and_even_subjects_test(root, features):
    for seed in range(4):
        module = UTDMHAD(root, features=features, split_seed=seed, modalities=["text", "motion", "inertial"])
        subject = {part: set(module.data.group[module.indices(part)]) for part in ("train", "validation")}
        assert sorted(map(len, subject.values())) == [1, 1]  # of two training subjects here
        assert subject["train"] | subject["validation"] == {1, 3}
        assert set(module.data.group[module.indices("cross-subject")]) == {2, 4}


def test_published_files_are_read_at_their_own_length(root):
    data = UTDMHAD(root, features="raw", modalities=["inertial", "text", "motion"]).data
    assert tuple(data.modalities) == ("inertial", "text", "motion")
    assert sorted(data.names) == sorted(CLIPS)
    for row, name in enumerate(data.names):
        expected = recordings(name)
        skeleton = np.moveaxis(expected["motion"], 2, 0)
        motion, inertial = (data.modalities[m].entries[row] for m in ("motion", "inertial"))
        np.testing.assert_allclose(motion, skeleton - skeleton[:, 2:3], atol=1e-6)
        np.testing.assert_allclose(inertial, expected["inertial"], rtol=1e-6)
        assert data.modalities["text"].entries[row] == PHRASES[int(name.split("_")[0][1:]) - 1]


def test_clips_without_a_file_are_missing_from_that_modality(root):
    (root / "utd_mhad" / "Inertial" / "a2_s1_t1_inertial.mat").unlink()
    with pytest.raises(DataError, match=r"video is missing from 9: .*inertial is missing from 1: a2_s1_t1"):
        _ = UTDMHAD(root, features="raw").data
    with pytest.warns(UserWarning, match="10 of 12 items are left out"):
        data = UTDMHAD(root, features="raw", on_missing="drop").data
    assert data.names == ["a1_s1_t1", "a27_s1_t1"]
    for row, name in enumerate(data.names):
        depth = recordings(name)["video"].astype(float)
        corner = depth[8:16, 16:24].mean(axis=(0, 1)) / 4000  # the block of row 1, column 2
        np.testing.assert_allclose(data.modalities["video"].entries[row][:, 1, 2], corner, rtol=1e-6)


def test_a_single_frame_written_without_its_axis_is_one_step(root):
    path = save(root / "utd_mhad", "a1_s1_t1", "motion", np.ones((20, 3)))
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


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modality", "array", "message"),
    [
        ("motion", np.zeros((20, 4, 3)), r"d_skel has shape \(20, 4, 3\) .* 20 x 3 x T"),
        ("motion", np.zeros((20, 3, 0)), r"d_skel has shape \(20, 3, 0\) .* T at least 1"),
        ("motion", np.full((20, 3, 2), np.nan), "d_skel is NaN or infinite somewhere"),
        ("inertial", np.zeros((0, 6)), r"d_iner has shape \(0, 6\)"),
        ("inertial", np.zeros((9, 5)), r"d_iner has shape \(9, 5\)"),
        ("inertial", np.array(["text"]), r"d_iner has shape \(1,\) and type"),
        ("video", np.zeros((120, 160, 2)), r"d_depth has shape \(120, 160, 2\)"),
    ],
)
def test_clips_of_another_shape_are_refused_by_name_or_dropped(root, modality, array, message):
    path = save(root / "utd_mhad", "a2_s1_t1", modality, array)
    chosen = {"features": "raw", "modalities": ["text", modality]}
    with pytest.warns(UserWarning, match=message):
        assert str(path) in refused(root, **chosen)
    with pytest.warns(UserWarning, match=message):
        data = UTDMHAD(root, **chosen, on_broken="drop", on_missing="drop").data
    assert "a2_s1_t1" not in data.names
    assert "a1_s1_t1" in data.names


@pytest.mark.parametrize("keep", [0, 100, 0.5, -1])
def test_truncated_files_are_refused_by_name(root, keep):
    for path, features in ((root / "utd_mhad" / REDUCED, "16f"), (save_motion(root), "raw")):
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
        chosen = {"features": features, "modalities": ["text", "motion"]}
        with pytest.warns(UserWarning, match="a1_s1_t1") if features == "raw" else nullcontext():
            assert str(path) in refused(root, **chosen)


def save_motion(root: Path) -> Path:
    return save(root / "utd_mhad", "a1_s1_t1", "motion", recordings("a1_s1_t1")["motion"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"skeleton": np.zeros((12, 16, 20, 2), np.float32)}, r"skeleton has shape \(12, 16, 20, 2\)"),
        ({"inertial": np.zeros((12, 32, 6), np.int64)}, "inertial has shape .* type int64; expected floating"),
        ({"label": np.ones(12, np.int64)}, "gives clip a2_s1_t1 label and subject"),
        ({"name": np.array([*CLIPS[:-1], "b1"])}, "a clip called 'b1'"),
        ({"name": np.array([*CLIPS[:-1], "a28_s1_t1"])}, "a clip called 'a28_s1_t1'"),
        ({"skeleton": None}, "skeleton is missing"),
    ],
)
def test_a_reduced_file_that_does_not_fit_is_refused(root, changed, message):
    arrays = {name: array for name, array in (reduced() | changed).items() if array is not None}
    np.savez(root / "utd_mhad" / REDUCED, **arrays)
    with pytest.raises(DataError, match=message):
        _ = UTDMHAD(root).data


def test_missing_parts_are_named_with_the_layout(root):
    folder = root / "utd_mhad"
    (folder / "class_names.txt").write_text("only one\n")
    assert "has 1 phrases; expected 27" in refused(root)
    (folder / "class_names.txt").unlink()
    assert f"{folder / 'class_names.txt'} is missing" in refused(root)
    (folder / "class_names.txt").write_text("\n".join(PHRASES))
    (folder / REDUCED).unlink()
    assert f"{folder / REDUCED} is missing" in refused(root)
    for path in (folder / "Depth").iterdir():
        path.unlink()
    assert "holds no file *_depth.mat" in refused(root, features="raw")
    (folder / "Depth").rmdir()
    assert f"{folder / 'Depth'} is missing" in refused(root, features="raw")


def test_arguments_outside_their_range_are_refused(root):
    with pytest.raises(ValueError, match="features is '8f'; expected '16f' or 'raw'"):
        UTDMHAD(root, features="8f")
    with pytest.raises(DataError, match="utd_mhad has no modality 'sound'; it has text, video, motion, inertial"):
        _ = UTDMHAD(root, modalities=["text", "sound"]).data


def test_check_counts_what_is_missing_and_broken(root, capsys):
    save(root / "utd_mhad", "a2_s1_t1", "inertial", np.zeros((0, 6)))
    assert main(["check", "utd_mhad", "--data-root", str(root)]) == 1
    said = capsys.readouterr().out
    assert "12 items (6 train, 0 validation, 6 test), 3 labels" in said
    assert "MISSING  raw: video of 9 of 12 items" in said
    assert "BROKEN   raw: a2_s1_t1" in said
    assert "2 trouble(s)" in said


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
    assert len(np.unique(module.data.label)) == 27
    assert len(set(module.data.modalities["text"].entries)) == 27
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
    for clip in ("a1_s1_t1", "a9_s1_t1", "a27_s1_t1"):
        row = names.index(clip)
        for modality, steps, tolerance in (("motion", 16, 1e-6), ("inertial", 32, 1e-4), ("video", 16, 2.5e-4)):
            where, ending, *_ = RAW[modality]
            whole = read_clip(REAL / where / f"{clip}{ending}", modality)
            frames = np.linspace(0, len(whole) - 1, steps).round().astype(int)
            np.testing.assert_allclose(whole[frames], modalities[modality].entries[row], rtol=0, atol=tolerance)


@real
@pytest.mark.slow
def test_real_published_files():
    data = UTDMHAD(REAL.parent, features="raw", modalities=["text", "motion", "inertial"]).data
    assert len(data) == 861
    assert list(data.names) == read_reduced(REAL / REDUCED)[0]
    with pytest.warns(UserWarning, match="834 of 861 items are left out"):
        assert len(UTDMHAD(REAL.parent, features="raw", on_missing="drop").data) == 27
