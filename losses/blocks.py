"""Divergences of matching distributions from their target, in one pass over blocks of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from losses.target import Target

# Entries of a block of one similarity matrix: on a CPU what its caches hold, on a GPU what keeps it busy.
BLOCK_ENTRIES = {"cpu": 2**21, "cuda": 2**26}
# Similarity matrices of a loss are kept for the backward pass up to this many bytes, and computed again beyond.
KEPT_BYTES = 2**30
# Least exponent whose exponential keeps its full precision, and whose inverse is finite.
LEAST_EXPONENT = {torch.float32: -80.0, torch.float64: -700.0}

Pairs = Sequence[tuple[Tensor, Tensor]]


def matching_divergences(
    pairs: Pairs,
    temperature: float,
    target: Target | None,
    measure: Literal["gcs", "kl"],
    both: bool = False,
    shares: int = 1,
) -> list[Tensor]:
    r"""Divergence of every row's matching distributions and target, and with ``both`` of every column's.

    With S_k = rows_k columns_k^T / temperature of m pairs and p_ki = softmax_j(S_kij):

    - "gcs": D_GCS(p_1i, ..., p_mi, q_i) = (1/K) sum_k LSE_j(K S_kij) - LSE_j(sum_k S_kij + log w_ij)
      + (1/K) LSE_j(K log w_ij), with K = m + 1 arguments and q proportional to w; without a target K = m, w = 1, and
      the last term is left out. The divergence does not depend on the scale of its arguments, so neither the softmax
      nor the target is normalised: one log-sum-exp per matrix and direction, and one for their sum.
    - "kl", of one pair: KL(q_i || p_i) = LSE_j(S_ij) - sum_j q_ij S_ij + sum_j q_ij log q_ij.

    Columns are the same of the transposed matrices, which the second direction needs. Rows go by in blocks; a backward
    pass computes the matrices again where keeping them would cost too much. Memory is then linear in the batch.

    Args:
        pairs: m times (rows (B, D), columns (N, D)), of unit length.
        temperature: tau > 0.
        target: which columns match which rows; None for no target, with "gcs" alone.
        measure: "gcs" or "kl".
        both: whether the columns' divergences are wanted too; B = N then.
        shares: how many calls of one loss share ``KEPT_BYTES``.

    Returns:
        [(B,) divergences of the rows], with ``both`` also those of the columns (N,); differentiable once.

    Source: the divergences of :mod:`losses.divergence`; blocks and recomputation as in Milakov and Gimelshein, 2018
    (online softmax) and Dao et al., NeurIPS 2022 (attention).
    """
    order = 1 if measure == "kl" else len(pairs) + (target is not None)
    plan = _Plan(order, temperature, target, measure == "kl", (0, 1) if both else (0,), KEPT_BYTES // shares)
    return list(_Divergences.apply(plan, *[x for pair in pairs for x in pair]))


@dataclass(frozen=True)
class _Plan:
    """What a call computes: K, and the sides, 0 for rows and 1 for columns; and the bytes that it may keep."""

    order: int
    temperature: float
    target: Target | None
    is_kl: bool
    sides: tuple[int, ...]
    most_bytes: int

    def has_one_shift(self, dtype: torch.dtype) -> bool:
        """Whether K / temperature can be taken off every logit K S before an exponential.

        Cosines lie in [-1, 1]: where exp(-2 K / temperature) is no underflow, one exponential serves rows and columns.
        """
        weighted = self.target is not None and not self.target.is_mask
        return not weighted and -2 * self.order / self.temperature >= LEAST_EXPONENT[dtype]

    def logits(self, pairs: Pairs, start: int, stop: int) -> list[Tensor]:
        """Rows ``start`` to ``stop`` of K S_k."""
        return [(rows[start:stop] * (self.order / self.temperature)) @ columns.T for rows, columns in pairs]

    def joint(self, logits: Sequence[Tensor], start: int, stop: int) -> Tensor:
        """sum_k S_k + log w of some rows, or w S for "kl", from K S_k less what was taken off them."""
        weights = None if self.target is None else self.target.block(start, stop)
        if self.is_kl:
            return logits[0] * weights
        total = logits[0] / self.order
        for block in logits[1:]:
            total.add_(block, alpha=1 / self.order)
        if weights is None:
            return total
        return total.masked_fill_(~weights, -math.inf) if self.target.is_mask else total.add_(weights.log())

    def values(self, own: Sequence[Sequence[Tensor]], joint: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Divergences of every side, from the log-sums of K S_k by pair and side, and from that of the joint term."""
        found = []
        for side in self.sides:
            common = joint[side] / self.target.totals()[side] if self.is_kl else joint[side]
            value = sum(logs[side] for logs in own) / self.order - common
            found.append(value if self.target is None else value + self.target.constants(self.order)[side])
        return tuple(found)

    def target_share(self, gradients: Sequence[Tensor], start: int, stop: int) -> Tensor:
        """g_i q_ij of the rows + h_j q_ji of the columns, for "kl"."""
        shares = [g / total for g, total in zip(gradients, self.target.totals(), strict=False)]
        return _spread(shares, self.target.block(start, stop), start, stop)


