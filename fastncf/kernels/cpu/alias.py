"""How often each item is drawn as a negative: whole parts of 2**32, so that every draw is exact."""

from typing import NamedTuple

import numpy as np
from numba import njit


class AliasTable(NamedTuple):
    """A distribution over I items in whole parts of 2**32, ready to be drawn from.

    Attributes:
        cumulative: (I + 1,) uint64, running sum of the items' parts, from 0 to 2**32.
        alias_cells: (2**bits,) uint32, an alias table (Walker 1977; built as by Vose 1991, in integers). The upper ``bits``
            bits of a number below 2**32 name a cell. Where the others are less than the cell's upper ``32 - bits``
            bits, the item drawn is the cell's own number, otherwise the cell's lower ``bits`` bits.
        num_bits: as many as the number of the last item has.
    """

    cumulative: np.ndarray
    alias_cells: np.ndarray
    num_bits: np.uint32

    def item(self, number: int) -> int:
        """The item that a number below 2**32 draws."""
        below = 32 - int(self.num_bits)
        cell = int(self.alias_cells[number >> below])
        if number & ((1 << below) - 1) < cell >> int(self.num_bits):
            return number >> below
        return cell & ((1 << int(self.num_bits)) - 1)


@njit(cache=True)
def fill_alias_cells(parts, bits, cells):
    """Share the items' parts out to equal cells, each with two items at most."""
    size = np.int64(1) << (32 - bits)
    left = np.zeros(len(cells), dtype=np.int64)
    for item in range(len(parts)):  # a slice would have text for its error compiled, which takes seconds
        left[item] = parts[item]
    queue = np.empty(len(cells), dtype=np.int64)  # those with less than a cell from the front, the others from the back
    small, large = 0, len(cells)
    for item in range(len(cells)):
        if left[item] < size:
            queue[small] = item
            small += 1
        else:
            large -= 1
            queue[large] = item
    while small:
        small -= 1
        own, other = queue[small], queue[large]
        cells[own] = (left[own] << bits) | other
        left[other] -= size - left[own]
        if left[other] < size:
            queue[small] = other
            small += 1
            large += 1
    for at in range(large, len(cells)):
        cells[queue[at]] = queue[at]
