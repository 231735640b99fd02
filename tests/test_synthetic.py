"""Generated data: the stated model, its difficulty and the gap of its modalities; bits of which one is the xor."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import XOR, ItemSet, Synthetic
from datamodules.datasets.synthetic import CLASS_NAMES


def synthetic_features(**arguments) -> ItemSet:
    return Synthetic(**arguments).read()


def centroid_retrieval(data: ItemSet) -> float:
    """Share of test images whose nearest test text, by cosine of the two posteriors over classes, is of their class."""
    train, test = data.split == "train", data.split == "test"
    posteriors = []
    for x in data.vectors.values():
        centroids = np.stack([x[train & (data.label == c)].mean(axis=0) for c in range(len(data.class_names))])
        score = -((x[test][:, None] - centroids) ** 2).sum(axis=2)
        p = np.exp(score - score.max(axis=1, keepdims=True))
        posteriors.append(p / np.linalg.norm(p, axis=1, keepdims=True))
    label = data.label[test]
    return float((label[(posteriors[0] @ posteriors[1].T).argmax(axis=1)] == label).mean())


def test_difficulty_orders_retrieval_from_easy_to_chance():
    easy, middle, hard, chance = (centroid_retrieval(synthetic_features(difficulty=d)) for d in (0.1, 0.5, 0.9, 1.0))
    assert easy > 0.95
    assert easy > middle + 0.1 > hard + 0.2
    assert chance == pytest.approx(0.1, abs=0.07)


@settings(max_examples=10, deadline=None)
@given(dims=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 100))
def test_the_centroids_of_the_modalities_lie_one_apart(dims, seed):
    data = synthetic_features(items=80, image_dim=dims[0], text_dim=dims[1], seed=seed)
    image, text = (np.pad(x.mean(axis=0, dtype=np.float64), (0, 40 - x.shape[1])) for x in data.vectors.values())
    assert np.linalg.norm(image - text) == pytest.approx(1, rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(classes=st.integers(2, 60), extra=st.integers(0, 100), seed=st.integers(0, 9))
def test_split_holds_out_a_quarter_of_every_class_and_the_seed_decides_the_data(classes, extra, seed):
    settings = {"classes": classes, "items": 4 * classes + extra, "image_dim": 3, "text_dim": 2}
    data, again, other = (synthetic_features(**settings, seed=s) for s in (seed, seed, seed + 1))
    assert data.digest() == again.digest() != other.digest()
    assert {name: x.shape[1] for name, x in data.vectors.items()} == {"image": 3, "text": 2}
    for c in range(classes):
        part = data.split[data.label == c]
        assert (part == "test").sum() == len(part) // 4
    names = [*CLASS_NAMES, *(f"class {c}" for c in range(len(CLASS_NAMES), 60))]  # distinct nouns first
    assert list(data.class_names) == names[:classes]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *((Synthetic, name, value) for name, value in (("classes", 1), ("items", 39), ("image_dim", 0), ("seed", -1))),
        *((Synthetic, "difficulty", value) for value in (-0.1, 1.1, float("nan"))),
        *((XOR, name, value) for name, value in (("names", ("a", "b")), ("bits", 0), ("items", 0))),
    ],
)
def test_arguments_outside_their_range(kind, name, value):
    with pytest.raises(ValueError, match=f"^{name} is "):
        kind(**{name: value})


# Bits whose last modality is the exclusive or of the others ----------------------------------------------------------


@pytest.mark.parametrize("names", [("a", "b", "c"), ("a", "b", "c", "d")])
def test_all_but_one_modality_tell_the_other_and_fewer_tell_nothing(names):
    module = XOR(names, bits=2, items=4000, seed=1)
    values = [module.data.vectors[name] > 0 for name in names]
    for left_out in range(len(names)):
        others = [rows for m, rows in enumerate(values) if m != left_out]
        np.testing.assert_array_equal(np.bitwise_xor.reduce(others), values[left_out])
    code = [rows @ [1, 2] for rows in values]
    together = np.histogramdd(np.stack(code[1:], axis=1), bins=[np.arange(5)] * (len(names) - 1))[0]
    assert np.abs(together / together.mean() - 1).max() < 0.4  # independent: every combination as often
    np.testing.assert_array_equal(module.data.label, code[-1])
    assert (module.data.split == "test").sum() == 2000
