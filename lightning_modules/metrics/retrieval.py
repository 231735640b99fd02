"""Cross-modal retrieval as a torchmetrics metric whose state is the embeddings, one set per modality."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_modules.metrics.directions import Direction, direction_name, query_of
from lightning_modules.metrics.items import Items, first_of_each, queries_of, standardise
from lightning_modules.metrics.ranking import (
    check_cutoffs,
    check_embeddings,
    check_labels,
    check_score,
    retrieval_scores,
)

PROTOCOLS = ("honest", "as_published")

_FIELDS = ("embeddings", "labels", "ids", "is_query", "items")


class CrossModalRetrieval(Metric):
    """Whole-gallery retrieval between modalities: MAP, MAP@k, R@k, P@k and the median rank of the first relevant item.

    Every query of one modality ranks all items of the other by cosine; an item is relevant where it shares the query's
    class, or one label of a multi-hot label. The measures and the treatment of ties are those of
    :func:`~lightning_modules.metrics.ranking.retrieval_scores`, averaged over all queries (MedR: their median), queries
    without a relevant item included. An item given twice (distributed samplers pad) counts once. The order of the items
    and the number of processes do not change a bit of the result.

    A joint query, (("text", "video"), "motion"), asks by several modalities of an item at once. An item that lacks one
    of them is no such query; how many there are, a warning says.

    Args:
        directions: (query modality, gallery modality) pairs; in place of a query modality a tuple of several.
        ks: cut-offs of R@k, P@k and MAP@k, in places.
        protocol: ``"honest"`` takes the embeddings as they are; ``"as_published"`` z-scores each modality's columns
            over its evaluated items first (:func:`~lightning_modules.metrics.items.standardise`).
        score: of joint queries: "cosine", "multilinear" or "volume", as in ``retrieval_scores``.
        eleven_point: whether "MAP 11-point" and "MAP 11-point plain" are measured too, which takes longer.
        **kwargs: options of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: an unknown protocol or score, a cut-off below 1, no direction, or one from a modality to itself.

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
        directions: Sequence[Direction],
        ks: Sequence[int] = (1, 5, 10),
        protocol: str = "honest",
        score: str = "cosine",
        eleven_point: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(dist_sync_fn=_gather_uneven, **kwargs)
        self.directions = {direction_name(direction): direction for direction in directions}
        named = [(*query_of(direction), direction[1]) for direction in directions]
        wrong = [names for names in named if len(set(names)) < len(names) or len(names) < 2]
        if wrong or not named or len(self.directions) < len(named):
            raise ValueError(
                "directions must be distinct (query, gallery) pairs of two different modalities, or of several and one"
                f" as in (('text', 'video'), 'motion'), got {directions}"
            )
        if protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {protocol!r}: expected one of {PROTOCOLS}")
        check_score(score)
        check_cutoffs(ks)
        self.ks, self.protocol, self.score, self.eleven_point = tuple(ks), protocol, score, eleven_point
        self.modalities = list(dict.fromkeys(name for names in named for name in names))
        self._fields = _FIELDS if max(map(len, named)) > 2 else _FIELDS[:-1]  # without joint queries no items
        self._sizes: dict[str, tuple[int, int]] = {}
        self._per_query: dict[str, tuple[Tensor, Tensor]] = {}
        for modality in self.modalities:
            for field in self._fields:
                self.add_state(_state(modality, field), default=[], dist_reduce_fx="cat")

    def update(
        self,
        embeddings: Mapping[str, Tensor],
        labels: Tensor | Mapping[str, Tensor],
        ids: Tensor | Mapping[str, Tensor],
        is_query: Tensor | Mapping[str, Tensor] | None = None,
        items: Tensor | Mapping[str, Tensor] | None = None,
    ) -> None:
        """Add a batch of items; a batch may hold some of the modalities only.

        Args:
            embeddings: modality -> (B, D) floating tensor, kept as float32.
            labels: (B,) integer classes or (B, C) multi-hot labels; a mapping modality -> labels where they differ.
            ids: (B,) integers, unique within a modality (the index in the data set), or a mapping modality -> ids.
            is_query: (B,) bool, or a mapping; False keeps an item in the gallery but never makes it a query.
            items: (B,) integers, or a mapping: what joint queries are put together by, where it is not the id, such as
                the item of a caption; of an item's entries that with the smallest id asks.

        Raises:
            ValueError: naming the modality: not one of the directions, a shape or dtype that does not fit, an
                embedding that is not finite. Nothing of the batch is kept then.
        """
        checked = {}
        for modality, rows in embeddings.items():
            if modality not in self.modalities:
                raise ValueError(f"unknown modality {modality!r}: the directions use {self.modalities}")
            every = torch.ones(len(rows), dtype=torch.bool)
            given = {"labels": labels, "ids": ids, "is_query": every if is_query is None else is_query}
            found = _checked(modality, rows, {**given, "items": ids if items is None else items})
            for field in self._fields:
                state, values = _state(modality, field), found[field]
                earlier = getattr(self, state)
                if len(earlier) and earlier[0].shape[1:] != values.shape[1:]:
                    raise ValueError(
                        f"{modality}: {field} with rows of shape {tuple(values.shape[1:])}, but "
                        f"{tuple(earlier[0].shape[1:])} in earlier batches"
                    )
                checked[state] = values
        for state, values in checked.items():
            if len(values):
                getattr(self, state).append(values.detach().to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """Score every direction.

        Returns:
            ``"query->gallery/MAP"``, ``/R@k``, ``/P@k``, ``/MAP@k[min(R,k)]`` and ``/MedR`` -> float64 scalar, and
            with several directions their mean as ``"average/..."``, which leaves out joint queries where there are
            others.

        Raises:
            ValueError: a direction without a query or a gallery, an id with two different labels.
        """
        items = {modality: self._items(modality) for modality in self.modalities}
        result: dict[str, float] = {}
        self._sizes, self._per_query = {}, {}
        for name, direction in self.directions.items():
            query = query_of(direction)
            rows, query_labels, query_ids = queries_of(name, {modality: items[modality] for modality in query})
            gallery = items[direction[1]]
            self._sizes[name] = (len(query_labels), len(gallery))
            score = self.score if len(query) > 1 else "cosine"
            ids = gallery.ids if self.eleven_point else None
            sides = (rows, gallery.blocks, query_labels, gallery.labels)
            scores = retrieval_scores(*sides, self.ks, score=score, gallery_ids=ids)
            result.update({f"{name}/{measure}": value for measure, value in _averages(scores).items()})
            query_ids, order = query_ids.cpu().sort()
            self._per_query[name] = (query_ids, scores["AP"][order])
        single = [each for each, direction in self.directions.items() if len(query_of(direction)) == 1]
        if len(self.directions) > 1:
            for measure in [key.partition("/")[2] for key in result if key.startswith(f"{name}/")]:
                values = [result[f"{each}/{measure}"] for each in single or self.directions]
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

    def _items(self, modality: str) -> Items:
        """What was gathered of one modality, each id once."""
        state = {field: getattr(self, _state(modality, field)) for field in self._fields}
        # A list of blocks before the processes are joined, one tensor afterwards.
        lists = {field: [held] if isinstance(held, Tensor) else list(held) for field, held in state.items()}
        blocks = lists.pop("embeddings")
        if not sum(map(len, blocks)):
            raise ValueError(
                f"modality {modality!r} has no item: the directions {', '.join(self.directions)} need all of theirs"
            )
        labels, ids, is_query, *owners = map(torch.cat, lists.values())
        owners = (owners[0], ids) if owners else None
        kept = first_of_each(modality, blocks, labels, ids, is_query)
        published = self.protocol == "as_published"
        if kept is None and published:
            kept = ids.argsort()  # in one order, so that the means are the same to the last bit
        if kept is not None:
            blocks, labels, ids, is_query = [torch.cat(blocks)[kept]], labels[kept], ids[kept], is_query[kept]
        if published:
            blocks = [standardise(*blocks)]
        return Items(blocks, labels, ids, is_query, owners)


def _state(modality: str, field: str) -> str:
    return f"{field} of {modality}"


def _checked(modality: str, rows: Tensor, given: Mapping[str, Tensor | Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Field -> what is kept of a batch of one modality."""
    check_embeddings(modality, rows)
    found = {"embeddings": rows.to(torch.float32).contiguous()}
    for field, values in given.items():
        if isinstance(values, Mapping) and modality not in values:
            raise ValueError(f"{modality}: {field} has no entry for this modality, only {sorted(values)}")
        found[field] = values = values[modality] if isinstance(values, Mapping) else values
        if field == "labels":
            check_labels(modality, values, len(rows))
            if values.ndim == 2 and bool(((values != 0) & (values != 1)).any()):
                raise ValueError(
                    f"{modality}: labels of two dimensions are multi-hot, 0 or 1; classes have the shape ({len(rows)},)"
                )
            found[field] = values.long() if values.ndim == 1 else values.bool()
            continue
        wanted = "bool" if field == "is_query" else "integer"
        is_bool, shape = values.dtype == torch.bool, tuple(values.shape)
        if shape != (len(rows),) or values.is_floating_point() or is_bool != (wanted == "bool"):
            raise ValueError(
                f"{modality}: expected {wanted} {field} of shape ({len(rows)},), got {values.dtype} {shape}"
            )
        found[field] = values if is_bool else values.long()
    return found


def _averages(scores: dict[str, Tensor]) -> dict[str, float]:
    """Mean over the queries of every measure, by an exact sum; the median of the first relevant rank."""
    result = {}
    for measure, values in scores.items():
        if measure != "first_rank":
            result[measure.replace("AP", "MAP")] = math.fsum(values.tolist()) / len(values)
    return {**result, "MedR": float(np.median(scores["first_rank"].numpy()))}


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
