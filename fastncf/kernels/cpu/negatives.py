"""SamplingSpec of negatives for the rows of a CSR; see :mod:`fastncf.sampling.negatives` for how a draw is made."""

from typing import NamedTuple

import numpy as np
from numba import njit

from fastncf.kernels.cpu.alias import AliasTable
from fastncf.kernels.cpu.hashing import hash32, mix64
from fastncf.rng import GOLDEN

ATTEMPTS = 12
_TILE = 2048
_GUIDE_BITS = 11
_SHIFT = np.uint64(32)
UNIFORM = AliasTable(np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.uint32), np.uint32(0))


# Indices are unsigned below: Numba would otherwise look for negative ones at every access.
@njit(inline="always")
def _is_set(bits, item):
    return (bits[np.uint32(item) >> np.uint32(5)] >> (np.uint32(item) & np.uint32(31))) & np.uint32(1)


@njit(inline="always")
def _set(bits, item):
    bits[np.uint32(item) >> np.uint32(5)] |= np.uint32(1) << (np.uint32(item) & np.uint32(31))


@njit(nogil=True, cache=True)
def _set_all(bits, items):
    for item in items:
        _set(bits, item)


@njit(nogil=True, cache=True)
def _clear_all(bits, items):
    """Clear the words of some items; all words at once where that is less work."""
    if 8 * len(items) > len(bits):
        bits[:] = np.uint32(0)
    else:
        for item in items:
            bits[np.uint32(item) >> np.uint32(5)] = np.uint32(0)


@njit(inline="always")
def is_dense(touched, num_items):
    """Whether looking for an untouched item costs less than rejecting touched ones."""
    return 4 * touched > 3 * num_items


@njit(nogil=True, cache=True)
def _untouched(indices, start, stop, rank):
    """The rank-th item (from 0) that is not in the sorted row indices[start:stop]."""
    return rank + _touched_before(rank, start, stop, indices, start, UNIFORM.cumulative, UNIFORM.cumulative)


@njit(inline="always")
def _untouched_before(at, indices, start, mass, touched):
    """Untouched items, or their mass, before the ``at``-th entry of the CSR, which is in the row from ``start``."""
    if len(mass) == 0:
        return np.uint64(indices[at]) - (at - start)
    return mass[indices[at]] - touched[at - start]


@njit(nogil=True, cache=True)
def _touched_before(number, low, high, indices, start, mass, touched):
    """How many touched items lie before where a number falls in the untouched items, or their parts, laid end to end.

    The answer is known to lie between those of the entries ``low`` and ``high`` of the CSR.
    """
    while low < high:
        middle = (low + high) >> 1
        if _untouched_before(np.uint64(middle), indices, np.uint64(start), mass, touched) <= np.uint64(number):
            low = middle + 1
        else:
            high = middle
    return low - start


@njit(nogil=True, cache=True)
def _free(indices, start, stop, num_items, mass, touched):
    """A user's untouched items, or their mass; then ``touched`` gets running sums of the touched parts, from 0."""
    if len(mass) == 0:
        return np.uint64(num_items - (stop - start))
    total = np.uint64(0)
    for at in range(start, stop):
        touched[at - start] = total
        total += mass[indices[at] + 1] - mass[indices[at]]
    touched[stop - start] = total
    return mass[num_items] - total


@njit(nogil=True, cache=True)
def _fill_guide(free, indices, start, stop, mass, touched, guide):
    """Entries of the CSR between which each of equal parts of the untouched falls; returns the bits of their number.

    A hash of 32 bits is scaled to a number below ``free``, so that its upper bits tell the part.
    """
    bits = 0
    while bits < _GUIDE_BITS and (4 << bits) < stop - start:
        bits += 1
    at = start
    for part in range((1 << bits) + 1):
        number = (np.uint64(part) * free) >> np.uint64(bits)
        while at < stop and _untouched_before(np.uint64(at), indices, np.uint64(start), mass, touched) <= number:
            at += 1
        guide[part] = at
    return np.uint32(bits)


@njit(nogil=True, cache=True)
def _select_each(begin, pair, free, indices, start, stop, mass, touched, guide, guide_bits, pending, out):
    """Untouched items without rejection of touched ones: those in whose parts uniform numbers below ``free`` fall."""
    threshold = np.uint32((np.uint64(1) << _SHIFT) % free)
    for offset in pending:
        position = np.uint32(begin + offset)
        drawn = np.uint64(hash32(position, pair[0], pair[1]))
        step = np.uint32(0)
        while np.uint32(drawn * free) < threshold:
            step += np.uint32(1)
            drawn = np.uint64(hash32(position, pair[0], pair[1] ^ step))
        number = (drawn * free) >> _SHIFT
        part = drawn >> np.uint64(np.uint32(32) - guide_bits)
        before = _touched_before(number, guide[part], guide[part + np.uint64(1)], indices, start, mass, touched)
        if len(mass) == 0:
            out[offset] = np.int32(np.int64(number) + before)
        else:
            low = np.int64(indices[start + before - 1]) if before else np.int64(-1)
            high = np.int64(indices[start + before]) if start + before < stop else np.int64(len(mass) - 1)
            out[offset] = _in_whose_mass(number + touched[before], low + 1, high, mass)


