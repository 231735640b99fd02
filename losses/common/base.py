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
from losses.common.gather import gather, require_equal_batches, world
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
    - ``over_rows``: whether every term is a mean over rows, each computed from that row and all columns. Large batches
      are then computed in blocks of rows, with memory linear in the batch.
    - ``power``: the highest power of an embedding's own numbers, not those of its unit vector, in value or gradient;
      0 without such. Embeddings so large that it overflows are refused.
    """

    takes_two = True
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
        refusal = _refusal(embeddings, self.power)
        require_equal_batches(refusal, embeddings)
        if self.takes_two and len(embeddings) > 2:
            raise ValueError(
                f"{type(self).__name__} takes two modalities, got {len(embeddings)} ({', '.join(embeddings)}); "
                "`pairwise` applies it to all pairs, and `gcs` and `kernel_gcs` take three and more"
            )
        with torch.autocast(next(iter(embeddings.values())).device.type, enabled=False):
            batch = GatheredBatch(embeddings, labels)
            if self.over_rows and fused.is_large(self, batch):
                return LossOutput(*fused.by_blocks(self, batch))
            terms = self.terms(batch)
            total = torch.stack(list(terms.values())).sum()
        return LossOutput(total, {name: term.detach() for name, term in terms.items()})

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
        self.count = len(embeddings[self.modalities[0]])
        self.start = self.offset = world()[0] * self.count
        self.stop = self.start + self.count
        self.labels = labels
        self._units: dict[str, Tensor] = {}
        self._target: list[Target] = []
        self._logits: dict[tuple[str, str, float], Tensor] = {}
        self._targets: dict[tuple[str, bool], Tensor] = {}

    def select(self, names: Sequence[str]) -> GatheredBatch:
        """The same batch with some of its modalities; both share what they compute."""
        chosen = copy.copy(self)
        chosen.modalities = tuple(names)
        return chosen

    def of(self, columns: dict[str, Tensor], units: dict[str, Tensor]) -> GatheredBatch:
        """The same items with these embeddings and unit vectors of all processes."""
        chosen = copy.copy(self)
        chosen.columns, chosen._units = columns, units
        return chosen

    def block(self, start: int, stop: int) -> GatheredBatch:
        """The same batch with the rows ``start`` to ``stop`` of the columns alone."""
        chosen = copy.copy(self)
        chosen.start, chosen.stop = start, stop
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
        key = "entropy", reverse and not self._labels_target.is_symmetric
        if key not in self._targets:
            q = self.target(key[1])
            self._targets[key] = -torch.xlogy(q, q).sum(dim=1)
        return self._targets[key]

    @property
    def _labels_target(self) -> Target:
        if not self._target:
            columns = self.columns[self.modalities[0]]
            self._target.append(Target(self.labels, self.offset, len(columns), self.count, columns.dtype))
        return self._target[0]

    def _of_target(self, what: str, reverse: bool) -> Tensor:
        if (what, reverse) not in self._targets:
            target = self._labels_target
            if reverse and target.is_symmetric:
                found = self._of_target(what, False)
            else:
                found = getattr(target, what)(self.start, self.stop, reverse)
            # Logits of a reversed direction lie in memory by columns, and go faster with a target that does too.
            self._targets[what, reverse] = found.T.contiguous().T if reverse else found
        return self._targets[what, reverse]

    def matches(self, reverse: bool = False) -> Tensor:
        """(B, B_global) bool: which items have a positive share in the target of which."""
        return self.log_target(reverse) > -torch.inf

    def own_pair(self, matrix: Tensor) -> Tensor:
        """(B,) entries of a (B, B_global) matrix that belong to each row's own pair."""
        return matrix.diagonal(offset=self.start)


def check_temperature(temperature: float) -> float:
    """Return ``temperature``, refusing what is not positive and finite with a ValueError."""
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    return temperature


def _refusal(embeddings: Mapping[str, Tensor], power: int) -> str | None:
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
        # The sum is not finite where an entry is not, and far faster than a look at each; where it overflows, look.
        if not math.isfinite(tensor.detach().sum()) and not tensor.isfinite().all():
            return f"embeddings of {name!r} contain NaN or infinity; check the features, or lower the learning rate"
        if power and (found := _too_large(tensor, power)):
            return f"embeddings of {name!r} are too large, {found}; scale them, or lower the learning rate"
    return None


def _too_large(tensor: Tensor, power: int) -> str | None:
    """What to say where a power of the largest number, summed over rows and columns, could overflow."""
    terms = max(2**20, max(tensor.shape) ** 2)
    limit = (torch.finfo(torch.promote_types(tensor.dtype, torch.float32)).max / terms) ** (1 / power)
    largest = float(tensor.detach().abs().max())
    return f"up to {largest:.2g}: this loss overflows above {limit:.2g}" if largest > limit else None
