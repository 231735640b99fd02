"""In plain PyTorch, as one writes it first: the matching losses on whole matrices, and the training of JFSE."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_modules import JFSE
from lightning_modules.jfse import CRITIC_STEPS, DEFAULTS, NOISE_DIM
from lightning_modules.networks.adversarial import GRADIENT_PENALTY

Batch = Mapping[str, Tensor]  # modality -> (B, D), in the order of the ring
ALIGNMENT_WEIGHT = DEFAULTS["as_published"][0]


def gcs(embeddings: Batch, labels: Tensor, temperature: float) -> Tensor:
    r"""Generalised Cauchy-Schwarz divergence of a bidirectional ring and its target, mean over rows.

    D = (1/K) sum_k LSE_j(K log p_kj) - LSE_j(sum_k log p_kj), over the M matching distributions of a direction of the
    ring and the target, K = M + 1; both directions added. Source: Zhang, Yin and Yu, ACM MM 2025.
    """
    names = list(embeddings)
    ring = zip(names, names[1:] + names[:1], strict=True)
    return _both_ways([_similarity(embeddings[a], embeddings[b], temperature) for a, b in ring], labels)


def cs(embeddings: Batch, labels: Tensor, temperature: float) -> Tensor:
    """Cauchy-Schwarz divergence of two modalities' matching distributions from their target, both directions added."""
    return _both_ways([_similarity(*embeddings.values(), temperature)], labels)


def pairwise_kl(embeddings: Batch, labels: Tensor, temperature: float) -> Tensor:
    """KL(q || p) of the target and the matching distributions, both directions, summed over all pairs of modalities.

    Source: Yin et al., CVPR 2024 (LAVIMO).
    """
    q = _target(labels)
    similarities = [_similarity(a, b, temperature) for a, b in combinations(embeddings.values(), 2)]
    both = [each for s in similarities for each in (s, s.T)]
    return sum(F.kl_div(F.log_softmax(s, dim=1), q, reduction="batchmean") for s in both)


def gram(embeddings: Batch, labels: Tensor, temperature: float) -> Tensor:
    """GRAM (Cicchetti et al., ICLR 2025): cross-entropies of minus the volumes with the first modality, both ways."""
    anchor, *others = (F.normalize(x, dim=1) for x in embeddings.values())
    logits = gram_volume(anchor, others) / -temperature
    own = torch.arange(len(anchor), device=logits.device)
    return sum(F.cross_entropy(s, own, label_smoothing=0.1) for s in (logits, logits.T)) / 2


def gram_volume(anchor: Tensor, others: Sequence[Tensor]) -> Tensor:
    """(B, B) volumes of unit vectors by Gram matrices (B, B, M, M) and their determinants, as in its public code."""
    rows = len(anchor)
    with_anchor = [anchor.square().sum(dim=1)[:, None].expand(-1, rows), *(anchor @ x.T for x in others)]
    among = [[(x * z).sum(dim=1).expand(rows, -1) for z in others] for x in others]
    lines = [with_anchor, *([u, *line] for u, line in zip(with_anchor[1:], among, strict=True))]
    matrices = torch.stack([torch.stack(line, dim=-1) for line in lines], dim=-2)
    return torch.det(matrices).abs().sqrt()


def _target(labels: Tensor) -> Tensor:
    """(B, B) true matching distribution: equal labels match, every row sums to one."""
    match = (labels[:, None] == labels).float()
    return match / match.sum(dim=1, keepdim=True)


