"""The gap between modalities: against plain NumPy, at its extremes, and what it does not depend on."""

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


def test_equal_modalities_have_no_gap_and_those_on_opposite_sides_are_told_apart() -> None:
    found = gap(sample(0), sample(0))
    assert found["centroid distance"] == pytest.approx(0, abs=1e-12)
    assert found["kernel CS"] == pytest.approx(0, abs=1e-12)
    assert found["linear separability"] == pytest.approx(0.5, abs=0.05)
    found = gap(sample(0, shift=20), sample(1, shift=-20))
    assert found["linear separability"] == 1
    assert found["centroid distance"] == pytest.approx(2, abs=0.1)


def test_all_three_grow_with_the_distance() -> None:
    found = [gap(sample(0), sample(1, shift)) for shift in (0, 1, 3)]
    for name in GAP_METRICS:
        values = [one[name] for one in found]
        assert values == sorted(values), name
        assert values[-1] > values[0] + 0.1


@pytest.mark.parametrize("noise", [0, 1e-7])
def test_entries_that_items_share_do_not_tell_the_modality(noise: float) -> None:
    """One text per class is in every fold where folds are made of items: a classifier would know it by heart.

    Embedded in batches of another size, its copies differ by the rounding of float32.
    """
    draw = np.random.default_rng(0)
    label = np.repeat(np.arange(12), 20)
    places = draw.normal(size=(12, 30))
    text = places[label] * (1 + noise * draw.uniform(-1, 1, (len(label), 30)))
    motion = places[draw.permutation(12)][label] + draw.normal(scale=0.02, size=(len(label), 30))
    found = modality_gap({"text": text, "motion": motion}, {"text": np.arange(240), "motion": np.arange(240)})
    assert found["linear separability"] < 0.65
    few = label < 3
    items = dict.fromkeys(("text", "motion"), np.arange(few.sum()))
    with pytest.raises(ValueError, match="5 items or more that have no entry in common, got 3"):
        modality_gap({"text": text[few], "motion": motion[few]}, items)


def test_distances_by_chance_are_those_of_exchanged_entries_and_do_not_grow_with_the_gap() -> None:
    none, wide = gap(sample(0), sample(1)), gap(sample(0), sample(1, shift=3))
    for name in ("centroid distance", "kernel CS"):
        assert none[f"{name} by chance"] > 0
        assert none[name] < 3 * none[f"{name} by chance"]
        assert wide[name] > 4 * wide[f"{name} by chance"]
    more = gap(sample(0, rows=20 * N), sample(1, rows=20 * N))
    assert more["kernel CS by chance"] < none["kernel CS by chance"] / 5
    equal = {name: np.repeat(sample(0), 2, axis=0) for name in ("image", "text")}
    found = modality_gap(equal, dict.fromkeys(equal, np.repeat(np.arange(N), 2)))
    assert found["kernel CS by chance"] == pytest.approx(0, abs=1e-12)  # entries stay with their items


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


def test_vectors_in_single_precision_are_measured_in_double() -> None:
    x, z = (sample(seed).astype(np.float32) for seed in (0, 1))
    assert gap(x, z) == gap(x.astype(np.float64), z.astype(np.float64))


def test_three_modalities_give_the_mean_over_their_pairs() -> None:
    rows = {"image": sample(0), "text": sample(1, 1.0), "sound": sample(2, 3.0)}
    items = {name: np.arange(N) for name in rows}
    pairs = [("image", "text"), ("image", "sound"), ("text", "sound")]
    for name in GAP_METRICS:
        expected = np.mean([gap(rows[a], rows[b])[name] for a, b in pairs])
        assert modality_gap(rows, items)[name] == pytest.approx(expected, rel=1e-12)


def test_too_little_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="two modalities or more, got image"):
        modality_gap({"image": sample(0)}, {"image": np.arange(N)})
    with pytest.raises(ValueError, match="5 items or more that have no entry in common, got 4"):
        gap(sample(0, rows=4), sample(1, rows=4))
