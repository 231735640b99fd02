"""Generalised Cauchy-Schwarz matching loss over a ring of modalities."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from losses.base import AlignmentLoss, GatheredBatch, check_temperature
from losses.registry import register_loss
from losses.ring import REVERSED, edge_sets


@register_loss("gcs")
class GCSLoss(AlignmentLoss):
    """Generalised Cauchy-Schwarz divergence among the matching distributions of a ring and their target.

    For each set of directed edges of the scheme: mean_i D_GCS(p_i of every edge, q_i), with
    p_i = softmax_j( cos(x_i, z_j) / temperature ); the sets of "bidirectional" and "mixed" are added. With M
    modalities and one-hot targets a set equals 1/(M+1) sum_k CE(S_k / (temperature/(M+1))), so compare it with `kl` at
    1/(M+1) of its temperature. With M = 2 the set has three arguments and differs from `cs`.

    Processes: rows of this process against the columns of all, gradient through the gather.

    Args:
        temperature: tau > 0.
        scheme: "clockwise", "counterclockwise", "bidirectional" or "mixed", see :func:`losses.ring.edge_sets`.
        use_target: whether the target is one of the arguments. Without it the loss needs no labels, but collapsed
            embeddings minimise it: a regulariser beside another term.

    Source: Zhang, Yin and Yu, ACM MM 2025, circular matching.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        scheme: Literal["clockwise", "counterclockwise", "bidirectional", "mixed"] = "bidirectional",
        use_target: bool = True,
    ):
        super().__init__()
        edge_sets(("a", "b"), scheme)  # an unknown scheme is refused here, not at the first batch
        self.temperature = check_temperature(temperature)
        self.scheme = scheme
        self.use_target = use_target

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        sets = edge_sets(batch.modalities, self.scheme)  # the second set, where there is one, is the first reversed
        targets = [batch.target(name in REVERSED) if self.use_target else None for name in sets]
        values = batch.divergences(next(iter(sets.values())), self.temperature, "gcs", targets)
        return dict(zip(sets, values, strict=True))
