"""Which pairs a loss's gradient goes to, against finite differences of the loss as a function of the cosines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from losses import build_loss
from reproduce.runs.positives import POSITIVE_METRICS, shares_of_positives
from reproduce.runs.training import run

ITEMS, TAU = 7, 0.5
LABELS = np.array([0, 0, 1, 1, 2, 2, 2])  # that are trained on
CLASSES = np.array([0, 0, 1, 0, 2, 1, 2])


def _softmax(s: np.ndarray) -> np.ndarray:
    e = np.exp(s / TAU - (s / TAU).max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _target() -> np.ndarray:
    match = LABELS[:, None] == LABELS
    return match / match.sum(axis=1, keepdims=True)


def _two_ways(term: Callable[[np.ndarray], np.ndarray]) -> Callable[[list[np.ndarray]], float]:
    """A loss over all pairs of modalities, both ways."""
    return lambda cosines: sum(term(_softmax(s)).mean() + term(_softmax(s.T)).mean() for s in cosines)


def _kl(p: np.ndarray) -> np.ndarray:
    q = _target()
    return (q * (np.log(np.where(q > 0, q, 1)) - np.log(p))).sum(axis=1)


def _cs(p: np.ndarray) -> np.ndarray:
    q = _target()
    return -np.log((p * q).sum(1)) + np.log((p * p).sum(1)) / 2 + np.log((q * q).sum(1)) / 2


def _mil_nce(p: np.ndarray) -> np.ndarray:
    return -np.log((p * (_target() > 0)).sum(axis=1))


def _ring(normed: bool) -> Callable[[list[np.ndarray]], float]:
    """The mixed scheme over three modalities, from the cosines of the pairs 01, 12 and 02."""

    def of(cosines: list[np.ndarray]) -> float:
        total, q = 0.0, _target()
        for ways in (lambda s: s, lambda s: s.T):
            ps = [*(_softmax(ways(s)) for s in cosines), q]
            value = -np.log(np.prod(ps, axis=0).sum(1))
            total += (value + sum(np.log((p**4).sum(1)) for p in ps) / 4 if normed else value).mean()
        return total

    return of


CASES = {
    "kl": (build_loss("pairwise", divergence="kl", temperature=TAU), _two_ways(_kl)),
    "cs": (build_loss("pairwise", divergence="cs", temperature=TAU), _two_ways(_cs)),
    "mil_nce": (build_loss("pairwise", divergence="mil_nce", temperature=TAU), _two_ways(_mil_nce)),
    "infonce": (
        build_loss("pairwise", divergence="infonce", temperature=TAU),
        _two_ways(lambda p: -np.log(np.diagonal(p))),
    ),
    "gcs": (build_loss("gcs", scheme="mixed", temperature=TAU), _ring(normed=True)),
    "gcs_product": (build_loss("gcs_product", scheme="mixed", temperature=TAU), _ring(normed=False)),
}


@pytest.mark.parametrize("name", CASES)
def test_shares_are_those_of_finite_differences(name: str) -> None:
    loss, plain = CASES[name]
    generator = torch.Generator().manual_seed(1)
    rows = {key: torch.randn(ITEMS, 4, generator=generator, dtype=torch.float64) for key in ("a", "b", "c")}
    unit = [(x / x.norm(dim=1, keepdim=True)).numpy() for x in rows.values()]
    cosines = [unit[0] @ unit[1].T, unit[1] @ unit[2].T, unit[0] @ unit[2].T]
    assert float(loss(rows, torch.from_numpy(LABELS)).total) == pytest.approx(plain(cosines), abs=1e-9)
    gradient = np.zeros((ITEMS, ITEMS))
    for s in cosines:
        for place in np.ndindex(s.shape):
            kept, values = s[place], []
            for step in (1e-5, -1e-5):
                s[place] = kept + step
                values.append(plain(cosines))
            s[place] = kept
            gradient[place] += max(values[1] - values[0], 0)
    alike = CLASSES[:, None] == CLASSES
    positive = (LABELS[:, None] == LABELS) & ~np.eye(ITEMS, dtype=bool)
    found = shares_of_positives(loss, rows, torch.from_numpy(LABELS), torch.from_numpy(CLASSES))
    assert found["true-positive gradient"] == pytest.approx(gradient[positive & alike].sum() / gradient.sum(), abs=1e-7)
    assert found["false-positive gradient"] == pytest.approx(
        gradient[positive & ~alike].sum() / gradient.sum(), abs=1e-7
    )
    assert found["false positives"] == pytest.approx(6 / 10)  # items 2 and 3, 4 and 5, 5 and 6 of the five pairs


def test_a_loss_that_is_not_made_of_cosines_is_refused() -> None:
    rows = {key: torch.randn(4, 3) for key in ("a", "b", "c")}
    with pytest.raises(ValueError, match="GRAMLoss"):
        shares_of_positives(build_loss("gram"), rows, torch.arange(4), torch.arange(4))


@pytest.mark.parametrize(("labels", "some"), [("class", False), ("flips-40", True)])
def test_a_run_records_them_and_trains_as_without(labels: str, some: bool) -> None:
    config = {
        "seed_everything": 0,
        "model": {
            "class_path": "LAVIMO",
            "init_args": {"dim": 8, "alignment": {"class_path": "losses.GCSLoss", "init_args": {"temperature": 0.4}}},
        },
        "data": {"class_path": "SyntheticItems", "init_args": {"names": ["a", "b", "c"], "labels": labels}},
        "trainer": {"max_epochs": 2},
        "evaluate": {"on": "test", "galleries": []},
    }
    plain = run(config)
    found = run({**config, "evaluate": {**config["evaluate"], "positives": True}})
    values = {score.metric: score.value for score in found.scores if score.metric in POSITIVE_METRICS}
    assert set(values) == set(POSITIVE_METRICS)
    assert (values["false positives"] > 0.1) == some == (values["false-positive gradient"] > 0)
    assert 0 < values["true-positive gradient"] < 1
    assert found.mean_average_precision() == plain.mean_average_precision()
