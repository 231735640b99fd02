"""GRAM: the volume that the modalities of an item span."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.common.base import AlignmentLoss, GatheredBatch, positive
from losses.common.gradients import by_formula
from losses.common.matching import product
from losses.registry import nearest, register_loss


@register_loss("gram")
class GRAMLoss(AlignmentLoss):
    r"""Cross-entropy over the volumes spanned by an anchor and the other modalities, of two modalities or more.

    (1/2) mean_i CE_i( softmax_j( -V_ij / temperature ) ) + (1/2) mean_j CE_j( softmax_i( -V_ij / temperature ) ), where
    an item's own pair is the right answer, less ``label_smoothing`` spread evenly over all. V_ij = sqrt|det G_ij|, with
    G_ij the Gram matrix of the unit vectors of anchor i and of the other M - 1 modalities of item j; a zero vector is
    at right angles to all. Labels are not used. Where the volume is 0 its gradient is 0.

    Known weakness: the volume is 0 as soon as any two of the vectors are parallel or opposite, whatever the third; of
    two modalities it is the sine of their angle, and cannot tell x from -x.

    >>> GRAMLoss(temperature=1.0)({"image": torch.eye(3), "text": torch.eye(3)}).total
    tensor(0.6181)

    Processes: anchors of this process against the items of all, items of this process against the anchors of all,
    gradient through the gather.

    Args:
        temperature: tau > 0.
        anchor: the modality that is compared with the others; by default "text" where there is one, else the first.
        label_smoothing: share of the right answer that is spread evenly over all, in [0, 1).

    Raises:
        ValueError: a setting outside its range; on call, an anchor that is none of the modalities.

    Source: Cicchetti et al., "Gramian Multimodal Representation Learning and Alignment", ICLR 2025.
    """

    takes_two = False
    uses_labels = False
    over_rows = True

    def __init__(self, temperature: float = 0.07, anchor: str | None = None, label_smoothing: float = 0.1):
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}")
        self.temperature = positive("temperature", temperature)
        self.anchor, self.label_smoothing = anchor, label_smoothing

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        anchor = self._anchor_of(batch.modalities)
        others = [name for name in batch.modalities if name != anchor]
        columns = [batch.unit_columns(name) for name in others]
        volumes = gram_volume(batch.unit_rows(anchor), columns)
        if len(volumes) == volumes.shape[1]:
            of_items = volumes.T
        else:
            of_items = gram_volume(batch.unit_columns(anchor), [batch.unit_rows(name) for name in others]).T
        return {
            f"{anchor}->{'+'.join(others)}": self._cross_entropy(volumes, batch.start) / 2,
            f"{'+'.join(others)}->{anchor}": self._cross_entropy(of_items, batch.start) / 2,
        }

    def _cross_entropy(self, volumes: Tensor, start: int) -> Tensor:
        own = torch.arange(start, start + len(volumes), device=volumes.device)
        return F.cross_entropy(volumes / -self.temperature, own, label_smoothing=self.label_smoothing)

    def _anchor_of(self, modalities: Sequence[str]) -> str:
        if self.anchor is None:
            return "text" if "text" in modalities else modalities[0]
        if self.anchor not in modalities:
            raise ValueError(
                f"the anchor {self.anchor!r} is no modality of the batch; {nearest(self.anchor, modalities)}"
            )
        return self.anchor


def gram_volume(anchor: Tensor, others: Sequence[Tensor]) -> Tensor:
    r"""Volumes of the parallelotopes that an anchor and the vectors of an item span.

    V_ij = sqrt(det G_ij), G_ij the cosines among anchor i and the vectors of item j, with 1 on the diagonal. With u the
    anchor's cosines with the item's vectors and H those among these: of two vectors det G = 1 - u^2, of three
    1 + 2 u_1 u_2 h - u_1^2 - u_2^2 - h^2, of more det H (1 - u^T H^-1 u), so that no (R, N, M, M) tensor is built.
    A determinant that is 0 to rounding is 0, and so is the gradient of the volume then.

    Args:
        anchor: (R, D) unit vectors; a zero vector is at right angles to all.
        others: M - 1 tensors (N, D) of the same, one for each other modality.

    Returns:
        (R, N) volumes, at least 0 and at most 1.
    """
    u = [product(anchor, other) for other in others]
    if len(u) == 1:
        return _Root.apply(1 - u[0].square())
    if len(u) == 2:
        return _OfThree.apply(*u, (others[0] * others[1]).sum(dim=-1))
    return _Root.apply(_schur_determinant(u, others))


def _schur_determinant(u: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    stacked = torch.stack(list(others), dim=1)
    identity = torch.eye(len(u), dtype=stacked.dtype, device=stacked.device)
    h = torch.where(identity == 1, identity, stacked @ stacked.mT)  # (N, M - 1, M - 1)
    determinant = torch.linalg.det(h)
    flat = determinant <= _rounding(determinant)  # then H has no inverse, and any will do
    inverse = torch.linalg.inv(torch.where(flat[:, None, None], identity, h))
    projected = sum(x * sum(inverse[:, k, m] * z for m, z in enumerate(u)) for k, x in enumerate(u))
    return determinant.masked_fill(flat, 0.0) * (1 - projected)


class _OfThree(torch.autograd.Function):
    """Root of 1 + 2 u v h - u^2 - v^2 - h^2, whose gradient is (v h - u, u h - v, u v - h) over the root."""

    @staticmethod
    def forward(ctx, u: Tensor, v: Tensor, h: Tensor) -> Tensor:
        squared = torch.mul(v, 2 * h).sub_(u).mul_(u).addcmul_(v, v, value=-1).add_(1 - h.square())
        root = F.threshold_(squared, _rounding(squared), 0.0).sqrt_()
        ctx.save_for_backward(u, v, h, root)
        return root

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        u, v, h, root = ctx.saved_tensors
        if torch.is_grad_enabled():
            return by_formula(_of_three, (u, v, h), gradient)
        over = (gradient / root).masked_fill_(root == 0, 0.0)
        to_h = torch.mul(u, v).sub_(h).mul_(over).sum(dim=0)
        return torch.mul(v, h).sub_(u).mul_(over), torch.mul(u, h).sub_(v).mul_(over), to_h


def _of_three(u: Tensor, v: Tensor, h: Tensor) -> Tensor:
    return _Root.apply(1 + 2 * u * v * h - u.square() - v.square() - h.square())


def _rounding(determinant: Tensor) -> float:
    """What the rounding of a determinant of cosines is at least."""
    return 8 * torch.finfo(determinant.dtype).eps


class _Root(torch.autograd.Function):
    """Square root, which is 0 with gradient 0 where its argument is 0 to rounding."""

    @staticmethod
    def forward(ctx, squared: Tensor) -> Tensor:
        root = F.threshold(squared, _rounding(squared), 0.0).sqrt_()
        ctx.save_for_backward(root)
        return root

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (root,) = ctx.saved_tensors
        return gradient * (0.5 / root).masked_fill(root == 0, 0.0)