@njit(nogil=True, cache=True)
def _in_whose_mass(number, low, high, mass):
    """The item from ``low`` and below ``high`` in whose part a number lies."""
    while low + 1 < high:
        middle = (low + high) >> 1
        if mass[np.uint64(middle)] <= number:
            low = middle
        else:
            high = middle
    return np.int32(low)


@njit(inline="always")
def _attempt(position, pair, size, threshold, never):
    """The item that an attempt draws, or ``never`` where keeping it would not be exactly uniform."""
    product = np.uint64(hash32(np.uint32(position), pair[0], pair[1])) * size
    return np.int32(product >> _SHIFT) if np.uint32(product) >= threshold else np.int32(never)


@njit(nogil=True, cache=True)
def sample_rows(first_row, last_row, indptr, indices, num_items, num_negatives, keys, mass, cells, cell_bits, out):
    """Fill the draws of a range of rows."""
    longest = np.max(indptr[1:] - indptr[:-1]) if len(mass) else 0
    scratch = make_sampler_scratch(num_items, longest)
    user = np.searchsorted(indptr, first_row, side="right") - 1
    row = first_row
    while row < last_row:
        start, stop = indptr[user], indptr[user + 1]
        user += 1
        if stop <= row:
            continue
        row_stop = min(stop, last_row)
        begin, end = row * num_negatives, row_stop * num_negatives
        sample_row(begin, indices, start, stop, num_items, keys, mass, cells, cell_bits, scratch, out[begin:end])
        row = row_stop


class SamplerScratch(NamedTuple):
    """Memory of one thread: a bitset of items, draws of a tile that are to be repeated, parts of the untouched."""

    bits: np.ndarray
    pending: np.ndarray
    again: np.ndarray
    guide: np.ndarray
    touched: np.ndarray


@njit(nogil=True, cache=True)
def make_sampler_scratch(num_items, longest):
    """What :func:`sample_row` needs for rows of at most ``longest`` items; 0 where there are no weights."""
    words = (num_items + 31) >> 5
    bits = np.zeros(words + 1, dtype=np.uint32)
    bits[words] = np.uint32(1)  # one item more, always rejected: it stands for a draw that would not be exactly uniform
    return SamplerScratch(
        bits,
        np.empty(_TILE + 1, dtype=np.uint32),
        np.empty(_TILE, dtype=np.int32),
        np.empty((1 << _GUIDE_BITS) + 1, dtype=np.int64),
        np.empty(longest + 1, dtype=np.uint64),
    )


@njit(nogil=True, cache=True)
def sample_row(begin, indices, start, stop, num_items, keys, mass, cells, cell_bits, scratch, out):
    """Fill ``out`` with what the positions from ``begin`` draw for the user of the sorted row indices[start:stop].

    The row is spread into a bitset, so that a test is one load.
    """
    bits, pending, again, guide, touched = scratch
    words = len(bits) - 1
    size = np.uint64(num_items)
    threshold = np.uint32((np.uint64(1) << _SHIFT) % size)
    free, guide_bits = np.uint64(0), np.uint32(0)
    dense = is_dense(stop - start, num_items)
    if not dense:
        _set_all(bits[:words], indices[start:stop])
    guided = False
    done = 0
    while done < len(out):
        # A tile stays in cache, and within 2**32 positions the keys are constants of a loop that vectorises.
        at = begin + done
        tile = out[done : min(len(out), done + _TILE, (((at >> 32) + 1) << 32) - begin)]
        block = keys[at >> 32]
        if dense:
            count = _all_of(tile, pending)
        else:
            count = _attempt_all(at, block, size, threshold, cells, cell_bits, bits, pending, again, tile)
        if count:
            if not guided:
                free = _free(indices, start, stop, num_items, mass, touched)
                guide_bits = _fill_guide(free, indices, start, stop, mass, touched, guide)
                guided = True
            rejected, pair = pending[:count], block[ATTEMPTS]
            _select_each(at, pair, free, indices, start, stop, mass, touched, guide, guide_bits, rejected, tile)
        done += len(tile)
    if not dense:
        _clear_all(bits[:words], indices[start:stop])


