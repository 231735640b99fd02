"""The figure of a table: a style of its own for every direction that it shows."""

from __future__ import annotations

from itertools import permutations

import pytest

from reproduce.figures import OTHERS, _styles

MODALITIES = ["text", "video", "motion", "inertial", "sound"]


def directions(count: int) -> set[str]:
    return {"average", *("->".join(pair) for pair in permutations(MODALITIES[:count], 2))}


@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_no_two_directions_look_alike(modalities):
    styles = _styles(directions(modalities))
    assert set(styles) == directions(modalities)
    assert len(set(styles.values())) == len(styles)
    assert list(styles)[-1] == "average"


def test_the_two_ways_of_a_pair_share_colour_and_marker():
    styles = _styles(directions(3))
    assert styles["text->video"][:2] == styles["video->text"][:2] != styles["text->motion"][:2]
    assert styles["text->video"][2] != styles["video->text"][2]


def test_more_pairs_than_styles_leave_the_average():
    assert len(OTHERS) < 10
    assert list(_styles(directions(5))) == ["average"]
    assert list(_styles({"text->video"})) == ["text->video"]
