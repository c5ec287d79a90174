"""Check that the ceiling of the samplers does its work."""

import numpy as np

from benchmarks.ceilings import hash_and_write


def test_every_position_gets_a_hash():
    out = np.full(10_001, -1, dtype=np.int32)
    hash_and_write(out)
    assert out.min() >= 0
    assert len(np.unique(out)) > 9_990
