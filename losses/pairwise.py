"""A two-modality loss summed over all pairs of modalities."""

import inspect
from itertools import combinations
from operator import attrgetter
from typing import Any, get_type_hints

from torch import Tensor

from losses.common.base import AlignmentLoss, GatheredBatch
from losses.registry import build_loss, parameters, register_loss, registered


@register_loss("pairwise")
class PairwiseLoss(AlignmentLoss):
    """Sum of a two-modality loss over the M(M-1)/2 pairs of M modalities.

    Processes: as the summed loss; the batch is gathered once.

    Args:
        divergence: name of a registered two-modality loss: "kl", "cs", "cmpm_kl", "mmd", "coral", "infonce",
            "kernel_cs", ...
        **keywords: of the summed loss, such as ``temperature``; None for its default.

    Raises:
        ValueError: the named loss is unknown or not one of two modalities.
        TypeError: a keyword that loss does not have.

    Source: Yin et al., CVPR 2024 (LAVIMO), for KL.
    """

    takes_two = False
    uses_labels = property(attrgetter("divergence.uses_labels"))
    over_rows = property(attrgetter("divergence.over_rows"))
    power = property(attrgetter("divergence.power"))
    temperature = property(attrgetter("divergence.temperature"))

    def __init__(self, divergence: str = "kl", **keywords: Any):
        super().__init__()
        given = {name: value for name, value in keywords.items() if value is not None}
        self.divergence = build_loss(divergence, **given)
        if not self.divergence.takes_two:
            raise ValueError(f"pairwise sums a loss of two modalities, which {divergence!r} is not")

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        terms = {}
        for pair in combinations(batch.modalities, 2):
            terms |= self.divergence.terms(batch.select(pair))
        return terms

    def effective_factor(self, modalities: int) -> int | None:
        return self.divergence.effective_factor(2)


def show_keywords() -> None:
    """Put the keywords of all two-modality losses into the signature of ``pairwise``.

    The command line and its help know an argument by the signature alone.
    """
    shown: dict[str, inspect.Parameter] = {}
    for loss in (loss for loss in registered() if loss.takes_two):
        for name in parameters(loss):
            annotation = get_type_hints(loss.__init__)[name] | (shown[name].annotation if name in shown else None)
            shown[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
    own = inspect.signature(PairwiseLoss.__init__)
    *first, rest = own.parameters.values()
    PairwiseLoss.__init__.__signature__ = own.replace(parameters=[*first, *shown.values(), rest])
