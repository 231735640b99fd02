"""The named galleries of motion retrieval against plain NumPy."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import unit_rows as unit
from test_ranking import plain_measures

from lightning_modules.metrics.galleries import Evaluated, GalleryUndefined, score_gallery

N, NAMES = 23, ("text", "video", "motion")


def drawn(seed: int = 0, count: int = N) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Embeddings, labels and unit text vectors; some texts are near to one another, two are the same."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 9, count)
    common = rng.normal(size=(9, 6))[label]
    rows = {name: (common + rng.normal(size=(count, 6))).astype(np.float32) for name in NAMES}
    text = rng.normal(size=(5, 4))[rng.integers(0, 5, count)] + 0.15 * rng.normal(size=(count, 4))
    text[1] = text[0]
    return rows, label, unit(text).astype(np.float32)


def scored(name: str, rows, label, text=None, protocol: str = "honest") -> tuple[dict[str, float], dict]:
    tensors = {modality: torch.from_numpy(x) for modality, x in rows.items()}
    text = None if text is None else torch.from_numpy(text)
    return score_gallery(name, Evaluated(tensors, torch.from_numpy(label), text, (1, 3), protocol))


def measured(scores: np.ndarray, relevant: np.ndarray) -> dict[str, float]:
    """Measures of score and relevance matrices (queries, gallery) without ties."""
    found = [plain_measures(hit[np.argsort(-row)], (1, 3)) for hit, row in zip(relevant, scores, strict=True)]
    by_name = {name: [one[name] for one in found] for name in found[0]}
    means = {name: np.mean(by_name[name]) for name in ("R@1", "R@3", "P@1", "P@3")}
    return {"MAP": np.mean(by_name["AP"]), "MedR": np.median(by_name["first_rank"]), **means}


def assert_scores(found: dict[str, float], rows, relevant: np.ndarray, batches, z_score: bool = False) -> None:
    """Whether every direction has its mean over the batches of items, and the average that over directions."""
    expected = []
    for items in batches:
        chosen = {name: x[items].astype(np.float64) for name, x in rows.items()}
        if z_score:
            chosen = {name: (x - x.mean(axis=0)) / x.std(axis=0) for name, x in chosen.items()}
        of_items = relevant[np.ix_(items, items)]
        by_direction = [measured(unit(chosen[a]) @ unit(chosen[b]).T, of_items) for a, b in permutations(rows, 2)]
        mean = {measure: np.mean([one[measure] for one in by_direction]) for measure in by_direction[0]}
        expected.append([*by_direction, mean])
    directions = [*(f"{a}->{b}" for a, b in permutations(rows, 2)), "average"]
    for place, direction in enumerate(directions):
        for measure in expected[0][place]:
            value = np.mean([one[place][measure] for one in expected])
            assert found[f"{direction}/{measure}"] == pytest.approx(value, abs=1e-6), (direction, measure)


@pytest.mark.parametrize(
    ("size", "protocol"), [(2, "honest"), *((size, p) for size in (5, 7, N) for p in ("honest", "as_published"))]
)
def test_batches_are_drawn_with_seed_0_and_averaged(size, protocol):
    rows, label, _ = drawn()
    order = np.random.default_rng(0).permutation(N)
    batches = [order[start : start + size] for start in range(0, N, size) if start + size <= N]
    found, sizes = scored(f"batches-{size}", rows, label, protocol=protocol)
    assert_scores(found, rows, label[:, None] == label, batches, protocol == "as_published")
    assert sizes == dict.fromkeys((f"{a}->{b}" for a, b in permutations(NAMES, 2)), (size, size))


def test_texts_within_the_threshold_match_and_a_lower_one_finds_more():
    rows, label, text = drawn()
    recall = []
    for threshold in ("0.2", "0.5", "0.8", "0.95", "1.0"):
        match = (label[:, None] == label) | (text @ text.T >= float(threshold))
        found, sizes = scored(f"threshold-{threshold}", rows, label, text)
        assert_scores(found, rows, match, [np.arange(N)])
        assert set(sizes.values()) == {(N, N)}
        recall.append(found["average/R@1"])
    assert recall == sorted(recall, reverse=True)
    assert recall[0] > recall[2]


@pytest.mark.parametrize("count", [2, 6, N - 1])
def test_dissimilar_items_are_those_of_the_greedy_choice(count):
    """One item after the other: the least near to all, then always that whose nearest chosen one is the farthest."""
    rows, label, text = drawn()
    cosine = text @ text.T
    chosen = [int(np.argmin(cosine.mean(axis=1)))]
    while len(chosen) < count:
        left = [i for i in range(len(text)) if i not in chosen]
        chosen.append(min(left, key=lambda i: (cosine[i, chosen].max(), i)))
    found, sizes = scored(f"dissimilar-{count}", rows, label, text)
    assert_scores(found, rows, label[:, None] == label, [np.array(chosen)])
    assert set(sizes.values()) == {(count, count)}


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), count=st.integers(1, 12))
def test_dissimilar_items_are_as_many_as_named_even_where_texts_are_almost_the_same(seed, count):
    """Unit vectors a rounding apart: a text may be nearer to another than, in floating point, to itself."""
    rng = np.random.default_rng(seed)
    text = unit(np.repeat(rng.normal(size=(2, 4)), 10, axis=0) + 1e-7 * rng.normal(size=(20, 4))).astype(np.float32)
    given = (f"dissimilar-{count}", drawn(seed, 20)[0], np.arange(20), text)
    if len(np.unique(text, axis=0)) < count:
        with pytest.raises(GalleryUndefined, match="different texts, fewer than"):
            scored(*given)
    else:
        assert set(scored(*given)[1].values()) == {(count, count)}


@pytest.mark.parametrize(
    ("name", "with_text", "reason"),
    [
        ("batches-32", True, "the test set has 23 items, fewer than 32"),
        ("threshold-0.95", False, "it compares texts, one per item, and these data have none or several per item"),
        ("dissimilar-5", False, "it compares texts"),
        ("dissimilar-100", True, "the test set has 22 different texts, fewer than 100"),
    ],
)
def test_a_gallery_that_the_data_do_not_have_says_why(name, with_text, reason):
    rows, label, text = drawn()
    with pytest.raises(GalleryUndefined, match=reason):
        scored(name, rows, label, text if with_text else None)


@pytest.mark.parametrize(
    "name",
    ["batch-32", "batches", "batches-0", "batches-2.5", "threshold-", "threshold-1.2.3", "dissimilar-0", "full", ""],
)
def test_an_unknown_gallery_is_refused(name):
    with pytest.raises(ValueError, match=r"unknown gallery '.*'; expected one like batches-32, threshold-") as refusal:
        scored(name, *drawn())
    assert not isinstance(refusal.value, GalleryUndefined)
