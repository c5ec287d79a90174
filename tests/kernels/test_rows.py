"""Dropout: its share, its scale, and draws that have nothing to do with each other."""

import numpy as np
import pytest
from numba import njit

from fastncf.kernels.cpu.rows import dropout
from fastncf.kernels.cpu.simd import pointer


@njit
def drop(x, probability, key):
    dropout(pointer(x), len(x), probability, key)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_dropout_sets_its_share_to_0_and_keeps_the_mean(probability):
    dropped = []
    for key in np.random.default_rng().integers(2**63, size=2, dtype=np.uint64):
        x = np.ones(80_000, dtype=np.float32)
        drop(x, probability, key)
        assert set(np.unique(x)) == {0, np.float32(1 / (1 - probability))}
        assert (x == 0).mean() == pytest.approx(probability, abs=0.01)
        dropped.append(x == 0)
    by_chance = probability**2 + (1 - probability) ** 2
    assert (dropped[0] == dropped[1]).mean() == pytest.approx(by_chance, abs=0.01)
    assert (dropped[0][1:] == dropped[0][:-1]).mean() == pytest.approx(by_chance, abs=0.01)
