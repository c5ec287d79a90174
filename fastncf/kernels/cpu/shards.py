"""Interactions of a batch by shards of users, whose gradients are added in pairs of shards.

Processes that share out the users have whole shards each. The sum of a process over its shards is a term of the sum
over all of them as long as pairs are added, pairs of pairs, and so on: then the bits of a sum do not depend on the
number of processes, if it is a power of 2 and at most ``SHARDS``. Numbers that are added one after the other have no
such terms.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastncf.kernels.cpu.compiling import njit
from fastncf.kernels.cpu.rows import axpy, copy_row
from fastncf.kernels.cpu.simd import get, offset, put

SHARDS = 8
"""Shards of users of a batch that several processes may share out, a power of 2."""

_ONE = np.float32(1)
_SHARD_BITS = 8  # of a number in PairSums.shards; those above tell which sums there are


class PairSums(NamedTuple):
    """Sums of gradients of rows, for each row in pairs of shards.

    Attributes:
        depth: sums for each row: that of the current shard, and of pairs, pairs of pairs and so on without the other
            half, 1 + log2 of the number of shards.
        width: V, numbers of a gradient.
        shards: (O,) int32, of each row the current shard, and a bit for each other sum that there is.
        sums: (O, depth, V) float32.
    """

    depth: int
    width: int
    shards: NDArray[np.int32]
    sums: NDArray[np.float32]


def depth_of(num_shards: int) -> int:
    """Return the number of sums that each row of :class:`PairSums` has for a number of shards, a power of 2."""
    return num_shards.bit_length()


@njit(inline="always")
def sum_of(pairs, slot):
    """Return a pointer to the sum of the current shard of a row; after :func:`end_sum` it is that of all shards."""
    return offset(pairs.sums, slot * pairs.depth * pairs.width)


@njit(inline="always")
def begin_sum(pairs, slot, shard, gradient):
    """Begin the sum of a row with the gradient of an interaction of a shard."""
    put(pairs.shards, slot, np.int32(shard))
    copy_row(sum_of(pairs, slot), gradient, pairs.width)


@njit(inline="always")
def add_to_sum(pairs, slot, shard, gradient):
    """Add the gradient of an interaction to the sum of a row; shards are ascending."""
    found, total = np.int64(get(pairs.shards, slot)), sum_of(pairs, slot)
    before, has = found & ((1 << _SHARD_BITS) - 1), found >> _SHARD_BITS
    if before == shard:
        axpy(total, _ONE, gradient, pairs.width)
        return
    level = 0
    while (before ^ shard) >> (level + 1):  # up to the lowest pair that has both of them
        if (has >> level) & 1:
            axpy(total, _ONE, offset(total, (level + 1) * pairs.width), pairs.width)
            has ^= 1 << level
        level += 1
    copy_row(offset(total, (level + 1) * pairs.width), total, pairs.width)
    put(pairs.shards, slot, np.int32(shard | (has | (1 << level)) << _SHARD_BITS))
    copy_row(total, gradient, pairs.width)


@njit(inline="always")
def end_sum(pairs, slot):
    """Add up the sums of a row."""
    has, total = np.int64(get(pairs.shards, slot)) >> _SHARD_BITS, sum_of(pairs, slot)
    for level in range(pairs.depth - 1):
        if (has >> level) & 1:
            axpy(total, _ONE, offset(total, (level + 1) * pairs.width), pairs.width)


@njit(inline="always")
def add_pairs(sums, stride, width, starts, num_shards):
    """Add sums of shards in pairs, pairs of pairs, and so on, into that of the first shard.

    Args:
        sums: pointer to those of the first shard.
        stride: numbers from a shard's sums to those of the next.
        width: numbers to add.
        starts: pointer to where the interactions of each shard start, and where the last one ends; a shard without any
            has no sums.
        num_shards: a power of 2.
    """
    half = 1
    while half < num_shards:
        for first in range(0, num_shards, 2 * half):
            middle, last = get(starts, first + half), get(starts, first + 2 * half)
            if middle < last:
                left, right = offset(sums, first * stride), offset(sums, (first + half) * stride)
                if get(starts, first) < middle:
                    axpy(left, _ONE, right, width)
                else:
                    copy_row(left, right, width)
        half *= 2


@njit(nogil=True, cache=True)
def sort_batches(first, last, batch_size, bounds, order, starts):
    """Sort the interactions of batches by their shards; those of a shard stay in their order.

    Args:
        first, last: range of batches.
        batch_size: interactions of a batch.
        bounds: (shards + 1,) int64, positions in the CSR at which the shards start, and N.
        order: (n,) int32 or int64, sorted in place: positions in the CSR.
        starts: (batches, shards + 1) int32, written: where the interactions of each shard start in the batch.
    """
    num_shards = len(bounds) - 1
    copy = np.empty(batch_size, dtype=order.dtype)
    shards = np.empty(batch_size, dtype=np.int32)
    places = np.empty(num_shards + 1, dtype=np.int64)
    for batch in range(first, last):
        part = order[batch * batch_size : (batch + 1) * batch_size]
        places[:] = 0
        for at in range(len(part)):
            shard = 0
            for other in range(1, num_shards):  # a search would be mispredicted
                shard += part[at] >= bounds[other]
            shards[at] = shard
            places[shard + 1] += 1
            copy[at] = part[at]
        for shard in range(num_shards):
            places[shard + 1] += places[shard]
        starts[batch] = places
        for at in range(len(part)):
            shard = shards[at]
            part[places[shard]] = copy[at]
            places[shard] += 1
