"""Generalised Cauchy-Schwarz matching losses over a ring of modalities: in log space, clamped, and without norms."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from losses.common.base import AlignmentLoss, GatheredBatch, positive
from losses.divergence import clamped_divergence, gcs_divergence
from losses.registry import register_loss

Scheme = Literal["clockwise", "counterclockwise", "bidirectional", "mixed"]
SCHEMES = get_args(Scheme)
REVERSED = ("counterclockwise", "reversed")  # sets whose target is that of the other direction

Edge = tuple[str, str]


@register_loss("gcs")
class GCSLoss(AlignmentLoss):
    """Generalised Cauchy-Schwarz divergence among the matching distributions of a ring and their target.

    For each set of directed edges of the scheme: mean_i D_GCS(p_i of every edge, q_i), with
    p_i = softmax_j( cos(x_i, z_j) / temperature ); the sets of "bidirectional" and "mixed" are added. With M
    modalities and one-hot targets a set equals 1/(M+1) sum_k CE(S_k / (temperature/(M+1))), so compare it with `kl` at
    1/(M+1) of its temperature. With M = 2 the set has three arguments and differs from `cs`.

    >>> embeddings = {"image": torch.eye(3), "text": torch.eye(3), "audio": torch.eye(3)}
    >>> GCSLoss(temperature=1.0)(embeddings, torch.arange(3)).total
    tensor(0.0540)

    Processes: rows of this process against the columns of all, gradient through the gather.

    Args:
        temperature: tau > 0.
        scheme: "clockwise", "counterclockwise", "bidirectional" or "mixed", see :func:`edge_sets`.
        use_target: whether the target is one of the arguments. Without it the loss needs no labels, but collapsed
            embeddings minimise it: a regulariser beside another term.

    Source: Zhang, Yin and Yu, ACM MM 2025, circular matching.
    """

    takes_two = False
    over_rows = True

    def __init__(self, temperature: float = 0.1, scheme: Scheme = "bidirectional", use_target: bool = True):
        super().__init__()
        edge_sets(("a", "b"), scheme)  # an unknown scheme is refused here, not at the first batch
        self.temperature = positive("temperature", temperature)
        self.scheme = scheme
        self.use_target = use_target

    @property
    def uses_labels(self) -> bool:
        return self.use_target

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        terms = {}
        for name, edges in edge_sets(batch.modalities, self.scheme).items():
            # The divergence does not depend on the scale of p: no softmax is needed.
            logits = [batch.logits(x, z, self.temperature) for x, z in edges]
            targets = [batch.log_target(reverse=name in REVERSED)] if self.use_target else []
            terms[name] = self.divergence(logits, targets).mean()
        return terms

    def divergence(self, logits: list[Tensor], log_targets: list[Tensor]) -> Tensor:
        """(B,) D_GCS(p_i of every edge, q_i), from the edges' logits and the log target, if any, (B, B_global)."""
        return gcs_divergence([*logits, *log_targets])

    def effective_factor(self, modalities: int) -> int:
        return modalities + self.use_target


@register_loss("gcs_clamped")
class GCSClampedLoss(GCSLoss):
    """Generalised Cauchy-Schwarz loss over a ring with clamped probabilities, for comparison alone: train with `gcs`.

    As :class:`losses.GCSLoss`, with p_ij = exp(s_ij) / sum_j exp(s_ij), s = cos / temperature, and the divergence
    :func:`losses.divergence.clamped_divergence`. The exponential is not shifted, so it overflows above s = 88 in
    float32; among K arguments the value stops growing near -(K - 1) log epsilon; a probability below epsilon gets no
    gradient. Half-precision embeddings are raised to float32 first, as in every loss here, which is kinder to this form
    than code that computes it in half precision.

    Processes: as `gcs`.

    Args:
        temperature: tau > 0.
        scheme: as in `gcs`.
        use_target: whether the target is one of the arguments.
        epsilon: least probability, in (0, 1).

    Raises:
        ValueError: a setting outside its range.

    Source: the form of the public code of Zhang, Yin and Yu, ACM MM 2025.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        scheme: Scheme = "bidirectional",
        use_target: bool = True,
        epsilon: float = 1e-8,
    ):
        super().__init__(temperature, scheme, use_target)
        if not 0 < epsilon < 1:
            raise ValueError(f"epsilon is {epsilon}; expected a probability above 0 and below 1")
        self.epsilon = epsilon

    def divergence(self, logits: list[Tensor], log_targets: list[Tensor]) -> Tensor:
        ps = [*map(unshifted_softmax, logits), *(log_q.exp() for log_q in log_targets)]
        return clamped_divergence(ps, self.epsilon)


def unshifted_softmax(logits: Tensor) -> Tensor:
    """exp(s_ij) / sum_j exp(s_ij), without the shift that keeps the exponential from overflowing."""
    weights = torch.exp(logits)
    return weights / weights.sum(dim=1, keepdim=True)


@register_loss("gcs_product")
class GCSProductLoss(GCSLoss):
    """Product of the matching distributions of a ring and their target without the norms of `gcs`, to compare with it.

    For each set of directed edges of the scheme: mean_i -log sum_j q_ij prod_k p_kij, with
    p_ki = softmax_j( cos(x_i, z_j) / temperature ) of edge k. With one-hot targets a set equals sum_k CE(S_k /
    temperature). Without the norms it is no divergence: its least value depends on the target.

    Processes: as `gcs`.

    Args:
        temperature: tau > 0.
        scheme: as in `gcs`.
        use_target: whether the target is one of the factors.
    """

    def divergence(self, logits: list[Tensor], log_targets: list[Tensor]) -> Tensor:
        return -sum([*(torch.log_softmax(s, dim=1) for s in logits), *log_targets]).logsumexp(dim=1)

    def effective_factor(self, modalities: int) -> int:
        return 1


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
        ValueError: an unknown scheme.

    Source: Zhang, Yin and Yu, ACM MM 2025, circular matching, and its public code.
    """
    clockwise = list(zip(modalities, [*modalities[1:], modalities[0]], strict=True))
    mixed = [*clockwise[:-1], clockwise[-1][::-1]]
    sets = {
        "clockwise": {"clockwise": clockwise},
        "counterclockwise": {"counterclockwise": [edge[::-1] for edge in clockwise]},
        "mixed": {"forward": mixed, "reversed": [edge[::-1] for edge in mixed]},
    }
    sets["bidirectional"] = sets["clockwise"] | sets["counterclockwise"]
    if scheme not in sets:
        raise ValueError(f"unknown scheme {scheme!r}; choose one of {', '.join(SCHEMES)}")
    return sets[scheme]
