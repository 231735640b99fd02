"""What is printed of an evaluation's scores."""

from itertools import permutations

import pytest

from lightning_modules.score_table import score_tables

METRICS = ("MAP", "R@1", "MAP@10[min(R,k)]", "MedR")


def scores(*parts: str, names: str = "ab") -> dict[str, float]:
    """Scores of all directions and their averages under the names they are logged by, no two alike."""
    directions = [f"{query}->{gallery}" for query, gallery in permutations(names, 2)]
    logged = [f"{part}/{of}/{metric}" for part in parts for of in (*directions, "average") for metric in METRICS]
    return {name: (1 + place) / 10_000 for place, name in enumerate(logged)}


def rows(text: str) -> dict[str, list[str]]:
    """First word of each line -> the others."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}


def test_every_part_has_a_column_and_every_score_stands_once():
    logged = scores("test/seen", "test/unseen", "test/generalised")
    text = score_tables([logged] * 3)
    table = rows(text)
    assert text.split()[:3] == ["test/seen", "test/unseen", "test/generalised"]
    for direction in ("a->b", "b->a", "average"):
        for metric in METRICS:
            found = [logged[f"test/{part}/{direction}/{metric}"] for part in ("seen", "unseen", "generalised")]
            assert [float(cell) for cell in table[f"{direction}/{metric}"]] == found
    for value in logged.values():
        assert text.count(f"{value:.4f}") == 1


def test_directions_between_more_modalities_stand_in_matrices():
    logged = scores("test/standard", names="abcd")
    listed, *matrices = score_tables([logged]).split("\n\n")
    assert list(rows(listed))[1:] == [f"average/{metric}" for metric in METRICS]
    assert len(matrices) == 2
    for matrix, metric in zip(matrices, ("MAP", "R@1"), strict=True):
        title, header, *body = matrix.splitlines()
        assert title.startswith(f"test/standard, {metric} of query (row)")
        assert header.split() == list("abcd")
        for query, line in zip("abcd", body, strict=True):
            cells = dict(zip("abcd", line.split()[1:], strict=True))
            assert line.split()[0] == query
            assert cells.pop(query) == "-"
            expected = {gallery: logged[f"test/standard/{query}->{gallery}/{metric}"] for gallery in cells}
            assert {gallery: float(cell) for gallery, cell in cells.items()} == expected


def test_parts_of_more_modalities_have_matrices_of_their_own():
    text = score_tables([scores("test/seen", "test/unseen", names="abc")] * 2)
    titles = [line.split(" of ")[0] for line in text.splitlines() if " of query" in line]
    assert titles == ["test/seen, MAP", "test/seen, R@1", "test/unseen, MAP", "test/unseen, R@1"]
    assert text.split()[:2] == ["test/seen", "test/unseen"]


def test_matrices_are_of_the_chosen_metrics_and_an_unknown_one_is_answered_with_those_that_there_are():
    _, matrix, answer = score_tables([scores("test/standard", names="abc")], ["R@1", "R@7"]).split("\n\n")
    assert matrix.startswith("test/standard, R@1 of query")
    assert "R@7" in answer
    assert all(metric in answer for metric in METRICS)


@pytest.mark.parametrize("name", ["loss", "val/loss", "val/image->text/MAP"])
def test_a_score_of_another_name_is_listed_too(name):
    assert "0.2500" in score_tables([{name: 0.25}])
