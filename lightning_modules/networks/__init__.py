"""Network parts shared by the models, and how they are built by name."""

import inspect
from collections.abc import Mapping
from typing import Any

from losses.registry import nearest


def build(what: str, kinds: Mapping[str, type], name: str, *inputs: Any, **settings: Any) -> Any:
    """Build one of several classes.

    Args:
        what: they are, for the message.
        kinds: name -> class.
        name: one of them.
        *inputs: its first arguments, which are no settings.
        **settings: its others.

    Raises:
        ValueError: unknown name, or what the class refuses.
        TypeError: unknown setting; either message gives the nearest words.
    """
    if name not in kinds:
        raise ValueError(f"unknown {what} {name!r}; {nearest(name, kinds)}")
    known = list(inspect.signature(kinds[name]).parameters)[len(inputs) :]
    for setting in settings:
        if setting not in known:
            raise TypeError(f"{what} {name!r} has no setting {setting!r}; {nearest(setting, known)}")
    return kinds[name](*inputs, **settings)
