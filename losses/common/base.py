"""What every alignment loss shares: its input, how a batch is gathered across processes, and its output."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn

from losses import fused
from losses.common.gather import gather, refuse_together, world
from losses.common.matching import Target, product, unit


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

    Facts that a loss states about itself, beside :meth:`effective_factor`:

    - ``takes_two``: whether it takes exactly two modalities, or else two and more.
    - ``uses_labels``: whether the value depends on the labels; without, they may be None.
    - ``over_rows``: whether every term is a mean over rows, each computed from that row and all columns. Large batches
      are then computed in blocks of rows, with memory linear in the batch.
    - ``power``: the highest power of an embedding's own numbers, not those of its unit vector, in value or gradient;
      0 without such. Embeddings so large that it overflows are refused.
    """

    takes_two = True
    uses_labels = True
    over_rows = False
    power = 0

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
            ValueError: an embedding is no (B, D) floating tensor, not finite, too large or of another shape than the
                first; the batch is empty; labels are missing or do not fit; the number of modalities does not suit the
                loss.
        """
        tensors = embeddings.values() if isinstance(embeddings, Mapping) else ()
        first = next((x for x in tensors if isinstance(x, Tensor)), None)
        refuse_together(_refusal(embeddings, self.power), "embeddings", first)
        self.check_modalities(tuple(embeddings))
        with torch.autocast(first.device.type, enabled=False):
            batch = GatheredBatch(embeddings, labels)
            if self.over_rows and fused.is_large(self, batch):
                return LossOutput(*fused.by_blocks(self, batch))
            terms = self.terms(batch)
            total = torch.stack(list(terms.values())).sum()
        return LossOutput(total, {name: term.detach() for name, term in terms.items()})

    def check_modalities(self, names: Sequence[str]) -> None:
        """Raise a ValueError where there are more modalities than the loss takes."""
        if self.takes_two and len(names) > 2:
            raise ValueError(
                f"{type(self).__name__} takes two modalities, got {len(names)} ({', '.join(names)}); "
                "`pairwise` applies it to all pairs, and `gcs` and `kernel_gcs` take three and more"
            )

    def extra_repr(self) -> str:
        settings = {name: value for name, value in vars(self).items() if name != "training" and name[0] != "_"}
        return ", ".join(f"{name}={value!r}" for name, value in settings.items())

    @abstractmethod
    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        """Name of each term -> scalar with gradient, for one gathered batch."""

    def width(self, batch: GatheredBatch) -> int:
        """Columns of the matrices that are computed from the rows: one for each item of all processes."""
        return len(batch.columns[batch.modalities[0]])

    def effective_factor(self, modalities: int) -> int | None:
        """f: at temperature f t the loss is as sharp as cross-entropy at t; None for a loss without a temperature.

        Losses are compared fairly at equal t, not at equal temperature.

        Args:
            modalities: M.
        """
        return None


class MatchingLoss(AlignmentLoss):
    """A mean over items of what their matching distributions say, both directions of two modalities added.

    Args:
        temperature: tau > 0 of p_i = softmax_j( cos(x_i, z_j) / tau ).
    """

    over_rows = True

    def __init__(self, temperature: float = 0.1):
        super().__init__()
        self.temperature = positive("temperature", temperature)

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        return {f"{x}->{z}": self.of_direction(batch, x, z, reverse) for x, z, reverse in batch.directions()}

    @abstractmethod
    def of_direction(self, batch: GatheredBatch, x: str, z: str, reverse: bool) -> Tensor:
        """Mean over the items of ``x`` against those of ``z``; ``reverse``: by the other direction's target."""

    def effective_factor(self, modalities: int) -> int:
        return 1


