"""Divergences between discrete distributions, computed from log-probabilities without any epsilon."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from losses.common.gradients import by_formula


def cs_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Cauchy-Schwarz divergence between two distributions.

    D(p, q) = -log( sum_j p_j q_j / (|p|_2 |q|_2) ): symmetric, non-negative, zero iff p is proportional to q, and
    invariant to the scale of either argument. It is the generalised divergence of two arguments.

    >>> cs_divergence(torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 0.0]).log())  # log(2) / 2
    tensor(0.3466)

    Args:
        log_p: (..., n) log-probabilities; they need not be normalised, -inf is allowed.
        log_q: (..., n) log-probabilities, broadcast against ``log_p``.

    Returns:
        (...,) divergences, in float32 or wider; +inf with zero gradient where the supports are disjoint.

    Raises:
        ValueError: the last dimensions differ.

    Source: Zhang, Yin and Yu, ACM MM 2025; numerics in log space are this suite's.
    """
    return gcs_divergence([log_p, log_q])


def gcs_divergence(log_ps: Sequence[Tensor]) -> Tensor:
    r"""Generalised Cauchy-Schwarz divergence among K distributions, from Hoelder's inequality.

    D(p_1, ..., p_K) = -log sum_j prod_k p_kj / |p_k|_K. Since log( p_k / |p_k|_K ) is log softmax(K log p_k) / K, no
    product underflows, no large terms cancel, and no logarithm meets a zero that the supports do not force.

    Args:
        log_ps: K >= 2 tensors of shape (..., n), broadcast against each other; they need not be normalised, -inf is
            allowed.

    Returns:
        (...,) divergences, in float32 or wider; +inf with zero gradient where no entry is positive in all arguments.

    Raises:
        ValueError: fewer than two distributions, or their last dimensions differ.

    Source: Zhang, Yin and Yu, ACM MM 2025; numerics in log space are this suite's.
    """
    if len(log_ps) < 2:
        raise ValueError(f"a divergence needs at least two distributions, got {len(log_ps)}")
    if len({log_p.shape[-1] for log_p in log_ps}) > 1:
        raise ValueError(f"distributions differ in length: {[tuple(log_p.shape) for log_p in log_ps]}")
    log_ps = [_at_least_float32(log_p) for log_p in log_ps]
    log_ps = torch.broadcast_tensors(*log_ps)
    divergence = _Hoelder.apply(*log_ps)
    if bool(divergence.isfinite().all()):
        return divergence
    # The gradient of a softmax over nothing but -inf is NaN: such rows are computed on zeros and replaced.
    disjoint = torch.isneginf(sum(log_ps)).all(dim=-1)
    safe = [log_p.masked_fill(disjoint.unsqueeze(-1), 0.0) for log_p in log_ps]
    return _Hoelder.apply(*safe).masked_fill(disjoint, math.inf)


def _hoelder(*log_ps: Tensor) -> Tensor:
    """The formula on log-probabilities of one shape, in steps that autograd can differentiate as often as needed."""
    order = len(log_ps)
    return -torch.logsumexp(sum(torch.log_softmax(order * log_p, dim=-1) for log_p in log_ps) / order, dim=-1)


