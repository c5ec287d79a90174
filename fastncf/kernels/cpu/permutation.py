"""Permutations computed entry by entry; see :mod:`fastncf.sampling.permutation`."""

import numpy as np
from numba import njit

from fastncf.rng import LOWBIAS_1, LOWBIAS_2

_MASK = (1 << 32) - 1


@njit(inline="always")
def _moved(half, other, round_key, size):
    x = (other ^ round_key) & np.uint64(_MASK)
    x = ((x ^ (x >> np.uint64(16))) * np.uint64(LOWBIAS_1)) & np.uint64(_MASK)
    x = ((x ^ (x >> np.uint64(15))) * np.uint64(LOWBIAS_2)) & np.uint64(_MASK)
    moved = half + (((x ^ (x >> np.uint64(16))) * size) >> np.uint64(32))
    return moved - size if moved >= size else moved


@njit(inline="always")
def _place(left, right, a, b, keys):
    left = _moved(left, right, keys[0], a)
    right = _moved(right, left, keys[1], b)
    left = _moved(left, right, keys[2], a)
    right = _moved(right, left, keys[3], b)
    return left * b + right


@njit(nogil=True, cache=True)
def fill_permutation(start, stop, a, b, keys, out):
    a, b, size = np.uint64(a), np.uint64(b), np.uint64(len(out))
    at = np.uint64(start)
    while at < np.uint64(stop):
        left = at // b
        first = left * b
        end = min(first + b, np.uint64(stop))
        for x in range(at, end):
            out[x] = _place(left, x - first, a, b, keys)
        at = end
    for x in range(np.uint64(start), np.uint64(stop)):
        while np.uint64(out[x]) >= size:
            beyond = np.uint64(out[x])
            out[x] = _place(beyond // b, beyond % b, a, b, keys)
