"""Bits whose last modality is the exclusive or of the others."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules import XOR


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


@pytest.mark.parametrize("arguments", [{"names": ("a", "b")}, {"bits": 0}, {"items": 0}])
def test_arguments_outside_their_range_are_named(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        XOR(**arguments)
