"""The matching losses in plain PyTorch: the formulas on whole matrices, as one writes them first."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

Embeddings = Mapping[str, Tensor]


def gcs(embeddings: Embeddings, labels: Tensor, temperature: float) -> Tensor:
    r"""Generalised Cauchy-Schwarz divergence of a bidirectional ring and its target, mean over rows.

    D = (1/K) sum_k LSE_j(K log p_kj) - LSE_j(sum_k log p_kj), over the M matching distributions of a direction of the
    ring and the target, K = M + 1; both directions added.

    Args:
        embeddings: modality -> (B, D), in the order of the ring.
        labels: (B,) classes.
        temperature: tau of p = softmax(cosine / tau).

    Source: Zhang, Yin and Yu, ACM MM 2025.
    """
    units = [F.normalize(x, dim=1) for x in embeddings.values()]
    pairs = zip(units, units[1:] + units[:1], strict=True)
    similarities = [a @ b.T / temperature for a, b in pairs]
    log_q = target(labels).log()
    clockwise = [F.log_softmax(s, dim=1) for s in similarities]
    counterclockwise = [F.log_softmax(s.T, dim=1) for s in similarities]
    return _divergence([*clockwise, log_q]) + _divergence([*counterclockwise, log_q])


def cs(embeddings: Embeddings, labels: Tensor, temperature: float) -> Tensor:
    """Cauchy-Schwarz divergence of two modalities' matching distributions from their target, both directions added.

    Args:
        embeddings: two modalities -> (B, D).
        labels: (B,) classes.
        temperature: tau of p = softmax(cosine / tau).

    Source: Zhang, Yin and Yu, ACM MM 2025.
    """
    similarity, log_q = _similarity(*embeddings.values(), temperature), target(labels).log()
    return sum(_divergence([F.log_softmax(s, dim=1), log_q]) for s in (similarity, similarity.T))


def pairwise_kl(embeddings: Embeddings, labels: Tensor, temperature: float) -> Tensor:
    """KL(q || p) of the target and the matching distributions, both directions, summed over all pairs of modalities.

    Args:
        embeddings: modality -> (B, D).
        labels: (B,) classes.
        temperature: tau of p = softmax(cosine / tau).

    Source: Yin et al., CVPR 2024 (LAVIMO).
    """
    q, total = target(labels), 0.0
    for a, b in combinations(embeddings.values(), 2):
        similarity = _similarity(a, b, temperature)
        for s in (similarity, similarity.T):
            total = total + F.kl_div(F.log_softmax(s, dim=1), q, reduction="batchmean")
    return total


def infonce(embeddings: Embeddings, labels: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of every item against its own pair, both directions added.

    Args:
        embeddings: two modalities -> (B, D).
        labels: (B,), of which only the number counts.
        temperature: tau.

    Source: van den Oord, Li and Vinyals, 2018.
    """
    similarity = _similarity(*embeddings.values(), temperature)
    own = torch.arange(len(labels), device=labels.device)
    return F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)


def target(labels: Tensor) -> Tensor:
    """(B, B) true matching distribution: equal labels match, every row sums to one."""
    match = (labels[:, None] == labels).float()
    return match / match.sum(dim=1, keepdim=True)


def _similarity(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature


def _divergence(log_ps: list[Tensor]) -> Tensor:
    order = len(log_ps)
    norms = sum(torch.logsumexp(order * log_p, dim=1) for log_p in log_ps) / order
    return (norms - torch.logsumexp(sum(log_ps), dim=1)).mean()


PLAIN = {"GCS": gcs, "CS": cs, "pairwise KL": pairwise_kl, "InfoNCE": infonce}
