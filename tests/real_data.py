"""The real data that a test needs, where CSD_DATA has them."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("CSD_DATA") or "nowhere")


def _missing(path: str) -> str:
    return "" if (DATA / path).exists() else f"CSD_DATA is unset or has no {path}"


def needs(path: str) -> pytest.MarkDecorator:
    """Skips a test where CSD_DATA is unset, or has no such file or folder."""
    return pytest.mark.skipif(bool(_missing(path)), reason=_missing(path))


def require(path: str) -> None:
    """Skip this test as `needs` does, by what it finds out."""
    if reason := _missing(path):
        pytest.skip(reason)
