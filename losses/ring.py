"""Circular matching: which directed edges between M ordered modalities enter each set of a GCS loss."""

from __future__ import annotations

from collections.abc import Sequence

SCHEMES = ("clockwise", "counterclockwise", "bidirectional", "mixed")
REVERSED = ("counterclockwise", "reversed")  # sets whose target is that of the other direction

Edge = tuple[str, str]


def edge_sets(modalities: Sequence[str], scheme: str) -> dict[str, list[Edge]]:
    """Directed edges of each set of a circular scheme over the ring m_1, ..., m_M.

    - clockwise: m_1->m_2, ..., m_M->m_1; counterclockwise: every edge reversed.
    - bidirectional: both sets, each with its own divergence.
    - mixed: the clockwise set with its closing edge flipped to m_1->m_M, and the reverse of that set. For M = 3 these
      are the two sets of the authors' code; that they are the paper's "Mixed Bidirectional" is an inference, and the
      rule for other M is this suite's.

    At M = 2 the ring consists of two opposite edges; ``mixed`` then names each edge of a set twice.

    Args:
        modalities: at least two names, in ring order.
        scheme: one of ``SCHEMES``.

    Returns:
        set name -> list of M edges (query modality, gallery modality).

    Raises:
        ValueError: fewer than two modalities, or an unknown scheme.

    Source: Zhang, Yin and Yu, ACM MM 2025, circular matching, and its public code.
    """
    if len(modalities) < 2:
        raise ValueError(f"a ring needs at least two modalities, got {list(modalities)}")
    clockwise = list(zip(modalities, [*modalities[1:], modalities[0]], strict=True))
    mixed = [*clockwise[:-1], _reverse(clockwise[-1])]
    sets = {
        "clockwise": {"clockwise": clockwise},
        "counterclockwise": {"counterclockwise": [_reverse(edge) for edge in clockwise]},
        "mixed": {"forward": mixed, "reversed": [_reverse(edge) for edge in mixed]},
    }
    sets["bidirectional"] = sets["clockwise"] | sets["counterclockwise"]
    if scheme not in sets:
        raise ValueError(f"unknown scheme {scheme!r}; choose one of {', '.join(SCHEMES)}")
    return sets[scheme]


def _reverse(edge: Edge) -> Edge:
    return edge[1], edge[0]
