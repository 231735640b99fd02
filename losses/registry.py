"""The registry: every alignment loss by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable

from losses.base import AlignmentLoss

_LOSSES: dict[str, type[AlignmentLoss]] = {}


def register_loss(name: str) -> Callable[[type[AlignmentLoss]], type[AlignmentLoss]]:
    """Class decorator that makes a loss available to :func:`build_loss` under ``name``.

    Args:
        name: the name used in code, YAML and tables.

    Raises:
        ValueError: the name is taken.
    """

    def register(loss: type[AlignmentLoss]) -> type[AlignmentLoss]:
        if name in _LOSSES:
            raise ValueError(f"loss {name!r} is registered already, as {_LOSSES[name].__qualname__}")
        _LOSSES[name] = loss
        return loss

    return register


def available_losses() -> list[str]:
    """Names of all registered losses, sorted."""
    return sorted(_LOSSES)


def build_loss(name: str, **kwargs) -> AlignmentLoss:
    """Build a registered loss.

    Args:
        name: one of :func:`available_losses`.
        **kwargs: keywords of that loss, e.g. ``temperature``.

    Returns:
        The loss, called as ``loss(embeddings, labels)``.

    Raises:
        ValueError: unknown name; the message gives the nearest ones.
        TypeError: unknown keyword; likewise.
    """
    known = keywords(name)
    if "divergence" in known:  # `pairwise` hands the rest on to the loss it sums
        known = known + keywords(kwargs.get("divergence", "kl"))
    for keyword in kwargs:
        if keyword not in known:
            raise TypeError(f"loss {name!r} has no keyword {keyword!r}; {_nearest(keyword, known)}")
    return _LOSSES[name](**kwargs)


def keywords(name: str) -> list[str]:
    """Keywords of a registered loss; ValueError with the nearest names where there is no such loss."""
    if name not in _LOSSES:
        raise ValueError(f"unknown loss {name!r}; {_nearest(name, _LOSSES)}")
    parameters = inspect.signature(_LOSSES[name]).parameters.values()
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _nearest(word: str, known: Iterable[str]) -> str:
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if close:
        return f"nearest: {', '.join(close)}"
    return f"there are: {', '.join(known)}" if known else "it takes none"
