"""Samples without a partner: those of a file, and those of training items whose pairing is not used."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from own_cases import make_parts, save
from small_models import Drawn, cs_aligner
from tiny_items import N, Tiny, with_modality
from training import trainer

from datamodules import DataError, OwnData, Synthetic
from datamodules.items import Modality
from datamodules.splits import split_paired
from lightning_modules import CSAligner

ALONE = np.random.default_rng(7).standard_normal((25, 4))


def pairs(folder, changes: dict[str, np.ndarray] | None = None, **settings) -> OwnData:
    """Nine training and six test pairs from a file with what is added to it; all nine are trained on."""
    given = {"class_encoder": "one-hot", "validation_fraction": 0.0, "batch_size": 9, **settings}
    folder.mkdir(exist_ok=True)
    return OwnData(save(folder, **(changes or {})), **given)


def one_epoch(folder, data: OwnData, unpaired: int) -> tuple[CSAligner, Drawn]:
    seen, module = Drawn(), cs_aligner(data, unpaired=unpaired, adapter={"name": "mlp", "dropout": 0.3})
    trainer(folder, callbacks=[seen], max_epochs=1, limit_val_batches=0).fit(module, data)
    return module, seen


def test_they_are_handed_out_with_the_items_that_stay_unpaired(tmp_path):
    data = pairs(tmp_path, {"unpaired_text": ALONE}, paired_fraction=0.5)
    freed = torch.from_numpy(data.data.vectors["text"][data.indices("unpaired")])
    rows, mask = data.unpaired_entries("text")
    assert mask is None
    assert rows.dtype == torch.float32
    assert len(freed) == 5
    assert torch.equal(rows, torch.cat([freed, torch.from_numpy(ALONE.astype(np.float32))]))
    assert len(data.unpaired_entries("image")[0]) == 5


def test_both_modalities_may_bring_them_in_numbers_of_their_own(tmp_path):
    data = pairs(tmp_path, {"unpaired_text": ALONE, "unpaired_image": np.ones((3, 5), dtype=int)})
    shapes = {name: tuple(data.unpaired_entries(name)[0].shape) for name in data.modalities}
    assert shapes == {"image": (3, 5), "text": (25, 4)}


def test_no_batch_and_no_statistic_holds_them(tmp_path):
    """What trains on pairs or is evaluated is that of the file without them."""
    with_them, without = pairs(tmp_path / "a", {"unpaired_text": ALONE}), pairs(tmp_path / "b")
    for split in ("train", "unpaired", "validation", "standard"):
        np.testing.assert_array_equal(with_them.indices(split), without.indices(split))
    for loader in ("train_dataloader", "predict_dataloader"):
        (one,), (other,) = getattr(with_them, loader)(), getattr(without, loader)()
        assert one.keys() == other.keys()
        assert one.pop("split", None) == other.pop("split", None)
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    for name in without.dims:
        assert torch.equal(with_them.train_entries(name)[0], without.train_entries(name)[0])


def test_they_train_cs_aligner_by_the_divergence_alone(tmp_path):
    """In units of the paired training items; the numbers that dropout draws for the pairs stay the same too."""
    module, with_them = one_epoch(tmp_path, pairs(tmp_path, {"unpaired_text": ALONE}), unpaired=6)
    _, without = one_epoch(tmp_path, pairs(tmp_path), unpaired=0)
    ((name, rows),) = with_them.unpaired
    assert name == "text"
    assert rows.shape == (6, 4)
    assert torch.equal(with_them.batches[0]["text"], without.batches[0]["text"])
    assert with_them.logged["train/alignment"] == without.logged["train/alignment"]
    assert with_them.logged["train/divergence"] != without.logged["train/divergence"]
    text = torch.from_numpy(make_parts()["train"]["text"])
    torch.testing.assert_close(module.encoders["text"].standardise.mean, text.mean(dim=0))


def test_the_digest_tells_them_apart(tmp_path):
    changes = {}, {"unpaired_text": ALONE}, {"unpaired_text": ALONE + 1}, {"unpaired_image": ALONE[:, [0, 1, 2, 3, 0]]}
    digests = {pairs(tmp_path / str(number), change).digest for number, change in enumerate(changes)}
    assert len(digests) == len(changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unpaired_text": np.zeros((3, 5))}, r"unpaired_text has shape \(3, 5\) .* shape \(rows, 4\)"),
        ({"unpaired_image": np.zeros((0, 5))}, "with a row or more"),
        ({"unpaired_image": np.zeros(5)}, "unpaired_image: holds float64 .* expected numbers of shape"),
        ({"unpaired_text": np.full((2, 4), np.nan)}, "unpaired_text .* 2 row.* NaN or infinite"),
        ({"unpaired_text": np.full((2, 4), 1e300)}, "unpaired_text .* 2 row.* NaN or infinite"),
        ({"unpaired_audio": np.zeros((3, 5))}, "unpaired samples of 'audio'; the vectors are image, text"),
        ({"text": ALONE}, "text has 25 rows but label has 15; .* without a partner go into unpaired_text"),
    ],
)
def test_samples_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=rf"pairs\.npz.*{message}"):
        pairs(tmp_path, changes).data  # noqa: B018


# Items whose pairing is not used -------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 5))
def test_it_divides_the_items_and_a_smaller_share_is_part_of_a_larger_one(count, first, second, seed):
    index = np.arange(count) * 3
    small, large = (split_paired(index, fraction, seed) for fraction in sorted((first, second)))
    for fraction, (paired, unpaired) in zip(sorted((first, second)), (small, large), strict=True):
        assert len(paired) == max(round(fraction * count), 1)
        np.testing.assert_array_equal(np.union1d(paired, unpaired), index)
        assert not np.intersect1d(paired, unpaired).size
    assert np.isin(small[0], large[0]).all()


@pytest.mark.parametrize("kind", [Synthetic, Tiny])
def test_training_batches_hold_the_paired_items_alone_and_evaluation_is_unchanged(kind):
    whole, part = kind(validation_fraction=0.25), kind(validation_fraction=0.25, paired_fraction=0.4)
    train = whole.indices("train")
    assert not whole.indices("unpaired").size
    assert len(part.indices("train")) == round(0.4 * len(train))
    np.testing.assert_array_equal(np.union1d(part.indices("train"), part.indices("unpaired")), train)
    for split in ("validation", *whole.test_splits):
        np.testing.assert_array_equal(part.indices(split), whole.indices(split))
    seen = torch.cat([batch["id"] for batch in part.train_dataloader()])
    assert set(seen.tolist()) <= set(part.indices("train").tolist())


def captions_of(data: Tiny, items: np.ndarray) -> list[str]:
    text = data.data.modalities["text"]
    return [text.entries[i] for i in np.flatnonzero(np.isin(text.owners(), items))]


@pytest.mark.parametrize("fraction", [0.4, 1.0])
def test_of_several_captions_all_those_of_training_items_are_unpaired_entries(fraction: float) -> None:
    """Of modalities with one entry per item, those of unpaired items alone."""
    data = Tiny(paired_fraction=fraction)
    train, unpaired = data.indices("train"), data.indices("unpaired")
    texts, mask = data.unpaired_entries("text")
    assert mask is None
    assert texts == captions_of(data, np.union1d(train, unpaired))
    assert len(texts) > len(train) + len(unpaired)
    steps, mask = data.unpaired_entries("motion")
    assert steps.shape[:2] == mask.shape
    assert len(steps) == len(unpaired) == len(data.unpaired_entries("code")[0])


def test_captions_of_items_with_one_each_are_unpaired_where_the_items_are() -> None:
    """Several captions of test items or of unpaired ones change nothing."""
    plain = Tiny(paired_fraction=0.4)
    owner = np.repeat(np.arange(N), np.where(np.isin(np.arange(N), plain.indices("train")), 1, 2))
    texts = Modality([f"caption {i} of item {item}" for i, item in enumerate(owner)], owner)
    data = Tiny(with_modality("text", texts), paired_fraction=0.4)
    np.testing.assert_array_equal(data.indices("train"), plain.indices("train"))
    assert data.unpaired_entries("text")[0] == captions_of(data, data.indices("unpaired"))
    for name in data.modalities:
        assert len(Tiny(with_modality("text", Modality(["one"] * N))).unpaired_entries(name)[0]) == 0, name
