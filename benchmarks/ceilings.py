"""The least work that a step needs: ceilings that the rates of fastncf are compared with."""

import numpy as np
from numba import njit

from fastncf.rng import LOWBIAS_1, LOWBIAS_2
from fastncf.threads import even_ranges, run_ranges


@njit(nogil=True)
def _hash_range(start: int, stop: int, out: np.ndarray) -> None:
    """Write the hash of each position of a range to ``out`` (n,) int32."""
    for position in range(start, stop):
        x = np.uint32(position) ^ np.uint32(0x9E3779B9)
        x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(LOWBIAS_1))
        out[position] = np.int32(np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(LOWBIAS_2)) >> np.uint32(1))


def hash_and_write(out: np.ndarray) -> None:
    """Fill ``out`` (n,) int32 by hashes on all threads, the least that any counter-based sampler does."""
    run_ranges(lambda start, stop: _hash_range(start, stop, out), even_ranges(len(out)))
