"""HumanML3D and KIT-ML on tiny files in the layout of their authors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datamodules import DataError, HumanML3D
from datamodules.__main__ import main
from datamodules.datasets import DATASETS


def refused(module) -> str:
    with pytest.raises(DataError) as error:
        _ = module.data
    return str(error.value)


WIDTH = {"humanml3d": 263, "kit_ml": 251}
IDS = {"train": ["000001", "M000001", "000002"], "val": ["000003"], "test": ["000004", "000005"]}
TIMES = "a man waits#a/DET man/NOUN wait/VERB#0.0#0.0"


def motion(name: str, width: int) -> np.ndarray:
    number = int(name.removeprefix("M"))
    return np.random.default_rng(number).normal(size=(40 + number, width)).astype(np.float32)


@pytest.fixture(params=WIDTH)
def motions(request, tmp_path):
    """Folder and name of a data set; motion 000002 has captions of two of its parts, 000004 of a part alone."""
    folder = tmp_path / "root" / DATASETS[request.param].folder
    for part in ("new_joint_vecs", "texts"):
        (folder / part).mkdir(parents=True)
    for word, ids in IDS.items():
        (folder / f"{word}.txt").write_text("\n".join(ids) + "\n")
        for name in ids:
            np.save(folder / "new_joint_vecs" / f"{name}.npy", motion(name, WIDTH[request.param]))
            (folder / "texts" / f"{name}.txt").write_text(f"{TIMES}\nhe stands still#he/PRON#nan#nan\n")
    parts = ["walks#walk/VERB#0.0#1.0", "turns#turn/VERB#0.5#2", "goes # 1#go/VERB#0.0#1.0"]
    (folder / "texts" / "000002.txt").write_text("\n".join([TIMES, *parts]))
    (folder / "texts" / "000004.txt").write_text("jumps#jump/VERB#1.0#1.6\n")
    return folder, request.param


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
        np.testing.assert_array_equal(found, motion(base, WIDTH[dataset])[start:end])
    assert module.dims["motion"] == {"kind": "sequence", "shape": [WIDTH[dataset]], "rate": None}
    assert module.dataset == dataset
    batch = next(iter(module.train_dataloader()))
    assert batch["masks"]["motion"].sum(dim=1).tolist() == [
        len(data.modalities["motion"].entries[item]) for item in batch["id"].tolist()
    ]


def test_missing_motions_and_texts(motions, capsys):
    folder, dataset = motions
    (folder / "new_joint_vecs" / "000003.npy").unlink()
    (folder / "texts" / "000005.txt").unlink()
    module = HumanML3D(folder.parent, dataset=dataset)
    assert "text is missing from 1: 000005; motion is missing from 1: 000003" in refused(module)
    with pytest.warns(UserWarning, match="2 of 8 items are left out"):
        assert len(HumanML3D(folder.parent, dataset=dataset, on_missing="drop").data) == 6
    assert main(["check", dataset, "--data-root", str(folder.parent)]) == 1
    said = capsys.readouterr().out
    assert "8 items (5 train, 1 validation, 2 test)" in said
    assert "MISSING  new_joint_vecs: motion of 1 of 8 items: 000003" in said


def nan_at_the_end(path: Path, width: int) -> None:
    np.save(path, np.where(np.arange(50)[:, None] == 49, np.nan, np.zeros((50, width), np.float32)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path, width: path.write_bytes(path.read_bytes()[:-1]), "is not a readable .npy file"),
        (lambda path, width: path.write_bytes(b""), "is not a readable .npy file"),
        (lambda path, width: np.save(path, np.zeros((5, width - 1))), r"has shape \(5, \d+\) and type float64"),
        (lambda path, width: np.save(path, np.zeros((0, width))), r"has shape \(0, \d+\)"),
        (lambda path, width: np.save(path, np.zeros((5, width), int)), "type int64; expected floating"),
        (nan_at_the_end, "is NaN or infinite somewhere"),
    ],
)
def test_broken_motions_are_refused_or_dropped_with_all_their_parts(motions, damage, message):
    folder, dataset = motions
    path = folder / "new_joint_vecs" / "000002.npy"
    damage(path, WIDTH[dataset])
    with pytest.warns(UserWarning, match=message):
        said = refused(HumanML3D(folder.parent, dataset=dataset))
    assert f"3 item(s) with a broken file: {path}" in said
    with pytest.warns(UserWarning, match=message):
        data = HumanML3D(folder.parent, dataset=dataset, on_broken="drop").data
    assert data.names == ["000001", "M000001", "000003", "000004_1_1.6", "000005"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no separators", "line 2 is 'no separators'; expected caption#tokens#start#end"),
        ("caption#tokens#0.0", "expected caption#tokens#start#end"),
        ("caption#tokens#a#b", "expected caption#tokens#start#end"),
        ("#tokens#0.0#0.0", "expected caption#tokens#start#end"),
        ("caption#tokens#-1#2", "expected caption#tokens#start#end"),
        ("caption#tokens#7#9", "describes 7 s to 9 s of a motion of"),
        ("caption#tokens#2#1", "describes 2 s to 1 s of a motion of"),
    ],
)
def test_broken_captions_are_named_by_file_and_line(motions, line, message):
    folder, dataset = motions
    path = folder / "texts" / "000001.txt"
    path.write_text(f"{TIMES}\n{line}\n")
    with pytest.warns(UserWarning, match=message):
        said = refused(HumanML3D(folder.parent, dataset=dataset))
    assert "1 item(s) with a broken file" in said
    assert message in said
    assert str(path) in said


def test_split_files_are_read_strictly(motions):
    folder, dataset = motions
    (folder / "test.txt").write_text("000004\n000001\n")
    said = refused(HumanML3D(folder.parent, dataset=dataset))
    assert f"{folder / 'test.txt'}: lists 000001, which the train part has already" in said
    for line, other in (("M000002", "000002"), ("000003", "M000003")):
        (folder / "val.txt").write_text("M000003\n")
        (folder / "test.txt").write_text(f"000004\n{line}\n")
        part = "train" if other == "000002" else "validation"
        said = refused(HumanML3D(folder.parent, dataset=dataset))
        assert f"{folder / 'test.txt'}: lists {line}, the mirror image of {other}, which the {part} part has" in said
    (folder / "val.txt").unlink()
    assert f"{folder / 'val.txt'} is missing" in refused(HumanML3D(folder.parent, dataset=dataset))
    (folder / "texts").rename(folder / "captions")
    assert f"{folder / 'texts'} is missing" in refused(HumanML3D(folder.parent, dataset=dataset))
    with pytest.raises(ValueError, match="dataset is 'amass'; expected 'humanml3d' or 'kit_ml'"):
        HumanML3D(dataset="amass")


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
    with pytest.raises(ValueError, match="test_captions is 'one'; expected 'all' or 'first'"):
        HumanML3D(folder.parent, test_captions="one")
