"""What every test is given: a cache folder that is not the user's."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.files.cache import cache_folder


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory):
    """A cache for the whole session, also of the processes that tests start; what it keeps is named by its content."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """An empty cache folder, for a test that looks at what is kept."""
    monkeypatch.setenv("CSD_CACHE", str(tmp_path / "cache"))
    return cache_folder()
