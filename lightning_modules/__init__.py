"""Lightning modules of the retrieval models, their metrics and their command line."""

from importlib import import_module
from typing import Any

from lightning_modules.installation import check_installation

check_installation()  # before the first import of a package that something else could shadow

# Imported when they are asked for: a help text needs no torch.
_WHERE = {"CMPM": "cmpm", "JFSE": "jfse", "LAVIMO": "lavimo", "CSAligner": "cs_aligner", "prepare": "preparation"}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
