"""Which pairs the gradient of a loss goes to along a training: true positives, false ones and negatives."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from losses import AlignmentLoss
from losses.common.base import GatheredBatch
from reproduce.results.metrics import PULLS, PULLS_OF_THIRDS


def shares_of_positives(
    loss: AlignmentLoss, embeddings: Mapping[str, Tensor], labels: Tensor | None, classes: Tensor
) -> dict[str, float]:
    """How much of the pull of a loss goes to right and to wrong positives of a batch.

    Two different items are a positive where the labels that are trained on match; it is a true one where their classes
    match too. With s_ij the cosine of item i in one modality and item j in another, the loss pulls i and j together by
    max(-dL/ds_ij, 0). The share of a set of pairs is its pull over that of all pairs, both summed over the pairs of
    modalities that the loss compares. The rest goes to an item's own pair, and a little to negatives. A loss is
    misled less than its labels where false / (true + false) is below the share of positives that are false.

    Args:
        loss: made of cosines, as `kl`, `cs`, `gcs`, `mil_nce` and `infonce` are.
        embeddings: modality -> (B, D).
        labels: (B,) that are trained on.
        classes: (B,) true ones.

    Returns:
        Metric -> value: the two shares, and which share of the positives is false (0 where there are none).

    Raises:
        ValueError: a loss that is made of something else.
    """
    leaves = {name: x.detach().requires_grad_() for name, x in embeddings.items()}
    with torch.enable_grad():
        batch = GatheredBatch(leaves, labels)
        total = torch.stack(list(loss.terms(batch).values())).sum()
        logits = batch.all_logits()
        if not logits:
            raise ValueError(f"{type(loss).__name__} is not made of cosines between two modalities; leave it out")
        pull = sum((-g).clamp_min(0) for g in torch.autograd.grad(total, logits))
    matches, alike = batch.matches(), GatheredBatch(leaves, classes).matches()
    positive = matches & ~torch.eye(len(matches), dtype=torch.bool, device=matches.device)
    true, false = (float(pull[positive & match].sum() / pull.sum()) for match in (alike, ~alike))
    wrong = float((positive & ~alike).sum() / positive.sum().clamp_min(1))
    return dict(zip((*PULLS, "false positives"), (true, false, wrong), strict=True))


class Positives(L.Callback):
    """Keeps `shares_of_positives` of the first batch of every epoch; the training does not notice."""

    def __init__(self) -> None:
        self.given: tuple[Any, ...] = ()
        self.shares: list[dict[str, float]] = []

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        module.alignment.register_forward_pre_hook(self._keep)

    def _keep(self, loss: AlignmentLoss, given: tuple[Any, ...]) -> None:
        self.given = given

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            classes = torch.from_numpy(trainer.datamodule.data.label).to(module.device)[batch["id"]]
            self.shares.append(shares_of_positives(module.alignment, *self.given, classes))

    def summary(self) -> dict[str, float]:
        """Their means over the training, and those of the pulls over the first and the last third of its epochs."""
        third = max(len(self.shares) // 3, 1)
        thirds = [_means(self.shares[:third]), _means(self.shares[-third:])]
        of_thirds = [means[pull] for means in thirds for pull in PULLS]
        return _means(self.shares) | dict(zip(PULLS_OF_THIRDS, of_thirds, strict=True))


def _means(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in shares])) for name in shares[0]}
