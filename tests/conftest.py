"""What every test is given: a cache folder that is not the user's, one thread, no downloads, tiny data sets."""

import gc
import shutil
from pathlib import Path

import pytest
import torch
from tiny_trees import TREES

from datamodules.files.cache import cache_folder


def pytest_collection_finish():
    """What is imported stays: a collection of garbage after every training need not look at it."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory):
    """A cache for the whole session, also of the processes that tests start, one thread, and no way to the hub.

    What the cache keeps is named by its content.
    """
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSD_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """An empty cache folder, for a test that looks at what is kept."""
    monkeypatch.setenv("CSD_CACHE", str(tmp_path / "cache"))
    return cache_folder()


@pytest.fixture(scope="session")
def _written_trees(tmp_path_factory):
    written: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in written:
            written[name] = TREES[name][0](tmp_path_factory.mktemp(name))
        return written[name]

    return folder


@pytest.fixture
def tree(_written_trees, tmp_path):
    """Copies one of the tiny data sets, free to be broken, below a data root, and returns its folder."""

    def copy(name: str) -> Path:
        written = _written_trees(name)
        return Path(shutil.copytree(written, tmp_path / "root" / written.name, dirs_exist_ok=True))

    return copy
