"""Which checkpoint a command takes, and on which data: untrained models, the last and the best, other items."""

import os
import shutil
from functools import partial
from pathlib import Path

import cli_cases
import numpy as np
import pytest
import test_items
import torch
from cli_cases import checkpoints, csd, metrics
from small_models import pairs
from tiny_items import TinyPairs

from datamodules import DataError, OwnData, SyntheticItems
from lightning_modules.base import RetrievalModule
from lightning_modules.checkpoints import checkpoint_file, require_same_items, trained_on

fitted, copied = cli_cases.fitted, cli_cases.copied


def written(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "run").rglob("*") if path.suffix in (".yaml", ".csv", ".ckpt"))


def refused(capsys, command: str, folder: Path, *words: str) -> str:
    """The message of a command that must end with status 2, and writes no logs and no configuration."""
    before = written(folder)
    with pytest.raises(SystemExit) as stop:
        csd(command, folder, *words)
    assert stop.value.code == 2
    assert written(folder) == before
    return capsys.readouterr().err


# No checkpoint --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_a_model_that_was_not_trained_is_refused(command, tmp_path, capsys):
    message = refused(capsys, command, tmp_path)
    assert "--ckpt_path" in message
    assert "untrained" in message
    assert not list(tmp_path.rglob("*.npz"))


class AsTheyAre(RetrievalModule):
    """Compares features as they are: there is nothing to train."""

    alignment = None

    def __init__(self, dims: dict):
        super().__init__(["image", "text"], protocol="honest")

    def embed(self, batch):
        return {name: batch[name] for name in self.modalities}


def test_a_model_with_nothing_to_train_is_scored(tmp_path):
    config = tmp_path / "own.yaml"
    config.write_text(
        f"model: {{class_path: {__name__}.AsTheyAre}}\n"
        "data: {class_path: Synthetic, init_args: {image_dim: 6, text_dim: 6, class_encoder: one-hot}}\n"
        "trainer: {accelerator: cpu, enable_progress_bar: false}\n"
    )
    csd("test", tmp_path, config=config)
    assert 0 < metrics(tmp_path, "test_0")["test/standard/average/MAP"].item() < 1


# The last and the best ------------------------------------------------------------------------------------------


def test_last_resumes_the_run_where_it_ended_and_keeps_the_earlier_rows_and_the_best_epoch(copied):
    path = copied / "run" / "csv" / "version_0" / "metrics.csv"
    before, best = path.read_bytes(), metrics(copied, 0)["val/average/MAP"].max()
    csd("fit", copied, "--ckpt_path", "last", "--trainer.max_epochs", "4")
    assert path.read_bytes() == before
    assert sorted(metrics(copied, 1)["epoch"].unique()) == [2, 3]
    best, kept = max(best, metrics(copied, 1)["val/average/MAP"].max()), checkpoints(copied, 0)
    states = torch.load(kept["best"], weights_only=True)["callbacks"].values()
    assert max(float(state.get("best_model_score") or 0) for state in states) == pytest.approx(best)
    assert torch.load(kept["last"], weights_only=True)["epoch"] == 3
    os.utime(kept["last"], (1e9, 1e9))  # as where the resumed run is stopped in its first epoch
    assert checkpoint_file("last", copied / "run") == kept["last"]


def test_hpc_resumes_what_slurm_interrupted(copied):
    """Lightning's word for a file that it writes itself, and finds in the folder of the runs."""
    shutil.copy(checkpoints(copied, 0)["last"], copied / "run" / "hpc_ckpt_1.ckpt")
    csd("fit", copied, "--ckpt_path", "hpc", "--trainer.max_epochs", "3")
    assert metrics(copied, 1)["epoch"].unique().tolist() == [2]
    assert torch.load(checkpoints(copied, 1)["last"], weights_only=True)["epoch"] == 2


def test_last_and_best_are_scored_as_their_files_are(copied):
    validated = metrics(copied, 0).dropna(subset=["val/average/MAP"]).set_index("epoch")["val/average/MAP"]
    for number, (word, expected) in enumerate((("last", validated.loc[1]), ("best", validated.max()))):
        csd("validate", copied, "--ckpt_path", word)
        found = metrics(copied, f"validate_{number}")["val/average/MAP"].item()
        assert found == pytest.approx(expected, abs=1e-12)


def test_the_last_run_is_the_one_that_wrote_last_and_not_the_one_of_the_highest_version(copied):
    root = copied / "run"
    shutil.copytree(root / "csv" / "version_0", root / "csv" / "version_1")
    older, newer = (root / "csv" / f"version_{n}" / "checkpoints" / "last.ckpt" for n in (1, 0))
    os.utime(older, (1e9, 1e9))
    os.utime(newer, (2e9, 2e9))
    assert checkpoint_file("last", root) == newer
    assert checkpoint_file("best", root).parent == newer.parent
    bare = root / "checkpoints" / "last.ckpt"  # where a run without loggers writes
    bare.parent.mkdir()
    shutil.copy(newer, bare)
    os.utime(bare, (3e9, 3e9))
    assert checkpoint_file("last", root) == bare


def test_the_best_is_found_in_a_folder_of_its_own(tmp_path):
    csd("fit", tmp_path, "--checkpoint.dirpath", str(tmp_path / "kept"))
    (best,) = (tmp_path / "kept").glob("best-*.ckpt")
    assert checkpoint_file("best", tmp_path / "run") == best


WITHOUT_LAST = {
    "callback of one's own": ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_top_k=-1"],
    "no checkpoints": ["--trainer.enable_checkpointing=false"],
}


