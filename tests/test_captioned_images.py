"""Flickr8k, Flickr30K, CUHK-PEDES and Pascal Sentences on tiny trees as their authors ship them, and on real files.

What is missing or broken is in test_data_set_files.py and test_data_set_lists.py.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from check_cases import MODULES, faulty, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from real_data import DATA, needs
from tiny_pedes import entries, photograph, write_annotations, write_pedes
from tiny_trees import FLICKR8K_NAMES as NAMES
from tiny_trees import FLICKR30K, NARRATED, PASCAL_CLASSES, SPOKEN_RATE, flickr30k, narrative, recording, write_sound

from datamodules import CUHKPEDES, DataError, DataMissing, Flickr8k, Flickr8kTriples, Flickr30kNarratives, ItemSet
from datamodules.__main__ import main
from datamodules.datasets.flickr8k import HELD_OUT, RATE
from datamodules.datasets.pascal_sentences import draw_split
from datamodules.files.media import read_sound

SPLITS = {"train": "train", "val": "validation", "test": "test"}
SPOKEN = "flickr30k, spoken"


def texts(data: ItemSet) -> list[tuple[int, str]]:
    text = data.modalities["text"]
    return list(zip(text.owners().tolist(), text.entries, strict=True))


def files(data: ItemSet) -> list[str]:
    return [path.name for path in data.modalities["image"].entries.paths]


# Flickr8k: the official split ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", ["Images", "Flicker8k_Dataset"])
def test_flickr8k_has_its_official_split_and_five_captions_in_the_order_of_their_numbers(tree, images):
    folder = tree("flickr8k")
    (folder / "Images").rename(folder / images)
    tokens = folder / "Flickr8k.token.txt"
    tokens.write_text("".join(sorted(tokens.read_text().splitlines(keepends=True), reverse=True)))
    module = Flickr8k(folder.parent)
    assert [module.data.names[item] for item in module.indices("standard")] == ["image0", "image1"]
    item = module.indices("standard")[1]
    assert [text for owner, text in texts(module.data) if owner == item] == [
        f"Caption {k} of image1.jpg ." for k in range(5)
    ]
    (folder / images).rename(folder / "pictures")
    with pytest.raises(DataError, match="Flicker8k_Dataset is missing"):
        _ = Flickr8k(folder.parent).data


@needs("flickr8k")
def test_the_real_official_split_has_its_sizes():
    module = Flickr8k(DATA)
    assert [len(module.indices(part)) for part in ("train", "validation", "standard")] == [6000, 1000, 1000]
    assert len(texts(module.data)) == 40_000


# A thousand images with a spoken caption ----------------------------------------------------------------------------


def test_triples_have_an_image_five_captions_and_a_sound_by_their_content(tree):
    module = Flickr8kTriples(tree("flickr8k_tri").parent)
    data = module.data
    assert list(data.modalities) == ["image", "text", "audio"]
    assert list(data.names) == NAMES
    np.testing.assert_array_equal(data.label, np.arange(len(NAMES)))
    assert texts(data) == [
        (i, f"Caption {k} of {name} , with a comma .") for i, name in enumerate(NAMES) for k in range(5)
    ]
    image, sound = (data.modalities[m].entries[7] for m in ("image", "audio"))
    assert (image.shape, image.dtype, sound.ndim, sound.dtype) == ((6, 8, 3), np.uint8, 1, np.float32)
    assert np.abs(image.astype(int) - 7).max() <= 2  # JPEG
    assert module.dims["audio"] == {"kind": "sound", "shape": [], "rate": 24_000}
    spoken = Flickr8kTriples(module.data_root, captions="spoken", modalities=["text", "audio"]).data
    assert spoken.modalities["text"].entries == [f"Caption 0 of {name} , with a comma ." for name in NAMES]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_held_out_items_never_move(tree):
    folder = tree("flickr8k_tri")
    expected = np.sort(np.random.default_rng(0).permutation(len(NAMES))[:HELD_OUT])
    modules = [Flickr8kTriples(folder.parent, split_seed=seed, modalities=["text", "image"]) for seed in (0, 1)]
    for module in modules:
        np.testing.assert_array_equal(module.indices("held-out-200"), expected)
    assert set(modules[0].indices("validation")) != set(modules[1].indices("validation"))
    path = folder / "images" / f"{NAMES[3]}.jpg"
    path.write_bytes(path.read_bytes()[:-20])
    without = Flickr8kTriples(folder.parent, on_broken="drop")
    kept = {without.data.names[item] for item in without.indices("held-out-200")}
    assert kept == {NAMES[item] for item in expected} - {NAMES[3]}


@pytest.mark.parametrize("file", ["images/other.jpg", "audio/other.wav"])
def test_images_and_sounds_that_no_caption_names_are_said(tree, file):
    folder = tree("flickr8k_tri")
    (folder / file).touch()
    with pytest.warns(UserWarning, match=rf"1 file\(s\) are not in captions.txt .*{Path(file).name}"):
        Flickr8kTriples(folder.parent).read()


@pytest.mark.parametrize("form", ["MP3", "WAV", "FLAC", "OGG"])
def test_sounds_are_read_by_content(tmp_path, form):
    path = tmp_path / "misnamed.wav"
    write_sound(path, seconds=0.5, form=form, channels=2)
    wave = read_sound(path, RATE)
    assert (wave.shape, wave.dtype) == ((12_000,), np.float32)
    middle = wave[2000:10_000]
    assert np.abs(np.fft.rfft(middle)).argmax() == pytest.approx(440 * len(middle) / RATE, abs=1)
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.05)


@needs("flickr8k_tri/captions.txt")
def test_real_sounds_are_as_long_as_the_first_caption_and_no_other():
    """The sounds have a constant bit rate, so that a file's size is its duration."""
    data = Flickr8kTriples(DATA, modalities=["text", "audio"]).read()
    size = [path.stat().st_size for path in data.modalities["audio"].entries.paths]
    letters = np.array([len(text) for _, text in texts(data)]).reshape(-1, 5)
    correlation = np.corrcoef(letters.T, size)[-1, :5]
    assert correlation[0] > 0.97
    assert (correlation[1:] < 0.2).all()


