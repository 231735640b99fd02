"""The real data that a test needs, where CSD_DATA has them."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("CSD_DATA") or "nowhere")


def needs(path: str) -> pytest.MarkDecorator:
    """Skips a test where CSD_DATA is unset, or has no such file or folder."""
    return pytest.mark.skipif(not (DATA / path).exists(), reason=f"CSD_DATA is unset or has no {path}")
