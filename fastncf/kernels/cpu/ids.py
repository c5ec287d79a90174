"""Lookups of integer ids: by a table over their range, or by an open-addressing hash table."""

import numpy as np
from numba import njit

from fastncf.rng import GOLDEN


@njit(nogil=True, cache=True)
def mark_present(values, low, present):
    for value in values:
        present[np.uint64(np.int64(value) - low)] = True


@njit(nogil=True, cache=True)
def fill_codes(values, low, table, codes):
    size = np.uint64(len(table))
    for row in range(len(values)):
        at = np.uint64(np.int64(values[row]) - low)
        codes[row] = table[at] if at < size else np.int32(-1)


@njit(inline="always")
def _slot(value, slots):
    """The first place to look at in an open-addressing table of a power of two."""
    mixed = np.uint64(np.int64(value)) * np.uint64(GOLDEN)
    return (mixed ^ (mixed >> np.uint64(32))) & np.uint64(len(slots) - 1)


@njit(nogil=True, cache=True)
def fill_slots(ids, slots):
    last = np.uint64(len(slots) - 1)
    for code in range(len(ids)):
        at = _slot(ids[code], slots)
        while slots[at] >= 0:
            at = (at + np.uint64(1)) & last
        slots[at] = code


@njit(nogil=True, cache=True)
def find_slots(values, ids, slots, codes):
    last = np.uint64(len(slots) - 1)
    for row in range(len(values)):
        at = _slot(values[row], slots)
        while slots[at] >= 0 and ids[slots[at]] != values[row]:
            at = (at + np.uint64(1)) & last
        codes[row] = slots[at]