@njit(nogil=True, cache=True)
def _attempt_all(begin, block, size, threshold, cells, cell_bits, bits, pending, again, tile):
    """Draw for each position of a tile until it is an untouched item; returns how many still are not."""
    never = (len(bits) - 1) << 5
    if len(cells):
        _hash_each(begin, block[0], tile)
        _look_up(tile, cells, cell_bits)
    else:
        for offset in range(len(tile)):
            tile[offset] = _attempt(begin + offset, block[0], size, threshold, never)
    count = _collect(tile, bits, pending)
    for attempt in range(1, ATTEMPTS):
        if count == 0:
            break
        drawn = again[:count]
        if len(cells):
            _hash_pending(begin, block[attempt], pending, drawn)
            _look_up(drawn, cells, cell_bits)
        else:
            for which in range(count):
                drawn[which] = _attempt(begin + pending[which], block[attempt], size, threshold, never)
        count = _collect_again(drawn, bits, pending, tile)
    return count


# One plain loop for each step of an attempt: LLVM makes vectors of those without a look-up, and the others overlap
# their loads. One loop for all of it is slower by half.
@njit(nogil=True, cache=True)
def _hash_each(begin, pair, out):
    """The hashes of the positions from ``begin``."""
    for offset in range(len(out)):
        out[offset] = np.int32(hash32(np.uint32(begin + offset), pair[0], pair[1]))


@njit(nogil=True, cache=True)
def _hash_pending(begin, pair, pending, out):
    """The hashes of the pending offsets."""
    for which in range(len(out)):
        out[which] = np.int32(hash32(np.uint32(begin + pending[which]), pair[0], pair[1]))


@njit(nogil=True, cache=True)
def _look_up(numbers, cells, bits):
    """Replace numbers of 32 bits by the items that they draw; see :class:`~fastncf.kernels.cpu.alias.AliasTable`."""
    below = np.uint32(32) - bits
    rest = np.uint32((np.uint64(1) << np.uint64(below)) - np.uint64(1))
    lower = np.uint32((np.uint64(1) << np.uint64(bits)) - np.uint64(1))
    for at in range(len(numbers)):
        number = np.uint32(numbers[at])
        cell = cells[number >> below]
        own = np.int32(number >> below)
        numbers[at] = own if (number & rest) < (cell >> bits) else np.int32(cell & lower)


@njit(nogil=True, cache=True)
def _collect(items, bits, pending):
    """Offsets of rejected items into the front of ``pending``; returns how many there are."""
    count = 0
    for offset in range(len(items)):  # no branch: every offset is written, a rejected one is kept
        pending[np.uint64(count)] = np.uint32(offset)
        count += np.int64(_is_set(bits, items[offset]))
    return count


@njit(nogil=True, cache=True)
def _all_of(items, pending):
    """All offsets, as if each item were rejected; returns how many there are."""
    for offset in range(len(items)):
        pending[offset] = np.uint32(offset)
    return len(items)


@njit(nogil=True, cache=True)
def _collect_again(drawn, bits, pending, tile):
    """Write what was drawn for the pending offsets; returns how many of them are still rejected."""
    left = 0
    for which in range(len(drawn)):
        offset = pending[np.uint64(which)]
        tile[np.uint64(offset)] = drawn[which]
        pending[np.uint64(left)] = offset
        left += np.int64(_is_set(bits, drawn[which]))
    return left


@njit(nogil=True, cache=True)
def sample_candidate_rows(first_row, last_row, indptr, indices, num_items, users, seed_key, distinct, out):
    bits = np.zeros((num_items + 31) >> 5, dtype=np.uint32)
    wanted = out.shape[1]
    for row in range(first_row, last_row):
        user = users[row]
        start, stop = indptr[user], indptr[user + 1]
        free = num_items - (stop - start)
        if distinct and free <= wanted:
            for rank in range(free):
                out[row, rank] = _untouched(indices, start, stop, rank)
            continue
        _set_all(bits, indices[start:stop])
        counter = np.uint64(user) << _SHIFT
        dense = is_dense(stop - start, num_items)
        size = np.uint64(free if dense else num_items)
        threshold = np.uint32((np.uint64(1) << _SHIFT) % size)
        drawn = 0
        while drawn < wanted:
            product = (mix64(counter * np.uint64(GOLDEN) + seed_key) >> _SHIFT) * size
            counter += np.uint64(1)
            if np.uint32(product) < threshold:
                continue
            item = np.int64(product >> _SHIFT)
            if dense:
                item = _untouched(indices, start, stop, item)
            if _is_set(bits, item):
                continue
            if distinct:
                _set(bits, item)
            out[row, drawn] = item
            drawn += 1
        _clear_all(bits, indices[start:stop])
        _clear_all(bits, out[row])
