"""Features that hold an image's row again beside each of its captions: in validation and test it counts once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from own_cases import joined, make_parts, save
from training import trainer

from datamodules import OwnData, Wikipedia
from datamodules.files.sources import data_root
from lightning_modules import JFSE
from lightning_modules.metrics import CrossModalRetrieval

IMAGES, CAPTIONS, TRAINED = 18, 3, 10
OWNER = np.repeat(np.arange(IMAGES), CAPTIONS)


def captions_file(tmp_path: Path, seed: int = 0, **changes: np.ndarray) -> tuple[Path, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((IMAGES, 4)).astype(np.float32)
    text = (image[OWNER] + rng.standard_normal((len(OWNER), 4))).astype(np.float32)
    split = np.where(OWNER < TRAINED, "train", "test")
    arrays = {"image": image[OWNER], "text": text, "label": OWNER, "split": split} | changes
    np.savez(tmp_path / "captions.npz", **arrays)
    return tmp_path / "captions.npz", arrays


def pairs(file: Path, **kwargs) -> OwnData:
    return OwnData(file, class_encoder="one-hot", **kwargs)


def scored(loader) -> tuple[dict[str, float], dict]:
    metric = CrossModalRetrieval([("image", "text"), ("text", "image")])
    for batch in loader:
        metric.update(
            {name: batch[name] for name in ("image", "text")}, batch["label"], batch["id"], batch.get("query")
        )
    return {name: float(value) for name, value in metric.compute().items()}, metric.sizes()


def test_each_image_counts_once_and_the_scores_are_those_of_one_row_per_image(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("datamodules.repeats.rank_zero_info", said.append)
    file, arrays = captions_file(tmp_path)
    data = pairs(file)
    found, sizes = scored(data.test_dataloader()[0])
    test = np.flatnonzero(arrays["split"] == "test")
    first = test[::CAPTIONS]
    metric = CrossModalRetrieval([("image", "text"), ("text", "image")])
    rows = {"image": arrays["image"][first], "text": arrays["text"][test]}
    metric.update(
        {name: torch.from_numpy(x) for name, x in rows.items()},
        {"image": torch.from_numpy(OWNER[first]), "text": torch.from_numpy(OWNER[test])},
        {"image": torch.from_numpy(first), "text": torch.from_numpy(test)},
    )
    assert found == {name: float(value) for name, value in metric.compute().items()}
    assert sizes == {"image->text": (8, 24), "text->image": (24, 8)}
    assert found["text->image/R@5"] > found["text->image/R@1"]
    assert len(said) == 1
    for part in ("captions.npz", "24 test rows of image", "8 different"):
        assert part in said[0]


def test_neither_modality_nor_order_of_the_rows_matters(tmp_path):
    file, arrays = captions_file(tmp_path)
    in_order = scored(pairs(file).test_dataloader()[0])
    order = np.random.default_rng(1).permutation(len(OWNER))
    np.savez(file, **{name: array[order] for name, array in arrays.items()})
    assert scored(pairs(file).test_dataloader()[0]) == in_order
    file, _ = captions_file(tmp_path, image=arrays["text"], text=arrays["image"])
    assert scored(pairs(file).test_dataloader()[0])[1] == {"image->text": (24, 8), "text->image": (8, 24)}


def test_models_and_zero_shot_parts_count_so(tmp_path):
    file, _ = captions_file(tmp_path, label=OWNER % 4)  # images of four classes
    sizes = {"image->text": (8, 24), "text->image": (24, 8)}
    data = pairs(file)
    model = JFSE(data.dims, width=4)
    trainer(tmp_path).test(model, datamodule=data, verbose=False)
    assert model.sizes["standard"] == sizes
    for loader, (images, queries) in zip(
        pairs(file, class_split="zero-shot").test_dataloader(), [(4, 4), (4, 4), (8, 4)], strict=True
    ):
        assert scored(loader)[1]["image->text"] == (queries, images * CAPTIONS)


def test_training_and_prediction_keep_every_row_and_validation_takes_whole_images(tmp_path):
    data = pairs(captions_file(tmp_path)[0], validation_fraction=0.2)
    (batch,) = data.predict_dataloader()
    assert batch["id"]["image"].tolist() == data.indices("standard").tolist()
    batch = next(iter(data.train_dataloader()))
    assert sorted(batch["id"].tolist()) == data.indices("train").tolist()
    validation = OWNER[data.indices("validation")]
    assert np.bincount(validation)[np.unique(validation)].tolist() == [CAPTIONS] * 2
    assert not set(validation) & set(OWNER[data.indices("train")])
    assert scored(data.val_dataloader())[1] == {"image->text": (2, 6), "text->image": (6, 2)}


def test_equal_rows_under_several_labels_are_counted_apart_and_warned_about(tmp_path):
    file, _ = captions_file(tmp_path, label=np.arange(len(OWNER)))
    with pytest.warns(UserWarning, match=r"captions\.npz.*24 test rows of image are 8 different .* one label"):
        (loader,) = pairs(file).test_dataloader()
    assert scored(loader)[1] == {"image->text": (24, 24), "text->image": (24, 24)}


def test_chance_repeats_count_apart(tmp_path):
    arrays = joined(make_parts())
    arrays["text"][::3] = 0  # no words known: a third of the texts of each class
    np.savez(tmp_path / "pairs.npz", **arrays)
    data = pairs(tmp_path / "pairs.npz", validation_fraction=0)
    (batch,) = data.test_dataloader()[0]
    assert batch["id"]["text"].tolist() == data.indices("standard").tolist()
    assert pairs(save(tmp_path), validation_fraction=0).repeated == ()


@pytest.mark.parametrize("features", ["sift-lda", "roph"])
def test_published_features_of_wikipedia_have_no_such_rows(features):
    if not (data_root(None) / "wikipedia").is_dir():
        pytest.skip("no wikipedia/ in CSD_DATA")
    assert Wikipedia(features=features, class_encoder="one-hot").repeated == ()
