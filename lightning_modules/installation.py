"""A check that the suite's packages come from one place."""

from __future__ import annotations

import importlib
from pathlib import Path

PACKAGES = ("losses", "datamodules", "lightning_modules", "reproduce")


def check_installation() -> None:
    """Refuse to run where a file or folder elsewhere shadows one of the suite's packages.

    Their names are common words: a stray ``losses.py`` in the working directory would be imported in their place.

    Raises:
        ImportError: naming the packages that lie elsewhere.
    """
    home = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        module = importlib.import_module(name)
        found = Path(module.__file__).resolve() if module.__file__ else None
        if found != home / name / "__init__.py":
            raise ImportError(
                f"package {name!r} is imported from {found or 'a folder without __init__.py'}, not from {home / name}: "
                "rename what shadows it, or run from another folder"
            )
