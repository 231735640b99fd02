"""The matching losses in plain PyTorch: the formulas on whole matrices, as one writes them first."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

Embeddings = Mapping[str, Tensor]  # modality -> (B, D), in the order of the ring


def gcs(embeddings: Embeddings, labels: Tensor, temperature: float) -> Tensor:
    r"""Generalised Cauchy-Schwarz divergence of a bidirectional ring and its target, mean over rows.

    D = (1/K) sum_k LSE_j(K log p_kj) - LSE_j(sum_k log p_kj), over the M matching distributions of a direction of the
    ring and the target, K = M + 1; both directions added. Source: Zhang, Yin and Yu, ACM MM 2025.
    """
    names = list(embeddings)
    ring = zip(names, names[1:] + names[:1], strict=True)
    similarities = [_similarity(embeddings[a], embeddings[b], temperature) for a, b in ring]
    log_q = target(labels).log()
    clockwise = [F.log_softmax(s, dim=1) for s in similarities]
    counterclockwise = [F.log_softmax(s.T, dim=1) for s in similarities]
    return _divergence([*clockwise, log_q]) + _divergence([*counterclockwise, log_q])


def cs(embeddings: Embeddings, labels: Tensor, temperature: float) -> Tensor:
    """Cauchy-Schwarz divergence of two modalities' matching distributions from their target, both directions added."""
    similarity, log_q = _similarity(*embeddings.values(), temperature), target(labels).log()
    return sum(_divergence([F.log_softmax(s, dim=1), log_q]) for s in (similarity, similarity.T))


def pairwise_kl(embeddings: Embeddings, labels: Tensor, temperature: float) -> Tensor:
    """KL(q || p) of the target and the matching distributions, both directions, summed over all pairs of modalities.

    Source: Yin et al., CVPR 2024 (LAVIMO).
    """
    q, total = target(labels), 0.0
    for a, b in combinations(embeddings.values(), 2):
        for s in (similarity := _similarity(a, b, temperature), similarity.T):
            total = total + F.kl_div(F.log_softmax(s, dim=1), q, reduction="batchmean")
    return total


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


PLAIN = {"GCS": gcs, "CS": cs, "pairwise KL": pairwise_kl}