class _OneShift:
    """Log-sums and slopes where K / temperature is taken off every logit."""

    def __init__(self, plan: _Plan, pairs: Pairs):
        self.plan, self.shift = plan, plan.order / plan.temperature
        self.own = [_sums(plan.sides, rows) for rows, _ in pairs]
        self.shared = _sums(plan.sides, pairs[0][0])

    def add(self, logits: list[Tensor], start: int, stop: int) -> list[Tensor]:
        """Take one block; what is returned can be kept for :meth:`slopes`."""
        powers = self.powers(logits, start, stop)
        for sums, block in zip([*self.own, self.shared], powers, strict=True):
            sums.add(block, start, stop)
        return powers[:-1] if self.plan.is_kl else powers

    def powers(self, logits: list[Tensor], start: int, stop: int) -> list[Tensor]:
        """exp(K S_k - shift), in place, and of the joint term; w (S - shift) for "kl"."""
        for block in logits:
            block.sub_(self.shift)
        joint = self.plan.joint(logits, start, stop)
        return [*[block.exp_() for block in logits], joint if self.plan.is_kl else joint.exp_()]

    def finish(self) -> tuple[list[list[Tensor]], list[Tensor]]:
        own = [[total.log() for total in sums.totals] for sums in self.own]
        joint = self.shared.totals
        return own, joint if self.plan.is_kl else [total.log() for total in joint]

    def slopes(
        self, own: list[list[Tensor]], joint: list[Tensor], powers: list[Tensor], gradients: list[Tensor], *rows: int
    ) -> Iterator[Tensor]:
        """Gradient with respect to S_k, pair by pair."""
        if self.plan.is_kl:
            common = self.plan.target_share(gradients, *rows)
        else:
            common = _spread([g / j.exp() for g, j in zip(gradients, joint, strict=True)], powers[-1], *rows)
        for logs, block in zip(own, powers, strict=False):
            shares = [g / log.exp() for g, log in zip(gradients, logs, strict=True)]
            yield _spread(shares, block, *rows).sub_(common)


class _OwnMaxima:
    """Log-sums and slopes where every row and column of every logit matrix has its own maximum taken off.

    What is taken off cancels in the divergence, so that logits of 10,000 lose no digit of a divergence near zero.
    """

    def __init__(self, plan: _Plan, pairs: Pairs):
        self.plan = plan
        self.largest = [_Folded(plan.sides, rows, torch.amax, torch.maximum) for rows, _ in pairs]
        self.own = [_sums(plan.sides, rows) for rows, _ in pairs]
        first, _ = pairs[0]
        fold = (torch.sum, torch.add) if plan.is_kl else (torch.logsumexp, torch.logaddexp)
        self.shared = _Folded(plan.sides, first, *fold)

    def find_maxima(self, logits: list[Tensor], start: int, stop: int) -> None:
        """Take one block, before any is added."""
        for largest, block in zip(self.largest, logits, strict=True):
            largest.add(block, start, stop)

    def add(self, logits: list[Tensor], start: int, stop: int) -> list[Tensor]:
        """Take one block, after the maxima of all; what is returned can be kept for :meth:`slopes`."""
        for side in self.plan.sides:
            lowered = self._lowered(logits, side, start, stop)
            self.shared.add_side(side, self.plan.joint(lowered, start, stop), start, stop)
            for sums, block in zip(self.own, lowered, strict=True):
                sums.add_side(side, block.exp_(), start, stop)
        return logits

    def _lowered(self, logits: list[Tensor], side: int, start: int, stop: int) -> list[Tensor]:
        if side:
            return [block - largest.totals[1] for block, largest in zip(logits, self.largest, strict=True)]
        return [block - x.totals[0][start:stop, None] for block, x in zip(logits, self.largest, strict=True)]

    def finish(self) -> tuple[list[list[Tensor]], list[Tensor]]:
        return [[total.log() for total in sums.totals] for sums in self.own], self.shared.totals

    def slopes(
        self, own: list[list[Tensor]], joint: list[Tensor], logits: list[Tensor], gradients: list[Tensor], *rows: int
    ) -> Iterator[Tensor]:
        found = [0.0] * len(logits)
        for side, gradient in enumerate(gradients):
            lowered = self._lowered(logits, side, *rows)
            g = gradient if side else gradient[slice(*rows), None]

            def softmax(block: Tensor, logs: Tensor, g: Tensor = g, side: int = side) -> Tensor:
                return block.sub_(logs if side else logs[slice(*rows), None]).exp_().mul_(g)

            common = 0.0 if self.plan.is_kl else softmax(self.plan.joint(lowered, *rows), joint[side])
            for number, (block, logs) in enumerate(zip(lowered, own, strict=True)):
                found[number] = softmax(block, logs[side]).sub_(common).add_(found[number])
        common = self.plan.target_share(gradients, *rows) if self.plan.is_kl else 0.0
        yield from (slope.sub_(common) for slope in found)


