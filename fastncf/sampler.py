"""Exact negatives from a sorted CSR, in parallel, the same bits for any number of threads.

What is drawn is fixed by (seed, epoch, row, slot) alone. Slot k of row n has the position p = n * K + k. Attempt a
hashes p to 32 bits and scales them to an item (Lemire 2019, "Fast random integer generation in an interval", whose
rejection step makes it exactly uniform). An item that the user has touched is rejected. After ``ATTEMPTS`` rejections,
and at once for a user who has touched more than three quarters of the catalogue, the draw is the r-th untouched item
for a uniform r, found in the sorted row by binary search. Each way is uniform over the untouched items, and so is the
mixture. With weights the 32 bits of an attempt are looked up in an alias table, and the search is one over masses.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from fastncf.errors import DataError
from fastncf.hashing import GOLDEN, LOWBIAS_1, LOWBIAS_2, Stream, key, mix64
from fastncf.threads import even, run_ranges
from fastncf.weights import Weights

ATTEMPTS = 12
MAX_ITEMS = 2**31 - 64
_TILE = 2048
_GUIDE_BITS = 11
_SHIFT = np.uint64(32)
UNIFORM = Weights(np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.uint32), np.uint32(0))


def sample_negatives(
    indptr: np.ndarray,
    indices: np.ndarray,
    num_items: int,
    num_negatives: int,
    *,
    seed: int,
    epoch: int,
    out: np.ndarray | None = None,
    weights: Weights | None = None,
) -> np.ndarray:
    """Draw negatives for each training interaction from the items its user has not touched in training.

    Args:
        indptr: (U + 1,) int64.
        indices: (N,) int32, ascending and unique in each row.
        num_items: I, length of the catalogue.
        num_negatives: K.
        seed: determines all draws together with ``epoch``.
        epoch: number of the epoch; each has its own draws.
        out: (N, K) int32 C-contiguous, filled and returned; made where it is not given.
        weights: how often each item is drawn; all alike where it is not given.

    Returns:
        (N, K) int32; row n belongs to the n-th training interaction in CSR order.

    Raises:
        DataError: a user with interactions has touched every item, there are more than ``MAX_ITEMS`` items, or ``out``
            has another shape or type.
    """
    shape = (len(indices), num_negatives)
    if out is None:
        out = np.empty(shape, dtype=np.int32)
    elif out.shape != shape or out.dtype != np.int32 or not out.flags.c_contiguous:
        raise DataError(f"out: expected a C-contiguous int32 array of shape {shape}, got {out.dtype} {out.shape}")
    require_negatives(indptr, num_items)
    keys = position_keys(seed, Stream.NEGATIVES, epoch, positions=out.size)
    flat = out.reshape(-1)
    run_ranges(
        lambda a, b: _sample_rows(a, b, indptr, indices, num_items, num_negatives, keys, *(weights or UNIFORM), flat),
        even(len(indices)),
    )
    return out


def sample_negatives_reference(
    indptr: np.ndarray,
    indices: np.ndarray,
    num_items: int,
    num_negatives: int,
    *,
    seed: int,
    epoch: int,
    weights: Weights | None = None,
) -> np.ndarray:
    """What :func:`sample_negatives` draws, one draw at a time in plain Python."""
    out = np.empty((len(indices), num_negatives), dtype=np.int32)
    keys = position_keys(seed, Stream.NEGATIVES, epoch, positions=out.size)
    for user in range(len(indptr) - 1):
        touched = set(indices[indptr[user] : indptr[user + 1]].tolist())
        untouched = [item for item in range(num_items) if item not in touched]
        attempts = 0 if _is_dense(len(touched), num_items) else ATTEMPTS
        for row in range(indptr[user], indptr[user + 1]):
            for slot in range(num_negatives):
                position = int(row) * num_negatives + slot
                out[row, slot] = _draw(position, keys, attempts, num_items, touched, untouched, weights)
    return out


def _draw(
    position: int,
    keys: np.ndarray,
    attempts: int,
    num_items: int,
    touched: set[int],
    untouched: list[int],
    weights: Weights | None,
) -> int:
    for attempt in range(attempts):
        number = _hash_reference(position, keys, attempt)
        item, exact = _scaled(number, num_items) if weights is None else (weights.item(number), True)
        if exact and item not in touched:
            return item
    parts = [1] * num_items if weights is None else np.diff(weights.mass).tolist()
    attempt = ATTEMPTS
    while True:
        rank, exact = _scaled(_hash_reference(position, keys, attempt), sum(parts[item] for item in untouched))
        if exact:
            return _in_whose_part(rank, untouched, parts)
        attempt += 1


def _in_whose_part(rank: int, items: Iterable[int], parts: list[int]) -> int:
    """The item in whose part a number lies, the parts of ``items`` laid end to end."""
    for item in items:
        rank -= parts[item]
        if rank < 0:
            return item
    raise IndexError(rank)


def _scaled(x: int, size: int) -> tuple[int, bool]:
    """32 random bits -> a number below ``size``, and whether keeping it is exactly uniform."""
    product = x * size
    return product >> 32, (product & 0xFFFFFFFF) >= (1 << 32) % size


def _hash_reference(position: int, keys: np.ndarray, attempt: int) -> int:
    mask = 0xFFFFFFFF
    first, second = (int(half) for half in keys[position >> 32, min(attempt, ATTEMPTS)])
    x = (position ^ first) & mask
    x ^= x >> 16
    x = (x * LOWBIAS_1) & mask
    x ^= x >> 15
    x = (x + (second ^ max(attempt - ATTEMPTS, 0))) & mask
    x = (x * LOWBIAS_2) & mask
    return x ^ (x >> 16)


def sample_candidates(
    indptr: np.ndarray,
    indices: np.ndarray,
    num_items: int,
    users: np.ndarray,
    num_candidates: int,
    *,
    seed_key: int,
    distinct: bool = True,
) -> np.ndarray:
    """Draw evaluation negatives for some users, uniform over the items they have not touched.

    Args:
        indptr: (U + 1,) int64 of everything that a user has touched, held-out items included.
        indices: (N,) int32, ascending and unique in each row.
        num_items: I.
        users: (T,) int32.
        num_candidates: C.
        seed_key: 64-bit key of the draws.
        distinct: without replacement. A user with fewer than C untouched items then gets all of them and -1 behind.

    Returns:
        (T, C) int32.

    Raises:
        DataError: one of the users has touched every item.
    """
    degrees = np.diff(indptr)[users]
    if (full := np.flatnonzero(degrees == num_items)).size:
        raise DataError(f"user {int(users[full[0]])} has touched all {num_items} items: there is no candidate for it")
    out = np.full((len(users), num_candidates), -1, dtype=np.int32)
    run_ranges(
        lambda a, b: _candidate_rows(a, b, indptr, indices, num_items, users, np.uint64(seed_key), distinct, out),
        even(len(users)),
    )
    return out


def require_negatives(indptr: np.ndarray, num_items: int) -> None:
    degrees = np.diff(indptr)
    if len(degrees) and degrees.max() >= num_items:
        raise DataError(
            f"user {int(degrees.argmax())} has touched all {num_items} items: there is no negative for it; "
            f"accepted: rows of at most {num_items - 1} items"
        )
    if num_items > MAX_ITEMS:
        raise DataError(f"num_items={num_items}: expected at most {MAX_ITEMS}")


def position_keys(seed: int, stream: Stream, epoch: int, positions: int) -> np.ndarray:
    """Keys of the hash for each 2**32 positions and attempt, rank-select's last: (blocks, ATTEMPTS + 1, 2) uint32."""
    blocks = range((positions >> 32) + 1)
    keys = [[key(seed, stream, epoch, block, attempt) for attempt in range(ATTEMPTS + 1)] for block in blocks]
    return np.array([[(k & 0xFFFFFFFF, k >> 32) for k in block] for block in keys], dtype=np.uint32)


