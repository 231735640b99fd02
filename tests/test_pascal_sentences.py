"""Pascal Sentences on a tiny tree in the layout of its downloader: items, and the split that is drawn."""

import shutil

import numpy as np
from check_cases import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_trees import PASCAL_CLASSES, PASCAL_IMAGES

from datamodules import PascalSentences
from datamodules.datasets.pascal_sentences import draw_split


def test_an_image_has_five_sentences_and_the_class_of_its_folder(tree):
    folder = tree("pascal_sentences")
    module = PascalSentences(folder.parent)
    data = module.data
    assert len(data) == len(PASCAL_CLASSES) * PASCAL_IMAGES
    for c, category in enumerate(PASCAL_CLASSES):
        assert all(name.startswith(f"{category}/") for name in np.array(data.names)[data.label == c])
    text = data.modalities["text"]
    assert np.bincount(text.owners()).tolist() == [5] * len(data)
    for k, (owner, sentence) in enumerate(zip(text.owners(), text.entries, strict=True)):
        category, image = data.names[owner].split("/")
        assert sentence == f"Sentence {k % 5} of {image}, a {category}."
    assert [path.stem for path in data.modalities["image"].entries.paths] == [n.split("/")[1] for n in data.names]


def test_the_published_sizes_are_800_100_and_100_forty_five_and_five_of_every_class():
    split = draw_split(np.repeat(np.arange(20), 50), seed=3)
    for c in range(20):
        part = split[50 * c : 50 * c + 50].tolist()
        assert [part.count(name) for name in ("train", "validation", "test")] == [40, 5, 5]


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(3, 60), min_size=1, max_size=5), seed=st.integers(0, 9))
def test_every_class_has_items_in_every_part_and_other_classes_do_not_move_them(sizes, seed):
    label = np.repeat(np.arange(len(sizes)), sizes)
    split = draw_split(label, seed)
    for c in range(len(sizes)):
        assert set(split[label == c]) == {"train", "validation", "test"}
    first = label == 0
    np.testing.assert_array_equal(draw_split(label[first], seed), split[first])


def test_the_seed_draws_the_split(tree):
    folder = tree("pascal_sentences")
    parts = []
    for seed in (0, 0, 1):
        module = PascalSentences(folder.parent, split_seed=seed, modalities=["text", "image"])
        parts.append({name: module.indices(name).tolist() for name in ("train", "validation", "drawn")})
        assert [len(part) for part in parts[-1].values()] == [48, 6, 6]
    assert parts[0] == parts[1] != parts[2]


def test_sentence_files_may_lack_the_point_as_the_downloader_names_them(tree):
    folder = tree("pascal_sentences")
    with_points = PascalSentences(folder.parent).data
    for path in list((folder / "sentence").rglob("*.txt")):
        path.rename(path.with_name(f"{path.stem}txt"))
    # As after a download over an older copy: read once.
    shutil.copy(folder / "sentence/bicycle/2008_001002txt", folder / "sentence/bicycle/2008_001002.txt")
    without = PascalSentences(folder.parent).data
    assert without.names == with_points.names
    assert without.digest() == with_points.digest()


def test_folders_without_images_are_named(tree):
    folder = tree("pascal_sentences")
    for part in ("dataset", "sentence"):
        (folder / part).rename(folder / f"{part}-full")
        (folder / part).mkdir()
    assert "has no dataset/<class>/<image>.jpg" in refused("pascal_sentences", folder)
