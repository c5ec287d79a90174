"""Lookups of integer ids: by a table over their range, or by an open-addressing hash table.

``values`` (n,) are integers of any dtype but unsigned 64-bit ones, which the caller passes as int64 with the same bits.
Each kernel works on one chunk of a column and writes to arrays that the caller allocates.
"""

import numpy as np

from fastncf.kernels.cpu.compiling import njit
from fastncf.rng import GOLDEN


@njit(nogil=True, cache=True)
def mark_present(values, low, present):
    """Set ``present[value - low]`` (m,) bool for each value; all values lie in the range of the table."""
    for value in values:
        present[np.uint64(np.int64(value) - low)] = True


@njit(nogil=True, cache=True)
def gather_range(values, low, table, out):
    """Write ``table[value - low]`` to ``out`` (n,) int32, or -1 for a value outside the table (m,) int32."""
    size = np.uint64(len(table))
    for row in range(len(values)):
        offset = np.uint64(np.int64(values[row]) - low)
        out[row] = table[offset] if offset < size else np.int32(-1)


@njit(inline="always")
def _first_slot(value, slots):
    """Return where the search for a value begins in a hash table (a power of two,)."""
    mixed = np.uint64(np.int64(value)) * np.uint64(GOLDEN)
    return (mixed ^ (mixed >> np.uint64(32))) & np.uint64(len(slots) - 1)


@njit(nogil=True, cache=True)
def fill_slots(ids, slots):
    """Build a hash table of distinct ids (m,).

    ``slots`` (a power of two above m,) int32, filled with -1 before, holds indices into ``ids`` afterwards.
    """
    mask = np.uint64(len(slots) - 1)
    for index in range(len(ids)):
        slot = _first_slot(ids[index], slots)
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = index


@njit(nogil=True, cache=True)
def find_slots(values, ids, slots, out):
    """Write the index of each value among ``ids`` (m,) to ``out`` (n,) int32, or -1.

    ``slots`` is the hash table of :func:`fill_slots`.
    """
    mask = np.uint64(len(slots) - 1)
    for row in range(len(values)):
        slot = _first_slot(values[row], slots)
        while slots[slot] >= 0 and ids[slots[slot]] != values[row]:
            slot = (slot + np.uint64(1)) & mask
        out[row] = slots[slot]