# A 32-bit hash of a counter under a 64-bit key: Wellons' "lowbias32" mixer (2018), one half of the key before it and
# the other between its two rounds. For one key it is a bijection, so two draws agree by 2**-32 less often than chance.
@intrinsic
def _hash(typingctx, position, first, second):  # type: ignore[no-untyped-def]
    """The hash of three uint32 as uint32, written for LLVM: Numba widens to 64 bits, which halves a vector's lanes."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        x, first, second = arguments
        number = x.type
        x = builder.xor(x, first)
        x = builder.xor(x, builder.lshr(x, number(16)))
        x = builder.mul(x, number(LOWBIAS_1))
        x = builder.xor(x, builder.lshr(x, number(15)))
        x = builder.add(x, second)
        x = builder.mul(x, number(LOWBIAS_2))
        return builder.xor(x, builder.lshr(x, number(16)))

    return types.uint32(types.uint32, types.uint32, types.uint32), generate


# Indices are unsigned below: Numba would otherwise look for negative ones at every access.
@njit(inline="always")
def _is_set(bits, item):  # type: ignore[no-untyped-def]
    return (bits[np.uint32(item) >> np.uint32(5)] >> (np.uint32(item) & np.uint32(31))) & np.uint32(1)


@njit(inline="always")
def _set(bits, item):  # type: ignore[no-untyped-def]
    bits[np.uint32(item) >> np.uint32(5)] |= np.uint32(1) << (np.uint32(item) & np.uint32(31))


@njit(nogil=True, cache=True)
def _set_all(bits, items):  # type: ignore[no-untyped-def]
    for item in items:
        _set(bits, item)


@njit(nogil=True, cache=True)
def _clear_all(bits, items):  # type: ignore[no-untyped-def]
    """Clear the words of some items; all words at once where that is less work."""
    if 8 * len(items) > len(bits):
        bits[:] = np.uint32(0)
    else:
        for item in items:
            bits[np.uint32(item) >> np.uint32(5)] = np.uint32(0)


@njit(inline="always")
def _is_dense(touched, num_items):  # type: ignore[no-untyped-def]
    """Whether looking for an untouched item costs less than rejecting touched ones."""
    return 4 * touched > 3 * num_items


@njit(nogil=True, cache=True)
def _untouched(indices, start, stop, rank):  # type: ignore[no-untyped-def]
    """The rank-th item (from 0) that is not in the sorted row indices[start:stop]."""
    return rank + _touched_before(rank, start, stop, indices, start, UNIFORM.mass, UNIFORM.mass)


@njit(inline="always")
def _untouched_before(at, indices, start, mass, touched):  # type: ignore[no-untyped-def]
    """Untouched items, or their mass, before the ``at``-th entry of the CSR, which is in the row from ``start``."""
    if len(mass) == 0:
        return np.uint64(indices[at]) - (at - start)
    return mass[indices[at]] - touched[at - start]


@njit(nogil=True, cache=True)
def _touched_before(number, low, high, indices, start, mass, touched):  # type: ignore[no-untyped-def]
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
def _free(indices, start, stop, num_items, mass, touched):  # type: ignore[no-untyped-def]
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
def _fill_guide(free, indices, start, stop, mass, touched, guide):  # type: ignore[no-untyped-def]
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
def _select_each(  # type: ignore[no-untyped-def]
    begin, pair, free, indices, start, stop, mass, touched, guide, guide_bits, pending, out
):
    """Untouched items without rejection of touched ones: those in whose parts uniform numbers below ``free`` fall."""
    threshold = np.uint32((np.uint64(1) << _SHIFT) % free)
    for offset in pending:
        position = np.uint32(begin + offset)
        drawn = np.uint64(_hash(position, pair[0], pair[1]))
        step = np.uint32(0)
        while np.uint32(drawn * free) < threshold:
            step += np.uint32(1)
            drawn = np.uint64(_hash(position, pair[0], pair[1] ^ step))
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
def _in_whose_mass(number, low, high, mass):  # type: ignore[no-untyped-def]
    """The item from ``low`` and below ``high`` in whose part a number lies."""
    while low + 1 < high:
        middle = (low + high) >> 1
        if mass[np.uint64(middle)] <= number:
            low = middle
        else:
            high = middle
    return np.int32(low)


@njit(inline="always")
def _attempt(position, pair, size, threshold, never):  # type: ignore[no-untyped-def]
    """The item that an attempt draws, or ``never`` where keeping it would not be exactly uniform."""
    product = np.uint64(_hash(np.uint32(position), pair[0], pair[1])) * size
    return np.int32(product >> _SHIFT) if np.uint32(product) >= threshold else np.int32(never)


@njit(nogil=True, cache=True)
def _sample_rows(  # type: ignore[no-untyped-def]
    first_row, last_row, indptr, indices, num_items, num_negatives, keys, mass, cells, cell_bits, out
):
    """Fill the draws of a range of rows."""
    longest = np.max(indptr[1:] - indptr[:-1]) if len(mass) else 0
    scratch = make_scratch(num_items, longest)
    user = np.searchsorted(indptr, first_row, side="right") - 1
    row = first_row
    while row < last_row:
        start, stop = indptr[user], indptr[user + 1]
        user += 1
        if stop <= row:
            continue
        row_stop = min(stop, last_row)
        begin, end = row * num_negatives, row_stop * num_negatives
        draw_row(begin, indices, start, stop, num_items, keys, mass, cells, cell_bits, scratch, out[begin:end])
        row = row_stop


class Scratch(NamedTuple):
    """Memory of one thread: a bitset of items, draws of a tile that are to be repeated, parts of the untouched."""

    bits: np.ndarray
    pending: np.ndarray
    again: np.ndarray
    guide: np.ndarray
    touched: np.ndarray


@njit(nogil=True, cache=True)
def make_scratch(num_items, longest):  # type: ignore[no-untyped-def]
    """What :func:`draw_row` needs for rows of at most ``longest`` items; 0 where there are no weights."""
    words = (num_items + 31) >> 5
    bits = np.zeros(words + 1, dtype=np.uint32)
    bits[words] = np.uint32(1)  # one item more, always rejected: it stands for a draw that would not be exactly uniform
    return Scratch(
        bits,
        np.empty(_TILE + 1, dtype=np.uint32),
        np.empty(_TILE, dtype=np.int32),
        np.empty((1 << _GUIDE_BITS) + 1, dtype=np.int64),
        np.empty(longest + 1, dtype=np.uint64),
    )


@njit(nogil=True, cache=True)
def draw_row(  # type: ignore[no-untyped-def]
    begin, indices, start, stop, num_items, keys, mass, cells, cell_bits, scratch, out
):
    """Fill ``out`` with what the positions from ``begin`` draw for the user of the sorted row indices[start:stop].

    The row is spread into a bitset, so that a test is one load.
    """
    bits, pending, again, guide, touched = scratch
    words = len(bits) - 1
    size = np.uint64(num_items)
    threshold = np.uint32((np.uint64(1) << _SHIFT) % size)
    free, guide_bits = np.uint64(0), np.uint32(0)
    dense = _is_dense(stop - start, num_items)
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
def _attempt_all(begin, block, size, threshold, cells, cell_bits, bits, pending, again, tile):  # type: ignore[no-untyped-def]
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
def _hash_each(begin, pair, out):  # type: ignore[no-untyped-def]
    """The hashes of the positions from ``begin``."""
    for offset in range(len(out)):
        out[offset] = np.int32(_hash(np.uint32(begin + offset), pair[0], pair[1]))


@njit(nogil=True, cache=True)
def _hash_pending(begin, pair, pending, out):  # type: ignore[no-untyped-def]
    """The hashes of the pending offsets."""
    for which in range(len(out)):
        out[which] = np.int32(_hash(np.uint32(begin + pending[which]), pair[0], pair[1]))


@njit(nogil=True, cache=True)
def _look_up(numbers, cells, bits):  # type: ignore[no-untyped-def]
    """Replace numbers of 32 bits by the items that they draw; see :class:`~fastncf.weights.Weights`."""
    below = np.uint32(32) - bits
    rest = np.uint32((np.uint64(1) << np.uint64(below)) - np.uint64(1))
    lower = np.uint32((np.uint64(1) << np.uint64(bits)) - np.uint64(1))
    for at in range(len(numbers)):
        number = np.uint32(numbers[at])
        cell = cells[number >> below]
        own = np.int32(number >> below)
        numbers[at] = own if (number & rest) < (cell >> bits) else np.int32(cell & lower)


@njit(nogil=True, cache=True)
def _collect(items, bits, pending):  # type: ignore[no-untyped-def]
    """Offsets of rejected items into the front of ``pending``; returns how many there are."""
    count = 0
    for offset in range(len(items)):  # no branch: every offset is written, a rejected one is kept
        pending[np.uint64(count)] = np.uint32(offset)
        count += np.int64(_is_set(bits, items[offset]))
    return count


@njit(nogil=True, cache=True)
def _all_of(items, pending):  # type: ignore[no-untyped-def]
    """All offsets, as if each item were rejected; returns how many there are."""
    for offset in range(len(items)):
        pending[offset] = np.uint32(offset)
    return len(items)


@njit(nogil=True, cache=True)
def _collect_again(drawn, bits, pending, tile):  # type: ignore[no-untyped-def]
    """Write what was drawn for the pending offsets; returns how many of them are still rejected."""
    left = 0
    for which in range(len(drawn)):
        offset = pending[np.uint64(which)]
        tile[np.uint64(offset)] = drawn[which]
        pending[np.uint64(left)] = offset
        left += np.int64(_is_set(bits, drawn[which]))
    return left


@njit(nogil=True, cache=True)
def _candidate_rows(first_row, last_row, indptr, indices, num_items, users, seed_key, distinct, out):  # type: ignore[no-untyped-def]
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
        dense = _is_dense(stop - start, num_items)
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