class _Folded:
    """What a reduction over the rows and columns, those of ``sides``, of a matrix finds that comes in blocks of rows.

    Every block's share goes into tensors that were there before: small ones that stay, allocated between large ones
    that go, would keep the memory of the large ones from being used again.

    Args:
        sides: 0 for rows, 1 for columns.
        rows: a tensor of as many rows, and of the same kind.
        reduce: of a block over a dimension.
        join: of two shares of a column.
    """

    def __init__(self, sides: Sequence[int], rows: Tensor, reduce: Callable[..., Tensor], join: Callable[..., Tensor]):
        self.sides, self.reduce, self.join = sides, reduce, join
        self.totals: list[Tensor | None] = [rows.new_empty(len(rows)), None][: len(sides)]

    def add(self, block: Tensor, start: int, stop: int) -> None:
        """Take rows ``start`` to ``stop``."""
        for side in self.sides:
            self.add_side(side, block, start, stop)

    def add_side(self, side: int, block: Tensor, start: int, stop: int) -> None:
        """Take rows ``start`` to ``stop`` for one side alone."""
        found = self.reduce(block, dim=1 - side)
        if side == 0:
            self.totals[0][start:stop] = found
        elif self.totals[1] is None:
            self.totals[1] = found
        else:
            self.join(self.totals[1], found, out=self.totals[1])


def _sums(sides: Sequence[int], rows: Tensor) -> _Folded:
    return _Folded(sides, rows, torch.sum, torch.add)


class _Divergences(torch.autograd.Function):
    @staticmethod
    def forward(ctx, plan: _Plan, *tensors: Tensor) -> tuple[Tensor, ...]:
        pairs = list(zip(tensors[::2], tensors[1::2], strict=True))
        first, kept = tensors[0], {}
        one_shift = plan.has_one_shift(first.dtype)
        matrices = len(pairs) + (one_shift and not plan.is_kl)
        keeps = matrices * len(first) * len(tensors[1]) * first.element_size() <= plan.most_bytes
        if one_shift:
            sums = _OneShift(plan, pairs)
        else:
            sums = _OwnMaxima(plan, pairs)
            for start, stop in _blocks(*pairs[0]):
                logits = plan.logits(pairs, start, stop)
                sums.find_maxima(logits, start, stop)
                if keeps:
                    kept[start] = logits
        for start, stop in _blocks(*pairs[0]):
            logits = kept[start] if start in kept else plan.logits(pairs, start, stop)
            powers = sums.add(logits, start, stop)
            if keeps:
                kept[start] = powers
        ctx.plan, ctx.sums, ctx.pairs = plan, sums, len(pairs)
        ctx.own, ctx.joint = sums.finish()
        ctx.save_for_backward(*tensors, *[x for powers in kept.values() for x in powers])
        return plan.values(ctx.own, ctx.joint)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: the second derivative would be silently wrong
            raise RuntimeError("this loss can be differentiated once; call backward without create_graph")
        tensors, kept = ctx.saved_tensors[: 2 * ctx.pairs], ctx.saved_tensors[2 * ctx.pairs :]
        pairs = list(zip(tensors[::2], tensors[1::2], strict=True))
        # A backward pass inside an autocast region would compute the logits again in its precision.
        with torch.autocast(tensors[0].device.type, enabled=False):
            found = _slopes(ctx, pairs, kept, gradients)
        return None, *[x for both in found for x in both]


def _slopes(ctx, pairs: Pairs, kept: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Gradients with respect to rows and columns of every pair, block by block."""
    blocks = list(_blocks(*pairs[0]))
    found = [(torch.empty_like(rows), torch.zeros_like(columns)) for rows, columns in pairs]
    gradients = [gradient / ctx.plan.temperature for gradient in gradients]  # of S to those of cosines
    for number, (start, stop) in enumerate(blocks):
        if kept:
            width = len(kept) // len(blocks)
            powers = list(kept[number * width : (number + 1) * width])
        else:
            powers = ctx.plan.logits(pairs, start, stop)
            if isinstance(ctx.sums, _OneShift):
                powers = ctx.sums.powers(powers, start, stop)
        slopes = ctx.sums.slopes(ctx.own, ctx.joint, powers, gradients, start, stop)
        for slope, (rows, columns), (to_rows, to_columns) in zip(slopes, pairs, found, strict=True):
            torch.mm(slope, columns, out=to_rows[start:stop])
            to_columns.addmm_(slope.T, rows[start:stop])
    return found


def _blocks(rows: Tensor, columns: Tensor) -> Iterator[tuple[int, int]]:
    size = max(BLOCK_ENTRIES.get(rows.device.type, BLOCK_ENTRIES["cuda"]) // len(columns), 1)
    for start in range(0, len(rows), size):
        yield start, min(start + size, len(rows))


def _spread(sides: Sequence[Tensor], block: Tensor, start: int, stop: int) -> Tensor:
    """(a_i + b_j) x_ij of some rows and all columns, or a_i x_ij alone."""
    rows = sides[0][start:stop, None]
    return (rows + sides[1]).mul_(block) if len(sides) > 1 else rows * block
