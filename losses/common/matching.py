"""Matching distributions of a batch: unit vectors and their products, and the targets that labels make."""

from functools import cached_property

import torch
from torch import Tensor

from losses.common.gather import gather, refuse_together
from losses.common.gradients import by_formula


def unit(x: Tensor) -> Tensor:
    r"""Rows of ``x`` scaled to length one; a zero row stays zero, with a finite gradient.

    x_i / |x_i|_2; where squares could overflow or underflow, it is computed on x_i / max_j |x_ij|.

    Args:
        x: (..., D) embeddings.

    Returns:
        (..., D) tensor.
    """
    return _Unit.apply(x)


def product(x: Tensor, z: Tensor, scale: float = 1.0) -> Tensor:
    """scale x z^T of (n, D) and (m, D), whose gradient too is computed in full precision.

    Manual optimisation calls backward inside the autocast region, which would compute the gradient in half precision.
    """
    return _Product.apply(x, z, scale)


class _Unit(torch.autograd.Function):
    """The gradient is (g - u (u . g)) / |x| with u = x / |x|, in fewer steps than those of the formula."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        limits = torch.finfo(x.dtype)
        if norm.numel() and limits.tiny**0.4 < norm.min() and norm.max() < limits.max**0.4:
            found, largest = x / norm, None
        else:
            scaled, largest, norm = _scaled(x)
            found = scaled.div_(norm)
        ctx.save_for_backward(x, found, norm, largest)
        return found

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        x, found, norm, largest = ctx.saved_tensors
        if torch.is_grad_enabled():
            return by_formula(_unit, (x,), gradient)[0]
        along = (found * gradient).sum(dim=-1, keepdim=True)
        across = torch.addcmul(gradient, found, along, value=-1).div_(norm)
        return across if largest is None else across.div_(largest)


def _unit(x: Tensor) -> Tensor:
    scaled, _, norm = _scaled(x)
    return scaled / norm


def _scaled(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows over their largest entry, that entry, and the norm of the row over it: at least 1, and 1 for zeros."""
    largest = torch.linalg.vector_norm(x.detach(), torch.inf, dim=-1, keepdim=True)
    largest = largest.masked_fill(largest == 0, 1.0)
    scaled = x / largest
    return scaled, largest, torch.linalg.vector_norm(scaled, dim=-1, keepdim=True).clamp_min(1.0)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, z: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, z)
        ctx.scale = scale
        return _scaled_product(x, z.T, scale)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, z = ctx.saved_tensors
        with torch.autocast(gradient.device.type, enabled=False):
            return _scaled_product(gradient, z, ctx.scale), _scaled_product(gradient.T, x, ctx.scale), None


def _scaled_product(x: Tensor, z: Tensor, scale: float) -> Tensor:
    return x @ z if scale == 1 else torch.addmm(x.new_zeros(()), x, z, beta=0, alpha=scale)


