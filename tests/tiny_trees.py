"""Tiny trees in the exact layouts in which the authors of the data sets ship them."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import soundfile
from PIL import Image
from tiny_pedes import write_pedes

from datamodules.datasets.utd_mhad import RAW, REDUCED


def write_image(path: Path, seed: int) -> None:
    """A JPEG file of noise: no two seeds give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(256, size=(6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="JPEG")


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_lines(path: Path, lines: Iterable[object]) -> None:
    write_text(path, "".join(f"{line}\n" for line in lines))


# Wikipedia ----------------------------------------------------------------------------------------------------------

# Text id, image id, class 1..10.
WIKIPEDIA = {
    "train": [("aa-1", "i0", 1), ("aa-2.1", "i1", 10), ("bb-1", "i2", 1), ("cc-3", "i3", 2)],
    "test": [("dd-1", "i4", 10), ("ee-7.2", "i5", 1)],
}
CATEGORY = {1: "art", 2: "biology", 10: "warfare"}


def write_wikipedia(root: Path) -> Path:
    folder = root / "wikipedia"
    for part, pairs in WIKIPEDIA.items():
        write_lines(folder / f"{part}set_txt_img_cat.list", ["\t".join(map(str, pair)) for pair in pairs])
        for text, image, category in pairs:
            write_image(folder / "images" / CATEGORY[category] / f"{image}.jpg", hash_of(image))
            content = (
                f'<?xml version="1.0"?>\n<document name="{text}">\n<imageset><image id="{image}"/></imageset>\n'
                f"<text>\nSection {text} of A &amp; B,\n  and R&D.\n</text>\n</document>\n"
            )
            write_text(folder / "texts" / f"{text}.xml", content)
    return folder


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode()[-4:])


# Pascal Sentences ---------------------------------------------------------------------------------------------------

PASCAL_CLASSES, PASCAL_IMAGES = ("aeroplane", "bicycle", "tvmonitor"), 20  # of each class


def write_pascal(root: Path) -> Path:
    folder = root / "pascal_sentences"
    for c, category in enumerate(PASCAL_CLASSES):
        for i in range(PASCAL_IMAGES):
            name = f"2008_{1000 * c + i:06d}"
            write_image(folder / "dataset" / category / f"{name}.jpg", 1000 * c + i)
            sentences = [f"Sentence {k} of {name}, a {category}." for k in range(5)]
            write_lines(folder / "sentence" / category / f"{name}.txt", sentences)
    return folder


# NUS-WIDE -----------------------------------------------------------------------------------------------------------

NUS_COUNTS = {"Train": 60, "Test": 40}
# Twelve concepts, of which ten are kept; the file lists them in another order than that of their sizes.
NUS_CONCEPTS = [f"concept{c}" for c in (3, 0, 11, 7, 5, 1, 9, 2, 10, 4, 8, 6)]
NUS_WIDTHS = {"CH": 64, "CORR": 144, "EDH": 73, "WT": 128, "CM55": 225}  # as published


def nus_wide(part: str) -> dict[str, np.ndarray]:
    """Labels by concept, the features by name, and the tags of a part."""
    rng = np.random.default_rng(len(part))
    count = NUS_COUNTS[part]
    # Concept c is in about one image of c + 2; some images have none.
    label = {name: rng.random(count) < 1 / (int(name.removeprefix("concept")) + 2) for name in NUS_CONCEPTS}
    values = {name: rng.random((count, width)).astype(np.float32) for name, width in NUS_WIDTHS.items()}
    values["tags"] = (rng.random((count, 1000)) < 0.2).astype(np.float32)
    return values | {"label": np.stack([label[name] for name in NUS_CONCEPTS], axis=1)}


def write_nus_wide(root: Path) -> Path:
    folder = root / "nus_wide"
    write_lines(folder / "ConceptsList" / "Concepts81.txt", NUS_CONCEPTS)
    for part, count in NUS_COUNTS.items():
        found = nus_wide(part)
        write_lines(folder / "ImageList" / f"{part}Imagelist.txt", [f"zoo\\{part}_{i}.jpg" for i in range(count)])
        for name, bits in zip(NUS_CONCEPTS, found["label"].T, strict=True):
            write_lines(folder / "Groundtruth" / "TrainTestLabels" / f"Labels_{name}_{part}.txt", bits.astype(int))
        for name in NUS_WIDTHS:
            path = folder / "Low_Level_Features" / f"{part}_Normalized_{name}.dat"
            # Every number is followed by a blank, the last of a line too.
            write_lines(path, ["".join(f"{v:.7f} " for v in row) for row in found[name]])
        path = folder / "NUS_WID_Tags" / f"{part}_Tags1k.dat"
        write_lines(path, ["".join(f"{int(v)}\t" for v in row) for row in found["tags"]])
    return folder


