"""One run: what its key depends on, what it trains and evaluates on, and how it is kept."""

import copy
import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_clip import write_clip

from datamodules.features import texts as text_features
from lightning_modules.metrics.modality_gap import BY_CHANCE, GAP_METRICS, modality_gap
from reproduce.runs import machine
from reproduce.runs.config import Config, build_data
from reproduce.runs.store import RunResult, RunStore, Score, run_key
from reproduce.runs.training import run, text_vectors

DIRECTIONS = ("image->text", "text->image", "average")
LINEAR = {"CCA": {"components": 2}, "SemanticMatching": {"C": 1.0}}


def write_pairs(folder: Path, items: int = 80, test_shift: float = 0.0) -> None:
    """Easy image-text features of four classes, every fifth item a test item, whose features may be shifted."""
    rng = np.random.default_rng(0)
    label = np.arange(items) % 4
    split = np.where(np.arange(items) % 5 == 4, "test", "train")
    arrays = {}
    for name, width in (("image", 6), ("text", 5)):
        arrays[name] = rng.standard_normal((4, width))[label] + rng.standard_normal((items, width))
        arrays[name][split == "test"] += test_shift * rng.standard_normal(((split == "test").sum(), width))
    folder.mkdir(parents=True)
    np.savez(folder / "pairs.npz", label=label, split=split, **arrays)


def config_of(model: str = "JFSE", evaluate: str = "test", loss: dict | None = None, **data: object) -> Config:
    """Configuration of a run on the features of `write_pairs`."""
    init_args = {"dataset": "tiny", "class_encoder": "one-hot", "batch_size": 16}
    init_args |= {"validation_fraction": 0.25 if evaluate == "validation" else 0.0}
    arguments = LINEAR.get(model) or {"width": 8, **({"alignment": loss} if loss else {})}
    path = f"reproduce.runs.baselines.{model}" if model in LINEAR else model
    trainer = {"max_epochs": 1, "limit_train_batches": 0} if model in LINEAR else {"max_epochs": 1}
    return {
        "seed_everything": 0,
        "model": {"class_path": path, "init_args": arguments},
        "data": {"class_path": "OwnData", "init_args": init_args | data},
        "trainer": trainer,
        "evaluate": {"on": evaluate, "galleries": []},
    }


CS = config_of(loss={"class_path": "losses.CSLoss", "init_args": {"temperature": 0.2}})
CONFIGS = {"CCA": config_of("CCA"), "SemanticMatching": config_of("SemanticMatching"), "JFSE": config_of(), "CS": CS}
RESULT = RunResult([Score("standard", "full", "average", "MAP", "all", 0.1 + 0.2)], 1.0, "cpu", "0f", "2")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_pairs(folder / "tiny")
    return folder


def _key(config: Config, root: Path) -> str:
    return run_key(config, build_data(config, str(root)).digest)


def _value(result: RunResult, direction: str, split: str | None = None) -> float:
    wanted = (split or result.splits[0], "full", direction, "MAP")
    return next(score.value for score in result.scores if score[:4] == wanted)


# The key ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        ("seed_everything",),
        ("trainer", "max_epochs"),
        ("evaluate", "on"),
        ("model", "init_args", "width"),
        ("model", "init_args", "alignment", "init_args", "temperature"),
        ("data", "init_args", "batch_size"),
    ],
)
def test_the_key_changes_with_every_setting(path):
    other = copy.deepcopy(CS)
    *way, last = path
    entry = other
    for key in way:
        entry = entry[key]
    entry[last] = "validation" if last == "on" else entry[last] / 2 + 1 / 16
    assert run_key(other, "") != run_key(CS, "")


def test_the_key_changes_with_the_contents_of_the_data_and_not_with_their_place(root, tmp_path):
    shutil.copytree(root / "tiny", tmp_path / "moved" / "tiny")
    assert _key(CS, root) == _key(CS, tmp_path / "moved")
    write_pairs(tmp_path / "other" / "tiny", test_shift=1e-3)
    assert _key(CS, root) != _key(CS, tmp_path / "other")


