"""What every alignment loss shares: its input, how a batch is gathered across processes, and its output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from losses.blocks import matching_divergences
from losses.gather import gather, refuse_together, require_equal_batches, world
from losses.matching import unit
from losses.target import LabelTarget, Target, WeightTarget


class LossOutput(NamedTuple):
    """Value of an alignment loss.

    Args:
        total: scalar to differentiate, the sum of the parts.
        parts: name of each term ("image->text", "clockwise", ...) -> detached scalar.
    """

    total: Tensor
    parts: dict[str, Tensor]


class AlignmentLoss(nn.Module, ABC):
    """Base of the registered losses: ``loss(embeddings, labels) -> LossOutput``.

    Embeddings are checked, raised to at least float32 and gathered across processes before the loss is computed, with
    automatic mixed precision switched off. Losses that are means over rows compare this process's rows with the
    columns of all processes; losses over whole samples see the whole gathered batch. In both cases gradients flow
    through the gather, and the average over processes (what DistributedDataParallel computes) of values and of
    parameter gradients equals value and gradient of one process on the global batch. Where one process refuses its
    embeddings all do, so that none waits for it.
    """

    def forward(self, embeddings: Mapping[str, Tensor], labels: Tensor | None = None) -> LossOutput:
        """Compute the loss of one batch.

        Args:
            embeddings: modality -> (B, D) floating tensor, row i of every modality describing item i; the order of
                the mapping is the order of the modalities.
            labels: (B,) integers; (B, C) integers or bool, multi-hot; (B, B) floating target weights, whose
                normalised rows are the target of the first direction and the normalised rows of whose transpose that
                of the other, (B_local, B_global) on several processes; None where the loss needs none.

        Returns:
            LossOutput of scalars in float32 or wider.

        Raises:
            ValueError: an embedding is no (B, D) floating tensor, not finite or of another shape than the first; the
                batch is empty; labels are missing or do not fit; the number of modalities does not suit the loss.
        """
        refusal = _refusal(embeddings)
        if world()[1] > 1:
            require_equal_batches(refusal, embeddings)
        if refusal:
            raise ValueError(refusal)
        first = next(iter(embeddings.values()))
        with torch.autocast(first.device.type, enabled=False):
            terms = self.terms(GatheredBatch(embeddings, labels))
            total = torch.stack(list(terms.values())).sum()
        return LossOutput(total, {name: term.detach() for name, term in terms.items()})

    def extra_repr(self) -> str:
        settings = {name: value for name, value in vars(self).items() if name != "training" and name[0] != "_"}
        return ", ".join(f"{name}={value!r}" for name, value in settings.items())

    @abstractmethod
    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        """Name of each term -> scalar with gradient, for one gathered batch."""


class GatheredBatch:
    """One batch with the rows of this process and, as columns, the rows of all processes.

    Args:
        embeddings: modality -> (B, D), already checked.
        labels: as in :meth:`AlignmentLoss.forward`.
    """

    def __init__(self, embeddings: Mapping[str, Tensor], labels: Tensor | None):
        self.rank, self.processes = world()
        first = next(iter(embeddings.values()))
        dtype = reduce(torch.promote_types, (x.dtype for x in embeddings.values()), torch.float32)
        self.rows = {name: tensor.to(dtype) for name, tensor in embeddings.items()}
        self.columns = {name: gather(tensor) for name, tensor in self.rows.items()}
        self.offset = self.rank * len(first)
        self.labels = labels
        self.shares = 1
        self._cosines: dict[tuple[str, str], Tensor] = {}
        self._units: dict[str, Tensor] = {}
        self._targets: dict[bool, Target] = {}

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names in the order of the embeddings."""
        return tuple(self.rows)

    def two(self, loss: nn.Module) -> tuple[str, str]:
        """Names of the two modalities, for a loss that takes exactly two."""
        if len(self.rows) != 2:
            raise ValueError(
                f"{type(loss).__name__} takes two modalities, got {len(self.rows)} ({', '.join(self.rows)}); "
                "`pairwise` applies it to all pairs, and `gcs` takes three and more"
            )
        return self.modalities

    def select(self, names: Sequence[str], shares: int) -> GatheredBatch:
        """The same batch with some of its modalities, sharing what is computed already.

        Args:
            names: of the modalities.
            shares: how many such batches a loss takes, which share what may be kept for the backward pass.
        """
        batch = object.__new__(GatheredBatch)
        batch.__dict__.update(self.__dict__)
        batch.shares = shares
        batch.rows = {name: self.rows[name] for name in names}
        batch.columns = {name: self.columns[name] for name in names}
        return batch

    def cosine(self, a: str, b: str) -> Tensor:
        """(B_local, B_global) cosines of this process's rows of ``a`` with every row of ``b``."""
        if self.processes == 1 and (b, a) in self._cosines:
            return self._cosines[b, a].T
        if (a, b) not in self._cosines:
            self._cosines[a, b] = self.unit_rows(a) @ self.unit_columns(b).T
        return self._cosines[a, b]

    def unit_columns(self, name: str) -> Tensor:
        """(B_global, D) embeddings of all processes, scaled to length one."""
        if name not in self._units:
            self._units[name] = unit(self.columns[name])
        return self._units[name]

    def unit_rows(self, name: str) -> Tensor:
        """(B_local, D) embeddings of this process, scaled to length one."""
        return self.unit_columns(name) if self.processes == 1 else unit(self.rows[name])

    def log_matching(self, a: str, b: str, temperature: float) -> Tensor:
        """Log matching distributions of this process's rows of ``a``: log softmax_j( cos(a_i, b_j) / temperature )."""
        return torch.log_softmax(self.cosine(a, b) / temperature, dim=1)

    def divergences(
        self,
        edges: Sequence[tuple[str, str]],
        temperature: float,
        measure: Literal["gcs", "kl"],
        targets: Sequence[Target | None],
    ) -> list[Tensor]:
        """Mean over rows of the divergence between the matching distributions of directed edges and their target.

        Args:
            edges: (query modality, gallery modality), each a matching distribution of every row.
            temperature: tau > 0.
            measure: "gcs" or "kl", as in :func:`losses.blocks.matching_divergences`.
            targets: the target of the edges and, where those of the reversed edges are wanted too, of these.

        Returns:
            One scalar per target.
        """
        if self.processes == 1:  # the reversed edges are the columns of the same matrices
            pairs = [(self.unit_columns(a), self.unit_columns(b)) for a, b in edges]
            both = len(targets) == 2
            found = matching_divergences(pairs, temperature, targets[0], measure, both, self.shares)
            return [values.mean() for values in found]
        means = []
        for target, directed in zip(targets, (edges, [(b, a) for a, b in edges]), strict=False):
            pairs = [(self.unit_rows(a), self.unit_columns(b)) for a, b in directed]
            shares = self.shares * len(targets)
            means.append(matching_divergences(pairs, temperature, target, measure, shares=shares)[0].mean())
        return means

    def log_target(self, reverse: bool = False) -> Tensor:
        """Log target of this process's rows, (B_local, B_global); ``reverse`` takes the transpose of soft weights."""
        return self.target(reverse).log()

    def pair_target(self) -> Target:
        """The target in which an item matches its own pair alone."""
        first = next(iter(self.rows.values()))
        items = torch.arange(len(first) * self.processes, device=first.device)
        return LabelTarget(items[self.offset : self.offset + len(first)], items, self.offset, first.dtype)

    def target(self, reverse: bool = False) -> Target:
        """Target of this process's rows by the labels; ``reverse`` takes the transpose of soft weights."""
        reverse = reverse and isinstance(self.labels, Tensor) and self.labels.is_floating_point()
        if reverse not in self._targets:
            self._targets[reverse] = self._make_target(reverse)
        return self._targets[reverse]

    def _make_target(self, reverse: bool) -> Target:
        labels, local = self.labels, len(next(iter(self.rows.values())))
        total = local * self.processes
        if not isinstance(labels, Tensor):
            raise ValueError(
                "this loss needs labels, a tensor: (B,) integers, (B, C) multi-hot or (B, B) floating weights; "
                f"got {type(labels).__name__}"
            )
        refuse_together(_label_refusal(labels, local, total), labels.device)
        dtype = next(iter(self.rows.values())).dtype
        if labels.is_floating_point():
            weights = labels.detach().to(dtype)
            if reverse:
                weights = gather(weights)[:, self.offset : self.offset + local].T
            refuse_together(_weight_refusal(weights, "column" if reverse else "row"), labels.device)
            return WeightTarget(weights)
        # Collectives of bool tensors are not supported by every backend.
        labels = labels.to(torch.uint8) if labels.dtype == torch.bool else labels
        return LabelTarget(labels, gather(labels), self.offset, dtype)


