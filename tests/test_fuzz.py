"""A share of `make fuzz`: no random input of a loss and no broken file is anything but computed, read or refused."""

import json

import fuzz
import fuzz_files
import own_cases
import pytest

from datamodules import DataError

INPUTS, FILES = 500, 2  # `make fuzz` takes many more


def test_every_loss_of_random_inputs_is_a_number_or_refused_for_a_documented_reason():
    assert [found for found in fuzz.of_losses(range(INPUTS)) if found[2] not in fuzz.GOOD] == []


@pytest.mark.parametrize("form", fuzz_files.FORMS)
def test_a_broken_file_is_read_or_refused_by_its_name(form, tmp_path):
    fuzz_files.FORMS[form](tmp_path)[1]()  # whole, it is read
    assert [found for found in fuzz.of_files(form, range(FILES)) if found[2] not in fuzz.GOOD] == []


@pytest.mark.parametrize(
    "cells",
    [
        {"label": [["x"], None]},
        {"label": [10**30]},
        {"id": [[1]]},
        {"image": ["~nobody-is-called-so/a.jpg"]},
        {"image": ["a" * 4000 + ".jpg"]},
        {"vector": [[10**400, 2]]},
        {"text": [{"a": 1}]},
        {"label": ["a", "b"], "id": ["one"]},
    ],
    ids=lambda cells: next(iter(cells)),
)
def test_rows_of_unexpected_content_are_refused_by_the_name_of_their_file(cells, tmp_path):
    rows = [{"text": f"a {n}", "vector": [n, 1.5], "label": f"y{n % 2}"} for n in range(12)]
    rows = [row | {name: kinds[n % len(kinds)] for name, kinds in cells.items()} for n, row in enumerate(rows)]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"own\.jsonl"):
        own_cases.read(tmp_path / "own.jsonl")
