"""Symile: what the modalities of an item have in common all at once, beyond their pairs."""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.common.base import AlignmentLoss, GatheredBatch
from losses.common.matching import product
from losses.registry import register_loss

START = 1 / 0.07  # of the learned scale


@register_loss("symile")
class SymileLoss(AlignmentLoss):
    r"""Cross-entropy of each modality's vector against products of those of the other modalities, two or more.

    (1/M) sum over anchors m of mean_i CE( s sum_d x^m_id prod_{n != m} x^n_{j_n d} ), with unit vectors x, whose right
    answer is the item's own, j_n = i, among

    - negatives="all": every combination of the items of the other modalities, B^2 for three modalities;
    - negatives="shuffled": B of them, the item's own and, in the place of each other item, one of every modality from
      a permutation of the whole batch. Each modality has one, the same in every batch of that size: what is met there
      changes as the batches are shuffled.

    It bounds the total correlation of the modalities, and sees what no pair of them shows, such as an exclusive or.
    The scale s = exp(w) is learned; w starts at log(1 / 0.07) as in CLIP (the public code starts it at -0.3, -6 or -7,
    by experiment). Labels are not used.

    Known weakness: it compares no pairs. The product with a third vector decides, so that two modalities that match
    perfectly may score 0, and retrieval by one modality alone is not what it trains.

    >>> SymileLoss(logit_scale=1.0)({"image": torch.eye(3), "text": torch.eye(3), "audio": torch.eye(3)}).total
    tensor(1.3720)

    Processes: anchors of this process against the items of all, gradient through the gather. A learned scale is a
    parameter of the loss, which the optimiser must be given.

    Args:
        logit_scale: s > 0, fixed; None learns it.
        negatives: "all", for two or three modalities, or "shuffled", for any number.

    Raises:
        ValueError: a setting outside its range; on call, more than three modalities and all negatives.

    Source: Saporta et al., "Contrasting with Symile", NeurIPS 2024.
    """

    takes_two = False
    uses_labels = False
    over_rows = True

    def __init__(self, logit_scale: float | None = None, negatives: Literal["all", "shuffled"] = "all"):
        super().__init__()
        if logit_scale is not None and not 0 < logit_scale < math.inf:
            raise ValueError(f"logit_scale must be positive and finite, or None to learn it, got {logit_scale}")
        if negatives not in ("all", "shuffled"):
            raise ValueError(f"negatives must be 'all' or 'shuffled', got {negatives!r}")
        self.logit_scale, self.negatives = logit_scale, negatives
        if logit_scale is None:
            self.log_scale = nn.Parameter(torch.tensor(math.log(START)))

    def check_modalities(self, names: Sequence[str]) -> None:
        if self.negatives == "all" and len(names) > 3:
            raise ValueError(
                f"negatives='all' takes up to three modalities, got {len(names)} ({', '.join(names)}), which have too "
                "many combinations; set negatives='shuffled'"
            )

    def width(self, batch: GatheredBatch) -> int:
        items, dim = batch.columns[batch.modalities[0]].shape
        return items * max(items, dim) if self.negatives == "all" and len(batch.modalities) > 2 else items

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        scale = self.log_scale.exp() if self.logit_scale is None else self.logit_scale
        products = self._all(batch) if self.negatives == "all" else self._shuffled(batch)
        own = torch.arange(batch.start, batch.stop, device=batch.columns[batch.modalities[0]].device)
        terms = {}
        for anchor, logits in products.items():
            others = "+".join(name for name in products if name != anchor)
            answer = own if logits.ndim == 2 else own * logits.shape[1] + own  # where item i meets i alone
            terms[f"{anchor}->{others}"] = F.cross_entropy(scale * logits.flatten(1), answer) / len(products)
        return terms

    def _all(self, batch: GatheredBatch) -> dict[str, Tensor]:
        """Anchor -> its products with every combination of the others: (R, N) of two modalities, (R, N, N) of three."""
        names, columns = batch.modalities, [batch.unit_columns(name) for name in batch.modalities]
        if batch.stop - batch.start == len(columns[0]):
            whole = _products(*columns)  # for every anchor the same numbers
            return {name: whole.movedim(k, 0) for k, name in enumerate(names)}
        return {name: _products(batch.unit_rows(name), *columns[:k], *columns[k + 1 :]) for k, name in enumerate(names)}

    def _shuffled(self, batch: GatheredBatch) -> dict[str, Tensor]:
        """Anchor -> (R, N) products with the shuffled others, and in column i those of row i with its own item."""
        columns, shuffled, found = {name: batch.unit_columns(name) for name in batch.modalities}, {}, {}
        for seed, (name, x) in enumerate(columns.items()):
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
            shuffled[name] = x[order.to(x.device)]
        for name in batch.modalities:
            rows = batch.unit_rows(name)
            met = product(rows, reduce(torch.mul, (x for other, x in shuffled.items() if other != name)))
            own = reduce(torch.mul, (x for other, x in columns.items() if other != name))[batch.start : batch.stop]
            found[name] = torch.diagonal_scatter(met, (rows * own).sum(dim=1), offset=batch.start)
        return found


def _products(rows: Tensor, *others: Tensor) -> Tensor:
    """Multilinear products sum_d x_id y_jd z_kd of (R, D) with one or two (N, D): (R, N) or (R, N, N)."""
    *first, last = others
    for other in first:
        rows = rows[..., None, :] * other
    return product(rows.flatten(0, -2), last).unflatten(0, rows.shape[:-1])
