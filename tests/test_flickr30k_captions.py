"""Flickr30K with captions on a tiny tree, in Karpathy's split."""

from __future__ import annotations

import numpy as np
from tiny_trees import FLICKR30K, flickr30k

from datamodules import Flickr30kCaptions

SPLITS = {"train": "train", "val": "validation", "test": "test"}


def test_an_image_has_its_five_captions_and_the_split_of_the_file(tree):
    folder = tree("flickr30k")
    module = Flickr30kCaptions(folder.parent)
    data = module.data
    assert list(data.names) == [str(entry["imgid"]) for entry in flickr30k()]
    assert data.split.tolist() == [SPLITS[entry["split"]] for entry in flickr30k()]
    assert data.label.tolist() == list(range(6))
    text = data.modalities["text"]
    assert text.entries == [sentence["raw"] for entry in flickr30k() for sentence in entry["sentences"]]
    np.testing.assert_array_equal(text.owners(), np.repeat(np.arange(6), 5))
    assert [path.name for path in data.modalities["image"].entries.paths] == [e["filename"] for e in flickr30k()]
    names = np.array(data.names)
    for part, word in (("train", "train"), ("validation", "val"), ("karpathy", "test")):
        assert sorted(names[module.indices(part)].tolist()) == [str(number) for number in FLICKR30K[word]]
