"""The registry: every alignment loss by name."""

import difflib
import inspect
from collections.abc import Callable, Iterable

from losses.common.base import AlignmentLoss

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


def registered() -> list[type[AlignmentLoss]]:
    """Classes of all registered losses, by name."""
    return [_LOSSES[name] for name in available_losses()]


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
    known = keywords(name, kwargs.get("divergence", "kl"))
    for keyword in kwargs:
        if keyword not in known:
            raise TypeError(f"loss {name!r} has no keyword {keyword!r}; {nearest(keyword, known)}")
    return _LOSSES[name](**kwargs)


def keywords(name: str, divergence: str = "kl") -> list[str]:
    """Keywords of a registered loss; for ``pairwise``, its own and those of the loss that it sums.

    Raises:
        ValueError: there is no such loss; the message gives the nearest names.
    """
    if name not in _LOSSES:
        if name.lower() in ("none", "null"):
            raise ValueError(f"unknown loss {name!r}; for no loss give null, where the model takes it")
        # A misspelt class in place of a name: the command line takes both.
        classes = [kind.__name__ for kind in _LOSSES.values()]
        word = name.rpartition(".")[2]
        raise ValueError(f"unknown loss {name!r}; {nearest(word, classes if 'loss' in word.lower() else _LOSSES)}")
    known = parameters(_LOSSES[name])
    return ["divergence", *keywords(divergence)] if "divergence" in known else known


def parameters(loss: type[AlignmentLoss]) -> list[str]:
    """Names of the arguments of a loss's constructor."""
    found = inspect.signature(loss).parameters.values()
    return [p.name for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def nearest(word: object, known: Iterable[str]) -> str:
    """What to say about a word that is none of the known ones: those spelt alike, whatever their case, or all."""
    lower, spelt = str(word).lower(), {name.lower(): name for name in sorted(known)}
    close = difflib.get_close_matches(lower, spelt, n=1 if lower in spelt else 3, cutoff=0.5)
    if close:
        return f"nearest: {', '.join(spelt[name] for name in close)}"
    return f"there are: {', '.join(spelt.values())}" if spelt else "it takes none"