def test_the_key_changes_with_the_version_of_a_package_and_not_with_the_order_of_settings(monkeypatch):
    before = run_key(CS, "")
    backwards = json.loads(json.dumps(CS), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    assert list(backwards) != list(CS)
    assert run_key(backwards, "") == before
    monkeypatch.setitem(machine.VERSIONS, "losses", 1000)
    assert run_key(CS, "") != before


def test_the_key_changes_with_the_weights_that_an_encoder_names(tmp_path):
    def keys(seed: int) -> list[str]:
        text_features._folder_hash.cache_clear()
        folder, weights = write_clip(tmp_path / "clip", seed), tmp_path / "weights.pt"
        torch.save(torch.tensor(seed), weights)
        encoders = [{"name": "clip", "model": str(folder)}, {"name": "timm", "weights": str(weights)}]
        return [run_key({"model": {"init_args": {"encoders": {"image": one}}}}, "") for one in encoders]

    first, same, other = keys(0), keys(0), keys(1)
    assert first == same
    assert not set(first) & set(other)


# Training and evaluating --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_gives_scores_sizes_and_the_average_precision_of_every_query(name, root):
    result = run(CONFIGS[name], str(root))
    assert result.splits == ["standard"]
    found = {s.direction: s for s in result.scores if s.metric == "MAP"}
    assert set(found) == set(DIRECTIONS)
    assert [found[d][-2:] for d in DIRECTIONS] == [(16, 16), (16, 16), (None, None)]
    assert found["average"].value == pytest.approx((found["image->text"].value + found["text->image"].value) / 2)
    for direction in DIRECTIONS[:2]:
        items, precisions = result.per_query["standard", direction]
        assert precisions.mean() == pytest.approx(found[direction].value, abs=1e-12)
        np.testing.assert_array_equal(items, np.arange(4, 80, 5))
    assert ("seconds/epoch" in {s.metric for s in result.scores}) == (name not in LINEAR)
    assert str(root) not in json.dumps([CONFIGS[name], asdict(replace(result, arrays={}))])


@pytest.mark.parametrize("name", ["SemanticMatching", "CS"])
def test_a_run_gives_the_same_numbers_again(name, root):
    first = run(CONFIGS[name], str(root))
    torch.rand(7)  # whatever ran between
    assert _value(run(CONFIGS[name], str(root)), "average") == _value(first, "average")


@pytest.mark.parametrize("name", ["CCA", "JFSE"])
def test_a_trial_never_sees_test_items_and_holds_its_validation_items_out(name, root, tmp_path):
    write_pairs(tmp_path / "tiny", test_shift=5.0)
    trial, final = config_of(name, evaluate="validation"), config_of(name)
    here, there = (run(trial, str(place)) for place in (root, tmp_path))
    assert here.splits == ["validation"]
    assert _value(here, "average") == _value(there, "average") == here.mean_average_precision()
    assert _value(run(final, str(root)), "average") != _value(run(final, str(tmp_path)), "average")
    parts = [build_data(config, str(root)).indices("train") for config in (trial, final)]
    assert [len(part) for part in parts] == [48, 64]


@pytest.mark.parametrize("epochs", [1, 2])
def test_as_published_chooses_its_epoch_on_the_test_items(epochs, root):
    config = config_of(protocol="as_published")
    config["model"]["init_args"]["protocol"] = "as_published"
    config["trainer"] = {"max_epochs": epochs, "check_val_every_n_epoch": epochs}
    result = run(config, str(root))
    assert result.splits == ["standard"]
    means = [result.per_query["standard", direction][1].mean() for direction in DIRECTIONS[:2]]
    assert math.isfinite(_value(result, "average"))
    assert _value(result, "average") == pytest.approx(np.mean(means), abs=1e-12)


def test_the_gap_between_modalities_is_measured_where_it_is_asked_for(root):
    plain, measured = (
        run({**CS, "evaluate": {**CS["evaluate"], **more}}, str(root)) for more in ({}, {"modality_gap": True})
    )
    gap = {score.metric: score.value for score in measured.scores if score.metric in (*GAP_METRICS, *BY_CHANCE)}
    assert not {score.metric for score in plain.scores} & set(gap)
    assert _value(measured, "average") == _value(plain, "average")
    rows = {name: measured.arrays[name] for name in ("image", "text")}
    assert gap == modality_gap(rows, {name: measured.arrays[f"item/{name}"] for name in rows})


def test_equal_texts_have_equal_vectors_in_whatever_batch_they_are_embedded():
    texts = [f"{'a person ' * (place % 7)}waves {place % 27}" for place in range(430)]
    vectors = text_vectors(texts)
    assert len(torch.unique(vectors, dim=0)) == len(set(texts))
    assert torch.equal(vectors[0], vectors[27 * 7])
    np.testing.assert_allclose(vectors.norm(dim=1), 1, atol=1e-6)


# The store ----------------------------------------------------------------------------------------------------------


def test_a_store_gives_back_what_it_was_given_and_misses_a_run_without_its_arrays(tmp_path):
    store = RunStore(tmp_path / "new")
    assert store.load("key") is None
    result = replace(RESULT, arrays={"AP/standard/image->text": np.array([0.25, 1.0])}, curve=[(5, 0.5)])
    store.save("key", CS, result)
    assert store.load("key").scores == RESULT.scores
    assert not store.load("key").arrays
    kept = store.load("key", arrays=True)
    np.testing.assert_array_equal(kept.arrays["AP/standard/image->text"], [0.25, 1.0])
    assert json.loads((store.folder / "key.json").read_text())["config"] == CS
    (store.folder / "key.npz").unlink()
    assert store.load("key") is None