def _similarity(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature


def _both_ways(similarities: list[Tensor], labels: Tensor) -> Tensor:
    """Divergence of the distributions of the rows and their target, and that of the columns."""
    total, order, log_q = 0.0, len(similarities) + 1, _target(labels).log()
    for way in (similarities, [s.T for s in similarities]):
        log_ps = [*(F.log_softmax(s, dim=1) for s in way), log_q]
        norms = sum(torch.logsumexp(order * log_p, dim=1) for log_p in log_ps) / order
        total = total + (norms - torch.logsumexp(sum(log_ps), dim=1)).mean()
    return total


PLAIN = {"GCS": gcs, "CS": cs, "pairwise KL": pairwise_kl, "GRAM": gram}


class PlainJFSE:
    """The published schedule of JFSE: networks, four losses and optimisers with their own passes, min-max batches.

    Args:
        model: whose networks are trained.
        epochs: of the whole schedule, for the strength of the gradient reversal.

    Source: Xu et al., IEEE TPAMI 44(6), 2022, and its public code; the alignment is the Cauchy-Schwarz divergence.
    """

    def __init__(self, model: JFSE, epochs: int):
        self.names, self.epochs, self.device = model.modalities, epochs, model.device
        self.critics, self.generators, self.regressors = model.critics, model.generators, model.regressors
        self.classifier = model.modality_classifier.layers
        self.parts = [self.critics, self.generators, self.regressors, self.classifier]
        self.optimizers = [torch.optim.Adam(p.parameters(), lr=1e-4, betas=(0.5, 0.999)) for p in self.parts]

    def epoch(self, loader: DataLoader, number: int) -> int:
        """Train on every batch of epoch ``number``, from 0; returns how many there were."""
        strength = 2 / (1 + math.exp(-10 * number / self.epochs)) - 1
        for batch in loader:
            batch = {name: x.to(self.device) for name, x in batch.items()}
            like = {"size": (len(batch["label"]), 1), "device": self.device}
            noise = {name: torch.randn(len(batch["label"]), NOISE_DIM, device=self.device) for name in self.names}
            mixes = [{name: torch.rand(**like) for name in self.names} for _ in range(CRITIC_STEPS)]
            self.step(batch, noise, mixes, strength)
        return len(loader)

    def step(self, batch: Batch, noise: Batch, mixes: Sequence[Batch], strength: float) -> None:
        """One batch: a step of the critics for each of ``mixes``, modality -> (B, 1), then one of each other part."""
        x = {name: _min_max(batch[name]) for name in (*self.names, "class_embedding")}
        a = x["class_embedding"]
        for mix in mixes:
            self._descend(0, self._critic_loss(x, noise, mix))
        synthetic = self._synthesise(a, noise)
        realism = sum(critic(synthetic[name], a).mean() for name, critic in self.critics.items())
        self._descend(1, 0.1 * self._misfit(self._embed(synthetic), a, strength) - realism)
        misfits = [
            self._misfit(embeddings, a, strength) + ALIGNMENT_WEIGHT * cs(embeddings, batch["label"], 0.1)
            for embeddings in (self._embed(x), self._embed(self._synthesise(a, noise)))
        ]
        self._descend(2, misfits[0] + 0.01 * misfits[1])
        both = self._embed(x), self._embed(self._synthesise(a, noise))
        self._descend(3, sum(self._adversarial(embeddings, strength) for embeddings in both))

    def _descend(self, part: int, loss: Tensor) -> None:
        self.optimizers[part].zero_grad()
        loss.backward(inputs=list(self.parts[part].parameters()))
        self.optimizers[part].step()

    def _critic_loss(self, x: Batch, noise: Batch, mix: Batch) -> Tensor:
        """E D(fake) - E D(real) + 10 E( |grad D| - 1 )^2 with respect to the interpolated feature, both modalities."""
        total, a = 0.0, x["class_embedding"]
        with torch.no_grad():
            synthetic = self._synthesise(a, noise)
        for name, critic in self.critics.items():
            between = (mix[name] * x[name] + (1 - mix[name]) * synthetic[name]).requires_grad_()
            (gradient,) = torch.autograd.grad(critic(between, a).sum(), between, create_graph=True)
            penalty = (gradient.norm(dim=1) - 1).square().mean()
            total = total + critic(synthetic[name], a).mean() - critic(x[name], a).mean() + GRADIENT_PENALTY * penalty
        return total

    def _synthesise(self, a: Tensor, noise: Batch) -> dict[str, Tensor]:
        return {name: make(torch.cat([a, noise[name]], dim=1)) for name, make in self.generators.items()}

    def _embed(self, x: Batch) -> dict[str, Tensor]:
        return {name: regress(x[name]) for name, regress in self.regressors.items()}

    def _misfit(self, embeddings: Batch, a: Tensor, strength: float) -> Tensor:
        return sum(F.mse_loss(e, a) for e in embeddings.values()) + 0.01 * self._adversarial(embeddings, strength)

    def _adversarial(self, embeddings: Batch, strength: float) -> Tensor:
        total = 0.0
        for number, e in enumerate(embeddings.values()):  # as e forward; what comes back is reversed and scaled
            scores = self.classifier((1 + strength) * e.detach() - strength * e)
            total = total + F.cross_entropy(scores, torch.full((len(e),), number, device=e.device))
        return total


def _min_max(x: Tensor) -> Tensor:
    low, high = x.aminmax(dim=0)
    return ((x - low) / (high - low)).nan_to_num(0)
