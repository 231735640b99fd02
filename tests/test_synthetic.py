"""Synthetic features: the stated model, its difficulty and its modality gap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import ItemSet, Synthetic
from datamodules.datasets.synthetic import CLASS_NAMES


def synthetic_features(**arguments) -> ItemSet:
    return Synthetic(**arguments).read()


def centroid_scores(data) -> tuple[np.ndarray, list[np.ndarray]]:
    """Test labels, and for each modality minus the squared distances to its training centroids."""
    train, test = data.split == "train", data.split == "test"
    scores = []
    for x in data.vectors.values():
        centroids = np.stack([x[train & (data.label == c)].mean(axis=0) for c in range(len(data.class_names))])
        scores.append(-((x[test][:, None] - centroids) ** 2).sum(axis=2))
    return data.label[test], scores


def centroid_retrieval(data) -> float:
    """Share of test images whose nearest test text, by cosine of the two posteriors over classes, is of their class."""
    label, scores = centroid_scores(data)
    posteriors = [np.exp(score - score.max(axis=1, keepdims=True)) for score in scores]
    image, text = (p / np.linalg.norm(p, axis=1, keepdims=True) for p in posteriors)
    return float((label[(image @ text.T).argmax(axis=1)] == label).mean())


def centroid_distance(data) -> float:
    """Distance of the modality centroids, the narrower one padded with zeros."""
    image, text = (x.mean(axis=0, dtype=np.float64) for x in data.vectors.values())
    width = max(len(image), len(text))
    return float(np.linalg.norm(np.pad(image, (0, width - len(image))) - np.pad(text, (0, width - len(text)))))


def test_difficulty_orders_retrieval_from_easy_to_chance():
    easy, middle, hard = (centroid_retrieval(synthetic_features(difficulty=d)) for d in (0.1, 0.5, 0.9))
    assert easy > 0.95
    assert easy > middle + 0.1 > hard + 0.2


def test_full_difficulty_leaves_no_class_information():
    label, scores = centroid_scores(synthetic_features(difficulty=1.0, items=4000))
    for score in scores:
        assert (score.argmax(axis=1) == label).mean() == pytest.approx(0.1, abs=0.04)


@settings(max_examples=20, deadline=None)
@given(
    gap=st.floats(0, 20),
    dims=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 100),
)
def test_gap_is_the_distance_of_the_centroids(gap, dims, seed):
    data = synthetic_features(items=80, image_dim=dims[0], text_dim=dims[1], modality_gap=gap, seed=seed)
    assert centroid_distance(data) == pytest.approx(gap, rel=1e-5, abs=1e-5)


def test_seed_decides_the_data():
    assert synthetic_features(seed=3).digest() == synthetic_features(seed=3).digest()
    assert synthetic_features(seed=3).digest() != synthetic_features(seed=4).digest()


@settings(max_examples=20, deadline=None)
@given(classes=st.integers(2, 60), extra=st.integers(0, 100))
def test_split_holds_out_a_quarter_of_every_class(classes, extra):
    data = synthetic_features(classes=classes, items=4 * classes + extra, image_dim=3, text_dim=2)
    assert {name: x.shape[1] for name, x in data.vectors.items()} == {"image": 3, "text": 2}
    for c in range(classes):
        part = data.split[data.label == c]
        assert (part == "test").sum() == len(part) // 4


def test_class_names_are_distinct_nouns():
    assert synthetic_features(classes=3).class_names == CLASS_NAMES[:3]
    names = synthetic_features(classes=len(CLASS_NAMES) + 2).class_names
    assert len(set(names)) == len(names) == len(CLASS_NAMES) + 2
    assert names[-1] == f"class {len(CLASS_NAMES) + 1}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes", 1),
        ("items", 39),
        ("image_dim", 0),
        ("text_dim", 0),
        ("difficulty", -0.1),
        ("difficulty", 1.1),
        ("difficulty", float("nan")),
        ("modality_gap", -1.0),
        ("modality_gap", float("inf")),
        ("seed", -1),
    ],
)
def test_arguments_outside_their_range(name, value):
    with pytest.raises(ValueError, match=f"^{name} is "):
        Synthetic(**{name: value})


def test_the_data_module_has_the_widths_asked_for():
    module = Synthetic(4, 64, 6, 5, batch_size=8, class_encoder="one-hot")
    assert (module.dataset, module.features, module.data_kind) == ("synthetic", "synthetic", "synthetic")
    assert module.dims == {"image": 6, "text": 5, "class_embedding": 4}
    assert next(iter(module.train_dataloader()))["image"].shape == (8, 6)


@pytest.mark.parametrize("split", ["seen", "unseen", "generalised"])
def test_zero_shot_parts_are_not_empty(split):
    module = Synthetic(classes=5, items=100, class_split="zero-shot", class_encoder="one-hot")
    assert len(module.indices(split))
