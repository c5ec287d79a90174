"""Keyed permutations, entry by entry; see :mod:`fastncf.sampling.permutation`."""

import numpy as np

from fastncf.kernels.cpu.compiling import njit
from fastncf.rng import LOWBIAS_1, LOWBIAS_2

_MASK = (1 << 32) - 1


@njit(nogil=True, cache=True)
def fill_permutation(start, stop, a, b, keys, out):
    """Write a range of the entries of a permutation.

    Args:
        start, stop: range of entries.
        a, b: numbers of left and right halves; ``a * b`` is at least the length of ``out``.
        keys: (4,) uint64 below 2**32, one for each round of the network.
        out: (size,) int32 or int64.
    """
    a, b, size = np.uint64(a), np.uint64(b), np.uint64(len(out))
    at = np.uint64(start)
    while at < np.uint64(stop):  # the entries of one left half at a time, without a division for each
        left = at // b
        first = left * b
        end = min(first + b, np.uint64(stop))
        for x in range(at, end):
            out[x] = _feistel(left, x - first, a, b, keys)
        at = end
    for x in range(np.uint64(start), np.uint64(stop)):
        while np.uint64(out[x]) >= size:
            beyond = np.uint64(out[x])
            out[x] = _feistel(beyond // b, beyond % b, a, b, keys)


@njit(inline="always")
def _feistel(left, right, a, b, keys):
    """Return the image of ``left * b + right`` under the network of four rounds."""
    left = _add_hash(left, right, keys[0], a)
    right = _add_hash(right, left, keys[1], b)
    left = _add_hash(left, right, keys[2], a)
    right = _add_hash(right, left, keys[3], b)
    return left * b + right


@njit(inline="always")
def _add_hash(half, other, round_key, size):
    """Return ``half`` plus a hash of the other half, modulo ``size``; all uint64."""
    x = (other ^ round_key) & np.uint64(_MASK)
    x = ((x ^ (x >> np.uint64(16))) * np.uint64(LOWBIAS_1)) & np.uint64(_MASK)
    x = ((x ^ (x >> np.uint64(15))) * np.uint64(LOWBIAS_2)) & np.uint64(_MASK)
    total = half + (((x ^ (x >> np.uint64(16))) * size) >> np.uint64(32))
    return total - size if total >= size else total
