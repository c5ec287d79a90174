"""How often each item is drawn as a negative: whole parts of 2**32, so that every draw is exact."""

from typing import NamedTuple

import numpy as np
from numba import njit


class Weights(NamedTuple):
    """A distribution over I items in whole parts of 2**32, ready to be drawn from.

    Attributes:
        mass: (I + 1,) uint64, running sum of the items' parts, from 0 to 2**32.
        cells: (2**bits,) uint32, an alias table (Walker 1977; built as by Vose 1991, in integers). The upper ``bits``
            bits of a number below 2**32 name a cell. Where the others are less than the cell's upper ``32 - bits``
            bits, the item drawn is the cell's own number, otherwise the cell's lower ``bits`` bits.
        bits: as many as the number of the last item has.
    """

    mass: np.ndarray
    cells: np.ndarray
    bits: np.uint32

    def item(self, number: int) -> int:
        """The item that a number below 2**32 draws."""
        below = 32 - int(self.bits)
        cell = int(self.cells[number >> below])
        if number & ((1 << below) - 1) < cell >> int(self.bits):
            return number >> below
        return cell & ((1 << int(self.bits)) - 1)


def popularity_weights(counts: np.ndarray, exponent: float) -> Weights:
    """Weights ``max(counts, 1) ** exponent`` (Mikolov et al. 2013 use 0.75), rounded to parts of 2**32, none to 0.

    Args:
        counts: (I,) training interactions of each item.
        exponent: 0 draws all items alike, 1 by their popularity.
    """
    wanted = np.maximum(counts, 1).astype(np.float64) ** exponent
    share = wanted / wanted.sum() * ((1 << 32) - len(counts))
    parts = 1 + share.astype(np.uint64)
    rest = (1 << 32) - int(parts.sum())
    parts[np.argsort(share - np.floor(share))[::-1][:rest]] += np.uint64(1)
    mass = np.zeros(len(counts) + 1, dtype=np.uint64)
    np.cumsum(parts, out=mass[1:])
    bits = max(1, (len(counts) - 1).bit_length())
    cells = np.zeros(1 << bits, dtype=np.uint32)
    _fill_cells(parts.astype(np.int64), bits, cells)
    return Weights(mass, cells, np.uint32(bits))


@njit(cache=True)
def _fill_cells(parts, bits, cells):  # type: ignore[no-untyped-def]
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