# PKU XMediaNet ------------------------------------------------------------------------------------------------------

XMEDIANET, XMEDIANET_CLASSES = {"train": 12, "test": 6}, 3
XMEDIANET_WIDTHS = {"img": 4096, "txt": 300}  # as published


def xmedianet() -> dict[str, np.ndarray]:
    """The matrices by the names of their files."""
    rng = np.random.default_rng(7)
    found = {
        f"{m}_{part}_fea": rng.random((n, d)) for m, d in XMEDIANET_WIDTHS.items() for part, n in XMEDIANET.items()
    }
    return found | {"cate_fea": rng.normal(size=(XMEDIANET_CLASSES, 300))}


def write_xmedianet(root: Path) -> Path:
    folder = root / "pku_xmedianet"
    for name, rows in xmedianet().items():
        write_lines(folder / f"{name}.txt", ["".join(f"{v:.8f} " for v in row) for row in rows])
    for modality, ending in (("img", "jpg"), ("txt", "txt")):
        for part, count in XMEDIANET.items():
            lines = [f"{part}/{i}.{ending} {i % XMEDIANET_CLASSES + 1}" for i in range(count)]
            write_lines(folder / f"{modality}_{part}_list.txt", lines)
    return folder


# Flickr30K ----------------------------------------------------------------------------------------------------------

FLICKR30K = {"train": (100, 200, 300), "val": (400,), "test": (500, 600)}


def flickr30k() -> list[dict]:
    """Entries of Karpathy's file, the splits mixed as they are there."""
    entries = []
    for word, numbers in FLICKR30K.items():
        for number in numbers:
            sentences = [{"tokens": ["a"], "raw": f"Caption {k} of {number}.", "imgid": number} for k in range(5)]
            entries.append({"imgid": number, "sentences": sentences, "split": word, "filename": f"{number}.jpg"})
    return entries[::2] + entries[1::2]


def write_flickr30k(root: Path) -> Path:
    folder = root / "flickr30k"
    for entry in flickr30k():
        write_image(folder / "flickr30k-images" / entry["filename"], entry["imgid"])
    write_image(folder / "flickr30k-images" / "999.jpg", 999)  # of no split, as some of the published images are
    write_text(folder / "dataset_flickr30k.json", json.dumps({"images": flickr30k(), "dataset": "flickr30k"}))
    return folder


# HumanML3D and KIT-ML in TMR's form ---------------------------------------------------------------------------------

TMR_SPLITS = {"train": ["000001", "M000001", "000002"], "val": ["000003"], "test": ["000004"]}


def tmr_motion(name: str) -> np.ndarray:
    return np.random.default_rng(hash_of(name)).normal(size=(60, 263)).astype(np.float32)


def tmr_annotations() -> dict[str, dict]:
    """Motion 000002 has two annotations of the whole and one of a part, 000004 one of a part alone."""
    times = {name: [(0.0, 2.9)] for names in TMR_SPLITS.values() for name in names}
    times["000002"] = [(0.0, 2.9), (0.5, 2.0), (0.0, 2.9)]
    times["000004"] = [(1.0, 2.25)]
    return {
        name: {
            "path": f"KIT/3/walk_{name}_poses",
            "duration": 2.9,
            "annotations": [
                {"seg_id": f"{name}_{k}", "text": f"{name} walks, {k}.", "start": start, "end": end}
                for k, (start, end) in enumerate(parts)
            ],
        }
        for name, parts in times.items()
    }


def write_tmr(folder: Path) -> Path:
    for word, names in TMR_SPLITS.items():
        write_lines(folder / "splits" / f"{word}.txt", names)
    write_text(folder / "annotations.json", json.dumps(tmr_annotations()))
    for name, entry in tmr_annotations().items():
        path = folder / "guoh3dfeats" / f"{entry['path']}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, tmr_motion(name))
    return folder


# HumanML3D and KIT-ML in their authors' form ------------------------------------------------------------------------

MOTION_WIDTH = {"humanml3d": 263, "kit_ml": 251}
MOTIONS = {"train": ["000001", "M000001", "000002"], "val": ["000003"], "test": ["000004", "000005"]}
WHOLE = "a man waits#a/DET man/NOUN wait/VERB#0.0#0.0"