def check_temperature(temperature: float) -> float:
    """Return ``temperature``, refusing what is not positive and finite with a ValueError."""
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    return temperature


def _refusal(embeddings: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the embeddings of this process."""
    if not isinstance(embeddings, Mapping) or len(embeddings) < 2:
        names = list(embeddings) if isinstance(embeddings, Mapping) else type(embeddings).__name__
        return f"embeddings must map at least two modalities to (B, D) tensors, got {names}"
    shape = None
    for name, tensor in embeddings.items():
        if not isinstance(tensor, Tensor) or tensor.ndim != 2 or not tensor.is_floating_point():
            got = f"{tuple(tensor.shape)} {tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__
            return f"embeddings of {name!r} must be a (B, D) floating tensor, got {got}"
        if tensor.numel() == 0:
            return f"embeddings of {name!r} are empty: shape {tuple(tensor.shape)}"
        shape = shape or tensor.shape
        if tensor.shape != shape:
            return (
                f"embeddings of {name!r} have shape {tuple(tensor.shape)}, but {next(iter(embeddings))!r} has "
                f"{tuple(shape)}; all modalities need the same rows and dimension"
            )
        if not bool(tensor.isfinite().all()):
            return f"embeddings of {name!r} contain NaN or infinity; check the features, or lower the learning rate"
    return None


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
        return f"labels of shape {shape} are multi-hot and hold only 0 and 1; class numbers have shape ({local},)"
    return None


def _weight_refusal(weights: Tensor, row: str) -> str | None:
    """What is wrong with the target weights of this process, whose rows are called a row or a column."""
    if not bool((weights.isfinite() & (weights >= 0)).all()):
        return "target weights must be finite and non-negative"
    empty = (weights.sum(dim=1) <= 0).nonzero()
    if len(empty):
        return (
            f"target {row} {int(empty[0])} has no positive weight, so it names no match; give every item at least one"
        )
    return None
