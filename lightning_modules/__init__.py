"""Lightning modules of the retrieval models, their metrics and their command line."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Imported when they are asked for: a help text needs no torch.
_WHERE = {"CMPM": "cmpm", "JFSE": "jfse", "LAVIMO": "lavimo", "CSAligner": "cs_aligner", "prepare": "base"}
__all__ = list(_WHERE)


def check_installation() -> None:
    """Refuse to run where a file or folder elsewhere shadows one of the suite's packages.

    Their names are common words: a stray ``losses.py`` in the working directory would be imported in their place.

    Raises:
        ImportError: naming the packages that lie elsewhere.
    """
    home = Path(__file__).resolve().parent.parent
    for name in ("losses", "datamodules", "lightning_modules", "reproduce"):
        # Packages that are imported already are taken as they are; the others are looked up, not imported.
        origin = sys.modules[name].__file__ if name in sys.modules else getattr(find_spec(name), "origin", None)
        found = Path(origin).resolve() if origin else None
        if found != home / name / "__init__.py":
            raise ImportError(
                f"package {name!r} is imported from {found or 'a folder without __init__.py'}, not from "
                f"{home / name}: rename what shadows it, or run from another folder"
            )


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


check_installation()  # before the first import of a package that something else could shadow