def motion(name: str, width: int) -> np.ndarray:
    number = int(name.removeprefix("M"))
    return np.random.default_rng(number).normal(size=(40 + number, width)).astype(np.float32)


def write_motions(root: Path, dataset: str = "humanml3d") -> Path:
    """Motion 000002 has captions of two of its parts, 000004 of a part alone."""
    folder = root / ("KIT-ML" if dataset == "kit_ml" else "HumanML3D")
    (folder / "new_joint_vecs").mkdir(parents=True)
    for word, names in MOTIONS.items():
        write_lines(folder / f"{word}.txt", names)
        for name in names:
            np.save(folder / "new_joint_vecs" / f"{name}.npy", motion(name, MOTION_WIDTH[dataset]))
            write_text(folder / "texts" / f"{name}.txt", f"{WHOLE}\nhe stands still#he/PRON#nan#nan\n")
    parts = ["walks#walk/VERB#0.0#1.0", "turns#turn/VERB#0.5#2", "goes # 1#go/VERB#0.0#1.0"]
    write_text(folder / "texts" / "000002.txt", "\n".join([WHOLE, *parts]))
    write_text(folder / "texts" / "000004.txt", "jumps#jump/VERB#1.0#1.6\n")
    return folder


# Flickr8k -----------------------------------------------------------------------------------------------------------

FLICKR8K_NAMES = [f"name{i:03d}" for i in range(208)]


def write_sound(path: Path, seconds: float = 0.1, rate: int = 24_000, form: str = "MP3", channels: int = 1) -> None:
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, np.stack([wave] * channels, axis=1), rate, format=form)


def write_flickr8k(root: Path) -> Path:
    """Eight images in the official layout, and captions of one that no list names."""
    folder = root / "flickr8k"
    names = [f"image{number}.jpg" for number in range(9)]
    lists = {"train": names[4:8], "dev": names[2:4], "test": names[:2]}
    for part, listed in lists.items():
        write_lines(folder / f"Flickr_8k.{part}Images.txt", listed)
        for name in listed:
            write_image(folder / "Images" / name, names.index(name))
    lines = [f"{name}#{k}\tCaption {k} of {name} ." for name in names for k in range(5)]
    write_lines(folder / "Flickr8k.token.txt", lines)
    return folder


def write_flickr8k_tri(root: Path) -> Path:
    """208 items, captions in reverse order of the names."""
    folder = root / "flickr8k_tri"
    for part in ("images", "audio"):
        (folder / part).mkdir(parents=True)
    write_sound(root / "sound")
    lines = ["image,caption"]
    for number, name in reversed(list(enumerate(FLICKR8K_NAMES))):
        lines += [f'{name}.jpg,"Caption {k} of {name} , with a comma ."' for k in range(5)]
        Image.fromarray(np.full((6, 8, 3), number, dtype=np.uint8)).save(folder / "images" / f"{name}.jpg")
        shutil.copy(root / "sound", folder / "audio" / f"{name}.wav")
    write_lines(folder / "captions.txt", lines)
    return folder


# UTD-MHAD -----------------------------------------------------------------------------------------------------------

# Three actions by four subjects, one trial.
CLIPS = [f"a{a}_s{s}_t1" for a in (1, 2, 27) for s in (1, 2, 3, 4)]
PHRASES = [f"phrase {i}" for i in range(1, 28)]


def clip(name: str) -> dict[str, np.ndarray]:
    """What one clip's files hold: as many frames as its place in the list says."""
    number = CLIPS.index(name)
    rng = np.random.default_rng(number)
    blocks = rng.integers(0, 4000, size=(30, 40, 2), dtype=np.uint16)
    return {
        "motion": rng.normal(size=(20, 3, number + 2)),
        "inertial": rng.normal(size=(2 * number + 3, 6)),
        "video": blocks.repeat(8, axis=0).repeat(8, axis=1),
    }


def save_recording(folder: Path, name: str, modality: str, array: np.ndarray) -> Path:
    where, ending, variable, *_ = RAW[modality]
    path = folder / where / f"{name}{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {variable: array}, do_compression=True)
    return path


