"""The named galleries of motion retrieval: the same embeddings, scored against less than the whole test set."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from lightning_modules.metrics.retrieval import CrossModalRetrieval

Scores = dict[str, float]
Sizes = dict[str, tuple[int, int]]


class GalleryUndefined(ValueError):
    """A gallery that these data do not have; the message says why."""


@dataclass(frozen=True)
class Evaluated:
    """Embeddings of a test set, with one entry per item in every modality.

    Args:
        embeddings: modality -> (N, D).
        label: (N,) integers; equal ones match.
        text: (N, E) unit sentence embeddings of the items' texts, or None.
        ks: cut-offs of R@k and P@k.
        protocol: "honest" or "as_published".
    """

    embeddings: Mapping[str, Tensor]
    label: Tensor
    text: Tensor | None
    ks: Sequence[int]
    protocol: str

    def score(self, items: Tensor, labels: Tensor | Mapping[str, Tensor]) -> tuple[Scores, Sizes]:
        """Retrieval among some items. Labels are theirs, or given apart for queries and gallery."""
        scores: Scores = {}
        sizes: Sizes = {}
        for query, gallery in permutations(self.embeddings, 2):
            metric = CrossModalRetrieval([(query, gallery)], ks=self.ks, protocol=self.protocol)
            rows = {name: self.embeddings[name][items] for name in (query, gallery)}
            given = labels if isinstance(labels, Tensor) else {query: labels["query"], gallery: labels["gallery"]}
            metric.update(rows, given, items)
            scores |= {name: float(value) for name, value in metric.compute().items()}
            sizes |= metric.sizes()
        measures = {name.partition("/")[2]: [] for name in scores}
        for name, value in scores.items():
            measures[name.partition("/")[2]].append(value)
        return scores | {f"average/{measure}": float(np.mean(values)) for measure, values in measures.items()}, sizes


def parse_gallery(name: str) -> tuple[str, str]:
    """Kind and number of a named gallery, as in "batches-32".

    Raises:
        ValueError: no such gallery.
    """
    match = re.fullmatch(r"(batches|dissimilar)-([1-9]\d*)|(threshold)-([01]\.\d+)", name)
    if not match:
        raise ValueError(f"unknown gallery {name!r}; expected one like batches-32, threshold-0.95 or dissimilar-100")
    kind, number = filter(None, match.groups())
    return kind, number


def score_gallery(name: str, evaluated: Evaluated) -> tuple[Scores, Sizes]:
    """Score every direction against a named gallery.

    - "batches-B": the items are shuffled with seed 0 and cut into batches of B, the rest left out; the mean over the
      batches, in each of which its B items are queries and gallery.
    - "threshold-t": the whole test set, where items also match whose texts have a cosine of at least t.
    - "dissimilar-n": n items whose texts differ most, chosen one after the other as the farthest from those chosen.

    Args:
        name: the gallery.
        evaluated: what is scored.

    Returns:
        "<direction>/<metric>" -> number, and direction -> (queries, gallery items).

    Raises:
        ValueError: no such gallery.
        GalleryUndefined: the data have too few items, too few different texts, or no texts.

    Source: Petrovich et al., ICCV 2023 (TMR), which chooses its 100 items by another approximation.
    """
    kind, number = parse_gallery(name)
    if kind == "batches":
        return _batches(evaluated, int(number))
    label, text = evaluated.label, evaluated.text
    if text is None:
        raise GalleryUndefined("it compares texts, one per item, and these data have none or several per item")
    if kind == "dissimilar":
        chosen = _dissimilar(text, int(number))
        return evaluated.score(chosen, label[chosen])
    matches = (label[:, None] == label) | (text @ text.T >= float(number))
    # Query i is alone in class i, and gallery item j is in the classes of all queries it matches.
    sides = {"query": torch.eye(len(label), dtype=torch.bool), "gallery": matches.T}
    return evaluated.score(torch.arange(len(label)), sides)


def _batches(evaluated: Evaluated, size: int) -> tuple[Scores, Sizes]:
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(evaluated.label)))
    batches = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
    if not batches:
        raise GalleryUndefined(f"the test set has {len(order)} items, fewer than {size}")
    results = [evaluated.score(batch, evaluated.label[batch]) for batch in batches]
    scores = {name: float(np.mean([found[name] for found, _ in results])) for name in results[0][0]}
    return scores, results[0][1]


def _dissimilar(text: Tensor, count: int) -> Tensor:
    different = len(torch.unique(text, dim=0))
    if different < count:
        raise GalleryUndefined(f"the test set has {different} different texts, fewer than {count}")
    cosine = text @ text.T
    chosen = [int(cosine.mean(dim=1).argmin())]
    nearest = cosine[chosen[0]].clone()
    while len(chosen) < count:
        chosen.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, cosine[chosen[-1]])
        nearest[chosen] = torch.inf  # rounding may leave another text as near
    return torch.tensor(sorted(chosen))