class GatheredBatch:
    """One batch with the rows of this process and, as columns, the rows of all processes.

    ``columns[name]`` is (B_global, D); rows ``start`` to ``stop`` of it are those of this process, or of a block of
    them. What several terms need (unit vectors, products, targets) is computed once.

    Args:
        embeddings: modality -> (B, D), already checked.
        labels: as in :meth:`AlignmentLoss.forward`.
    """

    def __init__(self, embeddings: Mapping[str, Tensor], labels: Tensor | None):
        dtype = reduce(torch.promote_types, (x.dtype for x in embeddings.values()), torch.float32)
        self.modalities = tuple(embeddings)
        self.columns = {name: gather(tensor.to(dtype)) for name, tensor in embeddings.items()}
        rows, columns = (len(x[self.modalities[0]]) for x in (embeddings, self.columns))
        self.start = world()[0] * rows
        self.stop = self.start + rows
        self._target = Target(labels, self.start, rows, columns, dtype)
        self._units: dict[str, Tensor] = {}
        self._logits: dict[tuple[str, str, float], Tensor] = {}
        self._targets: dict[tuple[str, bool], Tensor] = {}

    def select(self, names: Sequence[str]) -> GatheredBatch:
        """The same batch with some of its modalities; both share what they compute."""
        chosen = copy.copy(self)
        chosen.modalities = tuple(names)
        return chosen

    def block(self, start: int, stop: int, columns: dict[str, Tensor], units: dict[str, Tensor]) -> GatheredBatch:
        """The rows ``start`` to ``stop`` alone, with these embeddings and unit vectors of all processes."""
        chosen = copy.copy(self)
        chosen.start, chosen.stop, chosen.columns, chosen._units = start, stop, columns, units
        chosen._logits, chosen._targets = {}, {}
        return chosen

    def directions(self) -> Iterator[tuple[str, str, bool]]:
        """(query, gallery, whether the target is the reversed one) of both directions of two modalities."""
        a, b = self.modalities
        yield a, b, False
        yield b, a, True

    @property
    def rows(self) -> dict[str, Tensor]:
        """Modality -> (B, D) embeddings of this process."""
        return {name: self._rows_of(self.columns[name]) for name in self.modalities}

    def unit_rows(self, name: str) -> Tensor:
        """(B, D) embeddings of this process, scaled to length one."""
        return self._rows_of(self.unit_columns(name))

    def _rows_of(self, columns: Tensor) -> Tensor:
        whole = self.stop - self.start == len(columns)
        return columns if whole else columns[self.start : self.stop]  # the gradient of a slice is a copy

    def unit_columns(self, name: str) -> Tensor:
        """(B_global, D) embeddings of all processes, scaled to length one."""
        if name not in self._units:
            self._units[name] = unit(self.columns[name])
        return self._units[name]

    def logits(self, a: str, b: str, temperature: float) -> Tensor:
        """(B, B_global) cosines of the rows of ``a`` with every row of ``b``, over the temperature."""
        key, reversed_key = (a, b, temperature), (b, a, temperature)
        if key not in self._logits:
            if reversed_key in self._logits and self.stop - self.start == len(self.columns[a]):
                self._logits[key] = self._logits[reversed_key].T
            else:
                self._logits[key] = product(self.unit_rows(a), self.unit_columns(b), 1 / temperature)
        return self._logits[key]

    def all_logits(self) -> list[Tensor]:
        """Every matrix of `logits` that was asked for; of two that are each other's transpose the first."""
        kept = dict(self._logits)
        for a, b, temperature in self._logits:
            if (a, b, temperature) in kept:
                kept.pop((b, a, temperature), None)
        return list(kept.values())

    def log_matching(self, a: str, b: str, temperature: float) -> Tensor:
        """Log matching distributions of the rows of ``a``: log softmax_j( cos(a_i, b_j) / temperature )."""
        logits = self.logits(a, b, temperature)
        if logits.is_contiguous():
            return torch.log_softmax(logits, dim=1)
        return torch.log_softmax(logits.T, dim=0).T  # as it lies in memory

    def target(self, reverse: bool = False) -> Tensor:
        """(B, B_global) target by the labels: rows sum to one; ``reverse`` transposes weights."""
        return self._of_target("share", reverse)

    def log_target(self, reverse: bool = False) -> Tensor:
        """(B, B_global) log target, -inf where items do not match."""
        return self._of_target("log", reverse)

    def target_entropy(self, reverse: bool = False) -> Tensor:
        """(B,) entropies -sum_j q_j log q_j of the target."""
        key = "entropy", reverse and not self._target.is_symmetric
        if key not in self._targets:
            q = self.target(key[1])
            self._targets[key] = -torch.xlogy(q, q).sum(dim=1)
        return self._targets[key]

    def _of_target(self, what: str, reverse: bool) -> Tensor:
        if (what, reverse) not in self._targets:
            if reverse and self._target.is_symmetric:
                found = self._of_target(what, False)
            else:
                found = getattr(self._target, what)(self.start, self.stop, reverse)
            # Logits of a reversed direction lie in memory by columns, and go faster with a target that does too.
            self._targets[what, reverse] = found.T.contiguous().T if reverse else found
        return self._targets[what, reverse]

    def matches(self, reverse: bool = False) -> Tensor:
        """(B, B_global) bool: which items have a positive share in the target of which."""
        return self.log_target(reverse) > -torch.inf

    def own_pair(self, matrix: Tensor) -> Tensor:
        """(B,) entries of a (B, B_global) matrix that belong to each row's own pair."""
        return matrix.diagonal(offset=self.start)


def positive(name: str, value: float) -> float:
    """Return the value of a setting, refusing what is not positive and finite with a ValueError."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return value


def _refusal(embeddings: Mapping[str, Tensor], power: int) -> str | None:
    """What is wrong with the embeddings of this process."""
    if not isinstance(embeddings, Mapping) or len(embeddings) < 2:
        names = list(embeddings) if isinstance(embeddings, Mapping) else type(embeddings).__name__
        return f"embeddings must map at least two modalities to (B, D) tensors, got {names}"
    first, x = next(iter(embeddings.items()))
    for name, tensor in embeddings.items():
        if not isinstance(tensor, Tensor) or tensor.ndim != 2 or not tensor.is_floating_point():
            got = f"{tuple(tensor.shape)} {tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__
            return f"embeddings of {name!r} must be a (B, D) floating tensor, got {got}"
        shape = tuple(tensor.shape)
        if tensor.numel() == 0:
            return f"embeddings of {name!r} are empty: shape {shape}"
        if tensor.shape != x.shape:
            return (
                f"embeddings of {name!r} have shape {shape}, but {first!r} has {tuple(x.shape)}; all modalities need "
                "the same rows and dimension"
            )
        # The sum is not finite where an entry is not, and far faster than a look at each; where it overflows, look.
        if not math.isfinite(tensor.detach().sum()) and not tensor.isfinite().all():
            return f"embeddings of {name!r} contain NaN or infinity; check the features, or lower the learning rate"
        # A power of the largest number, summed over rows and columns, must not overflow.
        if power:
            numbers = torch.finfo(torch.promote_types(tensor.dtype, torch.float32)).max / max(2**20, max(shape) ** 2)
            limit, largest = numbers ** (1 / power), float(tensor.detach().abs().max())
            if largest > limit:
                return (
                    f"embeddings of {name!r} are too large, up to {largest:.2g}: this loss overflows above "
                    f"{limit:.2g}; scale them, or lower the learning rate"
                )
    return None
