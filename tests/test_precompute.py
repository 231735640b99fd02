"""Between a model and its data before a Trainer runs: what front ends return, kept on disk, and statistics."""

import time
from concurrent.futures import ThreadPoolExecutor

import lightning as L
import numpy as np
import pytest
from PIL import Image
from tiny_items import CAPTION_OWNER, Tiny, epoch_of, modalities

from datamodules import DataError, Synthetic
from datamodules.features.precompute import precompute
from datamodules.files.cache import kept_arrays
from datamodules.files.media import broken_files, read_image
from datamodules.items import Files, ItemSet, Modality
from lightning_modules import JFSE, LAVIMO, prepare


class Numbers:
    """A front end that counts its calls: the numbers in a text as a vector, or as a sequence where they are whole."""

    def __init__(self, key: str = "numbers 1", dtype: type = float) -> None:
        self.key, self.dtype, self.calls = f"{key} {dtype.__name__}", dtype, 0

    def __call__(self, entries, rate) -> list[np.ndarray]:
        self.calls += 1
        return [np.array([self.dtype(word) for word in entry.split() if word.isdigit()]) for entry in entries]


@pytest.mark.parametrize("dtype", [float, int])
def test_derived_entries_are_kept_on_disk(cache, dtype):
    text, front_end = modalities()["text"], Numbers(dtype=dtype)
    first, second = precompute(text, front_end), precompute(text, front_end)
    assert front_end.calls == 1
    assert first.kind == second.kind == ("vector" if dtype is float else "sequence")
    for a, b, entry in zip(first.entries, second.entries, front_end(text.entries, None), strict=True):
        np.testing.assert_array_equal(a, entry)
        np.testing.assert_array_equal(b, entry)
        assert a.dtype == b.dtype
    np.testing.assert_array_equal(second.owners(), text.owners())
    assert [path.suffix for path in cache.iterdir()] == [".npz"]


def test_another_key_or_other_entries_are_computed_anew(cache):
    text, front_end, other = modalities()["text"], Numbers(), Numbers("numbers 2")
    precompute(text, front_end)
    precompute(text, other)
    precompute(Modality([*text.entries[:-1], "caption 99 of item 99"], text.owner), front_end)
    assert (front_end.calls, other.calls, len(list(cache.iterdir()))) == (2, 1, 3)


@pytest.mark.parametrize("keep", [0, 20, 0.5, -1])
def test_a_damaged_cache_is_computed_again_with_a_warning(cache, keep):
    text, front_end = modalities()["text"], Numbers()
    expected = precompute(text, front_end).entries
    (path,) = cache.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.warns(UserWarning, match="is damaged: its content is computed again"):
        np.testing.assert_array_equal(precompute(text, front_end).entries, expected)
    assert front_end.calls == 2
    precompute(text, front_end)
    assert front_end.calls == 2, "the new file is whole"


def test_a_front_end_that_returns_nan_is_refused_and_nothing_is_kept(cache):
    def broken(entries, rate):
        return [np.array([np.nan]) for _ in entries]

    broken.key = "broken 1"
    with pytest.raises(DataError, match="broken returns NaN or infinite values"):
        precompute(modalities()["text"], broken)
    assert not list(cache.iterdir())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_broken_file_is_named_where_it_is_and_the_others_are_decoded_once(tmp_path):
    decoded = []

    def decode(path):
        decoded.append(path.name)
        return read_image(path)

    for name in ("first", "second"):
        whole, broken = tmp_path / name / "whole.png", tmp_path / name / "broken.png"
        whole.parent.mkdir()
        Image.new("RGB", (4, 4)).save(whole)
        broken.write_text("no image")
        modalities = {"image": Modality(Files((whole, broken), decode)), "text": Modality(["a", "b"])}
        data = ItemSet(modalities, np.arange(2), np.array(["train", "test"]), ["one", "two"], "tiny")
        ((item, fault),) = broken_files(data).items()
        assert item == "two"
        assert fault.startswith(f"{broken}: is not a readable image")
    assert sorted(decoded) == ["broken.png", "broken.png", "whole.png"]


def test_derived_entries_take_the_modalitys_place_in_batches():
    module = Tiny()
    module.precompute({"text": Numbers()})
    for epoch in range(3):
        for batch in epoch_of(module, epoch):
            np.testing.assert_array_equal(CAPTION_OWNER[batch["text"][:, 0].long()], batch["id"])
    (evaluated,) = module.test_dataloader()
    batch = next(iter(evaluated))
    np.testing.assert_array_equal(
        batch["text"][:, 0], np.flatnonzero(np.isin(CAPTION_OWNER, module.indices("standard")))
    )


# What a model sees of its data ---------------------------------------------------------------------------------------


ENCODERS = {"text": {"name": "characters", "width": 8}}


def quiet() -> L.Trainer:
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return L.Trainer(max_epochs=1, accelerator="cpu", **dict.fromkeys(off, False))


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_model_that_has_not_seen_its_data_is_refused_with_the_call_to_make(command):
    data = Synthetic(classes=3, items=60, class_encoder="one-hot")
    model = JFSE(data.dims, width=4)
    with pytest.raises(RuntimeError, match=rf"prepare\(model, data.*before Trainer\.{command}"):
        getattr(quiet(), command)(model, data)
    if command == "fit":  # nor trained where it was prepared to be scored
        prepare(model, data, fit=False)
        assert not model.image_mean.any()
        with pytest.raises(RuntimeError, match="prepare"):
            quiet().fit(model, data)


def test_batches_hold_what_the_frozen_parts_return_and_statistics_those_of_training_items():
    data = Tiny()
    model = LAVIMO(data.dims, encoders=ENCODERS)
    assert isinstance(next(iter(data.train_dataloader()))["text"], list)
    prepare(model, data)
    assert next(iter(data.train_dataloader()))["text"].ndim == 2
    rows = data.data.modalities["code"].entries[data.indices("train")]
    np.testing.assert_allclose(model.encoders["code"].standardise.mean, rows.mean(axis=0), atol=1e-6)


def test_of_several_that_want_the_same_arrays_one_computes_them(cache):
    calls = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        time.sleep(0.2)
        return {"x": np.arange(3)}

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: kept_arrays("same", compute)["x"].tolist(), range(4)))
    assert found == [[0, 1, 2]] * 4
    assert len(calls) == 1
    assert [path.name for path in cache.iterdir()] == ["same.npz"]