def reduced_clips() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    numbers = np.array([[int(part[1:]) for part in name.split("_")] for name in CLIPS])
    return {
        "skeleton": rng.normal(size=(len(CLIPS), 16, 20, 3)).astype(np.float32),
        "inertial": rng.normal(size=(len(CLIPS), 32, 6)).astype(np.float32),
        "depth30x40": rng.random((len(CLIPS), 16, 30, 40)).astype(np.float16),
        "label": numbers[:, 0],
        "subject": numbers[:, 1],
        "name": np.array(CLIPS),
    }


def write_utd_mhad(root: Path, raw: bool = False) -> Path:
    folder = root / "utd_mhad"
    write_lines(folder / "class_names.txt", PHRASES)
    if not raw:
        np.savez(folder / REDUCED, **reduced_clips())
        return folder
    for name in CLIPS:
        for modality, array in clip(name).items():
            save_recording(folder, name, modality, array)
    return folder


# Narratives of Flickr30K --------------------------------------------------------------------------------------------

# Split in the file name -> image ids and the number of narratives of each.
NARRATED = {
    "train": {"11": 1, "12": 2, "13": 1, "14": 3, "15": 1, "16": 1},
    "val": {"21": 1, "22": 2},
    "test": {"31": 1, "32": 2, "33": 1},
}
SPOKEN_RATE = 8000


def narrative(word: str, image: str, turn: int) -> dict[str, Any]:
    voice = f"flickr30k_{word}/flickr30k_{word}_{image}_{turn}.ogg"
    if image == "13":
        voice = f"flickr30k_{word}/13_{turn}.ogg"  # the name of its file, too
    caption = f"Words {turn} about image {image}, {'long ' * turn}"
    return {"image_id": image, "annotator_id": 40 + turn, "caption": caption, "voice_recording": voice}


def recording(folder: Path, image: str, turn: int = 0) -> Path:
    """Where the authors' loader finds a recording; the number at the end of the field voice_recording is another."""
    word = next(word for word, images in NARRATED.items() if image in images)
    name = "13_0" if image == "13" else f"flickr30k_{word}_{image:0>16}_{40 + turn}"
    return folder / "voice-recordings" / f"flickr30k_{word}" / f"{name}.ogg"


def write_narratives(root: Path, content: str = "captions") -> Path:
    """Narratives, all first ones before all second ones, and images of noise."""
    folder = root / "flickr30k"
    for word, images in NARRATED.items():
        narratives = [narrative(word, i, turn) for turn in range(3) for i, count in images.items() if turn < count]
        kept = list(narratives[0])[: 3 if content == "captions" else 4]  # those have no voice
        lines = [json.dumps({key: fields[key] for key in kept}) for fields in narratives]
        write_lines(folder / f"flickr30k_{word}_{content}.jsonl", lines)
        for image in images:
            write_image(folder / "flickr30k-images" / f"{image}.jpg", int(image))
    return folder


def write_spoken(root: Path, rate: int = SPOKEN_RATE) -> Path:
    """The same with a voice recording of each, of another length each."""
    folder = write_narratives(root, "localized_narratives")
    rng = np.random.default_rng(0)
    for images in NARRATED.values():
        for image, count in images.items():
            for turn in range(count):
                path = recording(folder, image, turn)
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, rng.normal(0, 0.1, 800 + 10 * int(image) + turn), rate)
    return folder


# Data set, and its form where it has several -> what writes the folder below a root, and the form that it is read as.
TREES = {
    "wikipedia": (write_wikipedia, "raw"),
    "pascal_sentences": (write_pascal, "raw"),
    "nus_wide": (write_nus_wide, "low-level"),
    "pku_xmedianet": (write_xmedianet, "features"),
    "cuhk_pedes": (write_pedes, "raw"),
    "flickr30k": (write_flickr30k, "karpathy"),
    "flickr8k": (write_flickr8k, "raw"),
    "flickr8k_tri": (write_flickr8k_tri, "raw"),
    "utd_mhad": (write_utd_mhad, "16f"),
    "utd_mhad, raw": (lambda root: write_utd_mhad(root, raw=True), "raw"),
    "humanml3d": (write_motions, "new_joint_vecs"),
    "kit_ml": (lambda root: write_motions(root, "kit_ml"), "new_joint_vecs"),
    "humanml3d, tmr": (lambda root: write_tmr(root / "HumanML3D"), "guoh3dfeats"),
    "kit_ml, tmr": (lambda root: write_tmr(root / "KIT-ML"), "guoh3dfeats"),
    "flickr30k, narratives": (write_narratives, "transcripts"),
    "flickr30k, spoken": (write_spoken, "raw"),
}
