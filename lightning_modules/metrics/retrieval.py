"""Cross-modal retrieval as a torchmetrics metric whose state is the embeddings, one set per modality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors
from torchmetrics.utilities.prints import rank_zero_warn

from lightning_modules.metrics.protocol import standardise
from lightning_modules.metrics.ranking import check_cutoffs, is_finite, retrieval_scores

PROTOCOLS = ("honest", "as_published")

_FIELDS = ("embeddings", "labels", "ids", "is_query")


class CrossModalRetrieval(Metric):
    """Whole-gallery retrieval between modalities: MAP, MAP@k, R@k, P@k and the median rank of the first relevant item.

    Every query of one modality ranks all items of the other by cosine; an item is relevant where it shares the query's
    class, or one label of a multi-hot label. The measures and the treatment of ties are those of
    :func:`~lightning_modules.metrics.ranking.retrieval_scores`, averaged over all queries (MedR: their median), queries
    without a relevant item included. An item given twice (distributed samplers pad) counts once. The order of the items
    and the number of processes do not change a bit of the result.

    Args:
        directions: (query modality, gallery modality) pairs.
        ks: cut-offs of R@k, P@k and MAP@k, in places.
        protocol: ``"honest"`` takes the embeddings as they are; ``"as_published"`` z-scores each modality's columns
            over its evaluated items first (:func:`~lightning_modules.metrics.protocol.standardise`).
        **kwargs: options of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: an unknown protocol, a cut-off below 1, no direction, a direction from a modality to itself.

    Example:
        >>> import torch
        >>> metric = CrossModalRetrieval([("image", "text")], ks=(1,))
        >>> metric.update(
        ...     {"image": torch.tensor([[1.0, 0.0], [0.0, 1.0]]), "text": torch.tensor([[1.0, 0.1], [1.0, 0.2]])},
        ...     labels=torch.tensor([0, 1]),
        ...     ids=torch.tensor([0, 1]),
        ... )
        >>> {name: value.item() for name, value in metric.compute().items()}  # doctest: +NORMALIZE_WHITESPACE
        {'image->text/MAP': 1.0, 'image->text/R@1': 1.0, 'image->text/P@1': 1.0, 'image->text/MAP@1[min(R,k)]': 1.0,
         'image->text/MedR': 1.0}
        >>> metric.sizes()
        {'image->text': (2, 2)}
    """

    is_differentiable = False
    full_state_update = False

    def __init__(
        self,
        directions: Sequence[tuple[str, str]],
        ks: Sequence[int] = (1, 5, 10),
        protocol: str = "honest",
        **kwargs: Any,
    ) -> None:
        super().__init__(dist_sync_fn=_gather_uneven, **kwargs)
        self.directions = [tuple(direction) for direction in directions]
        wrong = [pair for pair in self.directions if len(pair) != 2 or pair[0] == pair[1]]
        if wrong or not self.directions or len(set(self.directions)) < len(self.directions):
            raise ValueError(
                f"directions must be distinct (query, gallery) pairs of two different modalities, got {directions}"
            )
        if protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {protocol!r}: expected one of {PROTOCOLS}")
        check_cutoffs(ks)
        self.ks, self.protocol = tuple(ks), protocol
        self.modalities = list(dict.fromkeys(name for pair in self.directions for name in pair))
        self._sizes: dict[str, tuple[int, int]] = {}
        self._per_query: dict[str, tuple[Tensor, Tensor]] = {}
        for modality in self.modalities:
            for field in _FIELDS:
                self.add_state(_state(modality, field), default=[], dist_reduce_fx="cat")

    def update(
        self,
        embeddings: Mapping[str, Tensor],
        labels: Tensor | Mapping[str, Tensor],
        ids: Tensor | Mapping[str, Tensor],
        is_query: Tensor | Mapping[str, Tensor] | None = None,
    ) -> None:
        """Add a batch of items; a batch may hold some of the modalities only.

        Args:
            embeddings: modality -> (B, D) floating tensor, kept as float32.
            labels: (B,) integer classes or (B, C) multi-hot labels; a mapping modality -> labels where they differ.
            ids: (B,) integers, unique within a modality (the index in the data set), or a mapping modality -> ids.
            is_query: (B,) bool, or a mapping; False keeps an item in the gallery but never makes it a query.

        Raises:
            ValueError: naming the modality: not one of the directions, a shape or dtype that does not fit, an
                embedding that is not finite. Nothing of the batch is kept then.
        """
        checked = {}
        for modality, rows in embeddings.items():
            if modality not in self.modalities:
                raise ValueError(f"unknown modality {modality!r}: the directions use {self.modalities}")
            flags = torch.ones(len(rows), dtype=torch.bool) if is_query is None else _of(is_query, modality, "is_query")
            checked[modality] = (
                self._checked_embeddings(modality, rows),
                self._checked_labels(modality, _of(labels, modality, "labels"), len(rows)),
                _checked_ids(modality, _of(ids, modality, "ids"), len(rows)),
                _checked_flags(modality, flags, len(rows)),
            )
        for modality, values in checked.items():
            if len(values[0]):
                for field, value in zip(_FIELDS, values, strict=True):
                    getattr(self, _state(modality, field)).append(value.detach().to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """Score every direction.

        Returns:
            ``"query->gallery/MAP"``, ``/R@k``, ``/P@k``, ``/MAP@k[min(R,k)]`` and ``/MedR`` -> float64 scalar, and
            with several directions their mean as ``"average/..."``.

        Raises:
            ValueError: a direction without a query or a gallery, an id with two different labels.
        """
        items = {modality: self._items(modality) for modality in self.modalities}
        result: dict[str, float] = {}
        self._sizes, self._per_query = {}, {}
        for query_modality, gallery_modality in self.directions:
            name = f"{query_modality}->{gallery_modality}"
            query, query_labels, query_ids, is_query = items[query_modality]
            gallery, gallery_labels, _, _ = items[gallery_modality]
            if not bool(is_query.any()):
                raise ValueError(f"{name}: modality {query_modality!r} has no query, is_query is False for every item")
            if not bool(is_query.all()):
                parts = is_query.split([len(rows) for rows in query])
                query = [rows[part] for rows, part in zip(query, parts, strict=True)]
                query_labels, query_ids = query_labels[is_query], query_ids[is_query]
            self._sizes[name] = (len(query_labels), len(gallery_labels))
            scores = retrieval_scores(query, gallery, query_labels, gallery_labels, self.ks)
            result.update({f"{name}/{measure}": value for measure, value in _averages(scores).items()})
            query_ids, order = query_ids.cpu().sort()
            self._per_query[name] = (query_ids, scores["AP"][order])
        if len(self.directions) > 1:
            for measure in [key.partition("/")[2] for key in result if key.startswith(f"{name}/")]:
                values = [result[f"{query}->{gallery}/{measure}"] for query, gallery in self.directions]
                result[f"average/{measure}"] = math.fsum(values) / len(values)
        return {key: torch.tensor(value, dtype=torch.float64, device=self.device) for key, value in result.items()}

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Number of queries and of gallery items per direction, over all processes, duplicates dropped.

        It calls :meth:`compute` where that has not been done since the last update, so all processes must call it.
        """
        self.compute()
        return dict(self._sizes)

    def average_precisions(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Direction -> (ids (Q,) of the queries in ascending order, their average precisions (Q,) in float64).

        It calls :meth:`compute` as :meth:`sizes` does.
        """
        self.compute()
        return dict(self._per_query)

    def _checked_embeddings(self, modality: str, rows: Tensor) -> Tensor:
        if rows.ndim != 2 or not rows.is_floating_point():
            raise ValueError(f"{modality}: expected a floating (B, D) embedding, got {rows.dtype} {tuple(rows.shape)}")
        rows = rows.to(torch.float32).contiguous()
        if not is_finite(rows):
            raise ValueError(f"{modality}: an embedding is not finite in float32")
        earlier = getattr(self, _state(modality, "embeddings"))
        if len(earlier) and earlier[0].shape[-1] != rows.shape[1]:
            raise ValueError(
                f"{modality}: embedding width {rows.shape[1]}, but {earlier[0].shape[-1]} in earlier batches"
            )
        return rows

    def _checked_labels(self, modality: str, labels: Tensor, rows: int) -> Tensor:
        if labels.is_floating_point() or labels.ndim not in (1, 2) or len(labels) != rows:
            raise ValueError(
                f"{modality}: expected integer or bool labels of shape ({rows},) or ({rows}, classes),"
                f" got {labels.dtype} {tuple(labels.shape)}"
            )
        if labels.ndim == 2 and labels.dtype != torch.bool and bool(((labels != 0) & (labels != 1)).any()):
            raise ValueError(
                f"{modality}: labels of two dimensions are multi-hot, 0 or 1; classes have the shape ({rows},)"
            )
        labels = labels.long() if labels.ndim == 1 else labels.bool()
        earlier = getattr(self, _state(modality, "labels"))
        if len(earlier) and earlier[0].shape[1:] != labels.shape[1:]:
            raise ValueError(
                f"{modality}: labels of shape {tuple(labels.shape)} after labels of shape {tuple(earlier[0].shape)}"
            )
        return labels

    def _items(self, modality: str) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        """Blocks of embeddings, labels, ids and query flags of one modality, each id once."""
        state = {field: getattr(self, _state(modality, field)) for field in _FIELDS}
        # A list of blocks before the processes are joined, one tensor afterwards.
        blocks = [state["embeddings"]] if isinstance(state["embeddings"], Tensor) else list(state["embeddings"])
        if not sum(len(rows) for rows in blocks):
            raise ValueError(f"modality {modality!r} has no item: the directions {self.directions} need all of theirs")
        labels, ids, is_query = (
            state[field] if isinstance(state[field], Tensor) else torch.cat(state[field]) for field in _FIELDS[1:]
        )
        kept = _first_of_each(modality, blocks, labels, ids, is_query)
        if kept is not None:
            blocks, labels, ids, is_query = [torch.cat(blocks)[kept]], labels[kept], ids[kept], is_query[kept]
        return (blocks if self.protocol == "honest" else standardise(blocks)), labels, ids, is_query


def _state(modality: str, field: str) -> str:
    return f"{field} of {modality}"


def _of(values: Tensor | Mapping[str, Tensor], modality: str, name: str) -> Tensor:
    if not isinstance(values, Mapping):
        return values
    if modality not in values:
        raise ValueError(f"{modality}: {name} has no entry for this modality, only {sorted(values)}")
    return values[modality]


def _checked_ids(modality: str, ids: Tensor, rows: int) -> Tensor:
    if ids.is_floating_point() or ids.dtype == torch.bool or ids.shape != (rows,):
        raise ValueError(f"{modality}: expected integer ids of shape ({rows},), got {ids.dtype} {tuple(ids.shape)}")
    return ids.long()


def _checked_flags(modality: str, flags: Tensor, rows: int) -> Tensor:
    if flags.dtype != torch.bool or flags.shape != (rows,):
        raise ValueError(
            f"{modality}: expected bool is_query of shape ({rows},), got {flags.dtype} {tuple(flags.shape)}"
        )
    return flags


def _averages(scores: dict[str, Tensor]) -> dict[str, float]:
    """Mean over the queries of every measure, by an exact sum; the median of the first relevant rank."""
    result = {}
    for measure, values in scores.items():
        if measure != "first_rank":
            result[measure.replace("AP", "MAP")] = math.fsum(values.tolist()) / len(values)
    return {**result, "MedR": float(np.median(scores["first_rank"].numpy()))}


def _first_of_each(modality: str, blocks: list[Tensor], labels: Tensor, ids: Tensor, is_query: Tensor) -> Tensor | None:
    """Index of the rows to keep so that each id is there once; None where no id occurs twice.

    Copies may differ in their last bits (they were embedded in other batches): the lexicographically smallest is kept,
    which does not depend on the order of the items.
    """
    _, first, inverse = np.unique(ids.cpu().numpy(), return_index=True, return_inverse=True)
    if len(first) == len(inverse):
        return None
    leader = torch.from_numpy(first[inverse]).to(ids.device)
    copy = torch.nonzero(leader != torch.arange(len(ids), device=ids.device)).flatten()
    original = leader[copy]
    conflict = (labels[copy] != labels[original]).reshape(len(copy), -1).any(dim=1) | (
        is_query[copy] != is_query[original]
    )
    if bool(conflict.any()):
        raise ValueError(
            f"{modality}: id {int(ids[copy][conflict][0])} occurs with different labels or is_query:"
            " ids must be unique within a modality"
        )
    rows = torch.cat(blocks)
    distance = torch.linalg.vector_norm(rows[copy] - rows[original], dim=1)
    if bool((distance > 0.01 * torch.linalg.vector_norm(rows[original], dim=1)).any()):
        rank_zero_warn(f"{modality}: copies of one id differ by more than 1%; one is kept. Are the ids unique?")
    for item in torch.unique(original[distance > 0]).tolist():
        candidates = torch.nonzero(leader == item).flatten().cpu().numpy()
        smallest = np.lexsort(rows[candidates].cpu().numpy().T[::-1])[0]
        first[inverse[item]] = candidates[smallest]
    return torch.from_numpy(first).to(ids.device)


def _gather_uneven(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """Gather a state from all processes where some hold no item.

    For a process without items torchmetrics gathers a one-dimensional float tensor, whatever the others hold; the
    collective needs the same dtype and number of dimensions everywhere.

    Raises:
        ValueError: in every process, where processes hold embeddings or labels of different widths.
    """
    described: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(described, (tuple(tensor.shape), tensor.dtype), group=group)
    filled = {(shape[1:], dtype) for shape, dtype in described if shape[0]}
    if len(filled) > 1:
        raise ValueError(f"processes hold embeddings or labels of different widths: {sorted(map(str, filled))}")
    if filled and not len(tensor):
        ((trailing, dtype),) = filled
        tensor = torch.empty((0, *trailing), dtype=dtype, device=tensor.device)
    return gather_all_tensors(tensor, group)
