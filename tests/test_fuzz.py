"""A share of `make fuzz`: no random input of a loss and no broken file is anything but computed, read or refused."""

from __future__ import annotations

import fuzz
import fuzz_files
import pytest

INPUTS, FILES = 1500, 4


def test_every_loss_of_random_inputs_is_a_number_or_refused_for_a_documented_reason():
    assert [found for found in fuzz.of_losses(range(INPUTS)) if found[2] not in fuzz.GOOD] == []


@pytest.mark.parametrize("form", fuzz_files.FORMS)
def test_a_broken_file_is_read_or_refused_by_its_name(form, tmp_path):
    fuzz_files.FORMS[form](tmp_path)[1]()  # whole, it is read
    assert [found for found in fuzz.of_files(form, range(FILES)) if found[2] not in fuzz.GOOD] == []