class Target:
    """Target distributions q_ij = w_ij / sum_j w_ij of this process's items i over the items j of all processes.

    w_ij is 1 where two items share a class or are a pair and 0 elsewhere, or the weight that is given.

    Args:
        labels: (B,) integers; (B, C) integers or bool, multi-hot; (B, B_global) floating weights.
        offset: number of this process's first item among those of all.
        local: how many items this process has.
        total: how many items all processes have.
        dtype: of the distributions.

    Raises:
        ValueError: on the first use, labels are missing or do not fit, on every process where on one. That use gathers
            them, so that all processes must come to it alike.
    """

    def __init__(self, labels: Tensor | None, offset: int, local: int, total: int, dtype: torch.dtype):
        self.given, self.offset, self.local, self.total, self.dtype = labels, offset, local, total, dtype

    @cached_property
    def labels(self) -> Tensor:
        """Labels of the items of all processes, or the weights of this one."""
        labels = self.given
        if not isinstance(labels, Tensor):
            raise ValueError(
                "this loss needs labels, a tensor: (B,) integers, (B, C) multi-hot or (B, B) floating weights; "
                f"got {type(labels).__name__}"
            )
        refuse_together(_label_refusal(labels, self.local, self.total), "labels", labels)
        if labels.is_floating_point():
            return labels.detach().to(self.dtype)
        # Collectives of bool tensors are not supported by every backend.
        return gather(labels.to(torch.uint8) if labels.dtype == torch.bool else labels)

    @property
    def is_symmetric(self) -> bool:
        """Whether both directions have the same target."""
        return not self.labels.is_floating_point()

    def share(self, start: int, stop: int, reverse: bool = False) -> Tensor:
        """Target of some items: rows sum to one.

        Args:
            start: number of the first item among those of all processes.
            stop: one more than that of the last.
            reverse: whether weights are transposed.

        Returns:
            (stop - start, B_global) tensor.
        """
        if not self.is_symmetric:
            return self.log(start, stop, reverse).exp()
        match = self._match(start, stop)
        return match / match.sum(dim=1, keepdim=True, dtype=self.dtype)

    def log(self, start: int, stop: int, reverse: bool = False) -> Tensor:
        """Logarithm of the same, -inf where two items do not match."""
        if self.is_symmetric:
            match = self._match(start, stop)
            share = -match.sum(dim=1, keepdim=True, dtype=self.dtype).log()
            return torch.where(match, share, -torch.inf)
        weights = self._columns if reverse else self._rows
        weights = weights[start - self.offset : stop - self.offset]
        return weights.log() - weights.sum(dim=1, keepdim=True).log()

    def _match(self, start: int, stop: int) -> Tensor:
        """Whether items share a class: equal integers, or at least one common entry of multi-hot rows."""
        if self.labels.ndim == 1:
            return self.labels[start:stop, None] == self.labels[None, :]
        # Counts of shared classes are small integers, exact in float32 and far faster there than in integers.
        hot = (self.labels != 0).float()
        match = hot[start:stop] @ hot.T > 0
        match.diagonal(offset=start).fill_(True)  # an item without any class too matches its own pair
        return match

    @cached_property
    def _rows(self) -> Tensor:
        return self._checked(self.labels, "row")

    @cached_property
    def _columns(self) -> Tensor:
        return self._checked(gather(self.labels)[:, self.offset : self.offset + self.local].T, "column")

    def _checked(self, weights: Tensor, row: str) -> Tensor:
        refuse_together(_weight_refusal(weights, row), "labels", weights)
        return weights


def _label_refusal(labels: Tensor, local: int, total: int) -> str | None:
    """What is wrong with the labels of this process."""
    shape = tuple(labels.shape)
    if labels.is_floating_point():
        return None if shape == (local, total) else f"target weights have shape {shape}, expected ({local}, {total})"
    if labels.ndim not in (1, 2) or len(labels) != local or labels.is_complex():
        return (
            f"labels have shape {shape}; expected ({local},) integers, ({local}, C) multi-hot or "
            f"({local}, {total}) floating weights"
        )
    if labels.ndim == 2 and bool(((labels != 0) & (labels != 1)).any()):
        return (
            f"labels of shape {shape} are read as multi-hot and must hold only 0 and 1, but the largest is "
            f"{int(labels.max())} and the smallest {int(labels.min())}; class numbers have shape ({local},)"
        )
    return None


def _weight_refusal(weights: Tensor, row: str) -> str | None:
    """What is wrong with the target weights of this process, whose rows are called a row or a column."""
    if not bool((weights.isfinite() & (weights >= 0)).all()):
        return f"target weights must be finite in {weights.dtype} and non-negative"
    sums = weights.sum(dim=1)
    if not bool(sums.isfinite().all()):
        return f"target weights are too large: the sum of a {row} overflows {weights.dtype}"
    empty = (sums <= 0).nonzero()
    if len(empty):
        return (
            f"target {row} {int(empty[0])} has no positive weight, so it names no match; give every item at least one"
        )
    return None