@pytest.mark.parametrize("case", WITHOUT_LAST)
def test_the_last_of_an_earlier_run_is_not_taken_for_that_of_the_newest(case, copied, capsys):
    earlier = checkpoints(copied, 0)["last"]
    csd("fit", copied, "--trainer.max_epochs", "1", *WITHOUT_LAST[case])
    kept = checkpoints(copied, 1).values()
    for word in ("last", "best"):
        with pytest.raises(DataError) as error:
            checkpoint_file(word, copied / "run")
        for named in (copied / "run" / "csv" / "version_1", *kept, earlier):
            assert str(named) in str(error.value)


@pytest.mark.parametrize(("command", "word"), [("fit", "last"), ("test", "last"), ("test", "best"), ("fit", "hpc")])
def test_without_a_run_none_is_taken(command, word, tmp_path, capsys):
    message = refused(capsys, command, tmp_path, "--ckpt_path", word)
    named = ["no HPC checkpoint was found"] if word == "hpc" else [f"--ckpt_path {word}", str(tmp_path / "run")]
    assert [part for part in named if part not in message] == []


def test_a_best_checkpoint_that_is_not_there_or_damaged_is_refused(copied, capsys):
    best, last = (checkpoints(copied, 0)[kind] for kind in ("best", "last"))
    best.write_bytes(best.read_bytes()[:5000])
    assert str(best) in refused(capsys, "test", copied, "--ckpt_path", "best")
    content = torch.load(last, weights_only=True)
    for state in content["callbacks"].values():
        state["best_model_path"] = best.name
    torch.save(content, last)
    best.unlink()
    assert str(last) in refused(capsys, "test", copied, "--ckpt_path", "best")


# The items that a checkpoint was trained on -------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["fit", "validate", "predict"])
def test_every_command_refuses_a_checkpoint_of_other_items(command, copied, capsys):
    message = refused(capsys, command, copied, "--data.init_args.split_seed", "1", "--ckpt_path", "last")
    assert "split_seed was 0, is 1" in message
    assert "--allow_other_data" in message
    assert checkpoint_file("last", copied / "run") == checkpoints(copied, 0)["last"]


def test_other_data_are_refused_and_taken_where_asked_for(fitted, tmp_path, capsys):
    words = ("--data.init_args.seed", "1", "--ckpt_path", str(checkpoints(fitted, 0)["last"]))
    message = refused(capsys, "test", tmp_path, *words)
    assert "synthetic data of seed 1" in message
    assert "seed was 0, is 1" in message
    with pytest.warns(UserWarning, match="trained on, or chosen by, other items"):
        csd("test", tmp_path, *words, "--allow_other_data", "true")
    assert metrics(tmp_path, "test_1")["test/standard/average/MAP"].notna().any()


def test_a_checkpoint_of_an_earlier_version_is_loaded_with_a_warning(copied):
    last = checkpoints(copied, 0)["last"]
    content = torch.load(last, weights_only=True)
    del content["trained_on"]
    torch.save(content, last)
    with pytest.warns(UserWarning, match="does not say which items it was trained on"):
        csd("test", copied, "--ckpt_path", str(last))


def own(folder: Path, name: str = "a", **settings) -> OwnData:
    """Features without a split, so that the split_seed draws the test items."""
    rng = np.random.default_rng(0)
    label = np.arange(60) % 3
    np.savez(folder / f"{name}.npz", image=rng.normal(size=(60, 4)), text=rng.normal(size=(60, 3)), label=label)
    return OwnData(folder / f"{name}.npz", class_encoder="one-hot", **settings)


ITEMS = test_items.pairs()
SAME_ITEMS = {
    "moved file": lambda folder: (own(folder), own(folder, "b", batch_size=3)),
    "batches and their order": lambda _: (pairs(), pairs(batch_size=7, shuffle_seed=3, class_seed=4)),
    "all train, one split or another": lambda _: [pairs(validation_fraction=0, split_seed=seed) for seed in (0, 1)],
    "new test items": lambda _: (TinyPairs(ITEMS), TinyPairs(test_items.with_new_test_items(ITEMS))),
    "labels of items": lambda _: (SyntheticItems(), SyntheticItems(labels="instance", class_seed=5)),
}
OTHER_ITEMS = {
    "drawn test items": (own, {"seed": 1}),
    "split of items": (SyntheticItems, {"split_seed": 1}),
    "validation items": (SyntheticItems, {"validation_fraction": 0.3}),
    "class split": (SyntheticItems, {"class_split": "zero-shot"}),
    "pairs of items": (SyntheticItems, {"paired_fraction": 0.5}),
    "classes of items": (partial(SyntheticItems, class_split="zero-shot"), {"class_seed": 1}),
    "modalities": (SyntheticItems, {"modalities": ["text", "video"]}),
}


@pytest.mark.parametrize("case", SAME_ITEMS)
def test_the_same_items_are_recognised(case, tmp_path):
    first, second = SAME_ITEMS[case](tmp_path)
    require_same_items(trained_on(first), trained_on(second), other=False)


@pytest.mark.parametrize("case", OTHER_ITEMS)
def test_other_items_are_recognised_in_every_kind_of_data(case, tmp_path):
    build, changed = OTHER_ITEMS[case]
    build = partial(own, tmp_path) if build is own else build
    with pytest.raises(DataError, match=next(iter(changed))):
        require_same_items(trained_on(build()), trained_on(build(**changed)), other=False)


def test_other_content_of_the_training_items_is_recognised():
    first, other = (trained_on(TinyPairs(data)) for data in (ITEMS, test_items.changed(ITEMS, "image", 0)))
    with pytest.raises(DataError, match="content differs"):
        require_same_items(first, other, other=False)
