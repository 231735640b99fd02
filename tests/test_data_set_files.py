"""Every data set on its tiny tree: parts, batches and digest; files and items that are missing or broken."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from check_cases import MODULES, faulty, name_of, refused, text
from tiny_pedes import entries
from tiny_trees import write_sound

from datamodules import NUSWIDE, UTDMHAD, DataMissing, Flickr8kTriples, HumanML3D, WikipediaRaw
from datamodules.datasets import DATASETS
from datamodules.datasets.utd_mhad import RAW, REDUCED

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# Sound trees --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("wikipedia", (3, 1, 2)),
        ("pascal_sentences", (48, 6, 6)),
        ("pku_xmedianet", (9, 3, 6)),
        ("cuhk_pedes", (12, 4, 4)),
        ("flickr30k", (3, 1, 2)),
        ("flickr8k", (4, 2, 2)),
        ("flickr8k_tri", (7, 1, 200)),
        ("utd_mhad", (3, 3, 6)),
        ("utd_mhad, raw", (3, 3, 6)),
        ("humanml3d", (5, 1, 2)),
        ("kit_ml", (5, 1, 2)),
        ("humanml3d, tmr", (4, 1, 1)),
        ("flickr30k, narratives", (6, 2, 3)),
        ("flickr30k, spoken", (6, 2, 3)),
    ],
)
def test_parts_batches_and_digest(tree, name, sizes):
    folder = tree(name)
    module = MODULES[name](folder.parent, batch_size=4)
    parts = ("train", "validation", *module.test_splits)
    assert tuple(len(module.indices(part)) for part in parts) == sizes
    assert len(set(np.concatenate([module.indices(part) for part in parts]))) == len(module.data) == sum(sizes)
    assert (module.dataset, module.data_kind) == (name_of(name), "real")
    batch = next(iter(module.train_dataloader()))
    assert set(module.modalities) < set(batch)
    assert set(batch["id"].tolist()) <= set(module.indices("train").tolist())
    np.testing.assert_array_equal(batch["label"], module.data.label[batch["id"]])
    (loader,) = module.test_dataloader()
    seen = np.concatenate([batch["item"][module.modalities[0]] for batch in loader])
    assert set(seen) == set(module.indices(module.test_splits[0]))
    digest, elsewhere = module.digest, folder.parent / "elsewhere"
    elsewhere.mkdir()
    folder.rename(elsewhere / folder.name)
    assert MODULES[name](elsewhere).digest == digest


@pytest.mark.parametrize(
    ("name", "file", "change"),
    [
        ("wikipedia", "texts/aa-1.xml", lambda content: content.replace(b"Section", b"Paragraph")),
        ("wikipedia", "images/art/i0.jpg", lambda content: content + b"\0"),
        ("nus_wide", "NUS_WID_Tags/Test_Tags1k.dat", lambda content: content.replace(b"0", b"1")),
        ("flickr8k_tri", "captions.txt", lambda content: content.replace(b"Caption 1 of", b"Another caption of")),
        ("humanml3d, tmr", "annotations.json", lambda content: content.replace(b"walks", b"runs")),
        ("cuhk_pedes", "reid_raw.json", lambda content: content.replace(b'"id": 10', b'"id": 11')),
    ],
)
def test_the_digest_changes_with_the_data(tree, name, file, change):
    folder = tree(name)
    first = MODULES[name](folder.parent).digest
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(change(content))
    assert MODULES[name](folder.parent).digest != first
    (folder / file).write_bytes(content)
    assert MODULES[name](folder.parent).digest == first


# What is missing ----------------------------------------------------------------------------------------------------

PARTS = {
    "wikipedia": ["trainset_txt_img_cat.list", "images", "texts"],
    "pascal_sentences": ["dataset", "sentence"],
    "nus_wide": ["ImageList", "ConceptsList", "Groundtruth", "Low_Level_Features", "NUS_WID_Tags"],
    "pku_xmedianet": ["cate_fea.txt", "txt_test_list.txt", "img_train_fea.txt"],
    "cuhk_pedes": ["reid_raw.json", "imgs"],
    "flickr30k": ["dataset_flickr30k.json", "flickr30k-images"],
    "flickr8k": ["Flickr8k.token.txt", "Flickr_8k.devImages.txt"],
    "flickr8k_tri": ["captions.txt", "images", "audio"],
    "utd_mhad": ["class_names.txt", REDUCED],
    "utd_mhad, raw": ["class_names.txt", "Depth", "Skeleton", "Inertial"],
    "kit_ml": ["new_joint_vecs", "texts", "train.txt", "val.txt", "test.txt"],
    "kit_ml, tmr": ["annotations.json", "guoh3dfeats", "splits/val.txt", "splits/test.txt"],
    "flickr30k, spoken": ["flickr30k-images", "voice-recordings"],
}


@pytest.mark.parametrize(("name", "part"), [(name, part) for name, parts in PARTS.items() for part in parts])
def test_a_part_that_is_missing_is_named_with_the_layout_and_found_by_check(tree, name, part, capsys):
    folder = tree(name)
    (folder / part).rename(folder.parent / "elsewhere")
    said = refused(name, folder)
    assert str(folder / part) in said
    assert "is missing" in said
    assert DATASETS[name_of(name)].content in said
    report = faulty(name_of(name), folder, capsys).splitlines()
    missing = [line for line in report if line.startswith(f"MISSING  {folder / part}")]
    assert len(missing) == len(set(missing)) > 0


@pytest.mark.parametrize("name", [name for name in MODULES if "," not in name])
def test_a_missing_folder_is_named_and_only_a_root_that_nobody_named_may_be_replaced(name, tmp_path, monkeypatch):
    said = refused(name, tmp_path / "any")
    assert f"{tmp_path / DATASETS[name].folder} is missing" in said
    inside = tmp_path / DATASETS[name].folder
    inside.mkdir()
    assert "name the one above it" in refused(name, inside / "any")
    monkeypatch.delenv("CSD_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataMissing, match=DATASETS[name].folder):
        _ = MODULES[name](None).data


@pytest.mark.parametrize(
    ("name", "file", "modality", "item", "items"),
    [
        ("wikipedia", "images/biology/i3.jpg", "image", "cc-3", 6),
        ("pascal_sentences", "dataset/bicycle/2008_001004.jpg", "image", "bicycle/2008_001004", 60),
        ("pascal_sentences", "sentence/bicycle/2008_001004.txt", "text", "bicycle/2008_001004", 60),
        ("cuhk_pedes", f"imgs/{entries()[2]['file_path']}", "image", entries()[2]["file_path"], 20),
        ("flickr30k", "flickr30k-images/300.jpg", "image", "300", 6),
        ("flickr8k_tri", "audio/name005.wav", "audio", "name005", 208),
        ("utd_mhad, raw", "Depth/a2_s1_t1_depth.mat", "video", "a2_s1_t1", 12),
        ("humanml3d", "new_joint_vecs/000003.npy", "motion", "000003", 8),
        ("kit_ml", "texts/000005.txt", "text", "000005", 8),
        ("humanml3d, tmr", "guoh3dfeats/KIT/3/walk_000001_poses.npy", "motion", "000001", 6),
        ("flickr30k, spoken", "flickr30k-images/12.jpg", "image", "12", 11),
        ("flickr30k, spoken", "voice-recordings/flickr30k_train/13_0.ogg", "audio", "13", 11),
    ],
)
def test_an_item_that_lacks_a_modality_is_refused_or_dropped_and_found_by_check(
    tree, name, file, modality, item, items, capsys
):
    folder = tree(name)
    (folder / file).unlink()
    assert f"{modality} is missing from 1: {item}" in refused(name, folder)
    data = MODULES[name](folder.parent, on_missing="drop").data
    assert len(data) == items - 1
    assert item not in data.names
    assert f": {modality} of 1 of {items} items: {item}" in faulty(name_of(name), folder, capsys)


# What is broken -----------------------------------------------------------------------------------------------------


def cut(path: Path, length: int = -20) -> None:
    path.write_bytes(path.read_bytes()[:length])


def save(*shape: int, dtype=np.float32, last: float = 0) -> Callable[[Path], None]:
    """Writes a motion of zeros, and of ``last`` at its end."""

    def write(path: Path) -> None:
        array = np.zeros(shape, dtype)
        array[-1:] = last
        np.save(path, array)

    return write


def recording(modality: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda path: scipy.io.savemat(path, {RAW[modality][2]: array})


def sound(rate: int = 24_000, **settings) -> Callable[[Path], None]:
    return lambda path: write_sound(path, rate=rate, form="WAV", **settings)


CAPTION, PERSON = "a man waits#a/DET#0.0#0.0", entries()[4]["file_path"]
# Tree, file and item -> what is done to the file, and what is said of it.
BROKEN = {
    ("wikipedia", "images/warfare/i1.jpg", "aa-2.1"): [(cut, "is not a readable image")],
    ("wikipedia", "texts/cc-3.xml", "cc-3"): [
        (text("<text> \n</text>"), "<text> and </text>"),
        (text("<document>words</document>"), "<text> and </text>"),
        (text(b"<text>\xff\xfe</text>"), "cannot be read as text"),
    ],
    ("pascal_sentences", "dataset/tvmonitor/2008_002001.jpg", "tvmonitor/2008_002001"): [(text(""), "readable image")],
    ("pascal_sentences", "sentence/bicycle/2008_001002.txt", "bicycle/2008_001002"): [(text(" \n"), "no sentence")],
    ("cuhk_pedes", f"imgs/{PERSON}", PERSON): [(cut, "is not a readable image")],
    ("flickr30k", "flickr30k-images/500.jpg", "500"): [(text(""), "is not a readable image")],
    ("flickr30k, spoken", "voice-recordings/flickr30k_train/13_0.ogg", "13"): [
        (lambda path: cut(path, 60), "is not a readable sound")
    ],
    ("flickr8k_tri", "images/name003.jpg", "name003"): [(cut, "is not a readable image")],
    ("flickr8k_tri", "audio/name003.wav", "name003"): [
        (sound(rate=16_000), "expected 24000"),
        (sound(seconds=0), "no samples"),
        (text("no sound"), "is not a readable sound"),
        (text(""), "is not a readable sound"),
    ],
    ("utd_mhad, raw", "Skeleton/a2_s1_t1_skeleton.mat", "a2_s1_t1"): [
        (cut, "cannot be read as a MATLAB file"),
        (text(""), "cannot be read as a MATLAB file"),
        (recording("motion", np.zeros((20, 4, 3))), "d_skel has shape (20, 4, 3)"),
        (recording("motion", np.zeros((20, 3, 0))), "d_skel has shape (20, 3, 0)"),
        (recording("motion", np.full((20, 3, 2), np.nan)), "d_skel is NaN or infinite"),
    ],
    ("utd_mhad, raw", "Inertial/a2_s1_t1_inertial.mat", "a2_s1_t1"): [
        (recording("inertial", np.zeros((9, 5))), "d_iner has shape (9, 5)"),
        (recording("inertial", np.array(["text"])), "expected numbers of shape"),
        (recording("video", np.zeros((9, 6))), "d_iner is missing"),
    ],
    ("humanml3d", "new_joint_vecs/000005.npy", "000005"): [
        (cut, "cannot be read as an .npy file"),
        (text(""), "cannot be read as an .npy file"),
        (save(5, 262), "(5, 262)"),
        (save(0, 263), "(0, 263)"),
    ],
    ("kit_ml", "new_joint_vecs/000005.npy", "000005"): [
        (save(5, 251, dtype=int), "int64"),
        (save(5, 251, last=np.nan), "NaN"),
    ],
    ("kit_ml", "texts/000001.txt", "000001"): [
        (text(f"{CAPTION}\nno separators\n"), "line 2 is 'no separators'"),
        *(
            (text(f"{CAPTION}\n{line}\n"), "caption#tokens#start#end")
            for line in ("caption#tokens#0.0", "caption#tokens#a#b", "#tokens#0.0#0.0", "caption#tokens#-1#2")
        ),
    ],
}


@pytest.mark.parametrize(
    ("name", "file", "item", "damage", "fact"),
    [(*where, *case) for where, cases in BROKEN.items() for case in cases],
)
def test_a_file_that_cannot_be_read_is_named_and_its_item_dropped(tree, name, file, item, damage, fact, capsys):
    folder = tree(name)
    damage(folder / file)
    said = refused(name, folder)
    assert str(folder / file) in said
    assert fact in said
    assert item not in MODULES[name](folder.parent, on_broken="drop", on_missing="drop").data.names
    report = faulty(name_of(name), folder, capsys)
    assert "BROKEN " in report
    assert fact in report


def test_a_broken_motion_takes_all_items_of_its_parts_with_it(tree):
    folder = tree("humanml3d")
    text("")(folder / "new_joint_vecs" / "000002.npy")
    assert "3 item(s) with a broken file" in refused("humanml3d", folder)
    names = HumanML3D(folder.parent, on_broken="drop").data.names
    assert names == ["000001", "M000001", "000003", "000004_1_1.6", "000005"]


@pytest.mark.parametrize("line", ["caption#tokens#7#9", "caption#tokens#2#1"])
def test_a_caption_of_a_part_that_the_motion_does_not_have(tree, line):
    folder = tree("kit_ml")
    text(f"{line}\n")(folder / "texts/000001.txt")
    said = refused("kit_ml", folder)
    assert str(folder / "texts/000001.txt") in said
    assert "000001" in said


@pytest.mark.parametrize(
    ("build", "argument"),
    [
        (lambda: Flickr8kTriples(captions="first"), "captions"),
        (lambda: HumanML3D(dataset="amass"), "dataset"),
        (lambda: HumanML3D(annotations="babel"), "annotations"),
        (lambda: HumanML3D(test_captions="one"), "test_captions"),
        (lambda: NUSWIDE(subset=1), "subset"),
        (lambda: WikipediaRaw(on_missing="keep"), "on_missing"),
        (lambda: UTDMHAD(features="8f"), "features"),
    ],
)
def test_an_argument_outside_its_range_is_refused_at_once(build, argument):
    with pytest.raises(ValueError, match=f"{argument} is "):
        build()
