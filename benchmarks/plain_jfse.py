"""The published training schedule of JFSE in plain PyTorch: item by item, step by step, each with its own forward pass.

What the public code does in TensorFlow, in the obvious way: a data set that returns one item, four Adam optimisers, and
for every batch five steps of the critics, then one of the generators, of the regressors and of the modality classifier.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks import plain
from lightning_modules.jfse import CRITIC_STEPS, NOISE_DIM, PRESETS
from lightning_modules.networks.adversarial import GRADIENT_PENALTY, Critic

TEMPERATURE = 0.1
ALIGNMENT_WEIGHT = PRESETS["as_published"].alignment_weight

Batch = Mapping[str, Tensor]


class Items(Dataset):
    """Rows of in-memory tensors, one item at a time.

    Args:
        tensors: name -> (N, ...).
    """

    def __init__(self, tensors: Batch):
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: tensor[index] for name, tensor in self.tensors.items()}


class PlainJFSE:
    """The networks of JFSE, its four losses and their optimisers, with ReLU outputs and min-max scaled batches.

    Args:
        dims: width of the two modalities' features and of "class_embedding".
        width: hidden units of every network.
        epochs: of the whole schedule, for the strength of the gradient reversal.
        device: where it trains.
        learning_rate: of the four Adam optimisers (beta1 0.5).

    Source: Xu et al., IEEE TPAMI 44(6), 2022, and its public code; the alignment is the Cauchy-Schwarz divergence.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        width: int,
        epochs: int,
        device: torch.device | str = "cpu",
        learning_rate: float = 1e-4,
    ):
        self.names = [name for name in dims if name != "class_embedding"]
        self.epochs, self.device = epochs, device
        a = dims["class_embedding"]
        self.regressors = nn.ModuleDict({n: _dense(dims[n], width, a, nn.ReLU(), nn.ReLU()) for n in self.names})
        self.generators = nn.ModuleDict(
            {n: _dense(a + NOISE_DIM, width, dims[n], nn.ReLU(), nn.ReLU()) for n in self.names}
        )
        self.critics = nn.ModuleDict(
            {n: _dense(dims[n] + a, width, 1, nn.LeakyReLU(Critic.slope), nn.Identity()) for n in self.names}
        )
        half, quarter = max(a // 2, 2), max(a // 4, 2)
        self.classifier = nn.Sequential(nn.Linear(a, half), nn.Linear(half, quarter), nn.Linear(quarter, 2))
        self.parts = [self.critics, self.generators, self.regressors, self.classifier]
        for part in self.parts:
            part.to(device)
        self.optimizers = [torch.optim.Adam(p.parameters(), lr=learning_rate, betas=(0.5, 0.999)) for p in self.parts]

    def loader(self, tensors: Batch, batch_size: int) -> DataLoader:
        """Batches of the items in their order, without the last incomplete one.

        Args:
            tensors: modality, "class_embedding" and "label" -> (N, ...).
            batch_size: items of a batch.
        """
        return DataLoader(Items(tensors), batch_size=batch_size, shuffle=False, drop_last=True)

    def epoch(self, loader: DataLoader, number: int) -> int:
        """Train on every batch; returns how many there were.

        Args:
            loader: as :meth:`loader` makes it.
            number: of the epoch, from 0.
        """
        strength = 2 / (1 + math.exp(-10 * number / self.epochs)) - 1
        for batch in loader:
            batch = {name: x.to(self.device) for name, x in batch.items()}
            count = len(batch["label"])
            noise = {name: torch.randn(count, NOISE_DIM, device=self.device) for name in self.names}
            mixes = [
                {name: torch.rand(count, 1, device=self.device) for name in self.names} for _ in range(CRITIC_STEPS)
            ]
            self.step(batch, noise, mixes, strength)
        return len(loader)

    def step(self, batch: Batch, noise: Batch, mixes: Sequence[Batch], strength: float) -> None:
        """One batch: the critics' steps, then one of each other part.

        Args:
            batch: modality, "class_embedding" and "label" -> (B, ...).
            noise: modality -> (B, 300).
            mixes: for every step of the critics, modality -> (B, 1) in [0, 1].
            strength: of the gradient reversal.
        """
        x = {name: _min_max(batch[name]) for name in (*self.names, "class_embedding")}
        for mix in mixes:
            self._descend(0, self.critic_loss(x, noise, mix))
        self._descend(1, self._generator_loss(x, noise, strength))
        self._descend(2, self._regressor_loss(x, noise, batch["label"], strength))
        self._descend(3, self._classifier_loss(x, noise, strength))

    def _descend(self, part: int, loss: Tensor) -> None:
        self.optimizers[part].zero_grad()
        loss.backward(inputs=list(self.parts[part].parameters()))
        self.optimizers[part].step()

    def critic_loss(self, x: Batch, noise: Batch, mix: Batch) -> Tensor:
        """E D(fake) - E D(real) + 10 E( |grad D| - 1 )^2 with respect to the interpolated feature, both modalities."""
        total = 0.0
        with torch.no_grad():
            synthetic = self._synthesise(x, noise)
        for name in self.names:
            between = (mix[name] * x[name] + (1 - mix[name]) * synthetic[name]).requires_grad_()
            (gradient,) = torch.autograd.grad(self._score(name, between, x).sum(), between, create_graph=True)
            penalty = (gradient.norm(dim=1) - 1).square().mean()
            realism = self._score(name, x[name], x).mean() - self._score(name, synthetic[name], x).mean()
            total = total - realism + GRADIENT_PENALTY * penalty
        return total

    def _generator_loss(self, x: Batch, noise: Batch, strength: float) -> Tensor:
        synthetic = self._synthesise(x, noise)
        cycled = {name: self.regressors[name](synthetic[name]) for name in self.names}
        realism = sum(self._score(name, synthetic[name], x).mean() for name in self.names)
        return -realism + 0.1 * (self._distance(cycled, x) + 0.01 * self._adversarial(cycled, strength))

    def _regressor_loss(self, x: Batch, noise: Batch, labels: Tensor, strength: float) -> Tensor:
        real, cycled = self._embed(x, noise)
        cycle = self._distance(cycled, x) + 0.01 * self._adversarial(cycled, strength)
        align_real, align_cycled = (ALIGNMENT_WEIGHT * plain.cs(e, labels, TEMPERATURE) for e in (real, cycled))
        original = self._distance(real, x) + align_real + 0.01 * self._adversarial(real, strength)
        return original + 0.01 * (cycle + align_cycled)

    def _classifier_loss(self, x: Batch, noise: Batch, strength: float) -> Tensor:
        return sum(self._adversarial(embeddings, strength) for embeddings in self._embed(x, noise))

    def _embed(self, x: Batch, noise: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        synthetic = self._synthesise(x, noise)
        real = {name: self.regressors[name](x[name]) for name in self.names}
        return real, {name: self.regressors[name](synthetic[name]) for name in self.names}

    def _synthesise(self, x: Batch, noise: Batch) -> dict[str, Tensor]:
        return {n: self.generators[n](torch.cat([x["class_embedding"], noise[n]], dim=1)) for n in self.names}

    def _score(self, name: str, feature: Tensor, x: Batch) -> Tensor:
        return self.critics[name](torch.cat([feature, x["class_embedding"]], dim=1))

    def _distance(self, embeddings: Batch, x: Batch) -> Tensor:
        return sum(F.mse_loss(embeddings[name], x["class_embedding"]) for name in self.names)

    def _adversarial(self, embeddings: Batch, strength: float) -> Tensor:
        total = 0.0
        for number, name in enumerate(self.names):
            e = embeddings[name]
            # As e in the forward pass; what comes back is reversed and scaled.
            scores = self.classifier((1 + strength) * e.detach() - strength * e)
            total = total + F.cross_entropy(scores, torch.full((len(e),), number, device=e.device))
        return total


def _dense(input_dim: int, width: int, output_dim: int, hidden: nn.Module, output: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(input_dim, width), hidden, nn.Linear(width, output_dim), output)


def _min_max(x: Tensor) -> Tensor:
    low = x.amin(dim=0)
    span = x.amax(dim=0) - low
    return (x - low) / torch.where(span > 0, span, torch.ones_like(span))