# Flickr30K ----------------------------------------------------------------------------------------------------------


def test_an_image_of_flickr30k_has_its_five_captions_and_the_split_of_the_file(tree):
    module = MODULES["flickr30k"](tree("flickr30k").parent)
    data = module.data
    assert list(data.names) == [str(entry["imgid"]) for entry in flickr30k()]
    assert data.split.tolist() == [SPLITS[entry["split"]] for entry in flickr30k()]
    assert data.label.tolist() == list(range(6))
    assert texts(data) == [(i, s["raw"]) for i, entry in enumerate(flickr30k()) for s in entry["sentences"]]
    assert files(data) == [entry["filename"] for entry in flickr30k()]
    names = np.array(data.names)
    for part, word in (("train", "train"), ("validation", "val"), ("karpathy", "test")):
        assert sorted(names[module.indices(part)].tolist()) == [str(number) for number in FLICKR30K[word]]


def test_narratives_of_one_image_are_one_item(tree):
    module = Flickr30kNarratives(tree(SPOKEN).parent)
    data = module.data
    images = [(image, word, count) for word, part in NARRATED.items() for image, count in part.items()]
    assert list(data.names) == [image for image, _, _ in images]
    assert data.split.tolist() == [SPLITS[word] for _, word, _ in images]
    assert list(data.modalities) == ["image", "text", "audio"]
    every = [(item, image, word, turn) for item, (image, word, count) in enumerate(images) for turn in range(count)]
    assert texts(data) == [(item, narrative(word, image, n)["caption"].strip()) for item, image, word, n in every]
    audio = data.modalities["audio"]
    assert audio.rate == SPOKEN_RATE
    assert audio.owners().tolist() == [item for item, *_ in every]
    assert [len(sound) for sound in audio.entries] == [800 + 10 * int(image) + turn for _, image, _, turn in every]
    batch = next(iter(module.test_dataloader()[0]))
    assert batch["label"]["text"].tolist() == batch["label"]["audio"].tolist() == [8, 9, 9, 10]


def test_captions_files_have_no_voice(tree):
    folder = tree("flickr30k, narratives")
    assert len(texts(Flickr30kNarratives(folder.parent, modalities=["image", "text"]).data)) == 16
    (folder / "voice-recordings").mkdir()
    assert "has no voice_recording; expected" in refused(SPOKEN, folder)


def test_one_recording_of_several_may_be_missing_or_be_called_otherwise(tree):
    folder = tree(SPOKEN)
    before = Flickr30kNarratives(folder.parent).data.modalities["audio"]
    expected = [len(sound) for sound in before.entries]
    recordings = folder / "voice-recordings"
    named = {
        ("11", 0): recordings / "flickr30k_train" / "flickr30k_train_11_0.ogg",
        ("12", 1): recordings / "flickr30k_train" / "flickr30k_train_12_1.wav",
        ("31", 0): recording(folder, "31").with_suffix(".wav"),
    }
    for (image, turn), path in named.items():
        recording(folder, image, turn).rename(path)
    recording(folder, "14").unlink()
    audio = Flickr30kNarratives(folder.parent).data.modalities["audio"]
    del expected[int(np.flatnonzero(before.owners() == 3)[0])]
    assert [len(sound) for sound in audio.entries] == expected
    assert set(named.values()) < set(audio.entries.paths)


@pytest.mark.parametrize(("word", "content"), [("train", None), ("val", ""), ("test", "\n")])
def test_a_split_without_narratives_is_refused_and_found_by_check(tree, word, content, capsys):
    folder = tree(SPOKEN)
    path = folder / f"flickr30k_{word}_localized_narratives.jsonl"
    path.unlink() if content is None else path.write_text(content)
    expected = f"{path}: is missing or empty; expected the narratives of the {SPLITS[word]} part"
    assert expected in refused(SPOKEN, folder)
    assert expected in refused("flickr30k, narratives", folder)  # of images and texts alone
    assert str(path) in faulty("flickr30k", folder, capsys)


