"""The gap between modalities: against plain NumPy, at its extremes, and what it does not depend on."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_modules.metrics.modality_gap import GAP_METRICS, modality_gap

N, D = 60, 6


def sample(seed: int, shift: float = 0.0, rows: int = N) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, D))
    values[:, 0] += shift
    return values


def gap(x: np.ndarray, z: np.ndarray) -> dict[str, float]:
    return modality_gap({"image": x, "text": z}, {"image": np.arange(len(x)), "text": np.arange(len(z))})


def kernel_mean(a: np.ndarray, b: np.ndarray) -> float:
    squared = ((a[:, None] - b[None]) ** 2).sum(axis=-1)
    return float(np.exp(-squared / 2).mean())


def test_distance_and_kernel_cs_are_those_of_the_formulas() -> None:
    x, z = sample(0), sample(1, shift=1.5)
    found = gap(x, z)
    x, z = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, z))
    assert found["centroid distance"] == pytest.approx(np.linalg.norm(x.mean(axis=0) - z.mean(axis=0)), rel=1e-12)
    expected = np.log(kernel_mean(x, x)) + np.log(kernel_mean(z, z)) - 2 * np.log(kernel_mean(x, z))
    assert found["kernel CS"] == pytest.approx(expected, rel=1e-9)


def test_equal_modalities_have_no_gap() -> None:
    found = gap(sample(0), sample(0))
    assert found["centroid distance"] == pytest.approx(0, abs=1e-12)
    assert found["kernel CS"] == pytest.approx(0, abs=1e-12)
    assert found["linear separability"] == pytest.approx(0.5, abs=0.05)


def test_modalities_on_opposite_sides_are_told_apart_without_fail() -> None:
    found = gap(sample(0, shift=20), sample(1, shift=-20))
    assert found["linear separability"] == 1
    assert found["centroid distance"] == pytest.approx(2, abs=0.1)


def test_all_three_grow_with_the_distance() -> None:
    found = [gap(sample(0), sample(1, shift)) for shift in (0, 1, 3)]
    for name in GAP_METRICS:
        values = [one[name] for one in found]
        assert values == sorted(values), name
        assert values[-1] > values[0] + 0.1


def test_lengths_of_vectors_and_the_order_of_rows_do_not_matter_and_counts_may_differ() -> None:
    x, z = sample(0), sample(1, 1.0, rows=2 * N)
    items = {"image": np.arange(N), "text": np.repeat(np.arange(N), 2)}
    found = modality_gap({"image": x, "text": z}, items)
    scaled = modality_gap({"image": 3 * x, "text": z * np.arange(1, 2 * N + 1)[:, None]}, items)
    assert scaled == pytest.approx(found, abs=1e-9)
    order = np.random.default_rng(0).permutation(N)
    moved = modality_gap({"image": x[order], "text": z}, {**items, "image": items["image"][order]})
    assert moved["kernel CS"] == pytest.approx(found["kernel CS"], abs=1e-9)
    assert moved["linear separability"] == pytest.approx(found["linear separability"], abs=1e-9)


def test_three_modalities_give_the_mean_over_their_pairs() -> None:
    rows = {"image": sample(0), "text": sample(1, 1.0), "sound": sample(2, 3.0)}
    items = {name: np.arange(N) for name in rows}
    pairs = [("image", "text"), ("image", "sound"), ("text", "sound")]
    for name in GAP_METRICS:
        expected = np.mean([gap(rows[a], rows[b])[name] for a, b in pairs])
        assert modality_gap(rows, items)[name] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rows", [{"image": sample(0)}, {"image": sample(0, rows=4), "text": sample(1, rows=4)}])
def test_too_little_to_measure_is_refused(rows: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="two modalities or more and 5 items"):
        modality_gap(rows, {name: np.arange(len(x)) for name, x in rows.items()})
