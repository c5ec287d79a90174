"""The least that a stage has to do: what its figures are measured against."""

import numpy as np
from numba import njit

from fastncf.rng import LOWBIAS_1, LOWBIAS_2
from fastncf.threads import even_ranges, run_ranges


@njit(nogil=True)
def _hash_range(start, stop, out):  # type: ignore[no-untyped-def]
    for position in range(start, stop):
        x = np.uint32(position) ^ np.uint32(0x9E3779B9)
        x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(LOWBIAS_1))
        out[position] = np.int32(np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(LOWBIAS_2)) >> np.uint32(1))


def hash_and_write(out: np.ndarray) -> None:
    """The least that any counted sampler does."""
    run_ranges(lambda a, b: _hash_range(a, b, out), even_ranges(len(out)))