# CUHK-PEDES ---------------------------------------------------------------------------------------------------------


def test_an_item_of_cuhk_pedes_is_a_photograph_and_its_label_the_person(tree):
    data, written = CUHKPEDES(tree("cuhk_pedes").parent).data, entries()
    assert list(data.names) == [entry["file_path"] for entry in written]
    assert data.label.tolist() == [entry["id"] for entry in written]
    assert data.split.tolist() == [SPLITS[entry["split"]] for entry in written]
    assert texts(data) == [(item, caption) for item, entry in enumerate(written) for caption in entry["captions"]]
    for found, entry in zip(data.modalities["image"].entries, written, strict=True):
        expected = photograph(entry["id"], int(Path(entry["file_path"]).stem[-1]))
        assert found.shape == expected.shape
        assert np.abs(found.mean((0, 1)) - expected.mean((0, 1))).max() < 3  # JPEG


def test_a_file_without_validation_persons_has_them_carved_in_whole_persons(tree):
    folder = tree("cuhk_pedes")
    write_annotations(folder, [entry for entry in entries() if entry["split"] != "val"])
    module = CUHKPEDES(folder.parent, validation_fraction=0.3)
    with pytest.warns(UserWarning, match=r"4 file\(s\) are not in reid_raw.json"):
        label = module.data.label
    train, validation = (set(label[module.indices(part)]) for part in ("train", "validation"))
    assert validation
    assert not train & validation


def test_the_folder_may_be_called_as_the_data_set_is(tree, capsys):
    folder = tree("cuhk_pedes")
    digest = CUHKPEDES(folder.parent).digest
    other = folder.rename(folder.with_name("cuhk_pedes"))
    assert CUHKPEDES(folder.parent).digest == digest
    assert main(["check", "cuhk_pedes", "--data-root", str(folder.parent)]) == 0
    assert str(other) in capsys.readouterr().out
    write_pedes(folder.parent)
    assert CUHKPEDES(folder.parent).data.origin == str(folder)


def test_a_folder_of_features_alone_is_not_taken_for_the_photographs(tmp_path, monkeypatch):
    (tmp_path / "data" / "cuhk_pedes").mkdir(parents=True)
    (tmp_path / "data" / "cuhk_pedes" / "features.npz").touch()
    monkeypatch.delenv("CSD_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataMissing, match="CUHK-PEDES is missing"):
        _ = CUHKPEDES().data


# Pascal Sentences ---------------------------------------------------------------------------------------------------


def test_an_image_of_pascal_has_five_sentences_the_class_of_its_folder_and_a_split_drawn_by_the_seed(tree):
    folder, parts = tree("pascal_sentences"), []
    for seed in (0, 0, 1):
        module = MODULES["pascal_sentences"](folder.parent, split_seed=seed)
        parts.append([module.indices(name).tolist() for name in ("train", "validation", "drawn")])
    assert parts[0] == parts[1] != parts[2]
    data = module.data
    classes, images = zip(*(name.split("/") for name in data.names), strict=True)
    assert [PASCAL_CLASSES[label] for label in data.label] == list(classes)
    assert files(data) == [f"{image}.jpg" for image in images]
    assert texts(data) == [
        (item, f"Sentence {k} of {image}, a {category}.")
        for item, (category, image) in enumerate(zip(classes, images, strict=True))
        for k in range(5)
    ]


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(3, 60), min_size=1, max_size=5), seed=st.integers(0, 9))
def test_every_class_has_items_in_every_part_and_other_classes_do_not_move_them(sizes, seed):
    label = np.repeat(np.arange(len(sizes) + 1), [*sizes, 50])
    split = draw_split(label, seed)
    for c in range(len(sizes)):
        assert set(split[label == c]) == {"train", "validation", "test"}
    first, last = label == 0, split[-50:].tolist()
    np.testing.assert_array_equal(draw_split(label[first], seed), split[first])
    assert [last.count(name) for name in ("train", "validation", "test")] == [40, 5, 5]  # as published


def test_sentence_files_may_lack_the_point_as_the_downloader_names_them(tree):
    folder = tree("pascal_sentences")
    with_points = MODULES["pascal_sentences"](folder.parent).data
    for path in list((folder / "sentence").rglob("*.txt")):
        path.rename(path.with_name(f"{path.stem}txt"))
    # As after a download over an older copy: read once.
    shutil.copy(folder / "sentence/bicycle/2008_001002txt", folder / "sentence/bicycle/2008_001002.txt")
    without = MODULES["pascal_sentences"](folder.parent).data
    assert without.names == with_points.names
    assert without.digest() == with_points.digest()


def test_folders_without_images_are_named(tree):
    folder = tree("pascal_sentences")
    for part in ("dataset", "sentence"):
        (folder / part).rename(folder / f"{part}-full")
        (folder / part).mkdir()
    assert "has no dataset/<class>/<image>.jpg" in refused("pascal_sentences", folder)
