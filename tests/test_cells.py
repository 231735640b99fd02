"""One cell: what its hash depends on, what it trains and evaluates on, and how it is kept."""

from __future__ import annotations

import ast
import copy
import inspect
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_clip import write_clip

import datamodules
import lightning_modules
import losses
from datamodules.features import texts as text_features
from lightning_modules.metrics import CrossModalRetrieval
from lightning_modules.metrics.modality_gap import BY_CHANCE, GAP_METRICS, modality_gap
from reproduce.baselines import LinearCCA
from reproduce.cells import PACKAGES, CellStore, Config, build_data, cell_hash, run_cell, source_files, text_vectors

HOME = Path(inspect.getfile(losses)).parents[1]
DIRECTIONS = ("image->text", "text->image", "average")


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


def _config(model: str = "JFSE", alignment: dict | None = None, evaluate: str = "test", **data: object) -> Config:
    """Configuration of a cell on the features of `write_pairs`."""
    arguments = {"width": 8} if model == "JFSE" else {"CCA": {"components": 2}, "semantic matching": {"C": 1.0}}[model]
    init_args = {"dataset": "tiny", "class_encoder": "one-hot", "batch_size": 16}
    init_args |= {"validation_fraction": 0.25 if evaluate == "validation" else 0.0}
    return {
        "data": {"class_path": "FeaturePairs", "init_args": init_args | data},
        "model": {"class_path": model, "init_args": arguments, "alignment": alignment},
        "max_epochs": 1 if model == "JFSE" else None,
        "seed": 0,
        "evaluate": evaluate,
    }


CS = _config(alignment={"name": "cs", "temperature": 0.2})
MODELS = [_config("CCA"), _config("semantic matching"), _config(), CS]
NAMES = ["CCA", "semantic matching", "JFSE", "JFSE + CS"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_pairs(folder / "tiny")
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums in another order round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _key(config: Config, root: Path) -> str:
    return cell_hash(config, build_data(config, str(root)).digest)


# The hash ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        ("seed",),
        ("max_epochs",),
        ("evaluate",),
        ("model", "init_args", "width"),
        ("model", "alignment", "temperature"),
        ("data", "init_args", "batch_size"),
        ("data", "init_args", "validation_fraction"),
    ],
)
def test_the_hash_changes_with_every_setting(root: Path, path: tuple[str, ...]) -> None:
    other = copy.deepcopy(CS)
    *way, last = path
    entry = other
    for key in way:
        entry = entry[key]
    entry[last] = "validation" if last == "evaluate" else entry[last] / 2 + 1 / 16
    digest = build_data(CS, str(root)).digest
    assert cell_hash(other, digest) != cell_hash(CS, digest)


def test_the_hash_changes_with_the_contents_of_the_data_and_not_with_their_place(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "tiny", tmp_path / "moved" / "tiny")
    assert _key(CS, root) == _key(CS, tmp_path / "moved")
    write_pairs(tmp_path / "other" / "tiny", test_shift=1e-3)
    assert _key(CS, root) != _key(CS, tmp_path / "other")


def test_the_hash_changes_with_the_weights_that_an_encoder_names(tmp_path: Path) -> None:
    def hashed(seed: int) -> list[str]:
        text_features._folder_hash.cache_clear()
        folder, weights = write_clip(tmp_path / "clip", seed), tmp_path / "weights.pt"
        torch.save(torch.tensor(seed), weights)
        encoders = [{"name": "clip", "model": str(folder)}, {"name": "timm", "weights": str(weights)}]
        model = {"class_path": "CSAligner", "alignment": None}
        models = [{**model, "init_args": {"encoders": {"image": one}}} for one in encoders]
        return [cell_hash({"data": {"class_path": "Synthetic"}, "model": one}, "") for one in models]

    first, same, other = hashed(0), hashed(0), hashed(1)
    assert first == same
    assert not set(first) & set(other)


