"""Alias tables: discrete distributions from which an item is drawn in constant time (Walker 1977)."""

from typing import NamedTuple

import numpy as np

from fastncf.kernels.cpu.compiling import njit


class AliasTable(NamedTuple):
    """A distribution over I items whose probabilities are whole multiples of 2**-32, so that every draw is exact.

    Attributes:
        cumulative: (I + 1,) uint64, running sums of the items' probabilities in units of 2**-32, from 0 to 2**32.
        alias_cells: (2**num_bits,) uint32, cells of equal probability with at most two items each. The upper
            ``num_bits`` bits of a uniform 32-bit number are the index of a cell. Where the number's other bits are less
            than the upper ``32 - num_bits`` bits of the cell, the item drawn is the index of the cell; otherwise it is
            the item in the lower ``num_bits`` bits of the cell.
        num_bits: length of the last item in bits, at least 1.
    """

    cumulative: np.ndarray
    alias_cells: np.ndarray
    num_bits: np.uint32

    def item(self, number: int) -> int:
        """Return the item that a number below 2**32 draws."""
        low_bits = 32 - int(self.num_bits)
        index = number >> low_bits
        cell = int(self.alias_cells[index])
        if number & ((1 << low_bits) - 1) < cell >> int(self.num_bits):
            return index
        return cell & ((1 << int(self.num_bits)) - 1)


def make_alias_table(weights: np.ndarray) -> AliasTable:
    """Return the alias table of some weights.

    Probabilities are rounded to units of 2**-32 by the method of largest remainders. No item gets less than one unit,
    whatever its weight is: each item can be drawn, also for users who have seen all others.

    Args:
        weights: (I,) float64, finite and at least 0, not all 0; I is at least 1 and at most 2**31.
    """
    share = weights / weights.sum() * ((1 << 32) - len(weights))
    units = 1 + share.astype(np.uint64)
    rest = (1 << 32) - int(units.sum())
    units[np.argsort(share - np.floor(share))[::-1][:rest]] += np.uint64(1)
    cumulative = np.zeros(len(weights) + 1, dtype=np.uint64)
    np.cumsum(units, out=cumulative[1:])
    num_bits = max(1, (len(weights) - 1).bit_length())
    alias_cells = np.empty(1 << num_bits, dtype=np.uint32)
    _fill_alias_cells(units.astype(np.int64), num_bits, alias_cells)
    return AliasTable(cumulative, alias_cells, np.uint32(num_bits))


@njit(nogil=True, cache=True)
def _fill_alias_cells(units, num_bits, cells):
    """Fill ``cells`` of an :class:`AliasTable` from the items' probabilities (I,) int64 in units of 2**-32."""
    kept = np.zeros(len(cells), dtype=np.int64)
    for item in range(len(units)):  # assigning to a slice would compile an error message, which takes seconds
        kept[item] = units[item]
    _pair_items(kept, np.int64(1) << (32 - num_bits), cells)
    for index in range(len(cells)):
        if cells[index] != index:  # a cell that holds one item only keeps 0 beside the item's index
            cells[index] = (kept[index] << num_bits) | cells[index]


@njit(nogil=True, cache=True)
def fill_alias_table(probabilities, thresholds, aliases):
    """Write the alias table of n probabilities; to draw from it takes two uniform numbers.

    The first number chooses a cell i of n. Where the second number, of 32 bits, is less than ``thresholds[i]``, the
    item drawn is i; otherwise it is ``aliases[i]``.

    Args:
        probabilities: (n,) float64 that sum to 1.
        thresholds: (n,) uint32, written.
        aliases: (n,) int32, written; i itself where cell i holds item i only.
    """
    kept = probabilities * len(probabilities)
    _pair_items(kept, 1.0, aliases)
    for index in range(len(kept)):
        # Rounding may leave a cell that holds one item only a little more or less than full.
        thresholds[index] = 0xFFFFFFFF if aliases[index] == index else np.uint32(kept[index] * 2.0**32)


@njit(nogil=True, cache=True)
def _pair_items(kept, capacity, aliases):
    """Distribute n items over n cells of equal capacity so that no cell holds more than two items (Vose 1991).

    Args:
        kept: (n,) int64 or float64, what each item needs, n times ``capacity`` in all; on return what cell i keeps of
            item i. The rest of the cell belongs to item ``aliases[i]``.
        capacity: number of the same type.
        aliases: (n,) integers, written; i itself where cell i holds item i only.
    """
    size = len(kept)
    stacks = np.empty(size, dtype=np.int64)  # cells with room grow from the front, cells with too much from the back
    num_small, first_large = 0, size
    for item in range(size):
        aliases[item] = item
        if kept[item] < capacity:
            stacks[num_small] = item
            num_small += 1
        else:
            first_large -= 1
            stacks[first_large] = item
    while num_small and first_large < size:
        num_small -= 1
        small, large = stacks[num_small], stacks[first_large]
        aliases[small] = large
        kept[large] -= capacity - kept[small]
        if kept[large] < capacity:
            first_large += 1
            stacks[num_small] = large
            num_small += 1
