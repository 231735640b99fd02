"""Features that hold an image's row again beside each of its captions: it counts once and stays in one part."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from own_cases import joined, make_parts, save
from real_data import needs
from training import trainer

from datamodules import OwnData, Wikipedia
from datamodules.repeats import samples_of_rows
from datamodules.splits import carve_validation
from lightning_modules import JFSE
from lightning_modules.metrics import CrossModalRetrieval

IMAGES, CAPTIONS, CLASSES = 40, 5, 8
OWNER = np.repeat(np.arange(IMAGES), CAPTIONS)
GIVEN = np.where(OWNER < 32, "train", "test")
ONCE = {"image->text": (8, 40), "text->image": (40, 8)}  # queries and gallery of the test part


def normal(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 3)).astype(np.float32)


IMAGE, TEXT = normal(IMAGES, 1)[OWNER], normal(len(OWNER), 2)


def pairs(tmp_path: Path, label, split=None, image=IMAGE, text=TEXT, seed: int = 0, **kwargs) -> OwnData:
    """Rows in random order, so that nothing depends on equal ones standing together."""
    order = np.random.default_rng(seed).permutation(len(label))
    arrays = {"image": image, "text": text, "label": label} | ({} if split is None else {"split": split})
    np.savez(tmp_path / "pairs.npz", **{name: array[order] for name, array in arrays.items()})
    return OwnData(tmp_path / "pairs.npz", class_encoder="one-hot", **kwargs)


def ids(data: OwnData, modality: str) -> int:
    ((batch,),) = data.test_dataloader()
    return len(batch["id"][modality].unique())


# In validation and test ---------------------------------------------------------------------------------------------


def scored(loader) -> tuple[dict[str, float], dict]:
    metric = CrossModalRetrieval([("image", "text"), ("text", "image")])
    for batch in loader:
        rows = {name: batch[name] for name in ("image", "text")}
        metric.update(rows, batch["label"], batch["id"], batch.get("query"))
    return {name: float(value) for name, value in metric.compute().items()}, metric.sizes()


def test_each_image_counts_once_and_the_scores_are_those_of_one_row_per_image(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("datamodules.repeats.rank_zero_info", said.append)
    data = pairs(tmp_path, OWNER, GIVEN)
    found, sizes = scored(data.test_dataloader()[0])
    test, label, vectors = data.indices("standard"), data.data.label, data.data.vectors
    first = test[np.unique(label[test], return_index=True)[1]]
    rows = {"image": first, "text": test}
    metric = CrossModalRetrieval([("image", "text"), ("text", "image")])
    metric.update(
        {name: torch.from_numpy(vectors[name][index]) for name, index in rows.items()},
        {name: torch.from_numpy(label[index]) for name, index in rows.items()},
        {name: torch.from_numpy(index) for name, index in rows.items()},
    )
    assert found == {name: float(value) for name, value in metric.compute().items()}
    assert sizes == ONCE
    assert len(said) == 1
    for part in ("pairs.npz", "40 test rows of image", "8 different"):
        assert part in said[0]


def test_neither_modality_nor_order_of_the_rows_matters(tmp_path):
    first, other = (scored(pairs(tmp_path, OWNER, GIVEN, seed=seed).test_dataloader()[0]) for seed in (0, 1))
    assert first == other
    exchanged = pairs(tmp_path, OWNER, GIVEN, image=TEXT, text=IMAGE)
    assert scored(exchanged.test_dataloader()[0])[1] == {"image->text": (40, 8), "text->image": (8, 40)}


def test_models_and_zero_shot_parts_count_so(tmp_path):
    data = pairs(tmp_path, OWNER % 4, GIVEN)  # images of four classes
    model = JFSE(data.dims, width=4)
    trainer(tmp_path).test(model, datamodule=data, verbose=False)
    assert model.sizes["standard"] == ONCE
    zero_shot = pairs(tmp_path, OWNER % 4, GIVEN, class_split="zero-shot")
    for loader, sizes in zip(zero_shot.test_dataloader(), [(4, 20), (4, 20), (4, 40)], strict=True):
        assert scored(loader)[1]["image->text"] == sizes


def test_training_and_prediction_keep_every_row_and_validation_takes_whole_images(tmp_path):
    data = pairs(tmp_path, OWNER, GIVEN, validation_fraction=0.25, batch_size=200)
    (batch,) = data.predict_dataloader()
    assert batch["id"]["image"].tolist() == data.indices("standard").tolist()
    batch = next(iter(data.train_dataloader()))
    assert sorted(batch["id"].tolist()) == data.indices("train").tolist()
    assert scored(data.val_dataloader())[1] == ONCE


def test_equal_rows_under_several_labels_are_counted_apart_and_warned_about(tmp_path):
    with pytest.warns(UserWarning, match=r"pairs\.npz.*40 test rows of image are 8 different .* one label"):
        (loader,) = pairs(tmp_path, np.arange(len(OWNER)), GIVEN).test_dataloader()
    assert scored(loader)[1] == {"image->text": (40, 40), "text->image": (40, 40)}


def test_chance_repeats_count_apart(tmp_path):
    arrays = joined(make_parts())
    arrays["text"][::3] = 0  # no words known: a third of the texts of each class
    np.savez(tmp_path / "pairs.npz", **arrays)
    data = OwnData(tmp_path / "pairs.npz", class_encoder="one-hot", validation_fraction=0)
    assert ids(data, "text") == len(data.indices("standard"))
    assert OwnData(save(tmp_path), class_encoder="one-hot", validation_fraction=0).repeated == ()


@needs("wikipedia")
@pytest.mark.parametrize("features", ["sift-lda", "roph"])
def test_published_features_of_wikipedia_have_no_such_rows(features):
    assert Wikipedia(features=features, class_encoder="one-hot").repeated == ()


# Where parts are drawn ----------------------------------------------------------------------------------------------


def images_of(data: OwnData, split: str, modality: str = "image") -> set[bytes]:
    return {row.tobytes() for row in data.data.vectors[modality][data.indices(split)]}


def sizes(data: OwnData) -> list[int]:
    """Rows in training, validation and test, then different images there, after no image was in two parts."""
    parts = ("train", "validation", "standard")
    found = [images_of(data, split) for split in parts]
    assert len(set.union(*found)) == sum(map(len, found))
    return [len(data.indices(split)) for split in parts] + [len(images) for images in found]


@pytest.mark.parametrize(
    ("label", "split"),
    [(OWNER % CLASSES, None), (OWNER, None), (OWNER % CLASSES, GIVEN)],
    ids=["classes", "a label for each image", "test items given"],
)
def test_test_and_validation_items_that_a_file_does_not_name_are_whole_images(tmp_path, label, split):
    data = pairs(tmp_path, label, split, validation_fraction=0.25)
    assert sizes(data) == [120, 40, 40, 24, 8, 8]
    assert ids(data, "image") == 8
    if label is not OWNER:
        for part in ("validation", "standard"):
            assert np.bincount(data.data.label[data.indices(part)]).tolist() == [CAPTIONS] * CLASSES


def test_images_of_several_classes_are_drawn_whole(tmp_path):
    label = np.eye(CLASSES, dtype=int)[OWNER % CLASSES] | np.eye(CLASSES, dtype=int)[(OWNER + 1) % CLASSES]
    found = sizes(pairs(tmp_path, label))
    assert found[:3] == [CAPTIONS * images for images in found[3:]]
    assert min(found) > 0


def test_texts_with_several_images_are_drawn_whole(tmp_path):
    data = pairs(tmp_path, OWNER % CLASSES, image=TEXT, text=IMAGE)
    assert not images_of(data, "train", "text") & images_of(data, "standard", "text")
    assert ids(data, "text") == 8


def test_a_class_of_one_training_image_stays_in_training(tmp_path):
    data = pairs(tmp_path, np.where(OWNER == 0, CLASSES, OWNER % CLASSES), GIVEN)
    assert data.data.class_names[-1] == "class 8"
    assert CLASSES in data.data.label[data.indices("train")]
    assert CLASSES not in data.data.label[data.indices("validation")]


@pytest.mark.parametrize("texts", [1, 40])
def test_files_without_repeats_draw_as_ever_and_nothing_is_said(tmp_path, texts):
    text = TEXT.copy()
    text[:texts] = 0  # up to 40 of 200 are empty, across all classes: no sign of one text
    data = pairs(tmp_path, np.arange(200) % CLASSES, image=normal(200, 1), text=text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if texts > 1 else "error")
        train, validation, test = (data.indices(name).tolist() for name in ("train", "validation", "standard"))
    rest, expected = carve_validation(data.data.label, np.arange(200), 0.2, 0)
    assert test == expected.tolist()
    assert [train, validation] == [part.tolist() for part in carve_validation(data.data.label, rest, 0.15, 0)]


# Classes that have one text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [False, True], ids=["drawn", "given"])
def test_texts_that_are_the_vector_of_their_class_count_and_are_drawn_apart(tmp_path, given):
    label = np.arange(200) % CLASSES
    split = np.where(np.arange(200) < 150, "train", "test") if given else None
    data = pairs(tmp_path, label, split, image=normal(200, 1), text=normal(CLASSES, 2)[label])
    with pytest.warns(UserWarning, match=r"pairs\.npz: the \d+ test rows of text are 8 different ones, one for each"):
        test = ids(data, "text")
    assert test == len(data.indices("standard")) >= 40
    for name in ("train", "validation", "standard"):
        assert len(np.unique(data.data.label[data.indices(name)])) == CLASSES


def test_class_vectors_beside_images_with_captions_count_apart(tmp_path):
    label = OWNER % CLASSES
    data = pairs(tmp_path, label, text=normal(CLASSES, 2)[label])
    assert sizes(data)[3:] == [24, 8, 8]
    assert (ids(data, "image"), ids(data, "text")) == (8, 40)


@pytest.mark.parametrize(
    ("rows", "trained", "repeated"),
    [(10, "others", True), (11, "others", False), (8, "the same texts", False), (8, "further texts", True)],
)
def test_texts_of_one_for_each_test_label_count_once_unless_the_label_looks_like_a_class(
    tmp_path, rows, trained, repeated
):
    label, more = np.repeat(np.arange(4), rows), np.arange(8) % 4 + 4 * (trained == "others")
    text = normal(8, 2)[np.r_[label, more]] + np.repeat([[0], [trained == "further texts"]], [len(label), 8], axis=0)
    split = np.repeat(["test", "train"], [len(label), 8])
    image = normal(len(split), 1)
    data = pairs(tmp_path, np.r_[label, more], split, image=image, text=text, validation_fraction=0)
    assert ids(data, "text") == (4 if repeated else 4 * rows)


@pytest.mark.parametrize(
    ("different", "given", "warned"), [(60, True, True), (89, True, True), (90, True, False), (60, False, True)]
)
def test_repeats_too_few_to_be_captions_are_warned_about(tmp_path, different, given, warned):
    first = np.r_[np.arange(different), np.arange(100 - different)]
    image, label = normal(different, 1)[first], first % 4
    if given:  # further items to train on
        image, label = np.r_[image, normal(20, 3)], np.r_[label, np.arange(20) % 4]
    split = np.repeat(["test", "train"], [100, 20]) if given else None
    data = pairs(tmp_path, label, split, image=image, text=normal(len(image), 2), validation_fraction=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.indices("standard")
        assert not given or ids(data, "image") == 100
    said = [str(warning.message) for warning in caught if "pairs.npz" in str(warning.message)]
    assert len(said) == warned
    for part in (f"100 {'test ' * given}rows of image", f"{different} different", "keep one pair of each"):
        assert all(part in message for message in said)


def test_rows_are_one_sample_by_way_of_others():
    image = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    text = np.array([5, 6, 6, 5, 7, 8, 8, 7])
    features = {"image": image[:, None], "text": text[:, None]}
    label = np.repeat([0, 1], 4)
    assert samples_of_rows(features, label, np.arange(8)).tolist() == [0] * 4 + [4] * 4
    assert samples_of_rows({"image": image[:, None]}, label, np.array([1, 2, 3, 0])).tolist() == [1, 2, 2, 1]
