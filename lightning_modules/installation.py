"""A check that the suite's packages come from one place."""

from __future__ import annotations

import sys
from importlib.util import find_spec
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
        # Packages that are imported already are taken as they are; the others are looked up, not imported.
        origin = sys.modules[name].__file__ if name in sys.modules else getattr(find_spec(name), "origin", None)
        found = Path(origin).resolve() if origin else None
        if found != home / name / "__init__.py":
            raise ImportError(
                f"package {name!r} is imported from {found or 'a folder without __init__.py'}, not from "
                f"{home / name}: rename what shadows it, or run from another folder"
            )
