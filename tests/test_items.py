"""Items of several modalities: what is missing, broken or refused, and the digests of all and of those learned from."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny_items import CAPTION_OWNER, N, Tiny, TinyPairs, epoch_of, feature_set, item_set, modalities, with_modality

from datamodules import DataError
from datamodules.files.media import read_image
from datamodules.items import Files, ItemSet, Modality

# What is missing or broken ------------------------------------------------------------------------------------------


def lacking() -> ItemSet:
    """Items 3 and 4 have no text, item 5 no motion."""
    kept = ~np.isin(CAPTION_OWNER, (3, 4))
    parts = modalities()
    rows = np.flatnonzero(np.arange(N) != 5)
    parts["text"] = Modality([t for t, k in zip(parts["text"].entries, kept, strict=True) if k], CAPTION_OWNER[kept])
    parts["motion"] = Modality([parts["motion"].entries[row] for row in rows], rows)
    return item_set(modalities=parts)


def test_missing_entries_are_refused_with_count_and_names():
    with pytest.raises(DataError, match="text is missing from 2: item-3, item-4; motion is missing from 1: item-5"):
        _ = Tiny(lacking()).data
    assert len(Tiny(lacking(), modalities=["motion", "code"], on_missing="drop").data) == N - 1
    assert len(Tiny(lacking(), modalities=["code", "text"], on_missing="drop").data) == N - 2


def test_missing_entries_are_dropped_with_a_warning_and_the_rest_is_unchanged():
    with pytest.warns(UserWarning, match=f"item-5; 3 of {N} items are left out"):
        data = Tiny(lacking(), on_missing="drop").data
    whole = item_set()
    kept = [i for i in range(N) if i not in (3, 4, 5)]
    assert data.names == [whole.names[i] for i in kept]
    np.testing.assert_array_equal(data.label, whole.label[kept])
    np.testing.assert_array_equal(data.group, whole.group[kept])
    np.testing.assert_array_equal(data.modalities["code"].entries, whole.modalities["code"].entries[kept])
    for text, owner in zip(data.modalities["text"].entries, data.modalities["text"].owners(), strict=True):
        assert text.endswith(f"of {data.names[owner].replace('-', ' ')}")


def test_a_modality_without_any_entry_is_missing_from_every_item():
    content = with_modality("motion", Modality([], np.arange(0)))
    with pytest.raises(DataError, match=r"motion is missing from 24: item-0.* and 14 more"):
        _ = Tiny(content).data
    with pytest.raises(DataError, match="no item is left"), pytest.warns(UserWarning, match="24 of 24"):
        _ = Tiny(content, on_missing="drop").data


@pytest.fixture
def pictures(tmp_path):
    """An item set with an image file per item; those of items 7 and 8 are truncated and no image. What was decoded."""
    paths, decoded = [tmp_path / f"{i}.png" for i in range(N)], []
    for i, path in enumerate(paths):
        Image.fromarray(np.full((4, 5, 3), i, dtype=np.uint8)).save(path)
    paths[7].write_bytes(paths[7].read_bytes()[:40])
    paths[8].write_text("no image")

    def decode(path):
        decoded.append(path)
        return read_image(path)

    return with_modality("image", Modality(Files(tuple(paths), decode))), decoded, paths


@pytest.mark.filterwarnings("ignore:.*is not a readable image")
def test_broken_files_are_refused_by_name(pictures):
    with pytest.raises(DataError, match=r"2 item\(s\) with a broken file: .*7\.png: .*Or set on_broken to 'drop'"):
        _ = Tiny(pictures[0]).data
    assert len(Tiny(pictures[0], modalities=["text", "code"]).data) == N, "what is not chosen does not matter"


def test_broken_files_are_dropped_each_with_a_warning_and_whole_files_are_checked_once(pictures, cache):
    content, decoded, paths = pictures
    with pytest.warns(UserWarning, match="is not a readable image") as warned:
        data = Tiny(content, on_broken="drop").data
    said = " ".join(str(w.message) for w in warned)
    assert all(str(path) in said for path in paths[7:9])
    assert data.names == [f"item-{i}" for i in range(N) if i not in (7, 8)]
    assert len(decoded) == N
    module = Tiny(content, on_broken="drop")
    with pytest.warns(UserWarning, match="is not a readable image"):
        assert len(module.data) == N - 2
    assert len(decoded) == N + 2, "the others are remembered"
    batch = epoch_of(module, 0)[0]
    for image, item in zip(batch["image"], batch["id"].tolist(), strict=True):
        assert (image == int(module.data.names[item].removeprefix("item-"))).all()


def test_a_reader_that_cannot_read_a_file_leaves_the_item_to_on_broken():
    def fails():
        raise DataError("clip.mat is broken.")

    class Failing(Tiny):
        def read(self) -> ItemSet:
            assert self.attempt("item-2", fails) is None
            assert self.attempt("item-3", int, "7") == 7
            return self.content

    with pytest.warns(UserWarning, match=r"clip.mat is broken"):
        data = Failing(on_broken="drop").data
    assert len(data) == N - 1
    assert "item-2" not in data.names
    with pytest.raises(DataError, match=r"1 item\(s\) with a broken file: clip.mat"), pytest.warns(match="clip.mat"):
        _ = Failing().data


# What an item set refuses -------------------------------------------------------------------------------------------

MOTION = modalities()["motion"].entries


def changed_motion(item: int, entry: np.ndarray) -> Modality:
    return Modality([entry if i == item else motion for i, motion in enumerate(MOTION)])


@pytest.mark.parametrize(
    ("name", "modality", "message"),
    [
        ("label", Modality(["a"] * N), "none of them called label, id"),
        ("masks", Modality(["a"] * N), "none of them called"),
        ("text", Modality(["a"] * 3 + [" \t"] + ["b"] * (N - 4)), "text of item item-3 is an empty text"),
        ("motion", changed_motion(2, np.zeros((0, 3))), "motion of item item-2 is of zero length"),
        ("motion", changed_motion(4, np.full((2, 3), np.nan)), "motion of item item-4 is NaN or infinite"),
        ("motion", changed_motion(6, np.zeros((2, 4))), r"item-6 has shape \(2, 4\); expected \(T, ...\) with \(3,\)"),
        ("code", Modality(np.where(np.eye(N, 4), np.inf, 0)), "code is NaN or infinite in 4 row.*item-0"),
        ("code", Modality(np.zeros((N, 4)), np.arange(N)[::-1]), "code has 24 entries and 24 owners; expected an own"),
        ("code", Modality(np.zeros((N, 4)), np.arange(N - 1)), "code has 24 entries and 23 owners"),
        ("code", Modality(np.zeros((N, 4)), np.arange(1, N + 1)), "code has an entry of item 24; there are 24 items"),
    ],
)
def test_modalities_that_cannot_be_used_are_refused(name, modality, message):
    with pytest.raises(DataError, match=f"tiny: .*{message}"):
        with_modality(name, modality)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"modalities": {"text": modalities()["text"]}}, "modalities are 'text'; expected two or more"),
        ({"label": np.arange(3)}, "row counts are .*'label': 3"),
        ({"split": np.full(N, "dev")}, "split 'dev' is unknown"),
        ({"names": ["same"] * N}, "two items are called 'same'"),
    ],
)
def test_item_sets_that_do_not_fit_together_are_refused(changed, message):
    with pytest.raises(DataError, match=message):
        item_set(**changed)


def test_unknown_modalities_are_refused():
    with pytest.raises(DataError, match="tiny has no modality 'sound'; it has text, motion, code"):
        _ = Tiny(modalities=["text", "sound"]).data
    assert Tiny(modalities=["code", "text"]).modalities == ("code", "text")


def test_digest_follows_contents_and_not_the_folder(tmp_path, pictures):
    content, _, paths = pictures
    digest = content.digest()
    moved = tmp_path / "moved"
    moved.mkdir()
    copies = tuple(moved / path.name for path in paths)
    for path, copy in zip(paths, copies, strict=True):
        copy.write_bytes(path.read_bytes())
    parts = content.modalities | {"image": Modality(Files(copies, read_image))}
    assert replace(content, modalities=parts).digest() == digest
    copies[0].write_bytes(copies[1].read_bytes())
    assert replace(content, modalities=parts).digest() != digest
    assert replace(content, group=np.arange(N)).digest() != digest
    assert replace(content, label=content.label + 1).digest() != digest


# The digest of what a model is trained on and chosen by --------------------------------------------------------------


def pairs(multi_hot: bool = False) -> ItemSet:
    """Rows 0, 1 and 2 are of training, validation and test; features of an image stand column by column."""
    data = feature_set(multi_hot, class_embedding=np.eye(7), unpaired={"text": np.ones((2, 3))})
    image = Modality(np.asfortranarray(data.vectors["image"]))
    split = np.array(["train", "validation", "test"])[np.arange(len(data)) % 3]
    return replace(data, modalities={**data.modalities, "image": image}, split=split)


def with_new_test_items(data: ItemSet) -> ItemSet:
    """Ten more test items, in front, of a class that no other item has and that is the first by name."""
    features = {name: np.concatenate([array[:10] + 1, array]) for name, array in data.vectors.items()}
    label = np.concatenate([np.zeros(10, dtype=int), data.label + 1]) if data.label.ndim == 1 else None
    if label is None:
        label = np.pad(data.label, ((10, 0), (1, 0)))
        label[:10, 0] = True
    split, names = np.concatenate([np.full(10, "test"), data.split]), ("0", *data.class_names)
    more = {"class_embedding": np.eye(8, 7, -1), "unpaired": data.unpaired}
    return ItemSet.of_features(features, label, split, names, data.origin, **more)


@pytest.mark.parametrize("fraction", [0, 0.15])
@pytest.mark.parametrize("multi_hot", [False, True])
def test_new_test_features_leave_it(multi_hot, fraction):
    data = pairs(multi_hot)
    before, after = (TinyPairs(x, validation_fraction=fraction) for x in (data, with_new_test_items(data)))
    assert before.learned_digest == after.learned_digest
    assert before.digest != after.digest


def changed(data: ItemSet, name: str, item: int) -> ItemSet:
    """Another first entry of an item, in a modality of texts or vectors; or another label."""
    if name == "label":
        label = data.label.copy()
        label[item] = (label[item] + 1) % 3
        return replace(data, label=label)
    modality = data.modalities[name]
    entry = int(np.flatnonzero(modality.owners() == item)[0])
    entries = modality.entries.copy()
    entries[entry] = "another" if name == "text" and modality.kind == "text" else entries[entry] + 1e-5
    return replace(data, modalities={**data.modalities, name: replace(modality, entries=entries)})


CHANGES = {
    **{f"{name} of a training row": (lambda x, n=name: changed(x, n, 0), True) for name in ("image", "label")},
    "image of a validation row": (lambda data: changed(data, "image", 1), True),
    **{f"{name} of a test row": (lambda x, n=name: changed(x, n, 2), False) for name in ("image", "label")},
    "training row into test": (lambda data: replace(data, split=np.array(["test", *data.split[1:]])), True),
    "test row into training": (lambda data: replace(data, split=np.array([*data.split[:-1], "train"])), True),
    "class name": (lambda data: replace(data, class_names=tuple("abcdefx")), True),
    "class vectors": (lambda data: replace(data, class_embedding=np.eye(7) * 2), True),
    "unpaired samples": (lambda data: replace(data, unpaired={"text": np.zeros((2, 3))}), True),
}


@pytest.mark.parametrize("case", CHANGES)
def test_it_follows_training_and_validation_features_alone(case):
    change, follows = CHANGES[case]
    before, after = (TinyPairs(data).learned_digest for data in (pairs(), change(pairs())))
    assert (before != after) == follows


def test_published_settings_choose_by_the_test_items_and_follow_them():
    before, after = (
        TinyPairs(x, protocol="as_published").learned_digest for x in (pairs(), with_new_test_items(pairs()))
    )
    assert before != after


@pytest.mark.parametrize(("name", "item", "follows"), [(n, i, i == 0) for n in ("text", "code") for i in (0, 2)])
def test_it_follows_the_entries_of_training_items_alone(name, item, follows):
    before, after = (Tiny(data).learned_digest for data in (item_set(), changed(item_set(), name, item)))
    assert (before != after) == follows


def with_pictures(folder, changed: int | None = None) -> ItemSet:
    folder.mkdir()
    data = item_set()
    paths = tuple(folder / f"{i}.png" for i in range(len(data)))
    for i, path in enumerate(paths):
        Image.new("L", (2, 2), 99 if i == changed else i).save(path)
    return replace(data, modalities={**data.modalities, "image": Modality(Files(paths, read_image))})


@pytest.mark.parametrize(("item", "follows"), [(None, False), (2, False), (0, True), (1, True)])
def test_it_follows_the_files_of_training_items_alone(item, follows, tmp_path):
    """Item 2 is a test item; the folder does not matter."""
    sets = with_pictures(tmp_path / "a"), with_pictures(tmp_path / "b", item)
    before, after = (Tiny(data).learned_digest for data in sets)
    assert (before != after) == follows


def test_a_test_item_less_leaves_it_and_a_training_item_less_does_not():
    data = item_set()
    digests = [Tiny(d).learned_digest for d in (data, data.without({"item-2"}), data.without({"item-1"}))]
    assert digests[0] == digests[1] != digests[2]