class _Hoelder(torch.autograd.Function):
    """:func:`_hoelder` and its gradient, softmax(K log p_k) - softmax(sum_k log p_k), from the same exponentials."""

    @staticmethod
    def forward(ctx, *log_ps: Tensor) -> Tensor:
        order, joint, shares = len(log_ps), None, []
        for log_p in log_ps:
            powers = log_p - log_p.amax(dim=-1, keepdim=True)
            joint = powers.clone() if joint is None else joint.add_(powers)
            powers, total = _exponentials(powers, order)
            joint.sub_(total.log() / order)
            shares.append(powers.div_(total))
        largest = joint.amax(dim=-1, keepdim=True)
        joint, total = _exponentials(joint.sub_(largest))
        joint.div_(total)
        needed = [share.sub_(joint) if need else None for share, need in zip(shares, ctx.needs_input_grad, strict=True)]
        ctx.save_for_backward(*needed, *log_ps)
        return -(total.log() + largest).squeeze(-1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        order, saved = len(ctx.needs_input_grad), ctx.saved_tensors  # read once: a checkpoint allows no second time
        slopes, log_ps = saved[:order], saved[order:]
        if torch.is_grad_enabled():
            return by_formula(_hoelder, log_ps, gradient)
        return tuple(None if slope is None else slope * gradient[..., None] for slope in slopes)


def _exponentials(logs: Tensor, order: int = 1) -> tuple[Tensor, Tensor]:
    """exp(order x) of the entries x, in their place, and its sum over the last dimension."""
    exponentials = exp_(logs, order)
    return exponentials, exponentials.sum(dim=-1, keepdim=True)


def exp_(x: Tensor, factor: float = 1.0) -> Tensor:
    """exp(factor x), in the place of x, as a power of two.

    On a CPU torch.exp takes 20 times as long where it is 0, as for most entries of a target, and hundreds of times
    where it is denormal, as at low temperatures; torch.exp2 takes no longer at 0, and ten times as long where denormal.
    """
    return x.mul_(factor / math.log(2)).exp2_()


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Kullback-Leibler divergence of normalised distributions.

    KL(p || q) = sum_j p_j (log p_j - log q_j); entries with p_j = 0 contribute nothing, in value and gradient.

    >>> kl_divergence(torch.tensor([1.0, 0.0]).log(), torch.tensor([0.5, 0.5]).log())  # log(2)
    tensor(0.6931)

    Args:
        log_p: (..., n) log-probabilities, -inf allowed.
        log_q: (..., n) log-probabilities, broadcast against ``log_p``; -inf where p is positive gives +inf.

    Returns:
        (...,) divergences, in float32 or wider.

    Raises:
        ValueError: the last dimensions differ.

    Source: Kullback and Leibler, 1951.
    """
    if log_p.shape[-1] != log_q.shape[-1]:
        raise ValueError(f"distributions differ in length: {tuple(log_p.shape)} and {tuple(log_q.shape)}")
    log_p, log_q = _at_least_float32(log_p), _at_least_float32(log_q)
    return _KL.apply(*torch.broadcast_tensors(log_p, log_q))


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The formula, in steps that autograd can differentiate as often as needed."""
    p = log_p.exp()
    return (p * torch.where(p > 0, log_p - log_q, 0.0)).sum(dim=-1)


class _KL(torch.autograd.Function):
    """:func:`_kl`, whose gradient is p (log p - log q + 1) for log p, and -p for log q."""

    @staticmethod
    def forward(ctx, log_p: Tensor, log_q: Tensor) -> Tensor:
        p, ratio = log_p.exp(), log_p - log_q
        ratio.masked_fill_(p == 0, 0.0)
        ctx.save_for_backward(p, ratio if ctx.needs_input_grad[0] else None, log_p, log_q)
        return torch.linalg.vecdot(p, ratio)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        p, ratio, *logs = ctx.saved_tensors
        if torch.is_grad_enabled():
            return by_formula(_kl, tuple(logs), gradient)
        to_q = p * -gradient[..., None] if ctx.needs_input_grad[1] else None
        return (None if ratio is None else (ratio + 1).mul_(p).mul_(gradient[..., None])), to_q


def clamped_divergence(ps: Sequence[Tensor], epsilon: float) -> Tensor:
    """Generalised Cauchy-Schwarz divergence among K distributions whose entries are raised to at least epsilon.

    -log sum_j prod_k p_kj + (1/K) sum_k log sum_j p_kj^K of p_kj = max(p_kj, epsilon), products and powers in ordinary
    space: the form of public code, for comparison alone. K = 2 is the Cauchy-Schwarz divergence.

    Args:
        ps: K tensors of shape (..., n), probabilities.
        epsilon: least probability.

    Returns:
        (...,) divergences.

    Source: the form of the public code of Zhang, Yin and Yu, ACM MM 2025.
    """
    ps = torch.stack(list(ps)).clamp_min(epsilon)
    norms = ps.pow(len(ps)).sum(dim=-1).log().mean(dim=0)
    return norms - ps.prod(dim=0).sum(dim=-1).log()


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