def test_the_hash_does_not_change_with_the_order_of_settings(root: Path) -> None:
    backwards = json.loads(json.dumps(CS), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    assert list(backwards) != list(CS)
    assert _key(backwards, root) == _key(CS, root)


HASHES = """
import json, sys
from pathlib import Path
from reproduce import cells

config, files = json.loads(sys.argv[1]), json.loads(sys.argv[2])
home = Path(cells.__file__).parents[1]
changing = []
before = cells.cell_hash(config, "")
for name in files:
    text = (home / name).read_bytes()
    (home / name).write_bytes(text + b"# a change\\n")
    cells._digest.cache_clear()
    if cells.cell_hash(config, "") != before:
        changing.append(name)
    (home / name).write_bytes(text)
print(json.dumps([str(home), changing]))
"""


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files of a copy of the suite that change the hash of a JFSE + CS cell when they are edited."""
    copied = tmp_path_factory.mktemp("suite")
    for package in PACKAGES:
        shutil.copytree(HOME / package, copied / package, ignore=shutil.ignore_patterns("__pycache__"))
    files = sorted(str(p.relative_to(copied)) for p in copied.rglob("*.py"))
    process = subprocess.run(
        [sys.executable, "-c", HASHES, json.dumps(CS), json.dumps(files)],
        cwd=copied,
        env={**os.environ, "PYTHONPATH": str(copied)},
        capture_output=True,
        text=True,
        check=True,
    )
    home, changing = json.loads(process.stdout)
    assert Path(home) == copied
    return set(changing)


def test_the_hash_changes_with_every_file_the_cell_uses(changing: set[str]) -> None:
    assert {"losses/cs.py", "losses/divergence.py", "losses/matching.py", "losses/base.py"} <= changing
    assert {"lightning_modules/jfse.py", "lightning_modules/base.py"} <= changing
    assert "lightning_modules/networks/adversarial.py" in changing
    assert {f"lightning_modules/metrics/{name}.py" for name in ("retrieval", "ranking", "protocol")} <= changing
    read = ("retrieval_data", "paired_features", "batches", "splits", "datasets/feature_pairs", "files/feature_files")
    assert {f"datamodules/{name}.py" for name in read} <= changing
    assert "reproduce/cells.py" in changing


def test_the_hash_does_not_change_with_files_the_cell_does_not_use(changing: set[str]) -> None:
    unrelated = {f"losses/{name}.py" for name in ("mmd", "coral", "kl", "gcs", "infonce", "pairwise")}
    unrelated |= {f"reproduce/{name}.py" for name in ("report", "render", "compare", "published", "__main__")}
    unrelated |= {f"reproduce/{name}.py" for name in ("schema", "spec", "runner", "sweep_figure")}
    assert not unrelated & changing


def _roots(loss: type, model: type) -> list[object]:
    return [datamodules.FeaturePairs, CrossModalRetrieval, run_cell, model, loss]


@pytest.mark.parametrize("model", [lightning_modules.JFSE, LinearCCA])
@pytest.mark.parametrize("loss", [losses.CSLoss, losses.MMDLoss, losses.CMPMKLLoss, losses.CORALLoss, losses.GCSLoss])
def test_source_files_are_closed_under_import(loss: type, model: type) -> None:
    """Whatever a listed file imports from the suite by name is defined in a listed file."""
    files = set(source_files(_roots(loss, model)))
    for root in (loss, model):
        assert Path(inspect.getfile(root)) in files
    for file in files:
        for module, name in _imports(file):
            value = getattr(sys.modules[module], name)
            if not inspect.ismodule(value):
                defined = getattr(value, "__module__", None) or module
                defined = defined if defined.split(".")[0] in PACKAGES else module  # an alias of another's type
                assert Path(sys.modules[defined].__file__) in files, f"{file} imports {name} from {module}"


def _imports(file: Path) -> list[tuple[str, str]]:
    nodes = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    if file.name == "__init__.py" or file.parent.name == "reproduce":  # these name every model: a cell uses one
        return []
    nodes = [node for node in nodes if (node.module or "").split(".")[0] in PACKAGES]
    return [(node.module, alias.name) for node in nodes for alias in node.names]


def test_the_hash_of_a_pairwise_loss_changes_with_the_loss_it_sums(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[list[Path]] = []

    def recorded(roots: list[object]) -> list[Path]:
        listed.append(source_files(roots))
        return listed[-1]

    monkeypatch.setattr("reproduce.cells.source_files", recorded)
    _key(_config(alignment={"name": "pairwise", "divergence": "mmd"}), root)
    assert {"pairwise.py", "mmd.py"} <= {path.name for path in listed[0]}


# Training and evaluating -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", MODELS, ids=NAMES)
def test_a_cell_gives_scores_of_every_direction_and_the_sizes(config: Config, root: Path) -> None:
    result = run_cell(config, str(root))
    assert set(result["scores"]) == {"standard"}
    scores = result["scores"]["standard"]
    assert all(0 <= scores[f"{direction}/MAP"] <= 1 for direction in DIRECTIONS)
    mean = (scores["image->text/MAP"] + scores["text->image/MAP"]) / 2
    assert scores["average/MAP"] == pytest.approx(mean, abs=1e-6)
    assert {name: tuple(size) for name, size in result["sizes"]["standard"].items()} == {
        "image->text": (16, 16),
        "text->image": (16, 16),
    }
    assert result["train_seconds"] >= 0
    assert str(root) not in json.dumps([config, {**result, "arrays": sorted(result["arrays"])}])


@pytest.mark.parametrize("config", [_config("semantic matching"), CS], ids=["semantic matching", "JFSE + CS"])
def test_a_cell_gives_the_same_numbers_again(config: Config, root: Path) -> None:
    first = run_cell(config, str(root))["scores"]
    torch.rand(7)  # whatever ran between
    assert run_cell(config, str(root))["scores"] == first


def _scores(config: Config, root: Path) -> dict:
    return run_cell(config, str(root))["scores"]


@pytest.mark.parametrize("name", ["CCA", "semantic matching", "JFSE"])
def test_a_trial_never_sees_test_items(name: str, root: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "tiny", test_shift=5.0)
    trial, final = _config(name, evaluate="validation"), _config(name)
    assert set(_scores(trial, root)) == {"validation"}
    assert _scores(trial, root) == _scores(trial, tmp_path)
    assert _scores(final, root) != _scores(final, tmp_path)


def test_a_trial_holds_its_validation_items_out_and_the_final_cell_trains_on_them(root: Path) -> None:
    trial = run_cell(_config("CCA", evaluate="validation"), str(root))
    assert tuple(trial["sizes"]["validation"]["image->text"]) == (16, 16)
    parts = {
        evaluate: build_data(_config(evaluate=evaluate), str(root)).indices("train")
        for evaluate in ("validation", "test")
    }
    assert (len(parts["validation"]), len(parts["test"])) == (48, 64)


def test_the_zero_shot_classes_follow_the_seed(root: Path) -> None:
    results = [
        run_cell(_config("CCA", class_split="zero-shot", class_seed=seed), str(root)) for seed in (0, 1, 2, 3, 0)
    ]
    assert all(set(result["scores"]) == {"seen", "unseen", "generalised"} for result in results)
    for result in results:
        assert len(result["seen_classes"]) == len(result["unseen_classes"]) == 2
        assert not set(result["seen_classes"]) & set(result["unseen_classes"])
        assert tuple(result["sizes"]["generalised"]["image->text"]) == (8, 16)
    assert results[0]["scores"] == results[4]["scores"]
    assert len({tuple(result["seen_classes"]) for result in results}) > 1


@pytest.mark.parametrize("config", [_config("CCA"), CS], ids=["CCA", "JFSE + CS"])
def test_a_cell_keeps_the_average_precision_of_every_query(config: Config, root: Path) -> None:
    result = run_cell(config, str(root))
    for direction in DIRECTIONS[:2]:
        precisions = result["arrays"][f"AP/standard/{direction}"]
        assert precisions.mean() == pytest.approx(result["scores"]["standard"][f"{direction}/MAP"], abs=1e-12)
        np.testing.assert_array_equal(result["arrays"][f"query/standard/{direction}"], np.arange(4, 80, 5))


@pytest.mark.parametrize("epochs", [1, 2])
def test_as_published_chooses_its_epoch_on_the_test_items(epochs: int, root: Path) -> None:
    config = _config(as_published=True)
    config["model"]["init_args"]["preset"] = "as_published"
    result = run_cell(config | {"max_epochs": epochs}, str(root))
    assert set(result["scores"]) == {"standard"}
    assert tuple(result["sizes"]["standard"]["image->text"]) == (16, 16)
    assert math.isfinite(result["scores"]["standard"]["average/MAP"])
    means = [result["arrays"][f"AP/standard/{direction}"].mean() for direction in DIRECTIONS[:2]]
    assert result["scores"]["standard"]["average/MAP"] == pytest.approx(np.mean(means), abs=1e-12)


def test_equal_texts_have_equal_vectors_in_whatever_batch_they_are_embedded() -> None:
    texts = [f"{'a person ' * (place % 7)}waves {place % 27}" for place in range(430)]
    vectors = text_vectors(texts)
    assert len(torch.unique(vectors, dim=0)) == len(set(texts))
    assert torch.equal(vectors[0], vectors[27 * 7])
    np.testing.assert_allclose(vectors.norm(dim=1), 1, atol=1e-6)


# The store ---------------------------------------------------------------------------------------------------------


def test_a_store_gives_back_what_it_was_given(tmp_path: Path) -> None:
    store = CellStore(tmp_path / "new" / "cells")
    assert store.load("key") is None
    store.save("key", CS, {"scores": {"standard": {"average/MAP": 0.1 + 0.2}}})
    assert store.load("key") == {"scores": {"standard": {"average/MAP": 0.1 + 0.2}}}
    assert [path.name for path in store.folder.iterdir()] == ["key.json"]
    assert json.loads((store.folder / "key.json").read_text())["config"] == CS


def test_a_store_keeps_arrays_beside_the_result_and_misses_a_cell_without_them(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    arrays = {"AP/standard/image->text": np.array([0.25, 1.0])}
    store.save("key", CS, {"scores": {}, "arrays": arrays})
    assert store.load("key") == {"scores": {}, "arrays": list(arrays)}
    np.testing.assert_array_equal(store.arrays("key")["AP/standard/image->text"], [0.25, 1.0])
    (tmp_path / "key.npz").unlink()
    assert store.load("key") is None
    assert store.arrays("key") is None


def _cut(text: bytes) -> bytes:
    return text[: len(text) // 2]


@pytest.mark.parametrize(
    "damage",
    [_cut, lambda text: b"", lambda text: b"[1]", lambda text: b"{}", lambda text: b"\xff\xfe" + text],
    ids=["cut", "empty", "a list", "no result", "not text"],
)
def test_a_damaged_cell_counts_as_missing(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    store = CellStore(tmp_path)
    store.save("key", CS, {"scores": {}})
    file = tmp_path / "key.json"
    file.write_bytes(damage(file.read_bytes()))
    assert store.load("key") is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full to stand for a full disk")
def test_a_full_disk_is_reported_and_keeps_the_cell_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CellStore(tmp_path)
    store.save("key", CS, {"scores": 1})

    def on_the_full_disk(dir: Path, suffix: str) -> tuple[int, str]:
        draft = dir / f"draft{suffix}"
        draft.symlink_to("/dev/full")
        return os.open(draft, os.O_WRONLY), str(draft)

    monkeypatch.setattr(tempfile, "mkstemp", on_the_full_disk)
    for arrays in ({}, {"AP/standard/image->text": np.array([0.5])}):
        with (
            pytest.warns(UserWarning, match="No space left on device"),
            pytest.raises(datamodules.DataError, match=r"key\.json: a finished cell cannot be kept\. Free space"),
        ):
            store.save("key", CS, {"scores": 2, "arrays": arrays})
        assert store.load("key") == {"scores": 1}
        assert [path.name for path in tmp_path.iterdir()] == ["key.json"]


def test_the_gap_between_modalities_is_measured_where_it_is_asked_for(root: Path) -> None:
    plain, measured = (run_cell({**CS, **more}, str(root)) for more in ({}, {"modality_gap": True}))
    assert "gap" not in plain
    assert set(measured["gap"]) == {*GAP_METRICS, *BY_CHANCE}
    assert measured["scores"] == plain["scores"]
    rows = {name: measured["arrays"][name] for name in ("image", "text")}
    items = {name: measured["arrays"][f"item/{name}"] for name in rows}
    assert measured["gap"] == modality_gap(rows, items)
