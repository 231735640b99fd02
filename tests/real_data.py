"""The real data that a test needs, where CSD_DATA, or without it data/, has them."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("CSD_DATA") or "data").resolve()  # as the project finds them


def _missing(path: str) -> str:
    return "" if (DATA / path).exists() else f"neither CSD_DATA nor data/ has {path}"


def needs(path: str) -> pytest.MarkDecorator:
    """Skips a test where there is no such file or folder."""
    return pytest.mark.skipif(bool(_missing(path)), reason=_missing(path))


def require(path: str) -> None:
    """Skip this test as `needs` does, by what it finds out."""
    if reason := _missing(path):
        pytest.skip(reason)
